//! Checksums, hashes and compression of bytes.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::{ReadableBytes, WritableBytes};
use super::call::detached;
use super::error::exception;
use crate::pack;

/// Shorter input is not worth letting others run meanwhile.
const ATTACHED_BYTES: usize = 4096;

fn outside<T: Send>(py: Python<'_>, bytes: &[u8], work: impl FnOnce() -> T + Send) -> T {
    if bytes.len() <= ATTACHED_BYTES {
        return work();
    }
    py.detach(work)
}

/// CRC-32C of one buffer, or of two as if they were one.
#[pyfunction]
#[pyo3(signature = (first, second=None, /))]
pub(super) fn crc32c(
    py: Python<'_>,
    first: &Bound<'_, PyAny>,
    second: Option<&Bound<'_, PyAny>>,
) -> PyResult<u32> {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    for buffer in std::iter::once(first).chain(second) {
        let bytes = ReadableBytes::new(buffer)?;
        let bytes = bytes.bytes();
        outside(py, bytes, || digest.update(bytes));
    }
    Ok(u32::try_from(digest.finalize()).unwrap_or_default())
}

/// BLAKE3 of bytes that come one after the other.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Blake3(Mutex<blake3::Hasher>);

#[pymethods]
impl Blake3 {
    #[new]
    #[pyo3(signature = (data=None, /, *, key=None))]
    fn new(
        py: Python<'_>,
        data: Option<&Bound<'_, PyAny>>,
        key: Option<[u8; 32]>,
    ) -> PyResult<Self> {
        let hasher = key.map_or_else(blake3::Hasher::new, |key| blake3::Hasher::new_keyed(&key));
        let hasher = Self(Mutex::new(hasher));
        if let Some(data) = data {
            hasher.update(py, data)?;
        }
        Ok(hasher)
    }

    fn update(&self, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let bytes = ReadableBytes::new(data)?;
        let bytes = bytes.bytes();
        // Whoever waits for the lock must not keep the interpreter from who has it.
        py.detach(|| {
            let mut hasher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            hasher.update(bytes);
        });
        Ok(())
    }

    /// 32 bytes, of what came up to now.
    fn digest<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let digest = py.detach(|| {
            let hasher = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            hasher.finalize()
        });
        PyBytes::new(py, digest.as_bytes())
    }
}

/// The buffer as a zstd frame, or nothing where that would not be shorter.
#[pyfunction]
#[pyo3(signature = (data, /, level=1))]
pub(super) fn compress<'py>(
    py: Python<'py>,
    data: &Bound<'py, PyAny>,
    level: i32,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let bytes = ReadableBytes::new(data)?;
    let bytes = bytes.bytes();
    let mut out = Vec::new();
    let shorter = detached(py, || Ok(pack::Codec::new(level)?.append(bytes, &mut out)))?;
    Ok(shorter.then(|| PyBytes::new(py, &out)))
}

/// Fills `into` with what a zstd frame holds, which has to be that long.
#[pyfunction]
#[pyo3(signature = (data, into, /))]
pub(super) fn decompress(
    py: Python<'_>,
    data: &Bound<'_, PyAny>,
    into: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let bytes = ReadableBytes::new(data)?;
    let mut into = WritableBytes::new(into)?;
    let bytes = bytes.bytes();
    py.detach(|| pack::decompress(bytes, into.bytes()))
        .map_err(|error| exception(py, error))
}

/// Whether every byte of the buffer is zero.
#[pyfunction]
#[pyo3(signature = (data, /))]
pub(super) fn is_zero(py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<bool> {
    let bytes = ReadableBytes::new(data)?;
    let bytes = bytes.bytes();
    Ok(outside(py, bytes, || pack::is_zero(bytes)))
}
