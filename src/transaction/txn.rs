//! The one open transaction: everything that a change needs and changes.

use std::ops::Range;
use std::sync::Arc;

use super::ShadowTable;
use crate::block::{BlockData, BlockManager, Checks, ReadGuard, WriteGuard};
use crate::error::Result;
use crate::space::{MemorySpaceMap, SpaceMap, SpaceMapMut};
use crate::units::BlockNr;

/// What counts metadata blocks.
pub(crate) enum Space {
    /// Plain counts: nothing survives the process.
    Memory(MemorySpaceMap),
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
        Ok(Self {
            blocks: Arc::clone(blocks),
            space: Space::Memory(map),
            shadows: ShadowTable::new(),
            side_effects: 0,
        })
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
        let shared = self.is_shared(at)?;
        if !shared && self.shadows.contains(at.0) {
            self.side_effects += 1;
            return Ok((self.blocks.write_lock(at, &checks)?, false));
        }
        // A block that cannot be read must not cost anything.
        let old = self.blocks.read(at, &checks)?;
        let new = self.allocate()?;
        self.dec(at)?;
        let guard = self.blocks.write_lock_copy(new, &checks, &old)?;
        self.shadows.insert(new.0);
        Ok((guard, shared))
    }

    /// Whether `at` was allocated or copied in this transaction.
    #[must_use]
    pub fn is_shadow(&self, at: BlockNr) -> bool {
        self.shadows.contains(at.0)
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
        self.side_effects += 1;
        match &mut self.space {
            Space::Memory(map) => map.inc(blocks),
        }
    }

    /// One reference less on each block.
    ///
    /// # Errors
    /// As [`SpaceMapMut::dec`].
    pub fn dec_range(&mut self, blocks: Range<u64>) -> Result<()> {
        self.side_effects += 1;
        match &mut self.space {
            Space::Memory(map) => map.dec(blocks),
        }
    }

    /// How many references a block has.
    ///
    /// # Errors
    /// As [`SpaceMap::get_count`].
    pub fn ref_count(&self, at: BlockNr) -> Result<u32> {
        match &self.space {
            Space::Memory(map) => map.get_count(at.0),
        }
    }

    /// Whether a block has several owners; when in doubt, yes.
    ///
    /// # Errors
    /// As [`SpaceMap::get_count`].
    pub fn is_shared(&self, at: BlockNr) -> Result<bool> {
        match &self.space {
            Space::Memory(map) => map.count_is_more_than_one(at.0),
        }
    }

    /// Says that so many blocks will be allocated soon: they had better lie side by side.
    pub fn want_run(&mut self, blocks: u64) {
        match &mut self.space {
            Space::Memory(_) => {
                let _ = blocks;
            }
        }
    }

    fn allocate(&mut self) -> Result<BlockNr> {
        self.side_effects += 1;
        match &mut self.space {
            Space::Memory(map) => map.new_block().map(BlockNr),
        }
    }
}
