//! Making the metadata's map, and making it larger.
//!
//! Meanwhile it cannot allocate from itself: blocks are handed out in order, and
//! their counts wait until the map can hold them.

use std::ops::Range;
use std::sync::Arc;

use zerocopy::FromZeros;

use super::SpaceMapRoot;
use super::bitmap::BITMAP_VALIDATOR;
use super::core::{Change, Core, Index, bitmaps_for, fresh_entry};
use super::index::INDEX_VALIDATOR;
use super::metadata::{MetadataMap, check_open, drain_queue, map, write_index};
use crate::btree;
use crate::error::{Error, Result};
use crate::space::Checker;
use crate::transaction::{Space, Transaction};
use crate::units::{BlockNr, MAX_METADATA_BLOCKS};

/// Makes the map of a new device in `txn`, whose superblock is block 0 and whose
/// blocks are handed out in the order of the format.
pub(crate) fn create(txn: &mut Transaction, checked: bool) -> Result<()> {
    let nr_blocks = txn.blocks().nr_blocks().min(MAX_METADATA_BLOCKS);
    let mut root = SpaceMapRoot::new_zeroed();
    root.nr_blocks = nr_blocks.into();
    let index = Index::Block {
        at: BlockNr(0),
        entries: Vec::new(),
        changed: true,
    };
    let mut own = MetadataMap::new(Core::new("metadata", &root, index));
    own.bootstrap = Some(1);
    txn.space = Space::Metadata(Box::new(own));

    let at = txn.new_block(&INDEX_VALIDATOR)?.location();
    if let Index::Block { at: place, .. } = &mut map(txn).core.index {
        *place = at;
    }
    let overflow = btree::empty(txn, size_of::<u32>())?;
    map(txn).core.overflow_root = overflow;
    add_bitmaps(txn, 0..bitmaps_for(nr_blocks))?;

    let own = map(txn);
    let used = own.bootstrap.take().unwrap_or_default();
    own.enqueue(0..used, Change::Inc);
    drain_queue(txn)?;
    if checked {
        let blocks = Arc::clone(txn.blocks());
        let core = &map(txn).core;
        let mut checker = Checker::fresh(nr_blocks);
        (0..used).try_for_each(|block| {
            checker
                .counted(block, 0)
                .map(|()| checker.was_set(block, 1))
        })?;
        (0..nr_blocks.min(used + 1))
            .try_for_each(|block| checker.counted(block, core.stored_count(&blocks, block)?))?;
        map(txn).checker = Some(checker);
    }
    write_index(txn)
}

/// Makes bitmaps of free blocks.
fn add_bitmaps(txn: &mut Transaction, numbers: Range<u64>) -> Result<()> {
    for number in numbers {
        let guard = txn.new_block(&BITMAP_VALIDATOR)?;
        let at = guard.location();
        map(txn).core.free.learn(number, guard.view());
        drop(guard);
        map(txn).core.set_entry(number, fresh_entry(at));
    }
    Ok(())
}

/// Adds blocks at the end of the device. All that this needs comes from the new
/// blocks, as the old ones may be all in use.
pub(crate) fn extend(txn: &mut Transaction, more: u64) -> Result<()> {
    check_open(txn)?;
    let own = map(txn);
    let old = own.core.nr_blocks;
    let size = old
        .checked_add(more)
        .filter(|size| *size <= MAX_METADATA_BLOCKS);
    let size = size.ok_or_else(|| {
        Error::usage(format!("metadata has at most {MAX_METADATA_BLOCKS} blocks"))
    })?;
    if more == 0 {
        return Ok(());
    }
    let device = txn.blocks().refresh_size()?;
    if size > device {
        let text = format!("the device has {device} blocks, not {size}");
        return Err(Error::Usage(text));
    }
    let blocks = Arc::clone(txn.blocks());
    let own = map(txn);
    own.core.complete_last(&blocks)?;
    if let Some(checker) = &mut own.checker {
        checker.extended(more);
    }
    txn.side_effects += 1;
    let own = map(txn);
    own.core.nr_blocks = size;
    own.core.free.extended(more);
    own.bootstrap = Some(old);
    let answer = extend_into(txn, old, size);
    map(txn).bootstrap = None;
    answer
}

fn extend_into(txn: &mut Transaction, old: u64, size: u64) -> Result<()> {
    add_bitmaps(txn, bitmaps_for(old)..bitmaps_for(size))?;
    let mut counted = old;
    loop {
        // The index block is shadowed by the round's end, which may take a block more.
        write_index(txn)?;
        let taken = map(txn).bootstrap.unwrap_or(counted);
        let own = map(txn);
        if counted < taken {
            own.enqueue(counted..taken, Change::Inc);
        }
        if own.queue.is_empty() {
            return Ok(());
        }
        counted = taken;
        drain_queue(txn)?;
    }
}
