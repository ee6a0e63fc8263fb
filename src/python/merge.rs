//! A snapshot's content for its origin.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::call::watched;
use super::new_metadata::{built_fields, work_output};
use crate::task::Task;
use crate::thin::{OpenOptions, Pool};
use crate::tools::merge as core;

/// A merge that is planned. The input is ours until this is dropped.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Merge(core::Merge);

#[pymethods]
impl Merge {
    #[new]
    #[pyo3(signature = (
        path, *, origin_id, snapshot_id, keep_snapshot=false, overlay=false, progress=None
    ))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        origin_id: u64,
        snapshot_id: u64,
        keep_snapshot: bool,
        overlay: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = core::MergeOptions {
            origin: origin_id,
            snapshot: snapshot_id,
            keep_snapshot,
            overlay,
        };
        let work = |task: &Task<'_>| {
            let pool = Arc::new(Pool::open(path, &OpenOptions::default())?);
            core::Merge::plan(pool, options, task)
        };
        watched(py, progress, None, work).map(Self)
    }

    /// What will be done.
    fn outlook<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let outlook = self.0.outlook();
        let fields = PyDict::new(py);
        let block_bytes = self.0.pool().superblock().data_block_bytes();
        fields.set_item("block_bytes", block_bytes)?;
        fields.set_item("origin_blocks", outlook.origin_blocks)?;
        fields.set_item("snapshot_blocks", outlook.snapshot_blocks)?;
        fields.set_item("merged_blocks", outlook.merged_blocks)?;
        fields.set_item("common_blocks", outlook.common_blocks)?;
        fields.set_item("replaced_blocks", outlook.replaced_blocks)?;
        fields.set_item("added_blocks", outlook.added_blocks)?;
        fields.set_item("origin_only_blocks", outlook.origin_only_blocks)?;
        fields.set_item("freed_blocks", outlook.freed_blocks)?;
        Ok(fields)
    }

    /// Does it, in a file of the caller's.
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
        let built = watched(py, progress, None, |task| self.0.build(output, task))?;
        built_fields(py, &built)
    }
}
