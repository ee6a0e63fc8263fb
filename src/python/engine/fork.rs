//! What a forked child inherits and must not touch.
//!
//! A child has the parent's memory as of the fork: locks that some thread held
//! then are never released in it, and a write of it would go to the parent's
//! device behind the parent's back. So everything of the engine knows how often
//! the process had been forked when it was opened.

use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;

use super::own_validator;
use crate::error::{Error, Result};

/// How many forks lie between this process and the one that loaded the module.
static FORKS: AtomicU64 = AtomicU64::new(0);

/// Python calls this in a child, before anything else runs there.
#[pyfunction]
pub(crate) fn _forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// The process that something was opened in.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::python) struct Birth(u64);

impl Birth {
    pub fn now() -> Self {
        Self(FORKS.load(Ordering::Relaxed))
    }

    /// Whether this is still that process.
    pub fn is_here(self) -> bool {
        self == Self::now()
    }

    /// Whether something of the engine may be used now.
    ///
    /// # Errors
    /// [`Error::Usage`] in a child, and while a validator runs on this thread: the
    /// call that asks it holds what another call would wait for.
    pub fn check(self) -> Result<()> {
        if self.is_here() {
            return own_validator::refuse_within();
        }
        Err(Error::usage(
            "it was opened before a fork; a child opens it for itself",
        ))
    }
}

/// Drops something whose drop may wait, detached; in a child not at all, because
/// the locks that it needs may be held by threads that are not there.
pub(in crate::python) fn drop_detached<T: Send>(born: Birth, value: T) {
    if !born.is_here() {
        std::mem::forget(value);
        return;
    }
    // A plain move out of the closure; while the interpreter ends nobody is attached.
    let mut value = Some(value);
    Python::try_attach(|py| {
        let value = value.take();
        py.detach(|| drop(value));
    });
}
