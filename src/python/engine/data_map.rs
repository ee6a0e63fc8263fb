//! A data space map that goes with its transaction.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::managed::Part;
use crate::block::BlockManager;
use crate::disk_space::{DataMap, SpaceMapRoot};
use crate::error::{Error, Result};
use crate::transaction::Transaction;

struct Inner {
    /// None once the transaction that made it was aborted, or it cannot be read back.
    map: Option<DataMap>,
    /// As of the last commit.
    committed: Option<SpaceMapRoot>,
    checked: bool,
}

/// A data map. Used by who has the manager's turn, so that nobody waits for it.
pub(super) struct Data(Mutex<Inner>);

impl Data {
    pub fn create(txn: &mut Transaction, blocks: u64, checked: bool) -> Result<Self> {
        let mut map = DataMap::create(txn, checked)?;
        if blocks > 0 {
            map.extend(txn, blocks)?;
        }
        Ok(Self::new(map, None, checked))
    }

    pub fn open(blocks: &Arc<BlockManager>, root: &SpaceMapRoot, checked: bool) -> Result<Self> {
        let map = DataMap::open(blocks, root, checked)?;
        Ok(Self::new(map, Some(*root), checked))
    }

    fn new(map: DataMap, committed: Option<SpaceMapRoot>, checked: bool) -> Self {
        Self(Mutex::new(Inner {
            map: Some(map),
            committed,
            checked,
        }))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn with<T>(&self, work: impl FnOnce(&mut DataMap) -> Result<T>) -> Result<T> {
        let mut inner = self.inner();
        let map = inner.map.as_mut().ok_or_else(|| {
            Error::usage("the space map is gone: the transaction that made it was aborted")
        })?;
        work(map)
    }

    pub fn check_from_now_on(&self, txn: &Transaction) -> Result<()> {
        self.with(|map| map.check_from_now_on(txn.blocks()))?;
        self.inner().checked = true;
        Ok(())
    }
}

impl Part for Data {
    fn prepare(&self, txn: &mut Transaction) -> Result<()> {
        match &mut self.inner().map {
            Some(map) => map.commit(txn),
            None => Ok(()),
        }
    }

    fn committed(&self) -> Result<()> {
        let mut inner = self.inner();
        let Some(map) = &mut inner.map else {
            return Ok(());
        };
        map.committed()?;
        inner.committed = Some(map.root());
        Ok(())
    }

    fn aborted(&self, blocks: &Arc<BlockManager>) {
        let mut inner = self.inner();
        let committed = inner.committed;
        // What cannot be read back is gone; the next call says so.
        inner.map = committed.and_then(|root| DataMap::open(blocks, &root, inner.checked).ok());
    }
}
