//! One thin device of an open pool.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyDict};

use super::bookmark;
use super::buffer::{Column, copy_of_numbers};
use super::call::{detached, watched};
use super::error::exception;
use super::handle::Handle;
use super::mappings::{BlockMapping, Mappings, RunIterator};
use super::origin::PythonFile;
use super::pool::{DeltaSide, Pool};
use super::volume::Volume;
use super::writable_volume::WritableVolume;
use crate::bookmark::summary_of;
use crate::btree::Wait;
use crate::device::{Device, FileDevice};
use crate::error::Error;
use crate::thin::{self, DeviceInfo, Position};
use crate::tools::changes;
use crate::tools::delta::Sided;

/// A thin device. What it shows of itself outlives its pool.
#[pyclass(frozen, subclass, module = "thinmeta._core")]
pub(super) struct ThinDevice {
    pool: Py<Pool>,
    info: DeviceInfo,
    handle: Handle,
}

/// A block of a volume; what no volume can have is a mistake of the caller's.
struct VirtualBlock(u64);

impl<'py> FromPyObject<'_, 'py> for VirtualBlock {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_exact_instance_of::<PyBool>() {
            return Err(PyTypeError::new_err("a block must be a number, not bool"));
        }
        object.extract().map(Self).map_err(|error: PyErr| {
            let py = object.py();
            if error.is_instance_of::<PyOverflowError>(py) {
                let text = format!("no volume has a block {}", *object);
                return exception(py, Error::usage(text));
            }
            error
        })
    }
}

/// What a volume shows where nothing is mapped.
#[derive(FromPyObject)]
enum ExternalOrigin {
    Path(PathBuf),
    File(Py<PyAny>),
}

impl ExternalOrigin {
    fn open(self, device: &thin::ThinDevice) -> crate::Result<Arc<dyn Device>> {
        Ok(match self {
            Self::Path(path) => Arc::new(FileDevice::open(path, device.pool().claim())?),
            Self::File(file) => Arc::new(PythonFile::new(file)?),
        })
    }
}

impl ThinDevice {
    /// As of the last commit; of a pool that was closed, as of when it was asked for.
    fn info(&self, py: Python<'_>) -> PyResult<DeviceInfo> {
        if self.handle.is_current() || self.handle.state().is_closed(py) {
            return Ok(self.info);
        }
        Ok(*self.handle.device(py)?.info())
    }
}

#[pymethods]
impl ThinDevice {
    #[new]
    fn new(py: Python<'_>, pool: Py<Pool>, device_id: u64) -> PyResult<Self> {
        let state = pool.get().state();
        let commit = state.commits();
        let device = state.device(py, device_id)?;
        Ok(Self {
            info: *device.info(),
            handle: Handle::new(state, &device, commit),
            pool,
        })
    }

    #[getter]
    fn id(&self) -> u64 {
        self.info.id
    }

    #[getter]
    fn mapped_blocks(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.info(py)?.mapped_blocks)
    }

    #[getter]
    fn transaction_id(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.info(py)?.transaction_id)
    }

    #[getter]
    fn creation_time(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.info(py)?.creation_time)
    }

    #[getter]
    fn snapshotted_time(&self, py: Python<'_>) -> PyResult<u32> {
        Ok(self.info(py)?.snapshotted_time)
    }

    /// Stays attached when all nodes are cached and nobody is in the way.
    fn find(&self, py: Python<'_>, virtual_block: VirtualBlock) -> PyResult<Option<BlockMapping>> {
        let device = self.handle.device(py)?;
        let found = match device.find(virtual_block.0, Wait::No) {
            Err(Error::WouldBlock) => py.detach(|| device.find(virtual_block.0, Wait::Yes)),
            answer => answer,
        };
        match found {
            Ok(found) => Ok(found.map(BlockMapping::from)),
            Err(error) => Err(exception(py, error)),
        }
    }

    fn find_many<'py>(
        &self,
        py: Python<'py>,
        virtual_blocks: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let device = self.handle.device(py)?;
        let keys = copy_of_numbers(virtual_blocks)?;
        let found = watched(py, None, None, |task| device.find_many(&keys, task))?;
        let table = PyDict::new(py);
        table.set_item("data_block", Column::of(found.data_blocks))?;
        table.set_item("time", Column::of(found.times))?;
        table.set_item("shared", Column::of(found.shared))?;
        table.set_item("mapped", Column::of(found.mapped))?;
        Ok(table)
    }

    #[pyo3(
        signature = (start=VirtualBlock(0), stop=None),
        text_signature = "($self, start=0, stop=None)"
    )]
    fn runs(
        &self,
        py: Python<'_>,
        start: VirtualBlock,
        stop: Option<VirtualBlock>,
    ) -> PyResult<RunIterator> {
        self.handle.device(py)?;
        let position = Position::new(start.0, stop.map(|stop| stop.0));
        Ok(RunIterator::new(self.handle.clone(), position))
    }

    fn mappings(&self, py: Python<'_>) -> PyResult<Mappings> {
        self.handle.device(py)?;
        Ok(Mappings::new(self.handle.clone()))
    }

    /// BLAKE3 of all mappings, whether it is a snapshot that nobody has written to, and one
    /// past its last mapped block.
    #[pyo3(signature = (*, progress=None))]
    fn _summary<'py>(
        &self,
        py: Python<'py>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Bound<'py, PyBytes>, bool, u64)> {
        let device = self.handle.device(py)?;
        let found = watched(py, progress, None, |task| summary_of(&device, task))?;
        Ok((
            PyBytes::new(py, &found.digest),
            found.is_snapshot,
            found.end_blocks,
        ))
    }

    #[pyo3(signature = (out_fd, *, size_bytes=None, pool_uuid="", progress=None))]
    fn _save_bookmark(
        &self,
        py: Python<'_>,
        out_fd: RawFd,
        size_bytes: Option<u64>,
        pool_uuid: &str,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let device = self.handle.device(py)?;
        bookmark::save(py, &device, out_fd, size_bytes, pool_uuid, progress)
    }

    /// Stretches of bytes to be read, and of zeros, as pairs of where and how long: from a
    /// base of `base_bytes` (or nothing) to this, a volume of `size_bytes`.
    #[pyo3(signature = (base, base_bytes, size_bytes, *, progress=None))]
    fn _changes(
        &self,
        py: Python<'_>,
        base: Option<DeltaSide>,
        base_bytes: u64,
        size_bytes: u64,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(Column, Column)> {
        let device = self.handle.device(py)?;
        let found = watched(py, progress, None, |task| match &base {
            None => changes::whole(&Sided::Device(&device), size_bytes, task),
            Some(base) => {
                let other = base.device(device.pool())?;
                let (base, now) = (base.sided(other.as_ref())?, Sided::Device(&device));
                changes::since(&base, base_bytes, &now, size_bytes, task)
            }
        })?;
        Ok(stretches(found))
    }

    #[pyo3(signature = (*, size_bytes=None, external_origin=None))]
    fn _volume(
        &self,
        py: Python<'_>,
        size_bytes: Option<u64>,
        external_origin: Option<ExternalOrigin>,
    ) -> PyResult<Volume> {
        let device = self.handle.device(py)?;
        detached(py, || {
            let origin = external_origin.map(|origin| origin.open(&device));
            Volume::open(&self.handle, size_bytes, origin.transpose()?)
        })
    }

    #[pyo3(signature = (*, size_bytes=None, external_origin=None))]
    fn _writable_volume(
        &self,
        py: Python<'_>,
        size_bytes: Option<u64>,
        external_origin: Option<ExternalOrigin>,
    ) -> PyResult<WritableVolume> {
        let state = self.handle.state();
        let writer = state.writing(py)?;
        let device = self.handle.device(py)?;
        detached(py, || {
            let origin = external_origin.map(|origin| origin.open(&device));
            WritableVolume::open(
                state,
                &writer,
                self.info.id,
                size_bytes,
                origin.transpose()?,
            )
        })
    }

    fn _pool(&self, py: Python<'_>) -> Py<Pool> {
        self.pool.clone_ref(py)
    }
}

/// As columns of numbers: where, how long, where, how long.
pub(super) fn stretches(found: changes::Changes) -> (Column, Column) {
    let column = |stretches: changes::Stretches| Column::of(stretches.into_flattened());
    (column(found.data), column(found.zero))
}
