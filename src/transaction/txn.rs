//! The one open transaction: everything that a change needs and changes.

use std::ops::Range;
use std::sync::Arc;

use super::ShadowTable;
use crate::block::{BlockData, BlockManager, Checks, ReadGuard, WriteGuard};
use crate::disk_space::{self, LowSpace, MetadataMap, SpaceMapRoot};
use crate::error::{Damage, Error, Result};
use crate::sabotage::sabotaged;
use crate::space::{MemorySpaceMap, SpaceMap, SpaceMapMut};
use crate::units::BlockNr;

/// What counts metadata blocks.
pub(crate) enum Space {
    /// Plain counts: nothing survives the process.
    Memory(MemorySpaceMap),
    /// The map on the device itself.
    Metadata(Box<MetadataMap>),
}

/// Everything between two commits. There is one, and one thread changes it at a time.
pub struct Transaction {
    pub(crate) blocks: Arc<BlockManager>,
    pub(crate) space: Space,
    pub(crate) shadows: ShadowTable,
    /// Counts what cannot be undone but by an abort.
    pub(crate) side_effects: u64,
}

impl Transaction {
    /// A transaction whose counts are in memory, for tests.
    ///
    /// # Errors
    /// More blocks than memory can count.
    pub fn in_memory(blocks: &Arc<BlockManager>) -> Result<Self> {
        let mut map = MemorySpaceMap::new(blocks.nr_blocks())?;
        map.inc(0..1)?;
        map.commit()?;
        Ok(Self::over_counts(blocks, map))
    }

    /// A transaction on top of a state whose counts are known better than its own map
    /// knows them.
    pub(crate) fn over_counts(blocks: &Arc<BlockManager>, map: MemorySpaceMap) -> Self {
        Self {
            blocks: Arc::clone(blocks),
            space: Space::Memory(map),
            shadows: ShadowTable::new(),
            side_effects: 0,
        }
    }

    /// The first transaction of a new device.
    pub(super) fn create(blocks: &Arc<BlockManager>, checked: bool) -> Result<Self> {
        let mut txn = Self {
            blocks: Arc::clone(blocks),
            space: Space::Memory(MemorySpaceMap::default()),
            shadows: ShadowTable::new(),
            side_effects: 0,
        };
        disk_space::create_metadata(&mut txn, checked)?;
        Ok(txn)
    }

    /// A transaction on top of what was committed under `root`.
    pub(super) fn open(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        root: &SpaceMapRoot,
        checked: bool,
    ) -> Result<Self> {
        let mut map = MetadataMap::open(blocks, superblock, root)?;
        if checked {
            map.check_from_now_on(blocks)?;
        }
        Ok(Self {
            blocks: Arc::clone(blocks),
            space: Space::Metadata(Box::new(map)),
            shadows: ShadowTable::new(),
            side_effects: 0,
        })
    }

    /// Starts over on top of what was committed under `root`.
    pub(super) fn reopen(&mut self, superblock: BlockNr, root: &SpaceMapRoot) -> Result<()> {
        self.shadows.clear();
        match &mut self.space {
            Space::Metadata(map) => map.go_back(&self.blocks, superblock, root),
            // No transaction of a manager counts in memory.
            Space::Memory(_) => Ok(()),
        }
    }

    pub(super) fn pre_commit(&mut self) -> Result<()> {
        match &mut self.space {
            Space::Memory(_) => Ok(()),
            Space::Metadata(_) => disk_space::pre_commit_metadata(self),
        }
    }

    /// The transaction is durable: its blocks belong to the committed state.
    pub(crate) fn committed(&mut self, generation: u64, newest_view: Option<u64>) -> Result<()> {
        if !sabotaged("shadows-survive-commit") {
            self.shadows.clear();
        }
        match &mut self.space {
            Space::Memory(map) => map.commit(),
            Space::Metadata(_) => disk_space::metadata_committed(self, generation, newest_view),
        }
    }

    pub(super) fn views_closed(&mut self, oldest: Option<u64>) {
        if let Space::Metadata(_) = &self.space {
            disk_space::metadata_views_closed(self, oldest);
        }
    }

    pub(super) fn space_root(&self) -> SpaceMapRoot {
        match &self.space {
            Space::Memory(_) => SpaceMapRoot::default(),
            Space::Metadata(map) => map.root(),
        }
    }

    /// The block manager below.
    #[must_use]
    pub fn blocks(&self) -> &Arc<BlockManager> {
        &self.blocks
    }

    /// How often something was done that only an abort can undo.
    #[must_use]
    pub fn side_effects(&self) -> u64 {
        self.side_effects
    }

    /// A new block of zeros, its count 1, which this transaction may change in place.
    ///
    /// # Errors
    /// [`Error::NoSpace`](crate::Error::NoSpace), and what a write lock says.
    pub fn new_block(&mut self, checks: impl Into<Checks>) -> Result<WriteGuard> {
        let at = self.allocate()?;
        let guard = self.blocks.write_lock_zero(at, checks)?;
        self.shadows.insert(at.0);
        Ok(guard)
    }

    /// A block that may be changed in place of `at`: `at` itself where it is this
    /// transaction's own and not shared, otherwise a copy, for which `at` loses a reference.
    ///
    /// `true`: `at` has other owners, so that both copies now point to its
    /// children: the caller adds a reference to each child before anything else.
    ///
    /// # Errors
    /// As [`Self::new_block`], and [`Error::Damaged`](crate::Error::Damaged).
    pub fn shadow_block(
        &mut self,
        at: BlockNr,
        checks: impl Into<Checks>,
    ) -> Result<(WriteGuard, bool)> {
        let checks = checks.into();
        let shared = self.is_shared_in_use(at)?;
        if !shared && self.shadows.contains(at.0) {
            self.side_effects += 1;
            return Ok((self.blocks.write_lock(at, &checks)?, false));
        }
        // A block that cannot be read must not cost anything.
        drop(self.blocks.read(at, &checks)?);
        let new = self.allocate()?;
        self.dec(at)?;
        let guard = self.lock_copy(at, new, &checks, shared)?;
        self.shadows.insert(new.0);
        Ok((guard, shared))
    }

    /// Write-locks `new` with what `old` holds. What nobody else owns has no use
    /// for its place in the cache any more, so that its bytes need not be copied.
    fn lock_copy(
        &self,
        old: BlockNr,
        new: BlockNr,
        checks: &Checks,
        shared: bool,
    ) -> Result<WriteGuard> {
        if !shared && let Some(guard) = self.blocks.write_lock_relabelled(old, new, checks)? {
            return Ok(guard);
        }
        let bytes = self.blocks.read(old, checks)?;
        self.blocks.write_lock_copy(new, checks, &bytes)
    }

    /// Whether `at` was allocated or copied in this transaction.
    #[must_use]
    pub fn is_shadow(&self, at: BlockNr) -> bool {
        self.shadows.contains(at.0)
    }

    /// Whether anything was allocated or copied since the last commit.
    #[must_use]
    pub fn has_shadows(&self) -> bool {
        !self.shadows.is_empty()
    }

    /// Makes the transaction forget each of its own blocks that `keep` does not
    /// want: they are copied once more before they change. For tests.
    #[doc(hidden)]
    pub fn forget_shadows(&mut self, mut keep: impl FnMut(BlockNr) -> bool) {
        self.shadows.retain(|block| keep(BlockNr(block)));
    }

    /// Makes the transaction take a block for its own, which must be noticed. For tests.
    #[doc(hidden)]
    pub fn remember_shadow(&mut self, at: BlockNr) {
        self.shadows.insert(at.0);
    }

    /// Shared access to a block.
    ///
    /// # Errors
    /// As [`BlockManager::read_lock`].
    pub fn read_lock(&self, at: BlockNr, checks: impl Into<Checks>) -> Result<ReadGuard> {
        self.blocks.read_lock(at, checks)
    }

    /// The bytes of a block as of now.
    ///
    /// # Errors
    /// As [`BlockManager::read`].
    pub fn read(&self, at: BlockNr, checks: impl Into<Checks>) -> Result<Arc<BlockData>> {
        self.blocks.read(at, checks)
    }

    /// One more reference on a block.
    ///
    /// # Errors
    /// As [`SpaceMapMut::inc`].
    pub fn inc(&mut self, at: BlockNr) -> Result<()> {
        self.inc_range(at.0..at.0.saturating_add(1))
    }

    /// One reference less on a block.
    ///
    /// # Errors
    /// As [`SpaceMapMut::dec`].
    pub fn dec(&mut self, at: BlockNr) -> Result<()> {
        self.dec_range(at.0..at.0.saturating_add(1))
    }

    /// One more reference on each block.
    ///
    /// # Errors
    /// As [`SpaceMapMut::inc`].
    pub fn inc_range(&mut self, blocks: Range<u64>) -> Result<()> {
        match &mut self.space {
            Space::Memory(map) => {
                map.inc(blocks)?;
                self.side_effects += 1;
                Ok(())
            }
            Space::Metadata(_) => disk_space::count_references(self, blocks, true),
        }
    }

    /// One reference less on each block.
    ///
    /// # Errors
    /// As [`SpaceMapMut::dec`].
    pub fn dec_range(&mut self, blocks: Range<u64>) -> Result<()> {
        match &mut self.space {
            Space::Memory(map) => {
                map.dec(blocks)?;
                self.side_effects += 1;
                Ok(())
            }
            Space::Metadata(_) => disk_space::count_references(self, blocks, false),
        }
    }

    /// How many references a block has.
    ///
    /// # Errors
    /// As [`SpaceMap::get_count`].
    pub fn ref_count(&self, at: BlockNr) -> Result<u32> {
        match &self.space {
            Space::Memory(map) => map.get_count(at.0),
            Space::Metadata(map) => map.count(&self.blocks, at.0),
        }
    }

    /// Whether a block has several owners; when in doubt, yes.
    ///
    /// # Errors
    /// As [`SpaceMap::get_count`].
    pub fn is_shared(&self, at: BlockNr) -> Result<bool> {
        match &self.space {
            Space::Memory(map) => map.count_is_more_than_one(at.0),
            Space::Metadata(map) => Ok(map.owners(&self.blocks, at.0)? > 1),
        }
    }

    /// As [`Self::is_shared`], of a block that something refers to.
    fn is_shared_in_use(&self, at: BlockNr) -> Result<bool> {
        let (owners, counted) = match &self.space {
            Space::Memory(map) => (map.get_count(at.0)?, true),
            Space::Metadata(map) => (map.owners(&self.blocks, at.0)?, !map.is_busy()),
        };
        if owners == 0 && counted {
            let expected = "1 or more, of a block in use";
            return Err(Damage::new(at, "space map", "reference count", 0_u32, expected).into());
        }
        Ok(owners > 1)
    }

    /// Sets a count, for checkers and restorers.
    ///
    /// # Errors
    /// As [`SpaceMapMut::set_count`].
    pub fn set_count(&mut self, at: BlockNr, count: u32) -> Result<()> {
        match &mut self.space {
            Space::Memory(map) => {
                map.set_count(at.0, count)?;
                self.side_effects += 1;
                Ok(())
            }
            Space::Metadata(_) => disk_space::set_count(self, at.0, count),
        }
    }

    /// Blocks that are counted.
    #[must_use]
    pub fn nr_blocks(&self) -> u64 {
        match &self.space {
            Space::Memory(map) => map.nr_blocks(),
            Space::Metadata(map) => map.nr_blocks(),
        }
    }

    /// Blocks that can be allocated: free now and at the last commit, and read
    /// by no view.
    #[must_use]
    pub fn nr_free(&self) -> u64 {
        match &self.space {
            Space::Memory(map) => map.nr_free(),
            Space::Metadata(map) => map.nr_free(),
        }
    }

    /// Blocks that only open views keep from being allocated.
    #[must_use]
    pub fn withheld_blocks(&self) -> u64 {
        match &self.space {
            Space::Memory(_) => 0,
            Space::Metadata(map) => map.withheld_blocks(),
        }
    }

    /// Adds blocks at the end, which the device must have by now.
    ///
    /// # Errors
    /// [`Error::Usage`] past the device or the format's limit,
    /// [`Error::NoSpace`] when the new blocks cannot even hold their own counts.
    pub fn extend(&mut self, blocks: u64) -> Result<()> {
        match &mut self.space {
            Space::Memory(map) => map.extend(blocks),
            Space::Metadata(_) => disk_space::extend_metadata(self, blocks),
        }
    }

    /// Calls `callback` with the number of free blocks each time that falls to
    /// `at` or below. It must not call back into the transaction.
    ///
    /// # Errors
    /// [`Error::Usage`] for a transaction that counts in memory.
    pub fn on_low_space(&mut self, at: u64, callback: LowSpace) -> Result<()> {
        match &mut self.space {
            Space::Memory(_) => Err(Error::usage("a map in memory has no threshold")),
            Space::Metadata(map) => {
                map.on_low_space(at, callback);
                Ok(())
            }
        }
    }

    /// Says that so many blocks will be allocated soon: they had better lie side by side.
    pub fn want_run(&mut self, blocks: u64) {
        if let Space::Metadata(map) = &mut self.space {
            map.want(blocks);
        }
    }

    fn allocate(&mut self) -> Result<BlockNr> {
        match &mut self.space {
            Space::Memory(map) => {
                let block = map.new_block()?;
                self.side_effects += 1;
                Ok(BlockNr(block))
            }
            Space::Metadata(_) => disk_space::allocate(self),
        }
    }
}
