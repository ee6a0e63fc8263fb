//! Numbers that Python hands in: a bool is none, and what does not fit is a
//! mistake of the caller's.

use std::path::PathBuf;

use pyo3::exceptions::{PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::error::Error;
use crate::python::error::exception;

/// A number without a sign of at most so many bits.
fn number<'py, T>(object: Borrowed<'_, 'py, PyAny>, what: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    if object.is_exact_instance_of::<PyBool>() {
        let text = format!("{what} must be a number, not bool");
        return Err(PyTypeError::new_err(text));
    }
    object.extract().map_err(|error: PyErr| {
        let py = object.py();
        if error.is_instance_of::<PyOverflowError>(py) {
            let text = format!("{} cannot be {what}", *object);
            return exception(py, Error::Usage(text));
        }
        error
    })
}

/// A type for each thing that is counted, so that messages can name it.
macro_rules! arguments {
    ($($(#[$doc:meta])* $name:ident($inner:ty), $what:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub(super) struct $name(pub $inner);

        impl<'py> FromPyObject<'_, 'py> for $name {
            type Error = PyErr;

            fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
                number(object, $what).map(Self)
            }
        }
    )*};
}

arguments! {
    /// A block of the device, or of what a space map counts.
    Block(u64), "a block";
    /// How many blocks.
    Blocks(u64), "a number of blocks";
    /// How many references.
    Count(u32), "a reference count";
    /// How large a cache may be.
    CacheBytes(u64), "cache_bytes";
    /// A place in a block, or a length there.
    Offset(usize), "an offset";
    /// What sets one kind's checksums apart.
    Salt(u32), "a salt";
    /// What sets one format apart.
    Magic(u64), "a magic number";
}

/// A path in any of the forms that `open` takes.
pub(super) struct FilePath(pub PathBuf);

impl<'py> FromPyObject<'_, 'py> for FilePath {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let os = object.py().import("os")?;
        let path = os.call_method1("fsdecode", (&*object,))?;
        path.extract().map(Self)
    }
}
