//! A volume's bytes.

use std::fs::File;
use std::os::fd::RawFd;
use std::sync::Arc;

use pyo3::prelude::*;

use super::buffer::{WritableBytes, duplicate};
use super::call::{detached, watched};
use super::error::exception;
use super::handle::Handle;
use super::opened_volume::OpenedVolume;
use crate::device::Device;
use crate::thin::{self, VolumeOptions};
use crate::tools::extract::extract;

/// An open volume. It must not keep its pool open, and so puts the core's volume
/// together for each call.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Volume {
    handle: Handle,
    opened: OpenedVolume,
}

impl Volume {
    pub fn open(
        handle: &Handle,
        size_bytes: Option<u64>,
        external_origin: Option<Arc<dyn Device>>,
    ) -> crate::Result<Self> {
        let options = VolumeOptions {
            size_bytes,
            external_origin: external_origin.clone(),
        };
        let volume = thin::Volume::new(&*handle.get()?, options)?;
        let (size_bytes, size_is_known) = (volume.size_bytes(), volume.size_is_known());
        Ok(Self {
            handle: handle.clone(),
            opened: OpenedVolume::new(size_bytes, size_is_known, external_origin),
        })
    }

    fn volume(&self, py: Python<'_>) -> PyResult<thin::Volume> {
        let options = self.opened.options(py)?;
        let device = self.handle.device(py)?;
        // The size is known by now, so that nothing is read here.
        thin::Volume::new(&device, options).map_err(|error| exception(py, error))
    }
}

#[pymethods]
impl Volume {
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.opened.size_bytes
    }

    #[getter]
    fn size_is_known(&self) -> bool {
        self.opened.size_is_known
    }

    fn read_at(
        &self,
        py: Python<'_>,
        offset_bytes: u64,
        buffer: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let volume = self.volume(py)?;
        let mut buffer = WritableBytes::new(buffer)?;
        detached(py, || volume.read_at(buffer.bytes(), offset_bytes))
    }

    #[pyo3(signature = (out_fd, *, progress=None))]
    fn extract(
        &self,
        py: Python<'_>,
        out_fd: RawFd,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(String, u64, u64)> {
        let volume = self.volume(py)?;
        let out = File::from(duplicate(py, out_fd)?);
        let done = watched(py, progress, None, |task| extract(&volume, &out, task))?;
        Ok((done.sha256, done.size_bytes, done.mapped_bytes))
    }

    fn close(&self, py: Python<'_>) {
        self.opened.close(py);
    }
}
