//! A pool on fewer data blocks.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::call::{detached, watched};
use super::error::exception;
use super::new_metadata::{built_fields, work_output};
use crate::device::FileDevice;
use crate::error::Error;
use crate::task::Task;
use crate::thin::{OpenOptions, Pool};
use crate::tools::shrink as core;

/// A shrink that is planned. The input is ours until this is dropped, and the data from
/// `open_data` on.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Shrink {
    core: core::Shrink,
    data: Mutex<Option<Arc<FileDevice>>>,
}

impl Shrink {
    fn data(&self, py: Python<'_>) -> PyResult<Arc<FileDevice>> {
        let data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        let missing = || exception(py, Error::usage("the data are not open"));
        data.clone().ok_or_else(missing)
    }
}

#[pymethods]
impl Shrink {
    #[new]
    #[pyo3(signature = (path, *, data_blocks=None, ignore_marks=false, progress=None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        data_blocks: Option<u64>,
        ignore_marks: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let work = |task: &Task<'_>| {
            let pool = Arc::new(Pool::open(path, &OpenOptions::default())?);
            if ignore_marks {
                return core::Shrink::plan_marked(pool, data_blocks, task);
            }
            core::Shrink::plan(pool, data_blocks, task)
        };
        let core = watched(py, progress, None, work)?;
        let data = Mutex::new(None);
        Ok(Self { core, data })
    }

    /// What will be done.
    fn outlook<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let outlook = self.core.outlook();
        let block_bytes = self.core.pool().superblock().data_block_bytes();
        let fields = PyDict::new(py);
        fields.set_item("block_bytes", block_bytes)?;
        fields.set_item("data_blocks", outlook.data_blocks)?;
        fields.set_item("used_blocks", outlook.used_blocks)?;
        fields.set_item("highest_used_block", outlook.highest_used_block)?;
        fields.set_item("new_data_blocks", outlook.new_data_blocks)?;
        fields.set_item("moved_blocks", outlook.moved_blocks)?;
        fields.set_item("moves", outlook.moves)?;
        Ok(fields)
    }

    /// By what work that was begun is known.
    fn digest(&self) -> String {
        self.core.digest()
    }

    /// Does the part that is metadata, in a file of the caller's.
    #[pyo3(signature = (out_fd, out_name, *, grows, progress=None))]
    fn build<'py>(
        &self,
        py: Python<'py>,
        out_fd: RawFd,
        out_name: PathBuf,
        grows: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let output = work_output(py, out_fd, out_name, grows)?;
        let built = watched(py, progress, None, |task| self.core.build(output, task))?;
        built_fields(py, &built)
    }

    /// Claims the pool's data.
    fn open_data(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let opened = detached(py, || {
            let device = FileDevice::open_writable(path)?;
            self.core.check_data(&device)?;
            Ok(device)
        })?;
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        *data = Some(Arc::new(opened));
        Ok(())
    }

    /// Copies moved blocks `begin` to `end`, until they are durable.
    #[pyo3(signature = (begin, end, *, progress=None))]
    fn copy(
        &self,
        py: Python<'_>,
        begin: u64,
        end: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let data = self.data(py)?;
        watched(py, progress, None, |task| {
            self.core.copy(&*data, begin..end, task)
        })
    }

    /// Whether these are the same in both of their places.
    #[pyo3(signature = (begin, end, *, progress=None))]
    fn is_copied(
        &self,
        py: Python<'_>,
        begin: u64,
        end: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<bool> {
        let data = self.data(py)?;
        watched(py, progress, None, |task| {
            self.core.is_copied(&*data, begin..end, task)
        })
    }

    /// Lets go of the data.
    fn close(&self) {
        let mut data = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        *data = None;
    }
}
