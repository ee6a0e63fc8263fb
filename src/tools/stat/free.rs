//! Runs of free blocks, as the bitmaps of a space map tell them.

use super::lengths::{Lengths, Stretch};
use crate::block::{BlockData, Validator};
use crate::disk_space::{
    BITMAP_NAME, BITMAP_VALIDATOR, Bitmap, ENTRIES_PER_BITMAP, ENTRIES_PER_WORD,
};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::units::BlockNr;
use crate::walk::Reader;

/// What is free in one bitmap.
#[derive(Clone, Debug, Default)]
struct Free {
    stretch: Stretch,
    blocks: u64,
    /// Whether its first, and its last block is free.
    at_begin: bool,
    at_end: bool,
}

/// Free blocks, and the runs of them.
///
/// # Errors
/// A bitmap that is damaged, or is in the place of two.
pub(super) fn free_runs(
    reader: &Reader<'_>,
    task: &Task<'_>,
    bitmaps: &[u32],
    nr_blocks: u64,
) -> Result<(u64, Lengths)> {
    let mut order: Vec<(u32, usize)> = bitmaps.iter().copied().zip(0..).collect();
    order.sort_unstable();
    if let Some(pair) = order.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let found = format!("bitmap {}", pair[1].1);
        let expected = format!("bitmap {} alone", pair[0].1);
        let at = BlockNr(pair[0].0.into());
        return Err(Damage::new(at, BITMAP_NAME, "place", found, expected).into());
    }
    let blocks: Vec<u32> = order.iter().map(|(block, _)| *block).collect();
    let visit = |(): &mut (), at: BlockNr, block: Result<&BlockData, Damage>| {
        let block = block?;
        BITMAP_VALIDATOR.check(at, block)?;
        let place = blocks.binary_search(&u32::try_from(at.0).unwrap_or(u32::MAX));
        let number = place.map_or(0, |place| order[place].1);
        let before = (number * ENTRIES_PER_BITMAP) as u64;
        let rest = usize::try_from(nr_blocks.saturating_sub(before)).unwrap_or(usize::MAX);
        Ok(free_of(block.view(), rest.min(ENTRIES_PER_BITMAP)))
    };
    let (found, _) = reader.visit(task, &blocks, BITMAP_NAME, Free::default(), || (), visit)?;
    let mut in_order: Vec<(usize, Free)> =
        order.iter().map(|(_, number)| *number).zip(found).collect();
    in_order.sort_by_key(|(number, _)| *number);
    let (mut whole, mut goes_on, mut free) = (Stretch::default(), false, 0);
    for (_, bitmap) in &in_order {
        whole.join(&bitmap.stretch, goes_on && bitmap.at_begin);
        goes_on = bitmap.at_end;
        free += bitmap.blocks;
    }
    Ok((free, whole.lengths()))
}

/// The first `entries` of a bitmap.
fn free_of(bitmap: &Bitmap, entries: usize) -> Free {
    let mut found = Free::default();
    let mut length = 0_u64;
    let end_run = |found: &mut Free, length: &mut u64| {
        if *length > 0 {
            found.stretch.push(*length);
            found.blocks += *length;
            *length = 0;
        }
    };
    let mut index = 0;
    while index < entries {
        // Most words are all free, or all in use; in those that are, each block is.
        let whole = entries - index >= ENTRIES_PER_WORD;
        if whole && bitmap.words[index / ENTRIES_PER_WORD].get() == 0 {
            length += ENTRIES_PER_WORD as u64;
            index += ENTRIES_PER_WORD;
            continue;
        }
        let last = entries.min(index + ENTRIES_PER_WORD);
        for entry in index..last {
            if bitmap.entry(entry) == 0 {
                length += 1;
            } else {
                end_run(&mut found, &mut length);
            }
        }
        index = last;
    }
    found.at_end = length > 0;
    end_run(&mut found, &mut length);
    found.at_begin = entries > 0 && bitmap.entry(0) == 0;
    found
}
