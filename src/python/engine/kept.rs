//! Where something starts, kept in step with the transaction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::managed::Part;
use crate::block::BlockManager;
use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// As of now and as of the last commit. None once it was deleted, or before the
/// transaction that made it.
pub(super) struct Places<T> {
    pub now: Option<T>,
    pub committed: Option<T>,
}

/// Used by who has the manager's turn, so that nobody waits for it.
pub(super) struct Kept<T>(Mutex<Places<T>>);

impl<T: Copy> Kept<T> {
    pub fn new(now: T, committed: Option<T>) -> Self {
        let now = Some(now);
        Self(Mutex::new(Places { now, committed }))
    }

    pub fn places(&self) -> MutexGuard<'_, Places<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn now(&self) -> Result<T> {
        self.places().now.ok_or_else(gone)
    }

    pub fn set(&self, now: Option<T>) {
        self.places().now = now;
    }
}

/// What is said of something that is not there any more.
pub(super) fn gone() -> Error {
    Error::usage("it is gone: it was deleted, or the transaction that made it was aborted")
}

impl<T: Copy + Send> Part for Kept<T> {
    fn prepare(&self, _txn: &mut Transaction) -> Result<()> {
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        let mut places = self.places();
        places.committed = places.now;
        Ok(())
    }

    fn aborted(&self, _blocks: &Arc<BlockManager>) {
        let mut places = self.places();
        places.now = places.committed;
    }
}
