//! What a transaction manager shares with the maps and trees on it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::session::Session;
use super::turn::{Turn, patiently};
use crate::block::{BlockManager, Checks, WriteGuard};
use crate::error::{Error, Result};
use crate::python::error::exception;
use crate::transaction::{Transaction, TransactionManager};
use crate::units::BlockNr;

/// Something whose state goes with the transaction's: a map or a tree.
pub(super) trait Part: Send + Sync {
    /// Writes what is kept in memory, before the transaction's commit.
    fn prepare(&self, txn: &mut Transaction) -> Result<()>;

    /// The commit is durable.
    fn committed(&self) -> Result<()>;

    /// Everything is as it was at the last commit.
    fn aborted(&self, blocks: &Arc<BlockManager>);
}

/// A transaction manager until it is closed.
pub(super) struct Managed {
    session: Arc<Session>,
    core: Mutex<Option<Arc<TransactionManager>>>,
    superblock: BlockNr,
    checks: Checks,
    turn: Turn,
    parts: Mutex<Vec<Weak<dyn Part>>>,
    /// Numbers of free blocks that were found to be low, not told yet.
    low: Arc<Mutex<Vec<u64>>>,
    told: Mutex<Option<Py<PyAny>>>,
    /// Whether a `with` block's transaction is open.
    scoped: AtomicBool,
}

impl Managed {
    pub fn new(session: &Arc<Session>, core: Arc<TransactionManager>, checks: Checks) -> Arc<Self> {
        Arc::new(Self {
            session: Arc::clone(session),
            superblock: core.superblock(),
            core: Mutex::new(Some(core)),
            checks,
            turn: Turn::default(),
            parts: Mutex::default(),
            low: Arc::default(),
            told: Mutex::default(),
            scoped: AtomicBool::new(false),
        })
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub fn superblock(&self) -> (BlockNr, &Checks) {
        (self.superblock, &self.checks)
    }

    /// The core's manager.
    pub fn core(&self, py: Python<'_>) -> PyResult<Arc<TransactionManager>> {
        let core = self.core.lock_py_attached(py);
        let core = core.unwrap_or_else(PoisonError::into_inner).clone();
        let open =
            self.session.born().check().and_then(|()| {
                core.ok_or_else(|| Error::usage("the transaction manager is closed"))
            });
        open.map_err(|error| exception(py, error))
    }

    pub fn is_closed(&self, py: Python<'_>) -> bool {
        let core = self.core.lock_py_attached(py);
        core.unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Uses the core's manager, alone.
    pub fn with_core<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&Arc<TransactionManager>) -> Result<T> + Send,
    ) -> PyResult<T> {
        let core = self.core(py)?;
        let answer = patiently(py, || {
            let _turn = self.turn.take()?;
            work(&core)
        });
        self.tell_low_space(py);
        answer
    }

    /// Makes a change.
    pub fn change<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut Transaction) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.with_core(py, |core| core.change(work))
    }

    /// Looks at the open transaction.
    pub fn look<T: Send>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&Transaction) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.with_core(py, |core| core.look(look))
    }

    /// Whether reading is in order, without waiting for whoever makes a change:
    /// that goes on in an orderly state only.
    pub fn check_readable(&self, py: Python<'_>) -> PyResult<()> {
        match self.core(py)?.try_look(|_| Ok(())) {
            Ok(()) | Err(Error::WouldBlock) => Ok(()),
            Err(error) => Err(exception(py, error)),
        }
    }

    pub fn pre_commit(&self, py: Python<'_>) -> PyResult<()> {
        let parts = self.parts();
        self.with_core(py, |core| {
            core.change(|txn| parts.iter().try_for_each(|part| part.prepare(txn)))?;
            core.pre_commit()
        })
    }

    pub fn commit(&self, py: Python<'_>, superblock: WriteGuard) -> PyResult<()> {
        let parts = self.parts();
        self.with_core(py, |core| {
            core.commit(superblock)?;
            parts.iter().try_for_each(|part| part.committed())
        })
    }

    /// Whether a commit with a lock of this block could be made now.
    pub fn check_commit(&self, py: Python<'_>, superblock: BlockNr) -> PyResult<()> {
        self.with_core(py, |core| core.check_commit(superblock))
    }

    pub fn abort(&self, py: Python<'_>) -> PyResult<()> {
        let parts = self.parts();
        self.with_core(py, |core| {
            let answer = core.abort();
            parts.iter().for_each(|part| part.aborted(core.blocks()));
            answer
        })
    }

    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.is_closed(py) {
            return Ok(());
        }
        self.with_core(py, |core| {
            core.close();
            Ok(())
        })?;
        let core = self.core.lock_py_attached(py);
        let core = core.unwrap_or_else(PoisonError::into_inner).take();
        if core.is_some() {
            self.session.unmanaged();
        }
        Ok(())
    }

    /// Lets `part` go with the transaction from now on.
    pub fn add(&self, part: Weak<dyn Part>) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.retain(|part| part.strong_count() > 0);
        parts.push(part);
    }

    fn parts(&self) -> Vec<Arc<dyn Part>> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.iter().filter_map(Weak::upgrade).collect()
    }

    /// Calls `callback` after each call in which the free blocks fell to `at`.
    pub fn on_low_space(&self, py: Python<'_>, at: u64, callback: Py<PyAny>) -> PyResult<()> {
        let low = Arc::clone(&self.low);
        let note = Box::new(move |free| {
            low.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(free);
        });
        self.change(py, |txn| txn.on_low_space(at, note))?;
        let told = self.told.lock_py_attached(py);
        let before = told
            .unwrap_or_else(PoisonError::into_inner)
            .replace(callback);
        drop(before);
        Ok(())
    }

    /// Nothing is held here, so that what is called may call back.
    fn tell_low_space(&self, py: Python<'_>) {
        let low = self.low.lock_py_attached(py);
        let low = std::mem::take(&mut *low.unwrap_or_else(PoisonError::into_inner));
        if low.is_empty() {
            return;
        }
        let told = self.told.lock_py_attached(py);
        let told = told.unwrap_or_else(PoisonError::into_inner);
        let callback = told.as_ref().map(|callback| callback.clone_ref(py));
        drop(told);
        for free in low {
            if let Some(callback) = &callback
                && let Err(raised) = callback.call1(py, (free,))
            {
                // The call itself has succeeded.
                raised.write_unraisable(py, Some(callback.bind(py)));
            }
        }
    }

    /// Whether a `with` block's transaction could be begun: there is one at a time.
    pub fn enter_scope(&self) -> Result<()> {
        if self.scoped.swap(true, Ordering::AcqRel) {
            return Err(Error::usage("a transaction is open already"));
        }
        Ok(())
    }

    pub fn leave_scope(&self) {
        self.scoped.store(false, Ordering::Release);
    }
}
