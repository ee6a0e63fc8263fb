//! A block manager until it is closed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::fork::{Birth, drop_detached};
use crate::block;
use crate::error::{Error, Result};
use crate::python::error::exception;

/// A block manager until it is closed, and what keeps it from being closed.
pub(crate) struct Session {
    born: Birth,
    manager: Mutex<Option<Arc<block::BlockManager>>>,
    /// Locks that are held.
    locks: AtomicUsize,
    /// Whether a transaction manager is open on it.
    managed: AtomicBool,
}

impl Session {
    pub(super) fn new(manager: Arc<block::BlockManager>) -> Arc<Self> {
        Arc::new(Self {
            born: Birth::now(),
            manager: Mutex::new(Some(manager)),
            locks: AtomicUsize::new(0),
            managed: AtomicBool::new(false),
        })
    }

    pub(super) fn born(&self) -> Birth {
        self.born
    }

    /// The core's manager.
    pub fn manager(&self, py: Python<'_>) -> PyResult<Arc<block::BlockManager>> {
        let manager = self.manager.lock_py_attached(py);
        let manager = manager.unwrap_or_else(PoisonError::into_inner).clone();
        let found = self
            .born
            .check()
            .and_then(|()| manager.ok_or_else(|| Error::usage("the block manager is closed")));
        found.map_err(|error| exception(py, error))
    }

    /// Drops something whose drop may wait.
    pub fn drop_detached<T: Send>(&self, value: T) {
        drop_detached(self.born, value);
    }

    pub fn locked(&self) {
        self.locks.fetch_add(1, Ordering::Relaxed);
    }

    pub fn unlocked(&self) {
        self.locks.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether a transaction manager may be opened on it: there is one at a time.
    pub fn manage(&self) -> Result<()> {
        if self.managed.swap(true, Ordering::AcqRel) {
            return Err(Error::usage(
                "a transaction manager is open on this block manager already",
            ));
        }
        Ok(())
    }

    pub fn unmanaged(&self) {
        self.managed.store(false, Ordering::Release);
    }

    pub(super) fn is_closed(&self, py: Python<'_>) -> bool {
        let manager = self.manager.lock_py_attached(py);
        manager.unwrap_or_else(PoisonError::into_inner).is_none()
    }

    pub(super) fn close(&self, py: Python<'_>) -> PyResult<()> {
        let busy = |text: String| Err(exception(py, Error::Usage(text)));
        let mut manager = self
            .manager
            .lock_py_attached(py)
            .unwrap_or_else(PoisonError::into_inner);
        if manager.is_none() {
            return Ok(());
        }
        if self.managed.load(Ordering::Acquire) {
            drop(manager);
            return busy("a transaction manager is open on it: close that first".to_owned());
        }
        let locks = self.locks.load(Ordering::Relaxed);
        if locks > 0 {
            drop(manager);
            return busy(format!("{locks} locks are held: release them first"));
        }
        let taken = manager.take();
        drop(manager);
        py.detach(|| {
            if let Some(manager) = &taken {
                manager.stop_prefetching();
            }
            drop(taken);
        });
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let manager = self.manager.get_mut();
        let manager = manager.unwrap_or_else(PoisonError::into_inner).take();
        drop_detached(self.born, manager);
    }
}
