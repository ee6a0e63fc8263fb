//! A volume's bytes, to be changed.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::buffer::{ReadableBytes, WritableBytes};
use super::call::detached;
use super::error::exception;
use super::handle::State;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::thin::{self, PoolWriter, VolumeOptions};

/// An open volume that is written. It must not keep its pool open, and so finds the
/// core's pool anew for each call.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct WritableVolume {
    state: Arc<State>,
    id: u64,
    size_bytes: u64,
    size_is_known: bool,
    /// `None` when closed.
    options: Mutex<Option<VolumeOptions>>,
}

impl WritableVolume {
    pub fn open(
        state: &Arc<State>,
        writer: &Arc<PoolWriter>,
        id: u64,
        size_bytes: Option<u64>,
        external_origin: Option<Arc<dyn Device>>,
    ) -> Result<Self> {
        let mut options = VolumeOptions {
            size_bytes,
            external_origin,
        };
        let volume = thin::WritableVolume::open(writer, id, options.clone())?;
        options.size_bytes = Some(volume.size_bytes());
        Ok(Self {
            state: Arc::clone(state),
            id,
            size_bytes: volume.size_bytes(),
            size_is_known: volume.size_is_known(),
            options: Mutex::new(Some(options)),
        })
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Option<VolumeOptions>> {
        let options = self.options.lock_py_attached(py);
        options.unwrap_or_else(PoisonError::into_inner)
    }

    /// Calls the core, detached.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&thin::WritableVolume) -> Result<T> + Send,
    ) -> PyResult<T> {
        let options = self.lock(py).clone();
        let closed = || exception(py, Error::usage("the volume is closed"));
        let origin = options.ok_or_else(closed)?.external_origin;
        let writer = self.state.writing(py)?;
        let volume = thin::WritableVolume::again(&writer, self.id, self.size_bytes, origin);
        detached(py, || work(&volume))
    }
}

#[pymethods]
impl WritableVolume {
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
        let mut buffer = WritableBytes::new(buffer)?;
        self.call(py, |volume| volume.read_at(buffer.bytes(), offset_bytes))
    }

    fn write_at(
        &self,
        py: Python<'_>,
        offset_bytes: u64,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let data = ReadableBytes::new(data)?;
        self.call(py, |volume| volume.write_at(data.bytes(), offset_bytes))
    }

    fn discard(&self, py: Python<'_>, begin_bytes: u64, end_bytes: u64) -> PyResult<u64> {
        let bytes: Range<u64> = begin_bytes..end_bytes;
        self.call(py, |volume| volume.discard(bytes))
    }

    /// Commits what the volumes of the pool have written.
    fn flush(&self, py: Python<'_>) -> PyResult<()> {
        if self.state.is_closed(py) {
            // Which committed it.
            return Ok(());
        }
        let writer = self.state.writing(py)?;
        detached(py, || {
            let answer = writer.flush_volume(self.id);
            self.state.after_commit();
            answer
        })
    }

    fn close(&self, py: Python<'_>) {
        let options = self.lock(py).take();
        py.detach(|| drop(options));
    }
}
