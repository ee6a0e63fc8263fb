//! Space maps, written from counts.

use zerocopy::FromZeros;
use zerocopy::little_endian::{U32, U64};

use super::blocks::{Blocks, Kind};
use super::plain;
use crate::disk_space::{
    Bitmap, ENTRIES_PER_BITMAP, ENTRIES_PER_WORD, IndexEntry, MANY, MAX_DATA_BLOCKS, MetadataIndex,
    SpaceMapRoot,
};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::Counts;

const PER_BITMAP: u64 = ENTRIES_PER_BITMAP as u64;
/// Counts that are looked at between two reports to the task.
const PER_STEP: u64 = PER_BITMAP;

/// Superblock, mappings, details, an index of data bitmaps, two trees of large
/// counts, an index block.
const FIXED_BLOCKS: u64 = 7;

fn bitmaps_for(blocks: u64) -> u64 {
    blocks.div_ceil(PER_BITMAP)
}

/// Metadata blocks that an empty pool of so many data blocks takes.
fn least_blocks(data_blocks: u64, own_bitmaps: u64) -> u64 {
    let bitmaps = bitmaps_for(data_blocks);
    let index = plain::tree_blocks(bitmaps, size_of::<IndexEntry>());
    FIXED_BLOCKS - 1 + bitmaps + index + own_bitmaps
}

/// Whether there can be a pool of so many data blocks.
#[must_use]
pub fn has_room(data_blocks: u64) -> bool {
    data_blocks <= MAX_DATA_BLOCKS && least_blocks(data_blocks, 1) <= MAX_METADATA_BLOCKS
}

/// Refuses a data device whose bitmaps alone do not fit.
pub(super) fn check_room(blocks: &Blocks, data_blocks: u64) -> Result<()> {
    let own = if blocks.grows() {
        1
    } else {
        bitmaps_for(blocks.limit())
    };
    let needed = least_blocks(data_blocks, own);
    if needed <= blocks.limit() {
        return Ok(());
    }
    Err(Error::no_metadata_space(format!(
        "a pool of {data_blocks} data blocks takes {needed} metadata blocks of {BLOCK_BYTES} \
         bytes at the least, and there are {}",
        blocks.limit()
    )))
}

/// Writes the map that counts data blocks.
pub(super) fn write_data(
    blocks: &mut Blocks,
    counts: &Counts,
    task: &Task<'_>,
) -> Result<SpaceMapRoot> {
    let nr_blocks = counts.nr_blocks();
    let mut entries = Vec::new();
    let mut total = Sum::default();
    for bitmap in 0..bitmaps_for(nr_blocks) {
        task.step(0, 0)?;
        let (at, block) = blocks.append(Kind::Bitmap)?;
        let sum = fill_bitmap(block.view_mut(), |begin, out| {
            counts.copy_saturated(bitmap * PER_BITMAP + begin, out);
        });
        blocks.refer(at);
        entries.push(sum.entry(at));
        total.add(&sum);
    }
    let index = entries.iter().enumerate();
    let index = index.map(|(number, entry)| (number as u64, *entry));
    let bitmap_root = plain::tree(blocks, entries.len() as u64, index)?;
    let overflow = overflow(blocks, counts, &total, nr_blocks)?;
    Ok(SpaceMapRoot {
        nr_blocks: nr_blocks.into(),
        nr_allocated: total.used.into(),
        bitmap_root: bitmap_root.0.into(),
        ref_count_root: overflow.0.into(),
    })
}

/// Writes the map that counts metadata blocks. It comes last: all blocks that it takes
/// itself are known beforehand.
pub(super) fn write_metadata(blocks: &mut Blocks, task: &Task<'_>) -> Result<SpaceMapRoot> {
    let mut many = Sum::default();
    let counted = blocks.next();
    let mut saturated = [0; ENTRIES_PER_BITMAP];
    for begin in (0..counted).step_by(ENTRIES_PER_BITMAP) {
        task.step(0, 0)?;
        blocks.counts().copy_saturated(begin, &mut saturated);
        many.many += saturated.iter().filter(|count| is_many(**count)).count() as u64;
    }
    let root = overflow_of_metadata(blocks, &many, counted)?;
    let nr_blocks = blocks.settle_size()?;
    let bitmaps = bitmaps_for(nr_blocks);
    // The bitmaps, and the index block after them.
    let first = blocks.next();
    for at in first..=first + bitmaps {
        blocks.refer(BlockNr(at));
    }
    let mut index = Box::new(MetadataIndex::new_zeroed());
    let mut total = Sum::default();
    for bitmap in 0..bitmaps {
        let begin = bitmap * PER_BITMAP;
        blocks.counts().copy_saturated(begin, &mut saturated);
        let (at, block) = blocks.append(Kind::Bitmap)?;
        let sum = fill_bitmap(block.view_mut(), |begin, out| {
            let begin = usize::try_from(begin).unwrap_or_default();
            out.copy_from_slice(&saturated[begin..begin + out.len()]);
        });
        let number = usize::try_from(bitmap).unwrap_or(usize::MAX);
        if let Some(entry) = index.entries.get_mut(number) {
            *entry = sum.entry(at);
        }
        total.add(&sum);
    }
    let (at, block) = blocks.append(Kind::Index)?;
    *block.view_mut() = *index;
    Ok(SpaceMapRoot {
        nr_blocks: nr_blocks.into(),
        nr_allocated: total.used.into(),
        bitmap_root: at.0.into(),
        ref_count_root: root.0.into(),
    })
}

/// What is in bitmaps, in sum.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    used: u64,
    many: u64,
    /// The first entry of zero.
    first_free: usize,
}

impl Sum {
    fn add(&mut self, other: &Self) {
        self.used += other.used;
        self.many += other.many;
    }

    fn entry(&self, at: BlockNr) -> IndexEntry {
        let free = PER_BITMAP - self.used;
        IndexEntry {
            blocknr: at.0.into(),
            nr_free: u32::try_from(free).unwrap_or_default().into(),
            none_free_before: u32::try_from(self.first_free).unwrap_or_default().into(),
        }
    }
}

fn is_many(count: u8) -> bool {
    u32::from(count) >= MANY
}

/// Fills a bitmap from counts, which `copy` gives from an offset on.
fn fill_bitmap(bitmap: &mut Bitmap, copy: impl Fn(u64, &mut [u8])) -> Sum {
    let mut sum = Sum {
        first_free: ENTRIES_PER_BITMAP,
        ..Sum::default()
    };
    let mut counts = [0; ENTRIES_PER_BITMAP];
    copy(0, &mut counts);
    for (word, counts) in counts.chunks_exact(ENTRIES_PER_WORD).enumerate() {
        let mut bits = 0;
        for (index, count) in counts.iter().enumerate() {
            let entry = u64::from((*count).min(3));
            // The lower bit is the more significant.
            bits |= ((entry & 1) << 1 | entry >> 1) << (2 * index);
            sum.used += u64::from(entry > 0);
            sum.many += u64::from(entry == 3);
        }
        if sum.first_free == ENTRIES_PER_BITMAP
            && let Some(free) = counts.iter().position(|count| *count == 0)
        {
            sum.first_free = word * ENTRIES_PER_WORD + free;
        }
        bitmap.words[word] = U64::new(bits);
    }
    sum
}

/// The tree of counts of three and more.
fn overflow(blocks: &mut Blocks, counts: &Counts, sum: &Sum, end: u64) -> Result<BlockNr> {
    plain::tree(blocks, sum.many, Many::new(counts, end))
}

/// As [`overflow`], of metadata blocks: those of the tree itself have one reference.
fn overflow_of_metadata(blocks: &mut Blocks, sum: &Sum, end: u64) -> Result<BlockNr> {
    let many: Vec<(u64, U32)> = Many::new(blocks.counts(), end).collect();
    debug_assert_eq!(many.len() as u64, sum.many);
    plain::tree(blocks, sum.many, many.into_iter())
}

/// Blocks with counts of three and more, in ascending order.
struct Many<'c> {
    counts: &'c Counts,
    window: Vec<u8>,
    begin: u64,
    at: usize,
    end: u64,
}

impl<'c> Many<'c> {
    fn new(counts: &'c Counts, end: u64) -> Self {
        Self {
            counts,
            window: Vec::new(),
            begin: 0,
            at: 0,
            end,
        }
    }
}

impl Iterator for Many<'_> {
    type Item = (u64, U32);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let found = self.window[self.at..]
                .iter()
                .position(|count| is_many(*count));
            if let Some(found) = found {
                let block = self.begin + (self.at + found) as u64;
                self.at += found + 1;
                return Some((block, self.counts.get(block).into()));
            }
            self.begin += self.window.len() as u64;
            let rest = self.end - self.begin;
            if rest == 0 {
                return None;
            }
            let length = rest.min(PER_STEP);
            self.window
                .resize(usize::try_from(length).unwrap_or_default(), 0);
            self.counts.copy_saturated(self.begin, &mut self.window);
            self.at = 0;
        }
    }
}
