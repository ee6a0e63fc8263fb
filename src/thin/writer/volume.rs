//! Writing a volume without a kernel.
//!
//! Blocks that only this device has are written in their places. All others get a new
//! data block, which holds everything before a mapping points to it: so that the last
//! commit's content is there whatever happens, and data is durable before the
//! metadata that reaches it.

use std::ops::Range;
use std::sync::Arc;

use super::placing::MOST_BLOCKS;
use super::{Mutator, PoolWriter, State};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::thin::{Volume, VolumeOptions};

/// A thin device that is written. Those of one pool share one transaction, which
/// [`Self::flush`] of any of them commits.
#[derive(Clone)]
pub struct WritableVolume {
    pub(super) writer: Arc<PoolWriter>,
    pub(super) id: u64,
    pub(super) external_origin: Option<Arc<dyn Device>>,
    pub(super) block_bytes: u64,
    pub(super) size_bytes: u64,
    pub(super) size_is_known: bool,
}

impl WritableVolume {
    /// The device of this id. Its size, where it is not given, is the end of the
    /// highest mapped block.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Usage`] without a data device;
    /// [`Error::ReadOnly`].
    pub fn open(writer: &Arc<PoolWriter>, id: u64, options: VolumeOptions) -> Result<Self> {
        writer.check_writable(&*writer.lock()?)?;
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

    pub(super) fn data(&self) -> Result<&Arc<dyn Device>> {
        let data = self.writer.data.as_ref();
        data.ok_or_else(|| Error::usage("the pool was opened without its data device"))
    }

    /// Fills `buffer` from `offset_bytes` on, with what was written last; fewer bytes
    /// only at the end.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], [`Error::Damaged`], [`Error::Io`].
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let state = self.writer.lock()?;
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
    pub(super) fn read_unmapped(
        &self,
        virtual_block: u64,
        within: u64,
        to: &mut [u8],
    ) -> Result<()> {
        let at = virtual_block * self.block_bytes + within;
        let origin = self.external_origin.as_ref();
        let there = origin.map_or(0, |origin| origin.size_bytes().saturating_sub(at));
        let there = usize::try_from(there).unwrap_or(usize::MAX).min(to.len());
        let (from_origin, past) = to.split_at_mut(there);
        past.fill(0);
        match origin {
            Some(origin) if !from_origin.is_empty() => self
                .writer
                .call_outside(|| origin.read_exact_at(from_origin, at)),
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
            .change(|txn| work.remove_range(txn, self.id, first..last));
        if matches!(answer, Ok(removed) if removed > 0) {
            state.mutator = Mutator::Volumes;
            state.losses.wrote(self.id);
        }
        let removed = self.settle(&mut state, answer)?;
        Ok(removed * self.block_bytes)
    }

    /// Commits what this and all other volumes of the pool have written: data first,
    /// then the metadata that points to it.
    ///
    /// # Errors
    /// As [`super::PoolTransaction::commit`]; [`Error::Aborted`], once, when what this
    /// volume has written was taken back by a change of another one that failed.
    pub fn flush(&self) -> Result<()> {
        self.writer.flush_volume(self.id)
    }

    fn length_at(&self, offset_bytes: u64, wanted: usize) -> usize {
        let left = self.size_bytes.saturating_sub(offset_bytes);
        usize::try_from(left).unwrap_or(usize::MAX).min(wanted)
    }

    /// The pool, for a volume's change.
    fn begin(&self) -> Result<std::sync::MutexGuard<'_, State>> {
        let mut state = self.writer.lock()?;
        self.writer.check_writable(&state)?;
        state.work.notice_readers(&self.writer.manager);
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
            if let Err(error) = &answer {
                state.losses.taken_back(error);
            }
            // What that says is worse than what led to it, and it stays.
            self.writer.roll_back(state)?;
        }
        answer
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
                     since the last commit, or are being read of an older one, are not among them"
                );
                return Err(Error::NoSpace {
                    space: "data",
                    reason,
                });
            }
        }
        for batch in parts.chunks(MOST_BLOCKS) {
            self.write_batch(state, batch, bytes)?;
        }
        Ok(())
    }
}
