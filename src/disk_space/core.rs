//! What both kinds of map on disk have in common: bitmaps, a summary of each,
//! and a tree of the counts that two bits cannot hold.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U32;

use super::SpaceMapRoot;
use super::bitmap::{BITMAP_NAME, BITMAP_VALIDATOR, Bitmap, ENTRIES_PER_BITMAP, MANY};
use super::free::FreeMap;
use super::index::{INDEX_NAME, IndexEntry, MAX_METADATA_BITMAPS};
use super::search::Search;
use crate::block::BlockManager;
use crate::btree::{self, BTree, Plain, TreeType, Wait};
use crate::error::{Damage, Error, Result};
use crate::space::{above_limit, below_zero, check_range};
use crate::transaction::Transaction;
use crate::units::BlockNr;

pub(super) const PER_BITMAP: u64 = ENTRIES_PER_BITMAP as u64;

/// Index entries of a data map that are kept though nothing changed them.
const KEPT_ENTRIES: usize = 1 << 16;

/// New blocks are taken at least so many at a time.
const NEW_RUN: u64 = 64;

/// Blocks over which a map may always spread, and how many times as many as
/// are allocated: with four, three quarters of that part are free.
const ROOM_FOR_RUNS: u64 = 1024;
const SPREAD: u64 = 4;

/// Where the index entries are kept.
pub(super) enum Index {
    /// All in memory, written as one block: the metadata's map.
    Block {
        at: BlockNr,
        entries: Vec<IndexEntry>,
        changed: bool,
    },
    /// In a tree, with those that were used in memory: the data's map.
    Tree {
        root: BlockNr,
        known: FxHashMap<u64, IndexEntry>,
        changed: FxHashMap<u64, IndexEntry>,
    },
}

/// A space map on disk.
pub(crate) struct Core {
    /// What it counts, for messages.
    pub(super) space: &'static str,
    pub(super) nr_blocks: u64,
    pub(super) nr_allocated: u64,
    pub(super) overflow_root: BlockNr,
    pub(super) index: Index,
    pub(super) free: FreeMap,
}

/// Where a map lives: the metadata's inside the transaction that changes it,
/// so that what it calls can call it back; a data map beside it.
pub(super) trait Home {
    fn core<'c>(&'c mut self, txn: &'c mut Transaction) -> &'c mut Core;
}

impl Home for Core {
    fn core<'c>(&'c mut self, _txn: &'c mut Transaction) -> &'c mut Core {
        self
    }
}

/// What happens to a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Inc,
    Dec,
    Set(u32),
}

/// A new count for the overflow tree; `None`: it is not there any more.
type Overflow = (u64, Option<u32>);

impl Core {
    pub fn new(space: &'static str, root: &SpaceMapRoot, index: Index) -> Self {
        let (nr_blocks, nr_allocated) = (root.nr_blocks.get(), root.nr_allocated.get());
        Self {
            space,
            nr_blocks,
            nr_allocated,
            overflow_root: BlockNr(root.ref_count_root.get()),
            index,
            free: FreeMap::new(nr_blocks.saturating_sub(nr_allocated)),
        }
    }

    pub fn root(&self) -> SpaceMapRoot {
        let bitmap_root = match &self.index {
            Index::Block { at, .. } => at,
            Index::Tree { root, .. } => root,
        };
        SpaceMapRoot {
            nr_blocks: self.nr_blocks.into(),
            nr_allocated: self.nr_allocated.into(),
            bitmap_root: bitmap_root.0.into(),
            ref_count_root: self.overflow_root.0.into(),
        }
    }

    /// The index entry of a bitmap.
    pub fn entry(&self, blocks: &Arc<BlockManager>, bitmap: u64) -> Result<IndexEntry> {
        let missing = |at, name| {
            let found = format!("none for bitmap {bitmap}");
            Error::from(Damage::new(at, name, "index entry", found, "one"))
        };
        match &self.index {
            Index::Block { at, entries, .. } => {
                let number = usize::try_from(bitmap).unwrap_or(usize::MAX);
                let entry = entries.get(number).copied();
                entry.ok_or_else(|| missing(*at, INDEX_NAME))
            }
            Index::Tree {
                root,
                known,
                changed,
            } => {
                if let Some(entry) = changed.get(&bitmap).or_else(|| known.get(&bitmap)) {
                    return Ok(*entry);
                }
                let found = BTree::new(blocks, *root).lookup(bitmap, Wait::Yes)?;
                found.ok_or_else(|| missing(*root, "space map"))
            }
        }
    }

    pub fn set_entry(&mut self, bitmap: u64, entry: IndexEntry) {
        match &mut self.index {
            Index::Block {
                entries, changed, ..
            } => {
                let number = usize::try_from(bitmap).unwrap_or(usize::MAX);
                if number >= entries.len() && number < MAX_METADATA_BITMAPS {
                    entries.resize(number + 1, IndexEntry::default());
                }
                if let Some(place) = entries.get_mut(number) {
                    *place = entry;
                }
                *changed = true;
            }
            Index::Tree { changed, .. } => drop(changed.insert(bitmap, entry)),
        }
    }

    /// Remembers an entry that was looked up.
    fn remember(&mut self, bitmap: u64, entry: IndexEntry) {
        if let Index::Tree { known, changed, .. } = &mut self.index
            && !changed.contains_key(&bitmap)
        {
            if known.len() >= KEPT_ENTRIES {
                known.clear();
            }
            known.insert(bitmap, entry);
        }
    }

    /// Sees to it that the free blocks of a bitmap are known, as of the last
    /// commit: before its first change.
    fn learn(&mut self, blocks: &Arc<BlockManager>, bitmap: u64) -> Result<()> {
        if self.free.knows(bitmap) {
            return Ok(());
        }
        let entry = self.entry(blocks, bitmap)?;
        self.remember(bitmap, entry);
        let at = BlockNr(entry.blocknr.get());
        let block = blocks.read(at, &BITMAP_VALIDATOR)?;
        let view: &Bitmap = block.view();
        if self.is_superblock(bitmap) && view.entry(0) == 0 {
            // Whoever believed it would overwrite the superblock.
            let expected = "1 or more, of the superblock";
            return Err(Damage::new(at, BITMAP_NAME, "reference count", 0_u32, expected).into());
        }
        self.free.learn(bitmap, view);
        Ok(())
    }

    /// The count as stored: nothing that is queued is in it.
    pub fn stored_count(&self, blocks: &Arc<BlockManager>, block: u64) -> Result<u32> {
        let (at, entry) = self.stored_entry(blocks, block)?;
        if entry < MANY {
            return Ok(entry);
        }
        let overflow: BTree<U32> = BTree::new(blocks, self.overflow_root);
        let count = overflow.lookup(block, Wait::Yes)?;
        let missing = || Damage::new(at, BITMAP_NAME, "overflow", "no entry", "a count above 2");
        Ok(count.ok_or_else(missing)?.get())
    }

    /// The two bits of a block, and the bitmap they are in.
    pub fn stored_entry(&self, blocks: &Arc<BlockManager>, block: u64) -> Result<(BlockNr, u32)> {
        check_range(&(block..block.saturating_add(1)), self.nr_blocks)?;
        let at = BlockNr(self.entry(blocks, block / PER_BITMAP)?.blocknr.get());
        let bitmap = blocks.read(at, &BITMAP_VALIDATOR)?;
        Ok((at, bitmap.view::<Bitmap>().entry(offset(block))))
    }

    /// Before blocks are added at the end: the last bitmap's sum covers all that it
    /// has room for. Userspace tools leave out what lies past the end.
    pub fn complete_last(&mut self, blocks: &Arc<BlockManager>) -> Result<()> {
        let number = self.nr_blocks / PER_BITMAP;
        if self.nr_blocks.is_multiple_of(PER_BITMAP) {
            return Ok(());
        }
        let mut entry = self.entry(blocks, number)?;
        let block = blocks.read(BlockNr(entry.blocknr.get()), &BITMAP_VALIDATOR)?;
        let view: &Bitmap = block.view();
        let free = (0..ENTRIES_PER_BITMAP).filter(|at| view.entry(*at) == 0);
        let free = u32::try_from(free.count()).unwrap_or_default();
        if entry.nr_free.get() != free {
            entry.nr_free = free.into();
            self.set_entry(number, entry);
        }
        Ok(())
    }

    /// The next block to hand out, marked as taken; its count is still to be set.
    pub fn find_free(&mut self, blocks: &Arc<BlockManager>) -> Result<u64> {
        if let Some(block) = self.next_of_run(blocks)? {
            return Ok(block);
        }
        let run = self.find_run(blocks)?;
        self.free.found(run);
        let found = self.next_of_run(blocks)?;
        found.ok_or_else(|| self.no_space())
    }

    /// The next block of the run found last, whose bitmaps may have been
    /// forgotten meanwhile.
    fn next_of_run(&mut self, blocks: &Arc<BlockManager>) -> Result<Option<u64>> {
        while let Some(bitmap) = self.free.next_bitmap() {
            self.learn(blocks, bitmap)?;
            if let Some(block) = self.free.next() {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    fn no_space(&self) -> Error {
        let withheld = self.free.withheld_blocks();
        let reason = match withheld {
            0 => format!(
                "all {} blocks are in use, or were at the last commit",
                self.nr_blocks
            ),
            _ => format!(
                "all {} blocks are in use, or were at the last commit, or are withheld for open \
                 views ({withheld})",
                self.nr_blocks
            ),
        };
        Error::NoSpace {
            space: self.space,
            reason,
        }
    }

    /// The next run of free blocks that is as long as wanted, else the longest.
    ///
    /// Blocks that were used before come first: they are in the page cache, and a
    /// file has them already, while writing new ones makes a filesystem allocate
    /// in every flush. But not at any price: as long as the part in use is no more
    /// than a few times what is allocated, a long run of new blocks is better than
    /// crumbs of old ones.
    fn find_run(&mut self, blocks: &Arc<BlockManager>) -> Result<Range<u64>> {
        let top = self.top(blocks)?;
        let mut old = Search::new(self.free.wanted());
        let cursor = self.free.cursor().min(top);
        self.search(blocks, cursor..top, &mut old)?;
        self.search(blocks, 0..cursor, &mut old)?;
        if old.is_satisfied() {
            return Ok(old.longest());
        }
        let old = old.longest();
        let spread = ROOM_FOR_RUNS + SPREAD * self.nr_allocated;
        if top >= self.nr_blocks || (top > spread && !old.is_empty()) {
            self.free.found_only(old.end - old.start);
            return Ok(old);
        }
        let mut new = Search::new(self.free.wanted().max(NEW_RUN));
        let end = self
            .nr_blocks
            .min(top + 2 * self.free.wanted().max(NEW_RUN));
        self.search(blocks, top..end, &mut new)?;
        let new = new.longest();
        if new.is_empty() {
            self.free.found_only(old.end - old.start);
            return Ok(old);
        }
        self.free.set_top(new.end);
        Ok(new)
    }

    /// Looks for a run in `range`, unless one was found.
    fn search(
        &mut self,
        blocks: &Arc<BlockManager>,
        range: Range<u64>,
        search: &mut Search,
    ) -> Result<()> {
        search.gap();
        let mut at = range.start;
        while at < range.end && !search.is_satisfied() {
            let bitmap = at / PER_BITMAP;
            let end = ((bitmap + 1) * PER_BITMAP).min(range.end);
            if self.entry(blocks, bitmap)?.nr_free.get() == 0 {
                search.gap();
            } else {
                self.learn(blocks, bitmap)?;
                self.free.search_bitmap(at..end, search);
            }
            at = end;
        }
        Ok(())
    }

    /// One past the last block that was ever seen in use. Of a data map, whose
    /// bitmaps are too many to look, its size.
    fn top(&mut self, blocks: &Arc<BlockManager>) -> Result<u64> {
        if let Some(top) = self.free.top() {
            return Ok(top);
        }
        let Index::Block { entries, .. } = &self.index else {
            return Ok(self.nr_blocks);
        };
        let untouched = u32::try_from(ENTRIES_PER_BITMAP).unwrap_or_default();
        let last = entries
            .iter()
            .rposition(|entry| entry.nr_free.get() < untouched);
        let mut top = 0;
        if let Some(last) = last {
            self.learn(blocks, last as u64)?;
            top = self.free.end_of_use(last as u64).unwrap_or(0);
        }
        let top = top.min(self.nr_blocks);
        self.free.set_top(top);
        Ok(top)
    }

    /// Whether this is the block that must never be free: the superblock, which
    /// every map of metadata keeps at its start.
    pub fn is_superblock(&self, block: u64) -> bool {
        block == 0 && matches!(self.index, Index::Block { .. })
    }

    /// Whether a change of these counts would be legal. What is illegal is told
    /// before anything was touched.
    pub fn check_change(
        &self,
        blocks: &Arc<BlockManager>,
        range: &Range<u64>,
        change: Change,
    ) -> Result<()> {
        check_range(range, self.nr_blocks)?;
        let mut at = range.start;
        while at < range.end {
            let bitmap = at / PER_BITMAP;
            let end = ((bitmap + 1) * PER_BITMAP).min(range.end);
            let place = BlockNr(self.entry(blocks, bitmap)?.blocknr.get());
            let block = blocks.read(place, &BITMAP_VALIDATOR)?;
            let view: &Bitmap = block.view();
            for block in at..end {
                match (view.entry(offset(block)), change) {
                    (0, Change::Dec) => return Err(below_zero(block)),
                    (1, Change::Dec) if self.is_superblock(block) => return Err(superblock()),
                    (MANY, Change::Inc) if self.stored_count(blocks, block)? == u32::MAX => {
                        return Err(above_limit(block));
                    }
                    _ => {}
                }
            }
            at = end;
        }
        Ok(())
    }
}

/// Changes the counts of a range, bitmap by bitmap. The bitmap's lock is gone
/// before the overflow tree is touched, which may need the same bitmap.
pub(super) fn change_counts(
    home: &mut impl Home,
    txn: &mut Transaction,
    range: Range<u64>,
    change: Change,
) -> Result<()> {
    check_range(&range, home.core(txn).nr_blocks)?;
    let mut at = range.start;
    while at < range.end {
        let end = ((at / PER_BITMAP + 1) * PER_BITMAP).min(range.end);
        change_in_bitmap(
            home,
            txn,
            at / PER_BITMAP,
            (at..end).map(|block| (block, 1)),
            change,
        )?;
        at = end;
    }
    Ok(())
}

/// Changes the counts of blocks in ascending order, each as often as it comes.
/// Every bitmap is opened once.
pub(super) fn change_sorted(
    home: &mut impl Home,
    txn: &mut Transaction,
    blocks: &[u64],
    change: Change,
) -> Result<()> {
    if let (Some(first), Some(last)) = (blocks.first(), blocks.last()) {
        check_range(&(*first..last.saturating_add(1)), home.core(txn).nr_blocks)?;
    }
    for part in blocks.chunk_by(|one, next| one / PER_BITMAP == next / PER_BITMAP) {
        let number = part.first().map_or(0, |block| block / PER_BITMAP);
        let same = part.chunk_by(|one, next| one == next);
        let times = same.filter_map(|same| Some((*same.first()?, same.len())));
        change_in_bitmap(home, txn, number, times, change)?;
    }
    Ok(())
}

/// Changes counts in one bitmap, each as often as is said beside it.
fn change_in_bitmap(
    home: &mut impl Home,
    txn: &mut Transaction,
    number: u64,
    counts: impl Iterator<Item = (u64, usize)>,
    change: Change,
) -> Result<()> {
    let blocks = Arc::clone(txn.blocks());
    let core = home.core(txn);
    core.learn(&blocks, number)?;
    let mut entry = core.entry(&blocks, number)?;
    let (mut guard, _never_shared) =
        txn.shadow_block(BlockNr(entry.blocknr.get()), &BITMAP_VALIDATOR)?;
    entry.blocknr = guard.location().0.into();
    let core = home.core(txn);
    core.set_entry(number, entry);

    let bitmap: &mut Bitmap = guard.view_mut();
    let mut overflow: Vec<Overflow> = Vec::new();
    for (block, times) in counts {
        let times = u32::try_from(times).unwrap_or(u32::MAX);
        let stored = bitmap.entry(offset(block));
        let old = if stored == MANY {
            core.stored_overflow(&blocks, block)?
        } else {
            stored
        };
        let new = match change {
            Change::Inc => old.checked_add(times).ok_or_else(|| above_limit(block))?,
            Change::Dec => old.checked_sub(times).ok_or_else(|| below_zero(block))?,
            Change::Set(count) => count,
        };
        bitmap.set_entry(offset(block), new.min(MANY));
        match (old >= MANY, new >= MANY) {
            (_, true) if new != old => overflow.push((block, Some(new))),
            (true, false) => overflow.push((block, None)),
            _ => {}
        }
        core.summarise(&mut entry, block, old, new);
    }
    core.set_entry(number, entry);
    drop(guard);
    overflow
        .into_iter()
        .try_for_each(|change| change_overflow(home, txn, change))
}

fn change_overflow(home: &mut impl Home, txn: &mut Transaction, change: Overflow) -> Result<()> {
    let mut tree = TreeType {
        levels: 1,
        value_bytes: size_of::<U32>(),
        values: &mut Plain,
    };
    let (block, count) = change;
    let root = home.core(txn).overflow_root;
    let root = match count {
        Some(count) => {
            let value = U32::new(count);
            btree::insert(txn, &mut tree, root, &[block], value.as_bytes())?.root
        }
        None => btree::remove(txn, &mut tree, root, &[block])?.unwrap_or(root),
    };
    home.core(txn).overflow_root = root;
    Ok(())
}

impl Core {
    fn stored_overflow(&self, blocks: &Arc<BlockManager>, block: u64) -> Result<u32> {
        let overflow: BTree<U32> = BTree::new(blocks, self.overflow_root);
        let count = overflow.lookup(block, Wait::Yes)?;
        let missing = || {
            let found = format!("no entry for block {block}");
            Damage::new(self.overflow_root, "space map", "overflow", found, "one")
        };
        Ok(count.ok_or_else(missing)?.get())
    }

    /// Keeps the sums in step with one count.
    fn summarise(&mut self, entry: &mut IndexEntry, block: u64, old: u32, new: u32) {
        let number = u32::try_from(block % PER_BITMAP).unwrap_or_default();
        let (free, hint) = (entry.nr_free.get(), entry.none_free_before.get());
        if old == 0 && new > 0 {
            self.nr_allocated = self.nr_allocated.saturating_add(1);
            entry.nr_free = free.saturating_sub(1).into();
            if hint == number {
                entry.none_free_before = (hint + 1).into();
            }
            self.free.take(block);
        } else if old > 0 && new == 0 {
            self.nr_allocated = self.nr_allocated.saturating_sub(1);
            entry.nr_free = free.saturating_add(1).into();
            entry.none_free_before = hint.min(number).into();
            self.free.release(block);
        }
    }
}

/// What is said to whoever would set the superblock free.
pub(super) fn superblock() -> Error {
    Error::usage("the superblock keeps a reference: it is never free")
}

/// Where a block's entry is in its bitmap.
fn offset(block: u64) -> usize {
    usize::try_from(block % PER_BITMAP).unwrap_or_default()
}

/// Bitmaps that so many blocks need.
pub(super) fn bitmaps_for(nr_blocks: u64) -> u64 {
    nr_blocks.div_ceil(PER_BITMAP)
}

/// The entry of a bitmap without a used block.
pub(super) fn fresh_entry(at: BlockNr) -> IndexEntry {
    IndexEntry {
        blocknr: at.0.into(),
        nr_free: u32::try_from(ENTRIES_PER_BITMAP).unwrap_or_default().into(),
        none_free_before: 0.into(),
    }
}
