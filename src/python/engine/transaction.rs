//! Transactions on blocks: the manager, its non-blocking clone, a `with` block.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::exceptions::PyResourceWarning;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyMemoryView;

use super::arguments::{Block, Offset};
use super::block::{BlockManager, ReadLock, WriteLock, lock_to_read, take_guard};
use super::managed::Managed;
use super::opening::{Opened, make_way, open_with};
use super::scope::TransactionScope;
use super::session::Session;
use super::turn::patiently;
use super::validator::Validator;
use crate::block::{WriteGuard, ask_patience};
use crate::error::Error;
use crate::python::buffer::Lock;
use crate::python::error::exception;
use crate::transaction::TransactionManager as Core;
use crate::units::BlockNr;

/// What a non-blocking clone answers where it would have to wait or change something.
fn would_block(py: Python<'_>) -> PyErr {
    exception(py, Error::WouldBlock)
}

/// The one open transaction of a device: copies blocks before they are changed,
/// counts references, and commits everything at once.
///
/// Made by :meth:`create` and :meth:`open`; a context manager that closes it. What
/// was not committed is lost then. One thread changes things at a time, others wait.
///
/// A change that fails half-way leaves a transaction in which everything raises
/// :class:`AbortedError` until :meth:`abort`. A write or flush that fails leaves a
/// device in which everything raises :class:`PoisonedError` until it is reopened.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct TransactionManager {
    blocks: Py<BlockManager>,
    managed: Arc<Managed>,
    /// A clone never waits and changes nothing; it can be closed by itself.
    clone: Option<Mutex<bool>>,
    /// What `create` and `open` locked.
    first_lock: Mutex<Option<Py<WriteLock>>>,
}

impl TransactionManager {
    /// `lock` is the superblock's.
    pub(super) fn new(
        blocks: &Bound<'_, BlockManager>,
        managed: Arc<Managed>,
        lock: Py<WriteLock>,
    ) -> Self {
        Self {
            blocks: blocks.clone().unbind(),
            managed,
            clone: None,
            first_lock: Mutex::new(Some(lock)),
        }
    }

    pub(super) fn managed(&self) -> &Arc<Managed> {
        &self.managed
    }

    /// For what a clone refuses because it would have to wait.
    pub(super) fn real(&self, py: Python<'_>) -> PyResult<&Arc<Managed>> {
        self.check_open(py)?;
        match self.clone {
            None => Ok(&self.managed),
            Some(_) => Err(would_block(py)),
        }
    }

    /// For what a clone does in its own way.
    pub(super) fn nonblocking(&self, py: Python<'_>) -> PyResult<Option<&Arc<Managed>>> {
        self.check_open(py)?;
        Ok(self.clone.as_ref().map(|_| &self.managed))
    }

    /// For what a clone refuses because it was a mistake to ask it.
    fn counting(&self, py: Python<'_>) -> PyResult<&Arc<Managed>> {
        self.check_open(py)?;
        match self.clone {
            None => Ok(&self.managed),
            Some(_) => {
                let refused = self.managed.core(py)?.nonblocking_clone().refuse_counting();
                refused.map_err(|error| exception(py, error))
            }
        }
    }

    fn check_open(&self, py: Python<'_>) -> PyResult<()> {
        if self.closed(py) {
            let text = "the transaction manager is closed";
            return Err(exception(py, Error::usage(text)));
        }
        Ok(())
    }

    fn write_lock(&self, py: Python<'_>, guard: WriteGuard) -> PyResult<Py<WriteLock>> {
        WriteLock::new(py, self.managed.session(), guard)
    }

    /// The superblock's lock: the one that opening left, or a new one.
    fn lock_superblock(&self, py: Python<'_>) -> PyResult<Py<WriteLock>> {
        let first = self.first_lock.lock_py_attached(py);
        let first = first.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lock) = first
            && lock.bind(py).as_super().get().is_in_force(py)
        {
            return Ok(lock);
        }
        let blocks = self.managed.session().manager(py)?;
        let (at, checks) = self.managed.superblock();
        // Before the first commit there is nothing that could be read.
        let core = self.managed.core(py)?;
        let guard = patiently(py, || {
            let zero = !core.has_committed();
            blocks.write_lock_patiently(at, checks, zero, Some(&ask_patience))
        })?;
        self.write_lock(py, guard)
    }

    /// Both halves of a commit, with `fill` between them.
    pub(super) fn commit_with(&self, py: Python<'_>, fill: &Py<PyAny>) -> PyResult<()> {
        self.managed.pre_commit(py)?;
        let lock = self.lock_superblock(py)?;
        let filled = PyMemoryView::from(lock.bind(py)).and_then(|view| {
            fill.call1(py, (&view,))?;
            view.call_method0("release")?;
            take_guard(lock.bind(py))
        });
        match filled {
            Ok(guard) => self.managed.commit(py, guard),
            Err(error) => {
                // The abort that follows takes the block away.
                lock.bind(py).as_super().get().let_go(py, true)?;
                Err(error)
            }
        }
    }
}

#[pymethods]
impl TransactionManager {
    /// Make a metadata space map on a device that holds nothing of value.
    ///
    /// Nothing is durable before the first commit.
    ///
    /// Args:
    ///     bm: The block manager.
    ///     superblock: The superblock's block, which has to be 0.
    ///     validator: The superblock's kind.
    ///     checked: Hold every count and allocation against plain counts; slow.
    ///     overwrite: Replace what is there.
    ///
    /// Returns:
    ///     The manager, the metadata space map, and a write lock on the superblock, all
    ///     zero, which the first commit takes.
    ///
    /// Raises:
    ///     AlreadyFormattedError: Block 0 is not all zero, and ``overwrite`` is not set.
    ///     NoSpaceError: The device is too small.
    ///     UsageError: Another superblock, or a manager is open on the device.
    ///     ReadOnlyError: The device was opened for reading.
    ///
    /// The message names the step that failed: the superblock, or the space map.
    #[staticmethod]
    #[pyo3(signature = (bm, superblock, validator, *, checked=false, overwrite=false))]
    fn create(
        bm: &Bound<'_, BlockManager>,
        superblock: Block,
        validator: &Bound<'_, Validator>,
        checked: bool,
        overwrite: bool,
    ) -> PyResult<Opened> {
        let (at, checks) = (BlockNr(superblock.0), Validator::checks(validator));
        open_with(bm, &checks, |blocks| {
            make_way(blocks, at, overwrite).map_err(|error| error.in_step("superblock"))?;
            Core::create_with_superblock(blocks, at, &checks, checked)
        })
    }

    /// Open what was committed.
    ///
    /// Args:
    ///     bm: The block manager.
    ///     superblock: The superblock's block.
    ///     validator: The superblock's kind.
    ///     root_offset: Where the metadata space map's root is, in bytes from the
    ///         superblock's start.
    ///     root_max_len: How many bytes there are for it, 32 or more.
    ///     checked: Hold every count and allocation against plain counts; slow.
    ///
    /// Returns:
    ///     The manager, the metadata space map, and a write lock on the superblock.
    ///
    /// Raises:
    ///     DamagedBlockError: The superblock or the space map's root fail their check.
    ///     UsageError: The root is not inside the superblock or has no 32 bytes, or a
    ///         manager is open on the device.
    ///     ReadOnlyError: The device was opened for reading.
    ///
    /// The message names the step that failed: the superblock, or the space map.
    #[staticmethod]
    #[pyo3(signature = (bm, superblock, validator, *, root_offset, root_max_len, checked=false))]
    fn open(
        bm: &Bound<'_, BlockManager>,
        superblock: Block,
        validator: &Bound<'_, Validator>,
        root_offset: Offset,
        root_max_len: Offset,
        checked: bool,
    ) -> PyResult<Opened> {
        let (at, checks) = (BlockNr(superblock.0), Validator::checks(validator));
        let root = root_offset.0..root_offset.0.saturating_add(root_max_len.0);
        open_with(bm, &checks, |blocks| {
            Core::open_with_superblock(blocks, at, &checks, root, checked)
        })
    }

    /// A view for who must not wait: it reads what is cached and changes nothing.
    ///
    /// Its :meth:`read_lock` raises :class:`WouldBlockError` for what is not cached;
    /// :meth:`issue_prefetches` of the real manager brings that in. Closing it leaves
    /// the real manager alone.
    fn nonblocking_clone(&self, py: Python<'_>) -> PyResult<Self> {
        self.check_open(py)?;
        Ok(Self {
            blocks: self.blocks.clone_ref(py),
            managed: Arc::clone(&self.managed),
            clone: Some(Mutex::new(false)),
            first_lock: Mutex::default(),
        })
    }

    /// Start to read, in the background, what clones have missed.
    ///
    /// Raises:
    ///     WouldBlockError: This is a clone.
    fn issue_prefetches(&self, py: Python<'_>) -> PyResult<()> {
        let core = self.real(py)?.core(py)?;
        py.detach(|| core.issue_prefetches());
        Ok(())
    }

    /// First half of a commit: make everything but the superblock durable.
    ///
    /// Data space maps are committed with it. Nothing may be changed until
    /// :meth:`commit`.
    ///
    /// Raises:
    ///     PoisonedError: This or an earlier write failed.
    ///     AbortedError: An earlier change failed half-way.
    ///     NoSpaceError: The space map cannot be written; the transaction is aborted.
    ///     WouldBlockError: This is a clone.
    fn pre_commit(&self, py: Python<'_>) -> PyResult<()> {
        self.real(py)?.pre_commit(py)
    }

    /// Second half of a commit: release the superblock, write it, make it durable.
    ///
    /// Args:
    ///     superblock_lock: The lock, which is released unless the call is refused.
    ///         Write it, the root of the space map included, between the two halves.
    ///
    /// Raises:
    ///     BufferError: A memoryview of it is in use; nothing was done.
    ///     UsageError: Without the first half, or with another block.
    ///     PoisonedError: This or an earlier write failed.
    ///     AbortedError: An earlier change failed half-way.
    ///     WouldBlockError: This is a clone.
    fn commit(&self, superblock_lock: &Bound<'_, WriteLock>) -> PyResult<()> {
        let py = superblock_lock.py();
        let managed = self.real(py)?;
        managed.core(py)?;
        let lock: &Lock = superblock_lock.as_super().get();
        if !Arc::ptr_eq(lock.session(), managed.session()) {
            let text = "the lock is of another block manager";
            return Err(exception(py, Error::usage(text)));
        }
        managed.check_commit(py, BlockNr(lock.location()))?;
        managed.commit(py, take_guard(superblock_lock)?)
    }

    /// Commit when the ``with`` block is left quietly, roll back when it is not.
    ///
    /// Args:
    ///     fill: Called as ``fill(view)`` between the two halves of the commit, with a
    ///         writable memoryview of the superblock, to write what changed: at least
    ///         ``space_map.copy_root()``. What it raises rolls back. The superblock
    ///         lock that :meth:`create` and :meth:`open` return is used if it is still
    ///         held.
    ///
    /// Returns:
    ///     A context manager that gives this manager.
    ///
    /// Raises:
    ///     WouldBlockError: This is a clone.
    fn transaction(slf: Bound<'_, Self>, fill: Py<PyAny>) -> PyResult<TransactionScope> {
        slf.get().real(slf.py())?;
        Ok(TransactionScope::new(slf.unbind(), fill))
    }

    /// Allocate a block: zeros, one reference, this transaction's own.
    ///
    /// Args:
    ///     validator: Its kind.
    ///
    /// Returns:
    ///     A write lock on it.
    ///
    /// Raises:
    ///     NoSpaceError: No block is free.
    ///     AbortedError: An earlier change failed half-way.
    ///     PoisonedError: A write has failed.
    ///     ReadOnlyError: Changes are refused.
    ///     WouldBlockError: This is a clone.
    fn new_block(
        &self,
        py: Python<'_>,
        validator: &Bound<'_, Validator>,
    ) -> PyResult<Py<WriteLock>> {
        let checks = Validator::checks(validator);
        let guard = self.real(py)?.change(py, |txn| txn.new_block(&checks))?;
        self.write_lock(py, guard)
    }

    /// Make a block changeable: itself where it is this transaction's own and not
    /// shared, otherwise a copy, for which it loses one reference.
    ///
    /// Args:
    ///     location: The block's number.
    ///     validator: Its kind.
    ///
    /// Returns:
    ///     A write lock on the block or the copy, and whether the caller has to add a
    ///     reference to every block that it points to, before anything else.
    ///
    /// Raises:
    ///     DamagedBlockError: It failed its check.
    ///     NoSpaceError: No block is free.
    ///     UsageError: This thread holds it already; it has no references.
    ///     AbortedError: An earlier change failed half-way.
    ///     PoisonedError: A write has failed.
    ///     ReadOnlyError: Changes are refused.
    ///     WouldBlockError: This is a clone.
    fn shadow_block(
        &self,
        py: Python<'_>,
        location: Block,
        validator: &Bound<'_, Validator>,
    ) -> PyResult<(Py<WriteLock>, bool)> {
        let (at, checks) = (BlockNr(location.0), Validator::checks(validator));
        let managed = self.real(py)?;
        let (guard, inc_children) = managed.change(py, |txn| txn.shadow_block(at, &checks))?;
        Ok((self.write_lock(py, guard)?, inc_children))
    }

    /// Whether a block was allocated or copied in this transaction.
    ///
    /// Raises:
    ///     WouldBlockError: This is a clone.
    fn is_shadow(&self, py: Python<'_>, location: Block) -> PyResult<bool> {
        let (managed, at) = (self.real(py)?, BlockNr(location.0));
        match managed.core(py)?.try_look(|txn| Ok(txn.is_shadow(at))) {
            Ok(answer) => Ok(answer),
            Err(_) => managed.look(py, |txn| Ok(txn.is_shadow(at))),
        }
    }

    /// Lock a block to read it.
    ///
    /// Args:
    ///     location: The block's number.
    ///     validator: Its kind.
    ///
    /// Returns:
    ///     The lock, to be used in a ``with`` statement.
    ///
    /// Raises:
    ///     DamagedBlockError: It failed its check.
    ///     UsageError: This thread holds it already.
    ///     AbortedError: An earlier change failed half-way.
    ///     WouldBlockError: This is a clone, and the block is not cached or in use;
    ///         it is remembered for :meth:`issue_prefetches`.
    fn read_lock(
        &self,
        py: Python<'_>,
        location: Block,
        validator: &Bound<'_, Validator>,
    ) -> PyResult<Py<ReadLock>> {
        self.check_open(py)?;
        self.managed.check_readable(py)?;
        let session: &Arc<Session> = self.managed.session();
        let checks = Validator::checks(validator);
        let guard = if self.clone.is_some() {
            let clone = self.managed.core(py)?.nonblocking_clone();
            let answer = clone.read_lock(BlockNr(location.0), &checks);
            answer.map_err(|error| exception(py, error))?
        } else {
            lock_to_read(py, &session.manager(py)?, location, Some(&checks))?
        };
        ReadLock::new(py, session, guard)
    }

    /// Add a reference to a block.
    ///
    /// Raises:
    ///     UsageError: There is no such block, or it has 2^32 - 1; this is a clone.
    ///     NoSpaceError: The count itself needs a block, and none is free.
    ///     AbortedError: An earlier change failed half-way.
    fn inc(&self, py: Python<'_>, location: Block) -> PyResult<()> {
        let at = BlockNr(location.0);
        self.counting(py)?.change(py, |txn| txn.inc(at))
    }

    /// Drop a reference to a block.
    ///
    /// Raises:
    ///     UsageError: There is no such block, or it has none; this is a clone.
    ///     NoSpaceError: The count itself needs a block, and none is free.
    ///     AbortedError: An earlier change failed half-way.
    fn dec(&self, py: Python<'_>, location: Block) -> PyResult<()> {
        let at = BlockNr(location.0);
        self.counting(py)?.change(py, |txn| txn.dec(at))
    }

    /// How many references a block has.
    ///
    /// Raises:
    ///     UsageError: There is no such block.
    ///     AbortedError: An earlier change failed half-way.
    ///     WouldBlockError: This is a clone.
    #[pyo3(name = "ref")]
    fn references(&self, py: Python<'_>, location: Block) -> PyResult<u32> {
        let at = BlockNr(location.0);
        self.real(py)?.look(py, |txn| txn.ref_count(at))
    }

    /// The block manager; a clone's is the real one.
    #[getter]
    fn block_manager(&self, py: Python<'_>) -> Py<BlockManager> {
        self.blocks.clone_ref(py)
    }

    /// Where the superblock is.
    #[getter]
    fn superblock(&self) -> u64 {
        self.managed.superblock().0.0
    }

    /// Go back to the last commit completely: counts, roots, maps, trees, blocks.
    ///
    /// Write locks that are held lock nothing any more.
    ///
    /// Raises:
    ///     PoisonedError: A write has failed: nobody knows what the device holds.
    ///     UsageError: It is closed.
    ///     WouldBlockError: This is a clone.
    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.real(py)?.abort(py)
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        let own = self.clone.as_ref().is_some_and(|closed| {
            *closed
                .lock_py_attached(py)
                .unwrap_or_else(PoisonError::into_inner)
        });
        own || self.managed.is_closed(py)
    }

    /// End it: what was not committed is lost. Closing twice does nothing.
    ///
    /// A clone is closed by itself; the real manager goes on.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if let Some(closed) = &self.clone {
            *closed
                .lock_py_attached(py)
                .unwrap_or_else(PoisonError::into_inner) = true;
            return Ok(());
        }
        let first = self.first_lock.lock_py_attached(py);
        let first = first.unwrap_or_else(PoisonError::into_inner).take();
        self.managed.close(py)?;
        if let Some(lock) = first {
            // Its block went with the transaction.
            lock.bind(py).as_super().get().let_go(py, true)?;
        }
        Ok(())
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().check_open(slf.py())?;
        Ok(slf)
    }

    #[pyo3(signature = (raised, value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        raised: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (raised, value, traceback);
        self.close(py)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let kind = if self.clone.is_some() {
            " non-blocking clone"
        } else {
            ""
        };
        let closed = if self.closed(py) { " closed" } else { "" };
        let at = self.superblock();
        format!("<thinmeta.engine.TransactionManager superblock={at}{kind}{closed}>")
    }
}

impl Drop for TransactionManager {
    fn drop(&mut self) {
        if self.clone.is_some() || !self.managed.session().born().is_here() {
            return;
        }
        Python::try_attach(|py| {
            if self.managed.is_closed(py) {
                return;
            }
            let category = py.get_type::<PyResourceWarning>();
            let text = c"a thinmeta.engine.TransactionManager was not closed";
            if let Err(raised) = PyErr::warn(py, &category, text, 1) {
                raised.write_unraisable(py, None);
            }
            if let Err(raised) = self.close(py) {
                raised.write_unraisable(py, None);
            }
        });
    }
}
