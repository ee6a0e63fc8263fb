//! A volume's bytes.

use std::fs::File;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::buffer::{WritableBytes, duplicate};
use super::call::{detached, watched};
use super::error::exception;
use super::handle::Handle;
use crate::device::Device;
use crate::error::Error;
use crate::thin::{self, VolumeOptions};
use crate::tools::extract::extract;

/// An open volume. It must not keep its pool open, and so puts the core's volume
/// together for each call.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Volume {
    handle: Handle,
    size_bytes: u64,
    size_is_known: bool,
    /// `None` when closed.
    options: Mutex<Option<VolumeOptions>>,
}

impl Volume {
    pub fn open(
        handle: &Handle,
        size_bytes: Option<u64>,
        external_origin: Option<Arc<dyn Device>>,
    ) -> crate::Result<Self> {
        let mut options = VolumeOptions {
            size_bytes,
            external_origin,
        };
        let volume = thin::Volume::new(&*handle.get()?, options.clone())?;
        options.size_bytes = Some(volume.size_bytes());
        Ok(Self {
            handle: handle.clone(),
            size_bytes: volume.size_bytes(),
            size_is_known: volume.size_is_known(),
            options: Mutex::new(Some(options)),
        })
    }

    fn volume(&self, py: Python<'_>) -> PyResult<thin::Volume> {
        let closed = || exception(py, Error::usage("the volume is closed"));
        let options = self.lock(py).clone().ok_or_else(closed)?;
        let device = self.handle.device(py)?;
        // The size is known by now, so that nothing is read here.
        thin::Volume::new(&device, options).map_err(|error| exception(py, error))
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Option<VolumeOptions>> {
        let options = self.options.lock_py_attached(py);
        options.unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Volume {
    #[getter]
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    #[getter]
    fn size_is_known(&self) -> bool {
        self.size_is_known
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
        let options = self.lock(py).take();
        py.detach(|| drop(options));
    }
}
