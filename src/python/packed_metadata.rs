//! Metadata packed as thin_metadata_pack does it.

use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::buffer::{ReadableBytes, duplicate};
use super::call::{detached, watched};
use super::output::Out;
use crate::block::{BlockData, kind_of};
use crate::device::{Claim, Device, FileDevice, WorkFile};
use crate::task::Task;
use crate::tools::packed;
use crate::units::BLOCK_BYTES;

/// Packs the metadata at a path.
#[pyfunction]
#[pyo3(signature = (path, out, *, progress=None))]
pub(super) fn pack_metadata(
    py: Python<'_>,
    path: PathBuf,
    out: Out,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let mut out = out.open(py)?;
    let work = |task: &Task<'_>| {
        let device: Arc<dyn Device> = Arc::new(FileDevice::open(path, Claim::Unused)?);
        packed::pack(&device, &mut *out, task)
    };
    let done = watched(py, progress, None, work)?;
    let fields = PyDict::new(py);
    fields.set_item("metadata_blocks", done.metadata_blocks)?;
    fields.set_item("packed_blocks", done.packed_blocks)?;
    fields.set_item("left_out_blocks", done.left_out_blocks)?;
    fields.set_item("packed_bytes", done.packed_bytes)?;
    Ok(fields)
}

/// How many blocks the metadata have that a file holds.
#[pyfunction]
pub(super) fn packed_blocks(py: Python<'_>, fd: RawFd, name: PathBuf) -> PyResult<u64> {
    let file = File::from(duplicate(py, fd)?);
    detached(py, || packed::packed_blocks(&file, &name))
}

/// Unpacks such a file into one of the caller's, which is as large as the metadata are.
#[pyfunction]
#[pyo3(signature = (fd, name, out_fd, out_name, *, progress=None))]
pub(super) fn unpack_metadata(
    py: Python<'_>,
    fd: RawFd,
    name: PathBuf,
    out_fd: RawFd,
    out_name: PathBuf,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let file = File::from(duplicate(py, fd)?);
    let target = WorkFile::new(File::from(duplicate(py, out_fd)?), out_name);
    let work = |task: &Task<'_>| packed::unpack(&file, &name, &target, task);
    let done = watched(py, progress, None, work)?;
    let fields = PyDict::new(py);
    fields.set_item("metadata_blocks", done.metadata_blocks)?;
    fields.set_item("unpacked_blocks", done.unpacked_blocks)?;
    Ok(fields)
}

/// Which kind of metadata block this is by its checksum; `None` for anything else.
#[pyfunction]
pub(super) fn block_kind(data: &Bound<'_, PyAny>) -> PyResult<Option<&'static str>> {
    let bytes = ReadableBytes::new(data)?;
    let Some(first) = bytes.bytes().first_chunk::<BLOCK_BYTES>() else {
        return Ok(None);
    };
    let mut block = BlockData::zeroed();
    block.bytes_mut().copy_from_slice(first);
    Ok(kind_of(&block).map(|(kind, _)| kind))
}
