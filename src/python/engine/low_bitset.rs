//! Bitsets over a transaction manager.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;

use super::arguments::{Block, Blocks};
use super::kept::gone;
use super::managed::{Managed, Part};
use super::transaction::TransactionManager;
use crate::bitset::{Bitset as Core, BitsetView};
use crate::block::BlockManager;
use crate::error::Result;
use crate::python::buffer::Column;
use crate::transaction::Transaction;
use crate::units::BlockNr;

struct Inner {
    now: Option<Core>,
    /// Root and length as of the last commit.
    committed: Option<(BlockNr, u64)>,
    /// As it was written for a commit, if nothing was changed since.
    written: Option<(BlockNr, u64)>,
}

/// Used by who has the manager's turn, so that nobody waits for it.
struct Bits(Mutex<Inner>);

impl Bits {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, work: impl FnOnce(&mut Core) -> Result<T>) -> Result<T> {
        work(self.inner().now.as_mut().ok_or_else(gone)?)
    }
}

impl Part for Bits {
    fn prepare(&self, txn: &mut Transaction) -> Result<()> {
        let mut inner = self.inner();
        inner.written = match &mut inner.now {
            Some(bits) => Some((bits.flush(txn)?, bits.len())),
            None => None,
        };
        Ok(())
    }

    fn committed(&self) -> Result<()> {
        let mut inner = self.inner();
        inner.committed = inner.written;
        Ok(())
    }

    fn aborted(&self, _blocks: &Arc<BlockManager>) {
        let mut inner = self.inner();
        inner.written = None;
        // As long as it was when it was made: that cannot be too long now.
        inner.now = inner
            .committed
            .and_then(|(root, len)| Core::open(root, len).ok());
    }
}

/// Bits in the blocks of a transaction manager.
///
/// A bitset goes with its transaction, as a :class:`Tree` does. Its length is not
/// stored: keep it with :attr:`root`.
///
/// Attributes:
///     root: The block where it starts now. Every change may move it.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct Bitset {
    managed: Arc<Managed>,
    bits: Arc<Bits>,
}

impl Bitset {
    fn over(managed: &Arc<Managed>, now: Core, committed: Option<(BlockNr, u64)>) -> Self {
        let bits = Arc::new(Bits(Mutex::new(Inner {
            now: Some(now),
            committed,
            written: None,
        })));
        let part: Arc<dyn Part> = bits.clone();
        managed.add(Arc::downgrade(&part));
        Self {
            managed: Arc::clone(managed),
            bits,
        }
    }

    fn change<T: Send>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&mut Transaction, &mut Core) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.managed.change(py, |txn| {
            self.bits.inner().written = None;
            self.bits.with(|bits| change(txn, bits))
        })
    }

    /// Reads much: what was changed last is written to its block before.
    fn view<T: Send>(
        &self,
        py: Python<'_>,
        range: (u64, Option<u64>),
        look: impl FnOnce(&BitsetView, Range<u64>) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.change(py, |txn, bits| {
            let range = range.0..range.1.unwrap_or(bits.len());
            look(&bits.view(txn)?, range)
        })
    }

    fn check(&self, py: Python<'_>, bit: u64) -> PyResult<()> {
        let len = self.length(py)?;
        if bit < len {
            return Ok(());
        }
        Err(PyIndexError::new_err(format!("no bit {bit} of {len}")))
    }

    fn length(&self, py: Python<'_>) -> PyResult<u64> {
        self.managed
            .look(py, |_| self.bits.with(|bits| Ok(bits.len())))
    }
}

#[pymethods]
impl Bitset {
    /// Make a bitset.
    ///
    /// Args:
    ///     tm: The transaction manager.
    ///     size: How many bits, at most 2^32 - 1.
    ///     default: What each is.
    ///
    /// Raises:
    ///     NoSpaceError: Too few blocks are free.
    ///     UsageError: More bits than a bitset can have.
    #[staticmethod]
    #[pyo3(signature = (tm, size, *, default=false))]
    fn create(
        py: Python<'_>,
        tm: &TransactionManager,
        size: Blocks,
        default: bool,
    ) -> PyResult<Self> {
        let managed = tm.real(py)?;
        let made = managed.change(py, |txn| Core::generate(txn, size.0, &mut |_| Ok(default)))?;
        Ok(Self::over(managed, made, None))
    }

    /// Open a bitset that is there. Nothing is read.
    ///
    /// Args:
    ///     tm: The transaction manager.
    ///     root: The block where it starts.
    ///     size: How many bits it has.
    ///
    /// Raises:
    ///     UsageError: More bits than a bitset can have, or no such block.
    #[staticmethod]
    fn open(py: Python<'_>, tm: &TransactionManager, root: Block, size: Blocks) -> PyResult<Self> {
        let (managed, root) = (tm.real(py)?, BlockNr(root.0));
        let (bits, own) = managed.look(py, |txn| {
            txn.ref_count(root)?;
            Ok((Core::open(root, size.0)?, txn.is_shadow(root)))
        })?;
        let committed = (!own).then_some((root, size.0));
        Ok(Self::over(managed, bits, committed))
    }

    #[getter]
    fn root(&self, py: Python<'_>) -> PyResult<u64> {
        // Between the halves of a commit nothing is changed, nor has to be.
        let written = self.managed.look(py, |_| {
            self.bits.with(|_| Ok(()))?;
            Ok(self.bits.inner().written)
        })?;
        match written {
            Some((root, _)) => Ok(root.0),
            None => self.change(py, |txn, bits| Ok(bits.flush(txn)?.0)),
        }
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(usize::try_from(self.length(py)?).unwrap_or(usize::MAX))
    }

    fn __getitem__(&self, py: Python<'_>, bit: Blocks) -> PyResult<bool> {
        self.check(py, bit.0)?;
        self.change(py, |txn, bits| bits.test(txn, bit.0))
    }

    fn __setitem__(&self, py: Python<'_>, bit: Blocks, value: bool) -> PyResult<()> {
        self.check(py, bit.0)?;
        self.change(py, |txn, bits| bits.set_to(txn, bit.0, value))
    }

    /// Set or clear all bits from ``begin`` up to but not including ``end``.
    ///
    /// Raises:
    ///     UsageError: The range is not the bitset's.
    fn fill(&self, py: Python<'_>, begin: Blocks, end: Blocks, value: bool) -> PyResult<()> {
        self.change(py, |txn, bits| bits.fill(txn, begin.0..end.0, value))
    }

    /// Make it longer or shorter.
    ///
    /// New bits are ``default``, but for those in the last word of 64 that was there.
    ///
    /// Raises:
    ///     UsageError: More bits than a bitset can have.
    #[pyo3(signature = (size, default=false))]
    fn resize(&self, py: Python<'_>, size: Blocks, default: bool) -> PyResult<()> {
        self.change(py, |txn, bits| bits.resize(txn, size.0, default))
    }

    /// How many bits of a range are set.
    #[pyo3(
        signature = (begin=Blocks(0), end=None),
        text_signature = "($self, begin=0, end=None)"
    )]
    fn count(&self, py: Python<'_>, begin: Blocks, end: Option<Blocks>) -> PyResult<u64> {
        let range = (begin.0, end.map(|end| end.0));
        self.view(py, range, |view, range| view.count_ones(range))
    }

    /// The numbers of all bits of a range that are set, as a column of numbers.
    #[pyo3(
        signature = (begin=Blocks(0), end=None),
        text_signature = "($self, begin=0, end=None)"
    )]
    fn ones(&self, py: Python<'_>, begin: Blocks, end: Option<Blocks>) -> PyResult<Column> {
        let range = (begin.0, end.map(|end| end.0));
        let found = self.view(py, range, |view, range| {
            let mut found = Vec::new();
            view.for_each_one(range, |bit| {
                found.push(bit);
                Ok(())
            })?;
            Ok(found)
        })?;
        Ok(Column::of(found))
    }

    /// Delete the bitset.
    fn delete(&self, py: Python<'_>) -> PyResult<()> {
        self.managed.change(py, |txn| {
            let bits = self.bits.inner().now.take().ok_or_else(gone)?;
            bits.delete(txn)
        })
    }

    fn __repr__(&self) -> &'static str {
        "<thinmeta.engine.Bitset>"
    }
}
