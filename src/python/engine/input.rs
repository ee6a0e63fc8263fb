//! What Python hands in: keys, bounds, values, and columns of them.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::exceptions::{PyBufferError, PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes};
use zerocopy::IntoBytes;

use super::arrow;
use crate::error::Error;
use crate::python::buffer::{copy_of_bytes, copy_of_integers};
use crate::python::error::exception;

/// Bytes of a value that is a number in Python.
pub(super) const WORD: usize = size_of::<u64>();

/// A usage error, raised.
pub(super) fn misuse(py: Python<'_>, text: impl Into<String>) -> PyErr {
    exception(py, Error::usage(text))
}

/// A number of 64 bits; what is none is the caller's mistake.
fn word(object: Borrowed<'_, '_, PyAny>, what: &str) -> PyResult<u64> {
    if object.is_exact_instance_of::<PyBool>() {
        let text = format!("{what} must be a number, not bool");
        return Err(PyTypeError::new_err(text));
    }
    object.extract().map_err(|error: PyErr| {
        let py = object.py();
        if error.is_instance_of::<PyOverflowError>(py) {
            return misuse(py, format!("{what} has 64 bits and no sign: {}", *object));
        }
        error
    })
}

/// A key.
#[derive(Clone, Copy)]
pub(super) struct Key(pub u64);

impl<'py> FromPyObject<'_, 'py> for Key {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        word(object, "a key").map(Self)
    }
}

/// What `in` is asked about: anything; what cannot be a key is in no tree.
pub(super) struct MaybeKey(pub Option<u64>);

impl<'py> FromPyObject<'_, 'py> for MaybeKey {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        Ok(Self(match object.is_exact_instance_of::<PyBool>() {
            true => None,
            false => object.extract().ok(),
        }))
    }
}

/// The end of a range: one past the last key, which for the last of all keys is
/// 2^64. `None` is no end.
#[derive(Clone, Copy)]
pub(super) struct Stop(pub Option<u64>);

impl<'py> FromPyObject<'_, 'py> for Stop {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if object.is_none() {
            return Ok(Self(None));
        }
        let raised = match word(object, "the end of a range") {
            Ok(stop) => return Ok(Self(Some(stop))),
            Err(raised) => raised,
        };
        match object.extract::<u128>() {
            Ok(stop) if stop == 1 << 64 => Ok(Self(None)),
            _ => Err(raised),
        }
    }
}

/// Writes a value of a tree to `out`, which has the size of the tree's values.
pub(super) fn value(object: &Bound<'_, PyAny>, out: &mut [u8]) -> PyResult<()> {
    let py = object.py();
    if let Ok(out) = <&mut [u8; WORD]>::try_from(&mut *out) {
        *out = word(object.as_borrowed(), "a value")?.to_le_bytes();
        return Ok(());
    }
    let wanted = out.len();
    let sized = |found: usize| {
        let text = format!("a value of {found} bytes for a tree of {wanted} bytes each");
        if found == wanted {
            Ok(())
        } else {
            Err(misuse(py, text))
        }
    };
    if let Ok(bytes) = object.cast::<PyBytes>() {
        sized(bytes.as_bytes().len())?;
        out.copy_from_slice(bytes.as_bytes());
        return Ok(());
    }
    let bytes = match PyUntypedBuffer::get(object) {
        Ok(export) => {
            sized(export.len_bytes())?;
            copy_of_bytes(object)?
        }
        Err(_) => {
            let kind = object.get_type().name()?;
            let text = format!("a value of this tree is {wanted} bytes, not {kind}");
            return Err(PyTypeError::new_err(text));
        }
    };
    sized(bytes.len())?;
    out.copy_from_slice(&bytes);
    Ok(())
}

/// A value as Python has it.
pub(super) fn value_object<'py>(py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    match <[u8; WORD]>::try_from(value) {
        Ok(bytes) => Ok(u64::from_le_bytes(bytes).into_pyobject(py)?.into_any()),
        Err(_) => Ok(PyBytes::new(py, value).into_any()),
    }
}

/// A column of 64-bit numbers from a buffer or from Arrow, copied.
pub(super) fn words(object: &Bound<'_, PyAny>, what: &str) -> PyResult<Vec<u64>> {
    let py = object.py();
    let found = match arrow::words(object)? {
        Some(found) => Some(found),
        None => match copy_of_integers(object) {
            Err(error) if error.is_instance_of::<PyTypeError>(py) => None,
            Err(error) if error.is_instance_of::<PyBufferError>(py) => None,
            answer => answer?,
        },
    };
    match found {
        Some((words, None)) => Ok(words),
        Some((_, Some(negative))) => Err(misuse(
            py,
            format!("{what} have no sign: {negative} is there"),
        )),
        None => {
            let kind = object.get_type().name()?;
            let text = format!(
                "{what} are 64-bit integers in a buffer or in Arrow, as array.array(\"Q\") \
                 or numpy.uint64 has them; this is {kind}"
            );
            Err(PyTypeError::new_err(text))
        }
    }
}

/// A column of 64-bit numbers that comes through Arrow, copied; `None`: it does not.
pub(in crate::python) fn arrow_words(
    object: &Bound<'_, PyAny>,
    what: &str,
) -> PyResult<Option<Vec<u64>>> {
    match arrow::words(object)? {
        Some((_, Some(negative))) => Err(misuse(
            object.py(),
            format!("{what} have no sign: {negative} is there"),
        )),
        found => Ok(found.map(|(words, _)| words)),
    }
}

/// A column of `count` values, packed.
pub(super) fn packed_values(
    object: &Bound<'_, PyAny>,
    count: usize,
    value_bytes: usize,
) -> PyResult<PackedValues> {
    let py = object.py();
    if value_bytes == WORD {
        let mut words = words(object, "values")?;
        if words.len() != count {
            let text = format!("{count} keys and {} values", words.len());
            return Err(misuse(py, text));
        }
        if cfg!(target_endian = "big") {
            words.iter_mut().for_each(|word| *word = word.to_le());
        }
        return Ok(PackedValues::Words(words));
    }
    let bytes = match arrow::packed(object, value_bytes)? {
        Some(bytes) => bytes,
        None => copy_of_bytes(object)?,
    };
    if count.checked_mul(value_bytes) != Some(bytes.len()) {
        let text = format!(
            "{count} keys and {} bytes of values, {value_bytes} bytes each",
            bytes.len()
        );
        return Err(misuse(py, text));
    }
    Ok(PackedValues::Bytes(bytes))
}

/// Values one after the other, as nodes have them.
pub(super) enum PackedValues {
    Words(Vec<u64>),
    Bytes(Vec<u8>),
}

impl PackedValues {
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Words(words) => words.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}
