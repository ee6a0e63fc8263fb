//! Space maps: in memory, of the metadata, of data; and held to their laws.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyBytes;
use zerocopy::IntoBytes;

use super::arguments::{Block, Blocks, Count};
use super::data_map::Data;
use super::managed::Managed;
use super::transaction::TransactionManager;
use crate::disk_space::{SpaceMapRoot, allocate};
use crate::error::{Error, Result};
use crate::python::error::exception;
use crate::space::{self, MemorySpaceMap, SpaceMap as _, SpaceMapMut};
use crate::transaction::{Space, Transaction};
use crate::units::BlockNr;

/// Counts that live no longer than the process.
enum Memory {
    Plain(MemorySpaceMap),
    Checked(space::CheckingSpaceMap<MemorySpaceMap>),
}

impl Memory {
    fn map(&mut self) -> &mut dyn SpaceMapMut {
        match self {
            Self::Plain(map) => map,
            Self::Checked(map) => map,
        }
    }
}

/// Where the counts are.
#[derive(Clone)]
enum Kind {
    Memory(Arc<Mutex<Memory>>),
    /// The transaction manager's own blocks.
    Metadata(Arc<Managed>),
    /// Blocks of another device, counted in metadata.
    Data(Arc<Managed>, Arc<Data>),
}

/// Reference counts of blocks, and which are free.
///
/// Made by :meth:`in_memory`, :meth:`create_data` and :meth:`open_data`, and by a
/// :class:`TransactionManager`, whose blocks it then counts. A block is handed out only
/// when it is free now and was at the last commit.
#[pyclass(frozen, subclass, module = "thinmeta._core")]
pub(crate) struct SpaceMap {
    kind: Kind,
}

/// `begin..end`, where no end means one block.
fn range_of(begin: Block, end: Option<Block>) -> std::ops::Range<u64> {
    begin.0..end.map_or(begin.0.saturating_add(1), |end| end.0)
}

fn memory<'m>(py: Python<'_>, memory: &'m Mutex<Memory>) -> MutexGuard<'m, Memory> {
    let memory = memory.lock_py_attached(py);
    memory.unwrap_or_else(PoisonError::into_inner)
}

impl SpaceMap {
    pub(super) fn metadata(py: Python<'_>, managed: &Arc<Managed>) -> PyResult<Py<Self>> {
        let kind = Kind::Metadata(Arc::clone(managed));
        Py::new(py, Self { kind })
    }

    fn data(managed: &Arc<Managed>, data: Data) -> Self {
        let data = Arc::new(data);
        // Two steps: the compiler does not see a trait object in one.
        let part: Arc<dyn super::managed::Part> = data.clone();
        managed.add(Arc::downgrade(&part));
        let kind = Kind::Data(Arc::clone(managed), data);
        Self { kind }
    }

    /// Asks the map something.
    fn ask<T: Send>(
        &self,
        py: Python<'_>,
        in_memory: impl FnOnce(&mut dyn SpaceMapMut) -> Result<T>,
        metadata: impl FnOnce(&Transaction) -> Result<T> + Send,
        data: impl FnOnce(&Transaction, &mut crate::disk_space::DataMap) -> Result<T> + Send,
    ) -> PyResult<T> {
        match &self.kind {
            Kind::Memory(map) => {
                let answer = in_memory(memory(py, map).map());
                answer.map_err(|error| exception(py, error))
            }
            Kind::Metadata(managed) => managed.look(py, metadata),
            Kind::Data(managed, map) => managed.look(py, |txn| map.with(|map| data(txn, map))),
        }
    }

    /// Tells the map to do something.
    fn tell<T: Send>(
        &self,
        py: Python<'_>,
        in_memory: impl FnOnce(&mut dyn SpaceMapMut) -> Result<T>,
        metadata: impl FnOnce(&mut Transaction) -> Result<T> + Send,
        data: impl FnOnce(&mut Transaction, &mut crate::disk_space::DataMap) -> Result<T> + Send,
    ) -> PyResult<T> {
        match &self.kind {
            Kind::Memory(map) => {
                let answer = in_memory(memory(py, map).map());
                answer.map_err(|error| exception(py, error))
            }
            Kind::Metadata(managed) => managed.change(py, metadata),
            Kind::Data(managed, map) => managed.change(py, |txn| map.with(|map| data(txn, map))),
        }
    }
}

#[pymethods]
impl SpaceMap {
    /// Make a map whose counts live no longer than the process.
    ///
    /// Args:
    ///     blocks: How many blocks it counts, at most 2^32; all are free.
    ///
    /// Raises:
    ///     UsageError: They are too many.
    #[staticmethod]
    fn in_memory(py: Python<'_>, blocks: Blocks) -> PyResult<Self> {
        let made = py.detach(|| MemorySpaceMap::new(blocks.0));
        let map = made.map_err(|error| exception(py, error))?;
        let kind = Kind::Memory(Arc::new(Mutex::new(Memory::Plain(map))));
        Ok(Self { kind })
    }

    /// Make a map of another device's blocks, none at first, in the open transaction.
    ///
    /// Args:
    ///     tm: The transaction manager whose blocks hold the counts.
    ///     blocks: How many blocks it counts from the beginning.
    ///     checked: Hold every call against plain counts; slow.
    ///
    /// Raises:
    ///     NoSpaceError: The metadata cannot hold so many counts.
    ///     UsageError: More than 2^40 blocks.
    #[staticmethod]
    #[pyo3(
        signature = (tm, blocks=Blocks(0), *, checked=false),
        text_signature = "(tm, blocks=0, *, checked=False)"
    )]
    fn create_data(
        py: Python<'_>,
        tm: &TransactionManager,
        blocks: Blocks,
        checked: bool,
    ) -> PyResult<Self> {
        let managed = tm.real(py)?;
        let made = managed.change(py, |txn| Data::create(txn, blocks.0, checked));
        made.map(|data| Self::data(managed, data))
    }

    /// Open a map of another device's blocks.
    ///
    /// Args:
    ///     tm: The transaction manager whose blocks hold the counts.
    ///     root: What :meth:`copy_root` gave when it was committed; bytes behind the
    ///         first 32 are ignored.
    ///     checked: Hold every call against plain counts; slow.
    ///
    /// Raises:
    ///     UsageError: Fewer than 32 bytes, or a root that cannot be.
    ///     DamagedBlockError: When ``checked``, a block of it failed its check.
    #[staticmethod]
    #[pyo3(signature = (tm, root, *, checked=false))]
    fn open_data(
        py: Python<'_>,
        tm: &TransactionManager,
        root: &Bound<'_, PyAny>,
        checked: bool,
    ) -> PyResult<Self> {
        let managed = tm.real(py)?;
        let bytes = crate::python::buffer::copy_of_bytes(root)?;
        let root = SpaceMapRoot::from_area(&bytes).map_err(|error| exception(py, error))?;
        let opened = managed.look(py, |txn| Data::open(txn.blocks(), &root, checked));
        opened.map(|data| Self::data(managed, data))
    }

    /// Blocks that are counted.
    #[getter]
    fn nr_blocks(&self, py: Python<'_>) -> PyResult<u64> {
        self.ask(
            py,
            |map| Ok(map.nr_blocks()),
            |txn| Ok(txn.nr_blocks()),
            |_, map| Ok(map.nr_blocks()),
        )
    }

    /// Blocks that can be allocated: free now and at the last commit.
    #[getter]
    fn nr_free(&self, py: Python<'_>) -> PyResult<u64> {
        self.ask(
            py,
            |map| Ok(map.nr_free()),
            |txn| Ok(txn.nr_free()),
            |_, map| Ok(map.nr_free()),
        )
    }

    /// How many references a block has.
    ///
    /// Raises:
    ///     UsageError: There is no such block.
    fn get_count(&self, py: Python<'_>, block: Block) -> PyResult<u32> {
        let block = block.0;
        self.ask(
            py,
            |map| map.get_count(block),
            |txn| txn.ref_count(BlockNr(block)),
            |txn, map| map.get_count(txn, block),
        )
    }

    /// Whether a block has several references; where that costs, "yes" may be wrong.
    ///
    /// Raises:
    ///     UsageError: There is no such block.
    fn count_is_more_than_one(&self, py: Python<'_>, block: Block) -> PyResult<bool> {
        let block = block.0;
        self.ask(
            py,
            |map| map.count_is_more_than_one(block),
            |txn| txn.is_shared(BlockNr(block)),
            |txn, map| map.count_is_more_than_one(txn, block),
        )
    }

    /// Set a count, for checkers and restorers.
    ///
    /// Raises:
    ///     UsageError: There is no such block, or no such count.
    fn set_count(&self, py: Python<'_>, block: Block, count: Count) -> PyResult<()> {
        let (block, count) = (block.0, count.0);
        self.tell(
            py,
            |map| map.set_count(block, count),
            |txn| txn.set_count(BlockNr(block), count),
            |txn, map| map.set_count(txn, block, count),
        )
    }

    /// Add a reference to each block from ``begin`` up to but not including ``end``.
    ///
    /// Args:
    ///     begin: The first block.
    ///     end: One past the last; ``None`` means one block.
    ///
    /// Raises:
    ///     UsageError: A block past the end, or one with 2^32 - 1; nothing was changed.
    ///     NoSpaceError: The counts themselves need a block, and none is free.
    #[pyo3(signature = (begin, end=None))]
    fn inc(&self, py: Python<'_>, begin: Block, end: Option<Block>) -> PyResult<()> {
        let blocks = range_of(begin, end);
        let (metadata, data) = (blocks.clone(), blocks.clone());
        self.tell(
            py,
            |map| map.inc(blocks),
            |txn| txn.inc_range(metadata),
            |txn, map| map.inc(txn, data),
        )
    }

    /// Drop a reference of each block from ``begin`` up to but not including ``end``.
    ///
    /// Args:
    ///     begin: The first block.
    ///     end: One past the last; ``None`` means one block.
    ///
    /// Raises:
    ///     UsageError: A block past the end, or one without; nothing was changed.
    ///     NoSpaceError: The counts themselves need a block, and none is free.
    #[pyo3(signature = (begin, end=None))]
    fn dec(&self, py: Python<'_>, begin: Block, end: Option<Block>) -> PyResult<()> {
        let blocks = range_of(begin, end);
        let (metadata, data) = (blocks.clone(), blocks.clone());
        self.tell(
            py,
            |map| map.dec(blocks),
            |txn| txn.dec_range(metadata),
            |txn, map| map.dec(txn, data),
        )
    }

    /// Take a free block: its count goes from 0 to 1.
    ///
    /// Raises:
    ///     NoSpaceError: There is none, or the counts themselves need a block.
    fn new_block(&self, py: Python<'_>) -> PyResult<u64> {
        self.tell(
            py,
            |map| map.new_block(),
            |txn| Ok(allocate(txn)?.0),
            |txn, map| map.new_block(txn),
        )
    }

    /// Add so many free blocks at the end.
    ///
    /// Args:
    ///     blocks: How many. The metadata's device has to have them already.
    ///
    /// Raises:
    ///     UsageError: Past the device or what the map can count.
    ///     NoSpaceError: The metadata cannot hold the counts.
    fn extend(&self, py: Python<'_>, blocks: Blocks) -> PyResult<()> {
        let blocks = blocks.0;
        self.tell(
            py,
            |map| map.extend(blocks),
            |txn| txn.extend(blocks),
            |txn, map| map.extend(txn, blocks),
        )
    }

    /// Make the counts of now the committed ones, so that what was freed may be reused.
    ///
    /// A data map's counts are written into the transaction, whose commit does the
    /// rest. The metadata's map is committed by the transaction manager.
    ///
    /// Raises:
    ///     NoSpaceError: The counts themselves need a block, and none is free.
    ///     UsageError: This is the metadata's map.
    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        self.tell(
            py,
            |map| map.commit(),
            |_| {
                let text = "the metadata's space map is committed by TransactionManager.pre_commit";
                Err(Error::usage(text))
            },
            |txn, map| map.commit(txn),
        )
    }

    /// Have a function called when space gets low.
    ///
    /// It is called as ``callback(nr_free)`` once each time that an allocation takes the
    /// number of free blocks to the threshold or below, after the call that did it and
    /// with nothing locked, so that it may use the map. What it raises is reported as
    /// unraisable. There is one callback.
    ///
    /// Args:
    ///     threshold: A number of blocks.
    ///     callback: What to call.
    ///
    /// Raises:
    ///     UsageError: This is not the metadata's map, which alone has a threshold.
    fn on_low_space(
        &self,
        py: Python<'_>,
        threshold: Blocks,
        callback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        if !callback.is_callable() {
            return Err(PyTypeError::new_err("the callback cannot be called"));
        }
        match &self.kind {
            Kind::Metadata(managed) => {
                managed.on_low_space(py, threshold.0, callback.clone().unbind())
            }
            _ => {
                let text = "only the metadata's space map has a threshold";
                Err(exception(py, Error::usage(text)))
            }
        }
    }

    /// The map's root, 32 bytes to be put into the superblock.
    ///
    /// The metadata's is final between the halves of a commit, a data map's after its
    /// own :meth:`commit`.
    ///
    /// Raises:
    ///     UsageError: The map is in memory and has none.
    fn copy_root<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let root = match &self.kind {
            Kind::Memory(_) => {
                let text = "a space map in memory has no root";
                return Err(exception(py, Error::usage(text)));
            }
            Kind::Metadata(managed) => managed.with_core(py, |core| {
                core.look(|_| Ok(()))?;
                Ok(core.space_root())
            })?,
            Kind::Data(managed, map) => managed.look(py, |_| map.with(|map| Ok(map.root())))?,
        };
        Ok(PyBytes::new(py, root.as_bytes()))
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let kind = match &slf.get().kind {
            Kind::Memory(_) => "in memory",
            Kind::Metadata(_) => "of the metadata",
            Kind::Data(..) => "of data",
        };
        Ok(format!(
            "<thinmeta.engine.{} {kind}>",
            slf.get_type().name()?
        ))
    }
}

/// A space map whose every call is held against plain counts, whoever makes it.
///
/// The laws: a block is handed out only when it is free now and was at the last commit;
/// a count is what the calls made it; nothing goes below zero. Whoever breaks one gets
/// a :class:`UsageError`. Costs a walk over all counts to begin with, and memory for
/// those that are not zero.
///
/// Args:
///     space_map: The map. It is the same one from now on, so that calls by its own
///         name, and those of the transaction manager, are held to the laws, too.
///
/// Raises:
///     UsageError: Something has changed since its last commit.
///     DamagedBlockError: A count cannot be read.
#[pyclass(frozen, extends = SpaceMap, module = "thinmeta._core")]
pub(crate) struct CheckingSpaceMap;

fn only_at_a_commit() -> Error {
    Error::usage("checking begins at a commit, and something has changed since the last one")
}

fn check_memory(map: &mut Memory) -> Result<()> {
    if let Memory::Plain(plain) = map {
        let counts = (0..plain.nr_blocks()).map(|block| plain.get_count(block));
        let zeros = counts.filter(|count| matches!(count, Ok(0))).count() as u64;
        if zeros != plain.nr_free() {
            return Err(only_at_a_commit());
        }
        let plain = std::mem::take(plain);
        *map = Memory::Checked(space::CheckingSpaceMap::new(plain)?);
    }
    Ok(())
}

fn check_metadata(txn: &mut Transaction) -> Result<()> {
    let blocks = Arc::clone(txn.blocks());
    match &mut txn.space {
        Space::Metadata(map) => map.check_from_now_on(&blocks),
        Space::Memory(_) => Err(Error::usage("this transaction counts in memory")),
    }
}

#[pymethods]
impl CheckingSpaceMap {
    #[new]
    fn new(py: Python<'_>, space_map: &Bound<'_, SpaceMap>) -> PyResult<PyClassInitializer<Self>> {
        let kind = space_map.get().kind.clone();
        let at_commit = |txn: &Transaction| {
            if txn.has_shadows() {
                return Err(only_at_a_commit());
            }
            Ok(())
        };
        match &kind {
            Kind::Memory(map) => {
                let answer = check_memory(&mut memory(py, map));
                answer.map_err(|error| exception(py, error))?;
            }
            Kind::Metadata(managed) => managed.change(py, |txn| {
                at_commit(txn)?;
                check_metadata(txn)
            })?,
            Kind::Data(managed, data) => managed.change(py, |txn| {
                at_commit(txn)?;
                data.check_from_now_on(txn)
            })?,
        }
        Ok(PyClassInitializer::from(SpaceMap { kind }).add_subclass(Self))
    }

    /// Hold every count against the plain ones; the number of free blocks is held at
    /// every allocation and commit.
    ///
    /// Raises:
    ///     UsageError: One differs.
    fn check_all(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (py, map) = (slf.py(), slf.as_super().get());
        map.ask(
            py,
            |map| (0..map.nr_blocks()).try_for_each(|block| map.get_count(block).map(drop)),
            |txn| (0..txn.nr_blocks()).try_for_each(|at| txn.ref_count(BlockNr(at)).map(drop)),
            |txn, map| {
                (0..map.nr_blocks()).try_for_each(|block| map.get_count(txn, block).map(drop))
            },
        )
    }
}
