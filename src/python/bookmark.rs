//! Saved mappings.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use super::buffer::{Column, duplicate};
use super::call::{detached, watched};
use super::mappings::Run;
use super::thin_device::stretches;
use crate::bookmark::{self, Head, SavedRuns};
use crate::tools::changes;
use crate::tools::delta::Sided;

/// Runs that are fetched at once.
const RUNS_AT_ONCE: usize = 1024;

/// A bookmark that was found sound when it was opened.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Bookmark(bookmark::Bookmark);

impl Bookmark {
    pub fn core(&self) -> &bookmark::Bookmark {
        &self.0
    }
}

#[pymethods]
impl Bookmark {
    #[new]
    #[pyo3(signature = (path, *, progress=None))]
    fn new(py: Python<'_>, path: PathBuf, progress: Option<Py<PyAny>>) -> PyResult<Self> {
        let open = |task: &crate::task::Task<'_>| bookmark::Bookmark::open(&path, task);
        watched(py, progress, None, open).map(Self)
    }

    fn head<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let fields = head_fields(py, self.0.head())?;
        fields.set_item("end_blocks", self.0.end_blocks())?;
        Ok(fields)
    }

    /// As `ThinDevice._changes`, to this.
    #[pyo3(signature = (base, base_bytes, size_bytes, *, progress=None))]
    fn changes(
        &self,
        py: Python<'_>,
        base: Option<Py<Bookmark>>,
        base_bytes: u64,
        size_bytes: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Column, Column)> {
        let now = Sided::Saved(&self.0);
        let base = base.as_ref().map(|base| Sided::Saved(base.get().core()));
        let found = watched(py, progress, None, |task| match &base {
            None => changes::whole(&now, size_bytes, task),
            Some(base) => changes::since(base, base_bytes, &now, size_bytes, task),
        })?;
        Ok(stretches(found))
    }

    fn runs(&self, py: Python<'_>) -> PyResult<SavedRunIterator> {
        let runs = detached(py, || self.0.runs())?;
        Ok(SavedRunIterator(Mutex::new((runs, Vec::new().into_iter()))))
    }
}

pub(super) fn save(
    py: Python<'_>,
    device: &crate::thin::ThinDevice,
    out_fd: RawFd,
    size_bytes: Option<u64>,
    pool_uuid: &str,
    progress: Option<Py<PyAny>>,
) -> PyResult<()> {
    let out = File::from(duplicate(py, out_fd)?);
    watched(py, progress, None, |task| {
        bookmark::save(device, size_bytes, pool_uuid, &out, task).map(drop)
    })
}

fn head_fields<'py>(py: Python<'py>, head: &Head) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("device_id", head.device_id)?;
    fields.set_item("creation_time", head.creation_time)?;
    fields.set_item("pool_time", head.pool_time)?;
    fields.set_item("transaction_id", head.transaction_id)?;
    fields.set_item("data_block_size_sectors", head.data_block_size_sectors)?;
    fields.set_item("size_bytes", head.size_bytes)?;
    fields.set_item("mapped_blocks", head.mapped_blocks)?;
    fields.set_item("digest", PyBytes::new(py, &head.digest))?;
    fields.set_item("pool_uuid", &head.pool_uuid)?;
    Ok(fields)
}

/// Runs of a bookmark, a thousand read ahead.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct SavedRunIterator(Mutex<(SavedRuns, std::vec::IntoIter<Run>)>);

#[pymethods]
impl SavedRunIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__(&self, py: Python<'_>) -> PyResult<Option<Run>> {
        detached(py, || {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(run) = state.1.next() {
                return Ok(Some(run));
            }
            let mut runs = Vec::new();
            while runs.len() < RUNS_AT_ONCE {
                match state.0.next_run()? {
                    Some(run) => runs.push(Run::from(run)),
                    None => break,
                }
            }
            state.1 = runs.into_iter();
            Ok(state.1.next())
        })
    }
}
