//! Blocks of a device, under locks.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use super::arguments::{Block, Blocks, CacheBytes, FilePath};
use super::session::Session;
use super::turn::patiently;
use super::validator::Validator;
use crate::block::{self, Checks, DEFAULT_CACHE_BYTES, ReadGuard, WriteGuard, ask_patience};
use crate::device::{Claim, Device, FileDevice, MemoryDevice};
use crate::error::Error;
use crate::python::buffer::Lock;
use crate::python::call::detached;
use crate::python::error::exception;
use crate::units::{BLOCK_BYTES, BlockNr};

/// Shared access to one block: a context manager whose ``memoryview`` is read-only.
///
/// Views survive the release: they keep the bytes as they were.
#[pyclass(frozen, extends = Lock, module = "thinmeta._core")]
pub(crate) struct ReadLock;

impl ReadLock {
    pub fn new(py: Python<'_>, session: &Arc<Session>, guard: ReadGuard) -> PyResult<Py<Self>> {
        let base = PyClassInitializer::from(Lock::read(session, guard));
        Py::new(py, base.add_subclass(Self))
    }
}

#[pymethods]
impl ReadLock {}

/// Sole access to one block: a context manager whose ``memoryview`` is writable.
///
/// Releasing it leaves the block dirty, changed or not. While a view of it is in
/// use the lock cannot be released quietly; left by an exception, the view keeps the
/// memory and the block gets a copy of it as it was then.
#[pyclass(frozen, extends = Lock, module = "thinmeta._core")]
pub(crate) struct WriteLock;

impl WriteLock {
    pub fn new(py: Python<'_>, session: &Arc<Session>, guard: WriteGuard) -> PyResult<Py<Self>> {
        let base = PyClassInitializer::from(Lock::write(session, guard));
        Py::new(py, base.add_subclass(Self))
    }
}

#[pymethods]
impl WriteLock {}

/// A write lock's guard, for who ends it by committing.
pub(super) fn take_guard(lock: &Bound<'_, WriteLock>) -> PyResult<WriteGuard> {
    lock.as_super().get().take_write(lock.py())
}

/// Blocks of 4096 bytes of a file or block device: cached, locked, checked.
///
/// Args:
///     path: A file, whose size is fixed, or a block device.
///     mode: ``"r+"`` reads and writes, alone; ``"r"`` reads beside other readers.
///     cache_bytes: How much may be kept in memory.
///
/// Raises:
///     OSError: The path cannot be opened.
///     DeviceInUseError: Somebody else uses it.
///     PoisonedError: An earlier write to it failed and nobody knows what it holds.
///     UsageError: A mode or a cache that makes no sense.
///
/// A context manager that closes it. A thread must not lock a block that it holds
/// already: that is a :class:`UsageError`. Changes that were not flushed when it is
/// closed are lost.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct BlockManager {
    path: PathBuf,
    session: Arc<Session>,
}

impl BlockManager {
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    fn over(device: Arc<dyn Device>, cache_bytes: CacheBytes) -> Self {
        Self {
            path: device.path().to_owned(),
            session: Session::new(block::BlockManager::new(device, cache_bytes.0)),
        }
    }

    fn lock_to_write(
        &self,
        py: Python<'_>,
        location: Block,
        validator: &Bound<'_, Validator>,
        zero: bool,
    ) -> PyResult<Py<WriteLock>> {
        let manager = self.session.manager(py)?;
        let (at, checks) = (BlockNr(location.0), Validator::checks(validator));
        let guard = patiently(py, || {
            manager.write_lock_patiently(at, &checks, zero, Some(&ask_patience))
        })?;
        WriteLock::new(py, &self.session, guard)
    }
}

/// The most blocks of a device in memory.
const MAX_BLOCKS_IN_MEMORY: u64 = 1 << 22;

#[pymethods]
impl BlockManager {
    #[new]
    #[pyo3(
        signature = (path, *, mode="r+", cache_bytes=CacheBytes(DEFAULT_CACHE_BYTES)),
        text_signature = "(path, *, mode='r+', cache_bytes=67108864)"
    )]
    fn new(py: Python<'_>, path: FilePath, mode: &str, cache_bytes: CacheBytes) -> PyResult<Self> {
        let write = match mode {
            "r" => false,
            "r+" => true,
            other => {
                let text = format!("mode is {other:?}, not \"r\" or \"r+\"");
                return Err(exception(py, Error::Usage(text)));
            }
        };
        let opened = detached(py, || {
            if write {
                FileDevice::open_writable(path.0)
            } else {
                FileDevice::open(path.0, Claim::Unused)
            }
        });
        Ok(Self::over(Arc::new(opened?), cache_bytes))
    }

    /// Make a device of zeros in memory, for tests and for what needs no disk.
    ///
    /// Args:
    ///     blocks: Its size in blocks of 4096 bytes, at most 2^22.
    ///     cache_bytes: How much may be kept in memory beside it.
    ///
    /// Raises:
    ///     UsageError: It would be too large.
    #[staticmethod]
    #[pyo3(
        signature = (blocks, *, cache_bytes=CacheBytes(DEFAULT_CACHE_BYTES)),
        text_signature = "(blocks, *, cache_bytes=67108864)"
    )]
    fn in_memory(py: Python<'_>, blocks: Blocks, cache_bytes: CacheBytes) -> PyResult<Self> {
        let fits = Some(blocks.0).filter(|blocks| *blocks <= MAX_BLOCKS_IN_MEMORY);
        let bytes = fits.and_then(|blocks| usize::try_from(blocks).ok()?.checked_mul(BLOCK_BYTES));
        let Some(bytes) = bytes else {
            let text = format!("{} blocks are too many for memory", blocks.0);
            return Err(exception(py, Error::Usage(text)));
        };
        let device = detached(py, || Ok(MemoryDevice::writable(vec![0; bytes])))?;
        Ok(Self::over(Arc::new(device), cache_bytes))
    }

    /// What it was opened from.
    #[getter]
    fn path(&self) -> &std::ffi::OsStr {
        self.path.as_os_str()
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.session.is_closed(py)
    }

    /// Size of the device in whole blocks.
    #[getter]
    fn nr_blocks(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.session.manager(py)?.nr_blocks())
    }

    /// Whether changes are refused.
    #[getter]
    fn read_only(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.session.manager(py)?.is_read_only())
    }

    /// Refuse every change from now on, or allow them again.
    ///
    /// What is dirty stays so, and is not written meanwhile.
    ///
    /// Args:
    ///     read_only: Whether changes are refused.
    ///
    /// Raises:
    ///     ReadOnlyError: The device was opened for reading.
    #[pyo3(signature = (read_only=true))]
    fn set_read_only(&self, py: Python<'_>, read_only: bool) -> PyResult<()> {
        let manager = self.session.manager(py)?;
        let answer = manager.set_read_only(read_only);
        answer.map_err(|error| exception(py, error))
    }

    /// Lock a block to read it, after its validator has accepted it.
    ///
    /// Waits, interruptibly, while somebody writes it or waits to.
    ///
    /// Args:
    ///     location: The block's number.
    ///     validator: Its kind; ``None`` takes the bytes as they are.
    ///
    /// Returns:
    ///     The lock, to be used in a ``with`` statement.
    ///
    /// Raises:
    ///     DamagedBlockError: It failed its check, or is known as another kind.
    ///     UsageError: This thread holds it already.
    ///     OSError: It cannot be read; there may be no such block.
    #[pyo3(signature = (location, validator=None))]
    fn read_lock(
        &self,
        py: Python<'_>,
        location: Block,
        validator: Option<&Bound<'_, Validator>>,
    ) -> PyResult<Py<ReadLock>> {
        let manager = self.session.manager(py)?;
        let checks = validator.map(Validator::checks);
        let guard = lock_to_read(py, &manager, location, checks.as_ref())?;
        ReadLock::new(py, &self.session, guard)
    }

    /// Lock a cached block to read it, without ever reading the device or waiting.
    ///
    /// Args:
    ///     location: The block's number.
    ///     validator: Its kind.
    ///
    /// Returns:
    ///     The lock.
    ///
    /// Raises:
    ///     WouldBlockError: It is not in the cache, or somebody writes it or waits to.
    ///     DamagedBlockError: It failed its check, or is known as another kind.
    ///     UsageError: This thread holds it already.
    fn read_try_lock(
        &self,
        py: Python<'_>,
        location: Block,
        validator: &Bound<'_, Validator>,
    ) -> PyResult<Py<ReadLock>> {
        let manager = self.session.manager(py)?;
        let guard = manager.read_try_lock(BlockNr(location.0), Validator::checks(validator));
        let guard = guard.map_err(|error| exception(py, error))?;
        ReadLock::new(py, &self.session, guard)
    }

    /// Lock a block to change it, once nobody reads it.
    ///
    /// Args:
    ///     location: The block's number.
    ///     validator: Its kind, which checks it now and seals it when it is written.
    ///
    /// Returns:
    ///     The lock, to be used in a ``with`` statement.
    ///
    /// Raises:
    ///     ReadOnlyError: Changes are refused.
    ///     PoisonedError: A write has failed.
    ///     DamagedBlockError: It failed its check, or is known as another kind.
    ///     UsageError: This thread holds it already.
    ///     OSError: It cannot be read; there may be no such block.
    fn write_lock(
        &self,
        py: Python<'_>,
        location: Block,
        validator: &Bound<'_, Validator>,
    ) -> PyResult<Py<WriteLock>> {
        self.lock_to_write(py, location, validator, false)
    }

    /// Lock a block to write it anew: zeros in place of what it held.
    ///
    /// Nothing is read and nothing is checked.
    ///
    /// Args:
    ///     location: The block's number.
    ///     validator: Its kind from now on, which seals it when it is written.
    ///
    /// Returns:
    ///     The lock, to be used in a ``with`` statement.
    ///
    /// Raises:
    ///     ReadOnlyError: Changes are refused.
    ///     PoisonedError: A write has failed.
    ///     UsageError: This thread holds it already.
    ///     OSError: There is no such block.
    fn write_lock_zero(
        &self,
        py: Python<'_>,
        location: Block,
        validator: &Bound<'_, Validator>,
    ) -> PyResult<Py<WriteLock>> {
        self.lock_to_write(py, location, validator, true)
    }

    /// Write all dirty blocks that nobody has locked, and make them durable.
    ///
    /// The superblock of an open transaction manager is left to its commit. What a
    /// validator's ``prepare`` raises comes out, and nothing was written then.
    ///
    /// Raises:
    ///     ReadOnlyError: Changes are refused.
    ///     PoisonedError: This or an earlier write failed; nothing is written any more.
    ///     OSError: What the device says.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        let manager = self.session.manager(py)?;
        detached(py, || manager.flush())
    }

    /// Commit in one call: flush all but the superblock, release and write that, flush.
    ///
    /// Args:
    ///     superblock: Its lock, which is released whatever happens. When the first
    ///         half fails its changes are dropped.
    ///
    /// Raises:
    ///     BufferError: A memoryview of it is in use; nothing was done.
    ///     UsageError: It was released, or belongs to another block manager.
    ///     ReadOnlyError: Changes are refused.
    ///     PoisonedError: This or an earlier write failed; nothing is written any more.
    ///     OSError: What the device says.
    fn flush_and_unlock(&self, superblock: &Bound<'_, WriteLock>) -> PyResult<()> {
        let py = superblock.py();
        let manager = self.session.manager(py)?;
        if !Arc::ptr_eq(superblock.as_super().get().session(), &self.session) {
            let text = "the lock is of another block manager";
            return Err(exception(py, Error::usage(text)));
        }
        let guard = take_guard(superblock)?;
        detached(py, || manager.flush_and_unlock(guard))
    }

    /// Read blocks in the background, so that a later lock finds them.
    ///
    /// Args:
    ///     locations: Their numbers. 128 are taken at a time; what fails is left to
    ///         the later lock.
    fn prefetch(&self, py: Python<'_>, locations: &Bound<'_, PyAny>) -> PyResult<()> {
        let manager = self.session.manager(py)?;
        let blocks: PyResult<Vec<BlockNr>> = locations
            .try_iter()?
            .map(|item| Ok(BlockNr(item?.extract::<Block>()?.0)))
            .collect();
        let blocks = blocks?;
        py.detach(|| manager.prefetch(blocks));
        Ok(())
    }

    /// Let go of the device; closing twice does nothing.
    ///
    /// Raises:
    ///     UsageError: A lock is held, or a transaction manager is open on it.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.session.close(py)
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        slf.get().session.manager(slf.py())?;
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
        let _ = (value, traceback);
        let answer = self.close(py);
        // What was raised says more than that something was left open by it.
        if raised.is_none() { answer } else { Ok(()) }
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let closed = if self.closed(py) { " closed" } else { "" };
        format!("<thinmeta.engine.BlockManager {:?}{closed}>", self.path)
    }
}

/// A read lock: attached where the block is cached and free, else with patience.
pub(super) fn lock_to_read(
    py: Python<'_>,
    manager: &Arc<block::BlockManager>,
    location: Block,
    checks: Option<&Checks>,
) -> PyResult<ReadGuard> {
    let at = BlockNr(location.0);
    if let Some(checks) = checks {
        match manager.read_try_lock(at, checks) {
            Err(Error::WouldBlock) => {}
            answer => return answer.map_err(|error| exception(py, error)),
        }
    }
    patiently(py, || {
        manager.read_lock_patiently(at, checks, Some(&ask_patience))
    })
}
