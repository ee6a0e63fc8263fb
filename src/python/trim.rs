//! Free data blocks, given up.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::call::{detached, watched};
use crate::device::{Claim, Device, FileDevice};
use crate::task::Task;
use crate::tools::trim as core;

/// A trim that is planned. The metadata are ours until this is dropped.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Trim(core::Trim);

#[pymethods]
impl Trim {
    #[new]
    #[pyo3(signature = (path, *, like_1_x=false, progress=None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        like_1_x: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let work = |task: &Task<'_>| {
            let device: Arc<dyn Device> = Arc::new(FileDevice::open(path, Claim::Unused)?);
            core::Trim::plan(device, like_1_x, task)
        };
        watched(py, progress, None, work).map(Self)
    }

    /// What will be done.
    fn outlook<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let outlook = self.0.outlook();
        let fields = PyDict::new(py);
        fields.set_item("block_bytes", outlook.block_bytes)?;
        fields.set_item("data_blocks", outlook.data_blocks)?;
        fields.set_item("used_blocks", outlook.used_blocks)?;
        fields.set_item("leaked_blocks", outlook.leaked_blocks)?;
        fields.set_item("discarded_blocks", outlook.free_blocks)?;
        let first: Vec<_> = outlook.first.iter().map(|r| (r.start, r.end)).collect();
        fields.set_item("ranges", first)?;
        fields.set_item("ranges_total", outlook.ranges)?;
        Ok(fields)
    }

    /// Whether the data can be the pool's, and nobody uses them; an error if not.
    fn check_data(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        detached(py, || {
            self.0.check_data(&FileDevice::open(path, Claim::Unused)?)
        })
    }

    /// Does it.
    #[pyo3(signature = (path, *, progress=None))]
    fn run(&self, py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<()> {
        watched(py, progress, None, |task| {
            self.0.run(&FileDevice::open_writable(path)?, task)
        })
    }
}
