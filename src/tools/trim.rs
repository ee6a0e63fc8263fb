//! Free data blocks, given up: holes in an image, discards on a device.
//!
//! A block is free where two say so that know nothing of each other: the walk of all trees,
//! those of the metadata snapshot among them, and the data's space map. Nothing else is
//! touched, so that whoever is stopped half-way has only done less.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::block::BlockManager;
use crate::device::Device;
use crate::disk_space::{BITMAP_VALIDATOR, Bitmap, DiskSpaceMap, ENTRIES_PER_BITMAP};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Superblock, read_superblock};
use crate::tools::check::check_references;
use crate::units::BlockNr;
use crate::walk::Counts;

/// Memory for the space map's nodes.
const CACHE_BYTES: u64 = 8 << 20;
/// What one request gives up at the most, and at which places longer ranges are cut: a
/// device that discards in large units loses none of them to a cut.
const PIECE_BYTES: u64 = 1 << 28;
/// Ranges that are listed.
const MOST_LISTED: usize = 64;

/// What a trim gives up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrimOutlook {
    /// Bytes of a data block.
    pub block_bytes: u64,
    /// Data blocks of the pool.
    pub data_blocks: u64,
    /// Of these, how many some device maps, or one of the metadata snapshot.
    pub used_blocks: u64,
    /// How many nobody maps, and yet the space map has in use: they are left alone.
    pub leaked_blocks: u64,
    /// How many are given up: the rest.
    pub free_blocks: u64,
    /// In how many ranges that do not touch.
    pub ranges: u64,
    /// The first of them.
    pub first: Vec<Range<u64>>,
}

/// A trim that is planned, of metadata that must not change meanwhile.
pub struct Trim {
    device: Arc<dyn Device>,
    superblock: Superblock,
    map: DiskSpaceMap,
    blocks: Arc<BlockManager>,
    references: Counts,
    outlook: TrimOutlook,
}

impl Trim {
    /// Checks a pool's metadata, and finds out what is free. `like_1_x`: also where the pool
    /// says that it has to be checked; but not if anything is wrong that they would see.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] where the pool says that it has to be checked;
    /// [`Error::Unsound`] where something fatal is found; those of
    /// [`check_references`].
    pub fn plan(device: Arc<dyn Device>, like_1_x: bool, task: &Task<'_>) -> Result<Self> {
        let superblock = read_superblock(&*device, false)?;
        if superblock.needs_check() && !like_1_x {
            return Err(Error::ReadOnly(format!(
                "{0}: needs_check is set in the superblock: 'thinmeta check \
                 --clear-needs-check-flag {0}' clears it if the pool is sound",
                device.path().display()
            )));
        }
        let (report, references) = check_references(&device, like_1_x, task)?;
        let is_sound = match like_1_x {
            true => report.is_sound_for_1_x(false),
            false => report.is_sound(true),
        };
        let references = match references.filter(|_| is_sound) {
            Some(references) => references,
            None => {
                // The worst comes first.
                let worst = report.findings.first();
                let path = device.path().to_owned();
                let what = worst.map_or("the metadata cannot be read", |worst| &worst.message);
                return Err(Error::Unsound {
                    code: worst.map_or("superblock-damaged", |worst| worst.code),
                    reason: format!(
                        "{what}; which data blocks are free is not certain, and none was \
                         touched: see 'thinmeta check', and 'thinmeta repair' for new metadata"
                    ),
                    path,
                });
            }
        };
        let blocks = BlockManager::new(Arc::clone(&device), CACHE_BYTES);
        let root = superblock.data_space_map_root.root;
        let mut own = Self {
            map: DiskSpaceMap::data(&blocks, root),
            device,
            superblock,
            blocks,
            references,
            outlook: TrimOutlook::default(),
        };
        let mut outlook = TrimOutlook {
            block_bytes: superblock.data_block_bytes(),
            data_blocks: superblock.data_blocks(),
            ..TrimOutlook::default()
        };
        let (mut free, mut ranges, mut first) = (0, 0, Vec::new());
        let leaked = own.each_free(|range| {
            free += range.end - range.start;
            ranges += 1;
            if first.len() < MOST_LISTED {
                first.push(range);
            }
            task.step(0, 0)
        })?;
        outlook.leaked_blocks = leaked;
        outlook.free_blocks = free;
        outlook.used_blocks = outlook.data_blocks.saturating_sub(free + leaked);
        (outlook.ranges, outlook.first) = (ranges, first);
        own.outlook = outlook;
        Ok(own)
    }

    /// What will be done.
    #[must_use]
    pub fn outlook(&self) -> &TrimOutlook {
        &self.outlook
    }

    /// Refuses a data device that is shorter than the pool says: it is another pool's.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_data(&self, data: &dyn Device) -> Result<()> {
        let (have, outlook) = (data.current_size_bytes()?, &self.outlook);
        if have / outlook.block_bytes.max(1) < outlook.data_blocks {
            return Err(Error::usage(format!(
                "{} has {have} bytes, and the pool {} blocks of {} bytes: it is not the data of {}",
                data.path().display(),
                outlook.data_blocks,
                outlook.block_bytes,
                self.device.path().display(),
            )));
        }
        Ok(())
    }

    /// Gives all free blocks up.
    ///
    /// # Errors
    /// Those of [`Self::check_data`], before anything happens; [`Error::Io`];
    /// [`Error::Interrupted`]. What was given up by then was free.
    pub fn run(&self, data: &dyn Device, task: &Task<'_>) -> Result<()> {
        self.check_data(data)?;
        let block_bytes = self.outlook.block_bytes;
        task.expect(self.outlook.free_blocks * block_bytes);
        self.each_free(|range| {
            for piece in pieces(range.start * block_bytes..range.end * block_bytes) {
                task.step(0, 0)?;
                give_up(data, &piece, task)?;
                task.step(0, piece.end - piece.start)?;
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Visits the ranges of free blocks in ascending order. How many blocks have no
    /// reference, and yet a count.
    fn each_free(&self, mut visit: impl FnMut(Range<u64>) -> Result<()>) -> Result<u64> {
        let nr_blocks = self.superblock.data_blocks();
        let mut references = [0; ENTRIES_PER_BITMAP];
        let (mut leaked, mut open) = (0, 0..0);
        for number in 0..nr_blocks.div_ceil(ENTRIES_PER_BITMAP as u64) {
            let begin = number * ENTRIES_PER_BITMAP as u64;
            self.references.copy_saturated(begin, &mut references);
            let at = self.map.index_entry(number)?.blocknr.get();
            let block = self.blocks.read(BlockNr(at), &BITMAP_VALIDATOR)?;
            let bitmap: &Bitmap = block.view();
            for (index, references) in references.iter().enumerate() {
                let at = begin + index as u64;
                if at >= nr_blocks {
                    break;
                }
                let counted = bitmap.entry(index) != 0;
                leaked += u64::from(counted && *references == 0);
                if counted || *references != 0 {
                    continue;
                }
                if open.end != at {
                    if !open.is_empty() {
                        visit(open)?;
                    }
                    open = at..at;
                }
                open.end = at + 1;
            }
        }
        if !open.is_empty() {
            visit(open)?;
        }
        Ok(leaked)
    }
}

/// A range, cut at whole multiples of [`PIECE_BYTES`].
fn pieces(bytes: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let mut at = bytes.start;
    std::iter::from_fn(move || {
        let end = bytes.end.min((at / PIECE_BYTES + 1) * PIECE_BYTES);
        let piece = at..end;
        at = end;
        (!piece.is_empty()).then_some(piece)
    })
}

/// Asks again where a signal came in between, unless it is to be the end.
fn give_up(data: &dyn Device, piece: &Range<u64>, task: &Task<'_>) -> Result<()> {
    loop {
        match data.discard(piece) {
            Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::Interrupted => {
                task.ask()?;
            }
            answer => return answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_ranges_are_cut_at_whole_multiples() {
        let cut = |bytes: Range<u64>| pieces(bytes).collect::<Vec<_>>();
        assert_eq!(
            cut(4096..8192),
            vec![Range {
                start: 4096,
                end: 8192
            }]
        );
        assert_eq!(
            cut(PIECE_BYTES - 4096..2 * PIECE_BYTES + 4096),
            [
                PIECE_BYTES - 4096..PIECE_BYTES,
                PIECE_BYTES..2 * PIECE_BYTES,
                2 * PIECE_BYTES..2 * PIECE_BYTES + 4096
            ]
        );
        assert!(cut(7..7).is_empty());
    }
}
