//! A view of a transaction manager for those who must not wait.

use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use rustc_hash::FxHashSet;

use super::TransactionManager;
use crate::block::{BlockManager, Checks, ReadGuard};
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// The most blocks that are remembered for later.
const MAX_WANTED: usize = 128;

/// Blocks that somebody missed.
#[derive(Default)]
pub struct Prefetches(Mutex<FxHashSet<u64>>);

impl Prefetches {
    /// Remembers a block, if that needs no waiting and there is room.
    fn add(&self, at: BlockNr) {
        let mut wanted = match self.0.try_lock() {
            Ok(wanted) => wanted,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if wanted.len() < MAX_WANTED {
            wanted.insert(at.0);
        }
    }

    pub(super) fn take(&self) -> Vec<BlockNr> {
        let mut wanted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut blocks: Vec<BlockNr> = wanted.drain().map(BlockNr).collect();
        blocks.sort_unstable();
        blocks
    }
}

/// Reads what is cached, never waits, never does I/O, and changes nothing. What
/// it misses is remembered; [`TransactionManager::issue_prefetches`] brings that in.
pub struct NonBlockingClone {
    real: Arc<TransactionManager>,
}

impl NonBlockingClone {
    pub(super) fn new(real: &Arc<TransactionManager>) -> Self {
        Self {
            real: Arc::clone(real),
        }
    }

    /// The real manager's block manager.
    #[must_use]
    pub fn blocks(&self) -> &Arc<BlockManager> {
        self.real.blocks()
    }

    /// The manager that it is a view of.
    #[must_use]
    pub fn real(&self) -> &Arc<TransactionManager> {
        &self.real
    }

    /// Shared access to a block that is in the cache.
    ///
    /// # Errors
    /// [`Error::WouldBlock`]; the block is remembered. [`Error::Damaged`].
    pub fn read_lock(&self, at: BlockNr, checks: impl Into<Checks>) -> Result<ReadGuard> {
        let answer = self.real.blocks().read_try_lock(at, checks);
        if matches!(answer, Err(Error::WouldBlock)) {
            self.real.wanted.add(at);
        }
        answer
    }

    /// Remembers blocks that a look-up missed.
    pub fn missed(&self, at: BlockNr) {
        self.real.wanted.add(at);
    }

    /// What every call that changes something answers.
    ///
    /// # Errors
    /// Always [`Error::WouldBlock`].
    pub fn refuse<T>(&self) -> Result<T> {
        Err(Error::WouldBlock)
    }

    /// What counting answers: that it was asked is a mistake of the program.
    ///
    /// # Errors
    /// Always [`Error::Usage`].
    pub fn refuse_counting<T>(&self) -> Result<T> {
        Err(Error::usage(
            "a non-blocking clone changes no reference count",
        ))
    }
}
