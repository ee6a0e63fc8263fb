//! A volume's bytes, to be changed.

use std::ops::Range;
use std::sync::Arc;

use pyo3::prelude::*;

use super::buffer::{ReadableBytes, WritableBytes};
use super::call::detached;
use super::handle::State;
use super::opened_volume::OpenedVolume;
use crate::device::Device;
use crate::error::Result;
use crate::thin::{self, PoolWriter, VolumeOptions};

/// An open volume that is written. It must not keep its pool open, and so finds the
/// core's pool anew for each call.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct WritableVolume {
    state: Arc<State>,
    id: u64,
    opened: OpenedVolume,
}

impl WritableVolume {
    pub fn open(
        state: &Arc<State>,
        writer: &Arc<PoolWriter>,
        id: u64,
        size_bytes: Option<u64>,
        external_origin: Option<Arc<dyn Device>>,
    ) -> Result<Self> {
        let options = VolumeOptions {
            size_bytes,
            external_origin: external_origin.clone(),
        };
        let volume = thin::WritableVolume::open(writer, id, options)?;
        let (size_bytes, size_is_known) = (volume.size_bytes(), volume.size_is_known());
        Ok(Self {
            state: Arc::clone(state),
            id,
            opened: OpenedVolume::new(size_bytes, size_is_known, external_origin),
        })
    }

    /// Calls the core, detached.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&thin::WritableVolume) -> Result<T> + Send,
    ) -> PyResult<T> {
        let origin = self.opened.options(py)?.external_origin;
        let writer = self.state.writing(py)?;
        let size_bytes = self.opened.size_bytes;
        let volume = thin::WritableVolume::again(&writer, self.id, size_bytes, origin);
        detached(py, || work(&volume))
    }
}

#[pymethods]
impl WritableVolume {
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
        self.opened.close(py);
    }
}
