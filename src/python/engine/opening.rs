//! Making and opening what a transaction manager manages.

use std::sync::Arc;

use pyo3::prelude::*;

use super::block::{BlockManager, WriteLock};
use super::managed::Managed;
use super::space::SpaceMap;
use super::transaction::TransactionManager;
use super::turn::patiently;
use crate::block::{self, Checks, WriteGuard, ask_patience};
use crate::error::{Error, Result};
use crate::python::error::exception;
use crate::transaction::TransactionManager as Core;
use crate::units::BlockNr;

/// What `create` and `open` return.
pub(super) type Opened = (Py<TransactionManager>, Py<SpaceMap>, Py<WriteLock>);

/// Creates or opens, and puts the three together.
pub(super) fn open_with(
    blocks: &Bound<'_, BlockManager>,
    checks: &Checks,
    open: impl FnOnce(&Arc<block::BlockManager>) -> Result<(Arc<Core>, WriteGuard)> + Send,
) -> PyResult<Opened> {
    let (py, session) = (blocks.py(), blocks.get().session());
    let manager = session.manager(py)?;
    session.manage().map_err(|error| exception(py, error))?;
    let opened = patiently(py, || open(&manager));
    let (core, guard) = opened.inspect_err(|_| session.unmanaged())?;
    let managed = Managed::new(session, core, checks.clone());
    let lock = WriteLock::new(py, session, guard)?;
    let space = SpaceMap::metadata(py, &managed)?;
    let manager = TransactionManager::new(blocks, managed, lock.clone_ref(py));
    Ok((Py::new(py, manager)?, space, lock))
}

/// Sees to it that nothing of value is at the superblock's place.
pub(super) fn make_way(
    blocks: &Arc<block::BlockManager>,
    at: BlockNr,
    overwrite: bool,
) -> Result<()> {
    if at != BlockNr(0) || blocks.nr_blocks() == 0 {
        // The core says what is wrong with that.
        return Ok(());
    }
    let found = blocks.read_lock_patiently(at, None, Some(&ask_patience))?;
    if found.is_zero() {
        return Ok(());
    }
    drop(found);
    if overwrite {
        return blocks.wipe(at);
    }
    Err(Error::AlreadyFormatted {
        path: blocks.device().path().to_owned(),
        reason: "block 0 is not all zero, something is here already".to_owned(),
    })
}
