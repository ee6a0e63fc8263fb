//! A map that counts blocks of another device, kept in metadata blocks.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use zerocopy::{FromZeros, IntoBytes};

use super::SpaceMapRoot;
use super::bitmap::{BITMAP_VALIDATOR, MANY};
use super::core::{Change, Core, Index, bitmaps_for, change_counts, change_sorted, fresh_entry};
use super::free::FreeMap;
use super::index::IndexEntry;
use crate::block::BlockManager;
use crate::btree::{self, Plain, TreeType, max_entries};
use crate::error::{Error, Result};
use crate::space::{Checker, check_range};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// The most blocks that a map can count: a mapping has 40 bits for a block.
pub const MAX_DATA_BLOCKS: u64 = 1 << 40;

/// The name of what is counted, in errors.
const DATA: &str = "data";

/// Reference counts of data blocks, changed in a transaction. Changes count from
/// [`DataMap::commit`] on, which goes before the transaction's own commit.
pub struct DataMap {
    pub(super) core: Core,
    checker: Option<Checker>,
}

fn index_tree(values: &mut Plain) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes: size_of::<IndexEntry>(),
        values,
    }
}

impl DataMap {
    /// A map of no blocks. [`Self::extend`] adds some.
    ///
    /// # Errors
    /// What allocation says.
    pub fn create(txn: &mut Transaction, checked: bool) -> Result<Self> {
        let mut root = SpaceMapRoot::new_zeroed();
        root.bitmap_root = btree::empty(txn, size_of::<IndexEntry>())?.0.into();
        root.ref_count_root = btree::empty(txn, size_of::<u32>())?.0.into();
        let mut map = Self::of(&root);
        map.checker = checked.then(|| Checker::fresh(0));
        Ok(map)
    }

    /// The map under `root`.
    ///
    /// # Errors
    /// [`Error::Usage`] for more than 2^40 blocks, or fewer than are allocated;
    /// when `checked`, what reading every count says.
    pub fn open(blocks: &Arc<BlockManager>, root: &SpaceMapRoot, checked: bool) -> Result<Self> {
        let (size, used) = (root.nr_blocks.get(), root.nr_allocated.get());
        if size > MAX_DATA_BLOCKS || used > size {
            let text = format!("a map of {size} blocks, {used} of them allocated, cannot be");
            return Err(Error::Usage(text));
        }
        let mut map = Self::of(root);
        if checked {
            map.check_from_now_on(blocks)?;
        }
        Ok(map)
    }

    pub(super) fn of(root: &SpaceMapRoot) -> Self {
        let index = Index::Tree {
            root: BlockNr(root.bitmap_root.get()),
            known: FxHashMap::default(),
            changed: FxHashMap::default(),
        };
        Self {
            core: Core::new(DATA, root, index),
            checker: None,
        }
    }

    /// Goes back to what was committed under `root`, on the same cursor.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn go_back(&mut self, blocks: &Arc<BlockManager>, root: &SpaceMapRoot) -> Result<()> {
        let mut map = Self::open(blocks, root, self.checker.is_some())?;
        if let Some(checker) = &mut map.checker {
            checker.withholds(self.core.free.withheld());
        }
        let free = std::mem::replace(&mut self.core.free, FreeMap::new(0));
        map.core.free = free.rolled_back(map.core.free.available(), map.core.nr_blocks);
        *self = map;
        Ok(())
    }

    /// Holds every call against plain counts. Only right after a commit: what
    /// was freed since then would count as free.
    ///
    /// # Errors
    /// What reading every count says.
    pub fn check_from_now_on(&mut self, blocks: &Arc<BlockManager>) -> Result<()> {
        let core = &self.core;
        let count = |block| core.stored_count(blocks, block);
        self.checker = Some(Checker::over_counts(core.nr_blocks, count)?);
        Ok(())
    }

    /// As of now; what [`Self::commit`] has written.
    #[must_use]
    pub fn root(&self) -> SpaceMapRoot {
        self.core.root()
    }

    /// Blocks that are counted.
    #[must_use]
    pub fn nr_blocks(&self) -> u64 {
        self.core.nr_blocks
    }

    /// Blocks that are free now and were at the last commit.
    #[must_use]
    pub fn nr_free(&self) -> u64 {
        self.core.free.available()
    }

    /// How many references a block has.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end, and what reading says.
    pub fn get_count(&self, txn: &Transaction, block: u64) -> Result<u32> {
        let count = self.core.stored_count(txn.blocks(), block)?;
        if let Some(checker) = &self.checker {
            checker.counted(block, count)?;
        }
        Ok(count)
    }

    /// Whether a block has several references.
    ///
    /// # Errors
    /// As [`Self::get_count`].
    pub fn count_is_more_than_one(&self, txn: &Transaction, block: u64) -> Result<bool> {
        let (_, entry) = self.core.stored_entry(txn.blocks(), block)?;
        let shared = entry == MANY || entry > 1;
        if let Some(checker) = &self.checker {
            checker.judged_shared(block, shared)?;
        }
        Ok(shared)
    }

    /// One more reference on each block.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end or above 2^32 - 1, nothing changed then.
    pub fn inc(&mut self, txn: &mut Transaction, blocks: Range<u64>) -> Result<()> {
        self.count_references(txn, blocks, Change::Inc)
    }

    /// One reference less on each block.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end or below zero, nothing changed then.
    pub fn dec(&mut self, txn: &mut Transaction, blocks: Range<u64>) -> Result<()> {
        self.count_references(txn, blocks, Change::Dec)
    }

    /// One more reference on each of many blocks, which ascend; one that comes
    /// several times gains as many.
    ///
    /// # Errors
    /// As [`Self::inc`], but after the first blocks were counted.
    pub fn inc_sorted(&mut self, txn: &mut Transaction, blocks: &[u64]) -> Result<()> {
        change_sorted(&mut self.core, txn, blocks, Change::Inc)?;
        let Some(checker) = &mut self.checker else {
            return Ok(());
        };
        let mut each = blocks.iter();
        each.try_for_each(|block| checker.incremented(*block..block + 1, true))
    }

    /// One reference less on each of many blocks, which ascend; one that comes
    /// several times loses as many.
    ///
    /// # Errors
    /// As [`Self::dec`], but after the first blocks were counted.
    pub fn dec_sorted(&mut self, txn: &mut Transaction, blocks: &[u64]) -> Result<()> {
        change_sorted(&mut self.core, txn, blocks, Change::Dec)?;
        let Some(checker) = &mut self.checker else {
            return Ok(());
        };
        let mut each = blocks.iter();
        each.try_for_each(|block| checker.decremented(*block..block + 1, true))
    }

    /// Whether a block was in use at the last commit and is not any more.
    #[must_use]
    pub fn was_freed(&self, block: u64) -> bool {
        self.core.free.was_freed(block)
    }

    /// Whether any block was freed since the last commit.
    #[must_use]
    pub fn has_freed(&self) -> bool {
        self.core.free.has_freed()
    }

    fn count_references(
        &mut self,
        txn: &mut Transaction,
        blocks: Range<u64>,
        change: Change,
    ) -> Result<()> {
        check_range(&blocks, self.core.nr_blocks)?;
        let manager = Arc::clone(txn.blocks());
        let answer = self.core.check_change(&manager, &blocks, change);
        if let Some(checker) = &mut self.checker
            && !matches!(answer, Err(Error::Damaged(_) | Error::Io { .. }))
        {
            match change {
                Change::Inc => checker.incremented(blocks.clone(), answer.is_ok())?,
                _ => checker.decremented(blocks.clone(), answer.is_ok())?,
            }
        }
        answer?;
        change_counts(&mut self.core, txn, blocks, change)
    }

    /// Sets a count.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end.
    pub fn set_count(&mut self, txn: &mut Transaction, block: u64, count: u32) -> Result<()> {
        let blocks = block..block.saturating_add(1);
        check_range(&blocks, self.core.nr_blocks)?;
        change_counts(&mut self.core, txn, blocks, Change::Set(count))?;
        if let Some(checker) = &mut self.checker {
            checker.was_set(block, count);
        }
        Ok(())
    }

    /// Takes a free block: its count goes from 0 to 1.
    ///
    /// # Errors
    /// [`Error::NoSpace`], of the data or of the metadata.
    pub fn new_block(&mut self, txn: &mut Transaction) -> Result<u64> {
        let manager = Arc::clone(txn.blocks());
        let block = self.core.find_free(&manager)?;
        // The search itself has taken note of the block.
        txn.side_effects += 1;
        change_counts(&mut self.core, txn, block..block + 1, Change::Inc)?;
        if let Some(checker) = &mut self.checker {
            checker.allocated(block)?;
            checker.counted_free(self.core.free.available())?;
        }
        Ok(block)
    }

    /// Says that so many blocks will be allocated soon: they had better lie side by side.
    pub fn want_run(&mut self, blocks: u64) {
        self.core.free.want(blocks);
    }

    /// What [`Self::extend`] would refuse.
    ///
    /// # Errors
    /// As [`Self::extend`].
    pub(crate) fn check_extend(&self, txn: &Transaction, more: u64) -> Result<()> {
        self.growth(txn, more).map(drop)
    }

    /// The bitmaps of so many blocks more.
    fn growth(&self, txn: &Transaction, more: u64) -> Result<Range<u64>> {
        let size = self.core.nr_blocks.checked_add(more);
        let size = size
            .filter(|size| *size <= MAX_DATA_BLOCKS)
            .ok_or_else(|| {
                Error::usage(format!(
                    "a data device has at most {MAX_DATA_BLOCKS} blocks"
                ))
            })?;
        let new = bitmaps_for(self.core.nr_blocks)..bitmaps_for(size);
        let needed = blocks_for(new.end - new.start);
        if needed > txn.nr_free() {
            let free = txn.nr_free();
            let reason =
                format!("{more} data blocks more need {needed} blocks of it, {free} are free");
            return Err(Error::no_metadata_space(reason));
        }
        Ok(new)
    }

    /// Adds free blocks at the end.
    ///
    /// # Errors
    /// [`Error::Usage`] past 2^40 blocks, [`Error::NoSpace`] when the metadata
    /// cannot hold their counts; nothing is changed then.
    pub fn extend(&mut self, txn: &mut Transaction, more: u64) -> Result<()> {
        let new = self.growth(txn, more)?;
        let (size, needed) = (self.core.nr_blocks + more, blocks_for(new.end - new.start));
        if more > 0 {
            self.core.complete_last(txn.blocks())?;
        }
        txn.want_run(needed);
        txn.side_effects += u64::from(more > 0);
        self.core.nr_blocks = size;
        self.core.free.extended(more);
        for number in new {
            let at = txn.new_block(&BITMAP_VALIDATOR)?.location();
            self.core.set_entry(number, fresh_entry(at));
            if number % 4096 == 4095 {
                self.write_index(txn)?;
            }
        }
        if let Some(checker) = &mut self.checker {
            checker.extended(more);
        }
        Ok(())
    }

    /// Writes what is kept in memory into the tree. Goes before the
    /// transaction's commit, as it allocates metadata.
    ///
    /// # Errors
    /// What allocation says.
    pub fn commit(&mut self, txn: &mut Transaction) -> Result<()> {
        self.write_index(txn)
    }

    fn write_index(&mut self, txn: &mut Transaction) -> Result<()> {
        let Index::Tree {
            root,
            known,
            changed,
        } = &mut self.core.index
        else {
            return Ok(());
        };
        let mut entries: Vec<(u64, IndexEntry)> = changed.drain().collect();
        entries.sort_unstable_by_key(|(number, _)| *number);
        let (mut plain, mut at) = (Plain, *root);
        let mut tree = index_tree(&mut plain);
        for (number, entry) in entries {
            at = btree::insert(txn, &mut tree, at, &[number], entry.as_bytes())?.root;
            known.insert(number, entry);
        }
        *root = at;
        Ok(())
    }

    /// The transaction's commit is durable: what it freed can be handed out again.
    ///
    /// # Errors
    /// A law of the map is broken, when it is checked.
    pub fn committed(&mut self) -> Result<()> {
        self.committed_beside_views(0, None)
    }

    /// As [`Self::committed`], where views of commits before `generation` are open, the
    /// newest of `newest`: what was freed is withheld until they are closed.
    ///
    /// # Errors
    /// As [`Self::committed`].
    pub(crate) fn committed_beside_views(
        &mut self,
        generation: u64,
        newest: Option<u64>,
    ) -> Result<()> {
        self.core.free.committed(generation, newest);
        match &mut self.checker {
            Some(checker) => {
                checker.committed(self.core.free.withheld());
                checker.counted_free(self.core.free.available())
            }
            None => Ok(()),
        }
    }

    /// Blocks that only open views keep from being handed out.
    pub(crate) fn withheld_blocks(&self) -> u64 {
        self.core.free.withheld_blocks()
    }

    /// Views of commits before `oldest` are closed.
    pub(crate) fn views_closed(&mut self, oldest: Option<u64>) {
        self.core.free.views_closed(oldest);
        if let Some(checker) = &mut self.checker {
            checker.withholds(self.core.free.withheld());
        }
    }
}

/// Metadata blocks that a map of so many blocks may take.
pub(crate) fn metadata_blocks_for(data_blocks: u64) -> u64 {
    blocks_for(bitmaps_for(data_blocks))
}

/// Metadata blocks that so many new bitmaps may take, with the leaves and
/// parents of their index entries.
fn blocks_for(bitmaps: u64) -> u64 {
    if bitmaps == 0 {
        return 0;
    }
    // Nodes may be no more than half full; and a path is copied.
    let leaves = bitmaps.div_ceil(max_entries(size_of::<IndexEntry>()) as u64 / 2);
    let parents = leaves.div_ceil(max_entries(8) as u64 / 2);
    bitmaps + leaves + 2 * parents + 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockManager;
    use crate::device::MemoryDevice;

    /// Here no more than four bitmaps are kept: the search for a long run forgets
    /// those that it began with.
    #[test]
    fn every_free_block_of_a_map_of_many_bitmaps_is_handed_out() {
        let device = Arc::new(MemoryDevice::writable(vec![0; 512 * 4096]));
        let blocks = BlockManager::new(device, 8 << 20);
        let mut txn = Transaction::in_memory(&blocks).unwrap();
        let mut map = DataMap::create(&mut txn, true).unwrap();
        let bitmaps = 12;
        map.extend(&mut txn, bitmaps * 16_320).unwrap();
        for bitmap in 0..bitmaps {
            let begin = bitmap * 16_320;
            // Two blocks free side by side in the first bitmap, one in the others.
            let end = begin + 16_320 - 1 - u64::from(bitmap == 0);
            map.inc(&mut txn, begin..end).unwrap();
        }
        map.commit(&mut txn).unwrap();
        map.committed().unwrap();
        map = DataMap::open(&blocks, &map.root(), true).unwrap();
        let mut found: Vec<u64> = (0..=bitmaps)
            .map(|_| map.new_block(&mut txn).unwrap())
            .collect();
        found.sort_unstable();
        let mut free: Vec<u64> = (1..=bitmaps).map(|bitmap| bitmap * 16_320 - 1).collect();
        free.insert(0, 16_318);
        assert_eq!((found, map.nr_free()), (free, 0));
        assert!(matches!(
            map.new_block(&mut txn),
            Err(Error::NoSpace { .. })
        ));
    }
}
