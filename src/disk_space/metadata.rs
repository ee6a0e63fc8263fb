//! The map that counts metadata blocks, which is kept in the blocks it counts.
//!
//! A change of a count shadows a bitmap, which allocates a block and frees
//! another: changes of counts in the same map. So a change in progress sets a
//! mark, and what is asked meanwhile is queued and done after it, first in,
//! first out. It ends because each block of the map is shadowed once a transaction.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use super::SpaceMapRoot;
use super::bitmap::MANY;
use super::core::{Change, Core, Home, Index, PER_BITMAP, bitmaps_for, change_counts, superblock};
use super::free::FreeMap;
use super::index::{INDEX_VALIDATOR, IndexEntry, MAX_METADATA_BITMAPS, MetadataIndex};
use crate::block::BlockManager;
use crate::error::{Damage, Error, Result};
use crate::sabotage::sabotaged;
use crate::space::{Checker, check_range};
use crate::transaction::{Space, Transaction};
use crate::units::{BlockNr, MAX_METADATA_BLOCKS};

/// A change that waits for the one in progress.
pub(super) struct Pending {
    blocks: Range<u64>,
    change: Change,
}

/// Told when space gets low.
pub type LowSpace = Box<dyn FnMut(u64) + Send>;

/// When to tell whom that space is low.
struct Threshold {
    at: u64,
    armed: bool,
    callback: LowSpace,
}

/// The metadata's own map.
pub(crate) struct MetadataMap {
    pub(super) core: Core,
    /// A change is in progress: others queue.
    busy: bool,
    pub(super) queue: VecDeque<Pending>,
    /// While the map is made or extended: blocks are handed out in order from
    /// here on, up to the size.
    pub(super) bootstrap: Option<u64>,
    threshold: Option<Threshold>,
    pub(super) checker: Option<Checker>,
    /// Nothing may be allocated or counted between the two halves of a commit.
    sealed: bool,
}

/// The map inside a transaction.
struct InTransaction;

impl Home for InTransaction {
    fn core<'c>(&'c mut self, txn: &'c mut Transaction) -> &'c mut Core {
        &mut map(txn).core
    }
}

/// The transaction's map. Only transactions that have one come here.
pub(super) fn map(txn: &mut Transaction) -> &mut MetadataMap {
    match &mut txn.space {
        Space::Metadata(map) => map,
        Space::Memory(_) => unreachable!("this transaction counts in memory"),
    }
}

impl MetadataMap {
    pub(super) fn new(core: Core) -> Self {
        Self {
            core,
            busy: false,
            queue: VecDeque::new(),
            bootstrap: None,
            threshold: None,
            checker: None,
            sealed: false,
        }
    }

    /// The map under `root`.
    ///
    /// # Errors
    /// [`Error::Damaged`] where the root or the index cannot be.
    pub fn open(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        root: &SpaceMapRoot,
    ) -> Result<Self> {
        let (size, limit) = (
            root.nr_blocks.get(),
            blocks.nr_blocks().min(MAX_METADATA_BLOCKS),
        );
        let bad = |check, found: u64, expected: String| {
            Err(Damage::new(superblock, "space map root", check, found, expected).into())
        };
        if size == 0 || size > limit {
            let expected = format!("1 to {limit} blocks, as the device has");
            return bad("metadata size", size, expected);
        }
        if root.nr_allocated.get() > size {
            let expected = format!("at most {size}");
            return bad("allocated blocks", root.nr_allocated.get(), expected);
        }
        let at = BlockNr(root.bitmap_root.get());
        for (check, root) in [
            ("index", at.0),
            ("overflow tree", root.ref_count_root.get()),
        ] {
            if root == 0 || root >= size {
                return bad(check, root, format!("1 to {}", size - 1));
            }
        }
        let block = blocks.read(at, &INDEX_VALIDATOR)?;
        let count = usize::try_from(bitmaps_for(size)).unwrap_or(MAX_METADATA_BITMAPS);
        let entries = block.view::<MetadataIndex>().entries[..count].to_vec();
        let index = Index::Block {
            at,
            entries,
            changed: false,
        };
        Ok(Self::new(Core::new("metadata", root, index)))
    }

    /// Goes back to its last commit, on the same cursor and with the same
    /// listeners. After an error it can be asked again: what views read is in
    /// memory alone.
    pub fn go_back(
        &mut self,
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        root: &SpaceMapRoot,
    ) -> Result<()> {
        let mut map = Self::open(blocks, superblock, root)?;
        if self.checker.is_some() {
            let mut checker = map.new_checker(blocks)?;
            checker.withholds(self.core.free.withheld());
            map.checker = Some(checker);
        }
        let free = std::mem::replace(&mut self.core.free, FreeMap::new(0));
        map.core.free = free.rolled_back(map.core.free.available(), map.core.nr_blocks);
        map.threshold = self.threshold.take();
        *self = map;
        Ok(())
    }

    /// Holds every call against plain counts.
    pub fn check_from_now_on(&mut self, blocks: &Arc<BlockManager>) -> Result<()> {
        let mut checker = self.new_checker(blocks)?;
        checker.withholds(self.core.free.withheld());
        self.checker = Some(checker);
        Ok(())
    }

    fn new_checker(&self, blocks: &Arc<BlockManager>) -> Result<Checker> {
        let core = &self.core;
        Checker::over_counts(core.nr_blocks, |block| core.stored_count(blocks, block))
    }

    pub fn root(&self) -> SpaceMapRoot {
        self.core.root()
    }

    pub fn nr_blocks(&self) -> u64 {
        self.core.nr_blocks
    }

    pub fn nr_free(&self) -> u64 {
        match self.bootstrap {
            Some(begin) => self.core.nr_blocks.saturating_sub(begin),
            None => self.core.free.available(),
        }
    }

    pub fn withheld_blocks(&self) -> u64 {
        self.core.free.withheld_blocks()
    }

    pub fn want(&mut self, blocks: u64) {
        self.core.free.want(blocks);
    }

    /// Calls `callback` once each time that the number of free blocks falls to
    /// `at` or below.
    pub fn on_low_space(&mut self, at: u64, callback: LowSpace) {
        self.threshold = Some(Threshold {
            at,
            armed: true,
            callback,
        });
    }

    /// What waits in the queue for a block, in sum.
    fn pending(&self, block: u64) -> i64 {
        let of_block = self.queue.iter().filter(|one| one.blocks.contains(&block));
        let sums = of_block.map(|one| match one.change {
            Change::Inc => 1,
            Change::Dec => -1,
            Change::Set(_) => 0,
        });
        sums.sum()
    }

    pub fn count(&self, blocks: &Arc<BlockManager>, block: u64) -> Result<u32> {
        let count = if let Some(begin) = self.bootstrap {
            check_range(&(block..block.saturating_add(1)), self.core.nr_blocks)?;
            u32::from(block < begin)
        } else {
            let stored = i64::from(self.core.stored_count(blocks, block)?);
            u32::try_from(stored + self.pending(block)).unwrap_or_default()
        };
        if let Some(checker) = &self.checker {
            checker.counted(block, count)?;
        }
        Ok(count)
    }

    /// Whether a change is in progress: the first one of a new map counts blocks
    /// that are in use already.
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// None, one, or several (2). Reads the bitmap alone: the overflow tree may
    /// be in the middle of a change.
    pub fn owners(&self, blocks: &Arc<BlockManager>, block: u64) -> Result<u32> {
        if self.bootstrap.is_some() {
            return Ok(1);
        }
        let (_, entry) = self.core.stored_entry(blocks, block)?;
        let count = i64::from(entry) + self.pending(block);
        // Three may be any number above, so that what is pending does not tell.
        let owners = if entry == MANY { 2 } else { count.clamp(0, 2) };
        if let Some(checker) = &self.checker {
            checker.judged_shared(block, owners > 1)?;
        }
        Ok(u32::try_from(owners).unwrap_or_default())
    }

    pub(super) fn enqueue(&mut self, blocks: Range<u64>, change: Change) {
        if let Some(last) = self.queue.back_mut()
            && last.change == change
            && last.blocks.end == blocks.start
        {
            last.blocks.end = blocks.end;
            return;
        }
        self.queue.push_back(Pending { blocks, change });
    }

    fn observe(&mut self) {
        let free = self.core.free.available();
        if let Some(threshold) = &mut self.threshold {
            let low = free <= threshold.at;
            if low && threshold.armed {
                (threshold.callback)(free);
            }
            threshold.armed = !low;
        }
    }
}

/// Changes counts now, or after the change in progress.
fn change(txn: &mut Transaction, blocks: Range<u64>, change: Change) -> Result<()> {
    let own = map(txn);
    if own.busy || own.bootstrap.is_some() {
        if matches!(change, Change::Set(_)) {
            return Err(Error::usage(
                "a count cannot be set in the middle of a change",
            ));
        }
        own.enqueue(blocks, change);
        return Ok(());
    }
    own.busy = true;
    let answer = change_counts(&mut InTransaction, txn, blocks, change).and_then(|()| drain(txn));
    map(txn).busy = false;
    answer
}

/// Does what was queued, and what that queues, in order.
fn drain(txn: &mut Transaction) -> Result<()> {
    while let Some(Pending { blocks, change }) = next_pending(map(txn)) {
        change_counts(&mut InTransaction, txn, blocks, change)?;
    }
    Ok(())
}

fn next_pending(own: &mut MetadataMap) -> Option<Pending> {
    if sabotaged("last-in-first-out") {
        return own.queue.pop_back();
    }
    own.queue.pop_front()
}

/// Does what is queued while nothing else is in progress.
pub(super) fn drain_queue(txn: &mut Transaction) -> Result<()> {
    map(txn).busy = true;
    let answer = drain(txn);
    map(txn).busy = false;
    answer
}

pub(super) fn check_open(txn: &mut Transaction) -> Result<()> {
    if map(txn).sealed {
        let text = "the transaction is between the two halves of its commit";
        return Err(Error::usage(text));
    }
    Ok(())
}

/// Adds or drops a reference on each block.
pub(crate) fn count_references(
    txn: &mut Transaction,
    blocks: Range<u64>,
    more: bool,
) -> Result<()> {
    check_open(txn)?;
    let what = if more { Change::Inc } else { Change::Dec };
    let manager = Arc::clone(txn.blocks());
    let own = map(txn);
    check_range(&blocks, own.core.nr_blocks)?;
    // A change in progress is checked when it is its turn.
    let answer = if own.busy || own.bootstrap.is_some() {
        Ok(())
    } else {
        own.core.check_change(&manager, &blocks, what)
    };
    let refused = matches!(answer, Err(Error::Damaged(_) | Error::Io { .. }));
    if let Some(checker) = &mut own.checker
        && !refused
        && !(answer.is_err() && blocks.contains(&0))
    {
        match what {
            Change::Inc => checker.incremented(blocks.clone(), answer.is_ok())?,
            _ => checker.decremented(blocks.clone(), answer.is_ok())?,
        }
    }
    answer?;
    txn.side_effects += 1;
    change(txn, blocks, what)
}

/// Sets a count.
pub(crate) fn set_count(txn: &mut Transaction, block: u64, count: u32) -> Result<()> {
    check_open(txn)?;
    let own = map(txn);
    check_range(&(block..block.saturating_add(1)), own.core.nr_blocks)?;
    if count == 0 && own.core.is_superblock(block) {
        return Err(superblock());
    }
    if let Some(checker) = &mut own.checker {
        checker.was_set(block, count);
    }
    txn.side_effects += 1;
    change(txn, block..block + 1, Change::Set(count))
}

/// Hands out a block, its count 1.
pub(crate) fn allocate(txn: &mut Transaction) -> Result<BlockNr> {
    check_open(txn)?;
    let blocks = Arc::clone(txn.blocks());
    let own = map(txn);
    let block = if let Some(begin) = own.bootstrap {
        if begin >= own.core.nr_blocks {
            let reason = format!("{} blocks are too few", own.core.nr_blocks);
            return Err(Error::no_metadata_space(reason));
        }
        own.bootstrap = Some(begin + 1);
        begin
    } else {
        own.core.find_free(&blocks)?
    };
    if let Some(checker) = &mut own.checker {
        checker.allocated(block)?;
    }
    txn.side_effects += 1;
    if map(txn).bootstrap.is_none() {
        change(txn, block..block + 1, Change::Inc)?;
        map(txn).observe();
    }
    let own = map(txn);
    if let (Some(checker), None, false) = (&own.checker, own.bootstrap, own.busy) {
        checker.counted_free(own.core.free.available())?;
    }
    Ok(BlockNr(block))
}

/// Writes the index block where it changed: shadowed first, as that changes it again.
pub(crate) fn write_index(txn: &mut Transaction) -> Result<()> {
    let Index::Block { at, changed, .. } = &map(txn).core.index else {
        return Ok(());
    };
    if !changed {
        return Ok(());
    }
    let at = *at;
    let (mut guard, _never_shared) = txn.shadow_block(at, &INDEX_VALIDATOR)?;
    if let Index::Block {
        at,
        entries,
        changed,
    } = &mut map(txn).core.index
    {
        *at = guard.location();
        *changed = false;
        let block: &mut MetadataIndex = guard.view_mut();
        let unused = IndexEntry::default();
        let all = entries.iter().chain(std::iter::repeat(&unused));
        for (place, entry) in block.entries.iter_mut().zip(all) {
            *place = *entry;
        }
    }
    Ok(())
}

/// The map's part of the first half of a commit. Nothing may be counted until
/// [`committed`].
pub(crate) fn pre_commit(txn: &mut Transaction) -> Result<()> {
    check_open(txn)?;
    write_index(txn)?;
    let own = map(txn);
    own.sealed = true;
    Ok(())
}

/// The commit is durable: what it freed can be handed out again, unless views
/// of commits before `generation` are open, the newest of `newest`.
pub(crate) fn committed(txn: &mut Transaction, generation: u64, newest: Option<u64>) -> Result<()> {
    let own = map(txn);
    own.sealed = false;
    own.core.free.committed(generation, newest);
    if let Some(checker) = &mut own.checker {
        checker.committed(own.core.free.withheld());
        checker.counted_free(own.core.free.available())?;
    }
    Ok(())
}

/// Views of commits before `oldest` are closed.
pub(crate) fn views_closed(txn: &mut Transaction, oldest: Option<u64>) {
    let own = map(txn);
    own.core.free.views_closed(oldest);
    if let Some(checker) = &mut own.checker {
        checker.withholds(own.core.free.withheld());
    }
}

const _: () = assert!(MAX_METADATA_BITMAPS as u64 * PER_BITMAP == MAX_METADATA_BLOCKS);
