//! Writing a volume without a kernel.
//!
//! Blocks that only this device has are written in their places. All others get a new
//! data block, which holds everything before a mapping points to it: so that the last
//! commit's content is there whatever happens, and data is durable before the
//! metadata that reaches it.

use std::ops::Range;
use std::sync::Arc;

use super::work::Work;
use super::{Mutator, PoolWriter, State};
use crate::device::Device;
use crate::error::{Damage, Error, Result};
use crate::thin::{Volume, VolumeOptions};

/// Data blocks that are allocated, written and mapped at a time.
const MOST_BLOCKS: u64 = 256;

/// Bytes that are copied at a time: data blocks may have a gigabyte.
const PIECE_BYTES: usize = 1 << 20;

/// A thin device that is written. Those of one pool share one transaction, which
/// [`Self::flush`] of any of them commits.
#[derive(Clone)]
pub struct WritableVolume {
    writer: Arc<PoolWriter>,
    id: u64,
    external_origin: Option<Arc<dyn Device>>,
    block_bytes: u64,
    size_bytes: u64,
    size_is_known: bool,
}

/// What is to be written to one block.
struct Part {
    virtual_block: u64,
    /// Which bytes of the block.
    within: Range<u64>,
    /// Which bytes of the request.
    source: Range<usize>,
    /// Where the block is now, in bytes of the data device.
    old: Option<u64>,
    /// Whether it may be written there.
    in_place: bool,
}

impl WritableVolume {
    /// The device of this id. Its size, where it is not given, is the end of the
    /// highest mapped block.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Usage`] without a data device;
    /// [`Error::ReadOnly`].
    pub fn open(writer: &Arc<PoolWriter>, id: u64, options: VolumeOptions) -> Result<Self> {
        writer.check_writable(&writer.lock())?;
        let device = writer.current()?.device_by_id(id)?;
        let known = Volume::new(&device, options.clone())?;
        Ok(Self {
            writer: Arc::clone(writer),
            id,
            block_bytes: known.block_bytes(),
            size_bytes: known.size_bytes(),
            size_is_known: known.size_is_known(),
            external_origin: options.external_origin,
        })
    }

    /// A volume whose size is known, as it was opened before: nothing is looked up.
    #[must_use]
    pub fn again(
        writer: &Arc<PoolWriter>,
        id: u64,
        size_bytes: u64,
        external_origin: Option<Arc<dyn Device>>,
    ) -> Self {
        Self {
            writer: Arc::clone(writer),
            id,
            external_origin,
            block_bytes: writer.data_block_bytes,
            size_bytes,
            size_is_known: true,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the size was given, and not guessed from the mappings.
    #[must_use]
    pub fn size_is_known(&self) -> bool {
        self.size_is_known
    }

    fn data(&self) -> Result<&Arc<dyn Device>> {
        let data = self.writer.data.as_ref();
        data.ok_or_else(|| Error::usage("the pool was opened without its data device"))
    }

    /// Fills `buffer` from `offset_bytes` on, with what was written last; fewer bytes
    /// only at the end.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], [`Error::Damaged`], [`Error::Io`].
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let state = self.writer.lock();
        if state.closed {
            return Err(Error::usage("the pool is closed"));
        }
        if state.mutator != Mutator::Volumes {
            drop(state);
            let device = self.writer.current()?.device_by_id(self.id)?;
            let options = VolumeOptions {
                size_bytes: Some(self.size_bytes),
                external_origin: self.external_origin.clone(),
            };
            return Volume::new(&device, options)?.read_at(buffer, offset_bytes);
        }
        let length = self.length_at(offset_bytes, buffer.len());
        for part in self.parts(&state, offset_bytes, length)? {
            let to = &mut buffer[part.source];
            match part.old {
                Some(old) => self.data()?.read_exact_at(to, old + part.within.start)?,
                None => self.read_unmapped(part.virtual_block, part.within.start, to)?,
            }
        }
        Ok(length)
    }

    /// What shows where nothing is mapped.
    fn read_unmapped(&self, virtual_block: u64, within: u64, to: &mut [u8]) -> Result<()> {
        let at = virtual_block * self.block_bytes + within;
        let origin = self.external_origin.as_ref();
        let there = origin.map_or(0, |origin| origin.size_bytes().saturating_sub(at));
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(to.len());
        let (from_origin, past) = to.split_at_mut(there);
        past.fill(0);
        match origin {
            Some(origin) if !from_origin.is_empty() => origin.read_exact_at(from_origin, at),
            _ => Ok(()),
        }
    }

    /// Writes `bytes` from `offset_bytes` on; fewer only at the end of the volume.
    /// Durable after [`Self::flush`]; until then a crash leaves new blocks as they were
    /// at the last commit, and those written in their places as the disk has them.
    ///
    /// # Errors
    /// [`Error::NoSpace`], before anything is written; [`Error::Usage`] while a
    /// transaction is open; [`Error::ReadOnly`], [`Error::NoSuchDevice`]; [`Error::Io`]
    /// of the data device, after which a part may be written. What fails half-way in
    /// the metadata takes back all that was not committed.
    pub fn write_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<usize> {
        let length = self.length_at(offset_bytes, bytes.len());
        let mut state = self.begin()?;
        if length == 0 {
            return Ok(0);
        }
        let answer = self.write_parts(&mut state, &bytes[..length], offset_bytes);
        self.settle(&mut state, answer)?;
        Ok(length)
    }

    /// Unmaps the blocks that lie wholly in a range; bytes that were unmapped. What
    /// they held reads as zeros, or as the external origin's.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    pub fn discard(&self, bytes: Range<u64>) -> Result<u64> {
        let mut state = self.begin()?;
        let first = bytes.start.div_ceil(self.block_bytes);
        // The last block may be cut off by the volume's end.
        let last = if bytes.end >= self.size_bytes {
            self.size_bytes.div_ceil(self.block_bytes)
        } else {
            bytes.end / self.block_bytes
        };
        if first >= last {
            return Ok(0);
        }
        let State { work, .. } = &mut *state;
        let answer = self
            .writer
            .manager
            .change(|txn| work.remove_range(txn, self.id, first..last));
        if matches!(answer, Ok(removed) if removed > 0) {
            state.mutator = Mutator::Volumes;
        }
        let removed = self.settle(&mut state, answer)?;
        Ok(removed * self.block_bytes)
    }

    /// Commits what this and all other volumes of the pool have written: data first,
    /// then the metadata that points to it.
    ///
    /// # Errors
    /// As [`super::PoolTransaction::commit`].
    pub fn flush(&self) -> Result<()> {
        self.writer.flush_volumes()
    }

    fn length_at(&self, offset_bytes: u64, wanted: usize) -> usize {
        let left = self.size_bytes.saturating_sub(offset_bytes);
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }

    /// The pool, for a volume's change.
    fn begin(&self) -> Result<std::sync::MutexGuard<'_, State>> {
        let state = self.writer.lock();
        self.writer.check_writable(&state)?;
        if let Mutator::Transaction(_) = state.mutator {
            let text = "the pool has a transaction open: a volume cannot be changed meanwhile";
            return Err(Error::usage(text));
        }
        Ok(state)
    }

    /// A change that failed half-way takes back what was not committed.
    fn settle<T>(&self, state: &mut State, answer: Result<T>) -> Result<T> {
        state.note_space(&answer);
        if answer.is_err() && self.writer.manager.aborted().is_some() {
            state.mutator = Mutator::None;
            // What that says is worse than what led to it, and it stays.
            self.writer.roll_back(state)?;
        }
        answer
    }

    /// The blocks of a request and where they are now.
    fn parts(&self, state: &State, offset_bytes: u64, length: usize) -> Result<Vec<Part>> {
        let end = offset_bytes + length as u64;
        let blocks = offset_bytes / self.block_bytes..end.div_ceil(self.block_bytes);
        let work = &state.work;
        self.writer.manager.look(|txn| {
            let live = work.device(txn, self.id)?;
            let part = |virtual_block: u64| {
                let begin = virtual_block * self.block_bytes;
                let from = offset_bytes.max(begin);
                let to = end.min(begin.saturating_add(self.block_bytes));
                let at = |place: u64| usize::try_from(place - offset_bytes).unwrap_or(length);
                let found = work.find(txn, &live, virtual_block)?;
                if let Some(found) = found {
                    work.check_mapped(found.data_block())?;
                }
                Ok(Part {
                    virtual_block,
                    within: from - begin..to - begin,
                    source: at(from)..at(to),
                    old: found.map(|found| found.data_block() * self.block_bytes),
                    // By the time, never by the count: change tracking relies on it.
                    in_place: found.is_some_and(|found| found.time() >= live.info.snapshotted_time),
                })
            };
            blocks.map(part).collect()
        })
    }

    fn write_parts(&self, state: &mut State, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let parts = self.parts(state, offset_bytes, bytes.len())?;
        let new = parts.iter().filter(|part| !part.in_place).count() as u64;
        if new > 0 {
            let work = &state.work;
            self.writer.manager.look(|txn| work.check_room(txn))?;
            let free = work.map.nr_free();
            if new > free {
                let reason = format!(
                    "{new} data blocks are needed and {free} are free; those that were freed \
                     since the last commit are not among them"
                );
                return Err(Error::NoSpace {
                    space: "data",
                    reason,
                });
            }
        }
        let most = usize::try_from(MOST_BLOCKS).unwrap_or(usize::MAX);
        for batch in parts.chunks(most) {
            self.write_batch(state, batch, bytes)?;
        }
        Ok(())
    }

    fn write_batch(&self, state: &mut State, batch: &[Part], bytes: &[u8]) -> Result<()> {
        let new = batch.iter().filter(|part| !part.in_place).count() as u64;
        let manager = &self.writer.manager;
        state.mutator = Mutator::Volumes;
        let work = &mut state.work;
        let blocks: Vec<u64> = match new {
            0 => Vec::new(),
            _ => manager.change(|txn| {
                work.map.want_run(new);
                (0..new).map(|_| work.allocate_data(txn)).collect()
            })?,
        };
        state.data_written = true;
        let written = self.write_data(batch, &blocks, bytes);
        let work = &mut state.work;
        if let Err(error) = written {
            let mut unused = blocks.into_iter();
            manager.change(|txn| unused.try_for_each(|block| work.give_back(txn, block)))?;
            return Err(error);
        }
        let mut mapped = batch.iter().filter(|part| !part.in_place).zip(blocks);
        if new == 0 {
            return Ok(());
        }
        manager.change(|txn| {
            mapped.try_for_each(|(part, block)| {
                work.insert(txn, self.id, part.virtual_block, block)
                    .map(drop)
            })
        })
    }

    /// Writes every byte that the new mappings will show. Neighbours go in one request.
    fn write_data(&self, batch: &[Part], blocks: &[u64], bytes: &[u8]) -> Result<()> {
        let data = self.data()?;
        let mut new = blocks.iter();
        // Bytes of the request that are still to be written, and where.
        let mut run: Option<(u64, Range<usize>)> = None;
        for part in batch {
            let base = match (part.in_place, part.old) {
                (true, Some(old)) => old,
                _ => {
                    let block = new.next().copied().unwrap_or_default();
                    let base = block * self.block_bytes;
                    self.fill_around(part, base)?;
                    base
                }
            };
            let at = base + part.within.start;
            match &mut run {
                Some((begin, source))
                    if *begin + source.len() as u64 == at && source.end == part.source.start =>
                {
                    source.end = part.source.end;
                }
                _ => {
                    if let Some((begin, source)) = run.take() {
                        data.write_all_at(&bytes[source], begin)?;
                    }
                    run = Some((at, part.source.clone()));
                }
            }
        }
        match run {
            Some((begin, source)) => data.write_all_at(&bytes[source], begin),
            None => Ok(()),
        }
    }

    /// What of a new block the request does not cover: what the block held before,
    /// or what shows where nothing is mapped.
    fn fill_around(&self, part: &Part, base: u64) -> Result<()> {
        let data = self.data()?;
        let mut piece = Vec::new();
        for rest in [0..part.within.start, part.within.end..self.block_bytes] {
            let mut at = rest.start;
            while at < rest.end {
                let left = usize::try_from(rest.end - at).unwrap_or(PIECE_BYTES);
                piece.resize(left.min(PIECE_BYTES), 0);
                match part.old {
                    Some(old) => data.read_exact_at(&mut piece, old + at)?,
                    None => self.read_unmapped(part.virtual_block, at, &mut piece)?,
                }
                data.write_all_at(&piece, base + at)?;
                at += piece.len() as u64;
            }
        }
        Ok(())
    }
}

impl PoolWriter {
    /// Commits what volumes have written, if anything.
    ///
    /// # Errors
    /// As a transaction's commit.
    pub fn flush_volumes(&self) -> Result<()> {
        let mut state = self.lock();
        if state.closed || state.mutator != Mutator::Volumes {
            return Ok(());
        }
        state.mutator = Mutator::None;
        self.commit(&mut state)
    }
}

impl Work {
    /// Refuses a mapping that points past the data device: somebody else's bytes.
    fn check_mapped(&self, data_block: u64) -> Result<()> {
        let blocks = self.map.nr_blocks();
        if data_block < blocks {
            return Ok(());
        }
        Err(Damage::new(
            self.mapping_root,
            "mapping",
            "data block",
            data_block,
            format!("below {blocks}"),
        )
        .into())
    }
}
