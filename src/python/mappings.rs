//! Where blocks live, one by one and as tables.

use std::sync::{Mutex, PoisonError};
use std::vec;

use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use super::arrow::{self, MappingBatches};
use super::buffer::Column;
use super::call::{detached, watched};
use super::handle::Handle;
use crate::thin::{self, Position, ThinDevice};

/// Runs that are fetched at once.
const RUNS_AT_ONCE: usize = 1024;

/// Mapped blocks that are contiguous in the volume and in the pool's data.
#[pyclass(frozen, eq, hash, get_all, module = "thinmeta")]
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Run {
    virtual_begin: u64,
    data_begin: u64,
    length_blocks: u64,
    time: u32,
}

impl From<thin::Run> for Run {
    fn from(run: thin::Run) -> Self {
        Self {
            virtual_begin: run.virtual_begin,
            data_begin: run.data_begin,
            length_blocks: run.length_blocks,
            time: run.time,
        }
    }
}

#[pymethods]
impl Run {
    #[new]
    fn new(virtual_begin: u64, data_begin: u64, length_blocks: u64, time: u32) -> Self {
        Self {
            virtual_begin,
            data_begin,
            length_blocks,
            time,
        }
    }

    fn __getnewargs__(&self) -> (u64, u64, u64, u32) {
        (
            self.virtual_begin,
            self.data_begin,
            self.length_blocks,
            self.time,
        )
    }

    fn __repr__(&self) -> String {
        format!(
            "Run(virtual_begin={}, data_begin={}, length_blocks={}, time={})",
            self.virtual_begin, self.data_begin, self.length_blocks, self.time
        )
    }
}

/// Where one virtual block lives.
#[pyclass(frozen, eq, hash, get_all, module = "thinmeta")]
#[derive(PartialEq, Eq, Hash)]
pub(super) struct BlockMapping {
    data_block: u64,
    time: u32,
    shared: bool,
}

impl From<thin::Mapping> for BlockMapping {
    fn from(mapping: thin::Mapping) -> Self {
        Self {
            data_block: mapping.data_block,
            time: mapping.time,
            shared: mapping.shared,
        }
    }
}

#[pymethods]
impl BlockMapping {
    #[new]
    fn new(data_block: u64, time: u32, shared: bool) -> Self {
        Self {
            data_block,
            time,
            shared,
        }
    }

    fn __getnewargs__(&self) -> (u64, u32, bool) {
        (self.data_block, self.time, self.shared)
    }

    fn __repr__(&self) -> String {
        let shared = if self.shared { "True" } else { "False" };
        format!(
            "BlockMapping(data_block={}, time={}, shared={shared})",
            self.data_block, self.time
        )
    }
}

/// Yields the runs of a device.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct RunIterator {
    handle: Handle,
    progress: Mutex<Progress>,
}

/// How far an iterator has come, and what it has fetched beyond that.
struct Progress {
    position: Position,
    fetched: vec::IntoIter<thin::Run>,
}

impl RunIterator {
    pub fn new(handle: Handle, position: Position) -> Self {
        let fetched = Vec::new().into_iter();
        let progress = Mutex::new(Progress { position, fetched });
        Self { handle, progress }
    }

    /// The next run, if it is fetched and nobody else is busy here.
    fn fetched(&self) -> Option<thin::Run> {
        self.progress.try_lock().ok()?.fetched.next()
    }

    fn fetch(&self, device: &ThinDevice) -> crate::Result<Option<thin::Run>> {
        let progress = self.progress.lock();
        let mut progress = progress.unwrap_or_else(PoisonError::into_inner);
        if let Some(run) = progress.fetched.next() {
            return Ok(Some(run));
        }
        let runs = progress.position.next_runs(device, RUNS_AT_ONCE)?;
        progress.fetched = runs.into_iter();
        Ok(progress.fetched.next())
    }
}

#[pymethods]
impl RunIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Run>> {
        let device = self.handle.device(py)?;
        if let Some(run) = self.fetched() {
            return Ok(Some(run.into()));
        }
        let run = detached(py, || self.fetch(&device))?;
        Ok(run.map(Run::from))
    }
}

/// Every mapping of a device, read anew by each export.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Mappings {
    handle: Handle,
}

impl Mappings {
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }
}

#[pymethods]
impl Mappings {
    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        let mapped = self.handle.device(py)?.info().mapped_blocks;
        Ok(usize::try_from(mapped)?)
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let device = self.handle.device(py)?;
        let columns = watched(py, None, None, |task| device.columns(task))?;
        let table = PyDict::new(py);
        table.set_item("virtual_block", Column::of(columns.virtual_blocks))?;
        table.set_item("data_block", Column::of(columns.data_blocks))?;
        table.set_item("time", Column::of(columns.times))?;
        Ok(table)
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        self.handle.device(py)?;
        arrow::stream(py, MappingBatches::new(self.handle.clone()))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        arrow::schema(py, &arrow::mapping_schema())
    }
}
