//! Tools that make a pool's metadata anew, and where these go.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::buffer::duplicate;
use super::call::{detached, watched};
use crate::build::{Built, Output, publish, publish_image};
use crate::device::{Device, FileDevice, WorkFile};
use crate::error::Error;
use crate::tools::restore::{RestoreOptions, restore as restore_xml};
use crate::units::BLOCK_BYTES;

/// A file that nobody else knows, and how its size is found.
pub(super) fn work_output(
    py: Python<'_>,
    out_fd: RawFd,
    name: PathBuf,
    grows: bool,
) -> PyResult<Output> {
    let file = File::from(duplicate(py, out_fd)?);
    let device: Arc<dyn Device> = Arc::new(WorkFile::new(file, name));
    Ok(if grows {
        Output::Growing(device)
    } else {
        Output::Fixed(device)
    })
}

/// What was built, as Python has it.
pub(super) fn built_fields<'py>(py: Python<'py>, built: &Built) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("metadata_blocks", built.metadata_blocks)?;
    fields.set_item("metadata_blocks_used", built.metadata_blocks_used)?;
    fields.set_item("data_blocks_used", built.data_blocks_used)?;
    fields.set_item("devices", built.devices)?;
    fields.set_item("mapped_blocks", built.mapped_blocks)?;
    Ok(fields)
}

/// Makes metadata in a file of the caller's from XML.
#[pyfunction]
#[pyo3(signature = (
    xml_fd, xml_name, out_fd, out_name, *, grows, transaction_id=None,
    data_block_size_sectors=None, nr_data_blocks=None, only_raise=false, flags=None,
    progress=None
))]
#[allow(clippy::too_many_arguments)] // they are Python's
pub(super) fn restore(
    py: Python<'_>,
    xml_fd: RawFd,
    xml_name: PathBuf,
    out_fd: RawFd,
    out_name: PathBuf,
    grows: bool,
    transaction_id: Option<u64>,
    data_block_size_sectors: Option<u32>,
    nr_data_blocks: Option<u64>,
    only_raise: bool,
    flags: Option<u32>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let input = File::from(duplicate(py, xml_fd)?);
    let output = work_output(py, out_fd, out_name, grows)?;
    let options = RestoreOptions {
        transaction_id,
        data_block_size_sectors,
        nr_data_blocks,
        only_raise,
        flags,
    };
    let work = |task: &crate::task::Task<'_>| restore_xml(input, &xml_name, output, &options, task);
    let built = watched(py, progress, None, work)?;
    built_fields(py, &built)
}

/// A file or block device that metadata will go to, claimed until it is closed.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct MetadataTarget {
    device: Mutex<Option<Arc<FileDevice>>>,
    path: PathBuf,
}

impl MetadataTarget {
    fn device(&self, py: Python<'_>) -> PyResult<Arc<FileDevice>> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = || Error::usage(format!("{} is closed", self.path.display()));
        let device = device.clone().ok_or_else(closed);
        device.map_err(|error| super::error::exception(py, error))
    }
}

#[pymethods]
impl MetadataTarget {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        let device = detached(py, || FileDevice::open_writable(&path))?;
        Ok(Self {
            device: Mutex::new(Some(Arc::new(device))),
            path,
        })
    }

    #[getter]
    fn metadata_blocks(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.device(py)?.size_bytes() / BLOCK_BYTES as u64)
    }

    #[getter]
    fn is_block_device(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.device(py)?.is_block_device())
    }

    /// Puts there what was built in a file of the caller's.
    #[pyo3(signature = (from_fd, used_blocks, *, progress=None))]
    fn publish(
        &self,
        py: Python<'_>,
        from_fd: RawFd,
        used_blocks: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let to = self.device(py)?;
        let from = File::from(duplicate(py, from_fd)?);
        let from = WorkFile::new(from, self.path.clone());
        watched(py, progress, None, |task| {
            publish(&from, &*to, used_blocks, task)
        })
    }

    /// Puts there what a file of the caller's has, so many blocks, whatever they are.
    #[pyo3(signature = (from_fd, blocks, *, progress=None))]
    fn publish_image(
        &self,
        py: Python<'_>,
        from_fd: RawFd,
        blocks: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let to = self.device(py)?;
        let from = File::from(duplicate(py, from_fd)?);
        let from = WorkFile::new(from, self.path.clone());
        watched(py, progress, None, |task| {
            publish_image(&from, &*to, blocks, task)
        })
    }

    fn close(&self) {
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        *device = None;
    }
}
