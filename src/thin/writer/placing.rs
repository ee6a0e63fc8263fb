//! Where the bytes of a volume go: the blocks of a request, in their places or in new
//! ones, and what of a new one the request does not cover.

use std::ops::Range;

use super::volume::WritableVolume;
use super::work::Work;
use super::{Mutator, State};
use crate::error::{Damage, Result};
use crate::sabotage::sabotaged;

/// Data blocks that are allocated, written and mapped at a time.
pub(super) const MOST_BLOCKS: usize = 256;

/// Bytes that are copied at a time: data blocks may have a gigabyte.
const PIECE_BYTES: usize = 1 << 20;

/// What is to be written to one block.
pub(super) struct Part {
    pub virtual_block: u64,
    /// Which bytes of the block.
    pub within: Range<u64>,
    /// Which bytes of the request.
    pub source: Range<usize>,
    /// Where the block is now, in bytes of the data device.
    pub old: Option<u64>,
    /// Whether it may be written there.
    pub in_place: bool,
}

impl WritableVolume {
    /// The blocks of a request and where they are now.
    pub(super) fn parts(
        &self,
        state: &State,
        offset_bytes: u64,
        length: usize,
    ) -> Result<Vec<Part>> {
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
                    in_place: found.is_some_and(|found| {
                        found.time() >= live.info.snapshotted_time || sabotaged("shared-in-place")
                    }),
                })
            };
            blocks.map(part).collect()
        })
    }

    pub(super) fn write_batch(
        &self,
        state: &mut State,
        batch: &[Part],
        bytes: &[u8],
    ) -> Result<()> {
        let new = batch.iter().filter(|part| !part.in_place).count() as u64;
        let writer = &self.writer;
        state.mutator = Mutator::Volumes;
        state.losses.wrote(self.id);
        let work = &mut state.work;
        let blocks: Vec<u64> = match new {
            0 => Vec::new(),
            _ => writer.change(|txn| {
                work.map.want_run(new);
                (0..new).map(|_| work.allocate_data(txn)).collect()
            })?,
        };
        state.data_written = true;
        let written = self.write_data(batch, &blocks, bytes);
        let work = &mut state.work;
        if let Err(error) = written {
            let mut unused = blocks.into_iter();
            writer.change(|txn| unused.try_for_each(|block| work.give_back(txn, block)))?;
            return Err(error);
        }
        let mut mapped = batch.iter().filter(|part| !part.in_place).zip(blocks);
        if new == 0 {
            return Ok(());
        }
        writer.change(|txn| {
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
        if sabotaged("unfilled-blocks") {
            return Ok(());
        }
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
