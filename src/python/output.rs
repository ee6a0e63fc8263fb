//! Where a dump goes: a file descriptor or an object that writes.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::RawFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::duplicate;

/// What Python gave to be written to.
#[derive(FromPyObject)]
pub(super) enum Out {
    Descriptor(RawFd),
    Writer(Py<PyAny>),
}

impl Out {
    /// Ready to be written to, while detached.
    pub fn open(self, py: Python<'_>) -> PyResult<Box<dyn Write + Send>> {
        Ok(match self {
            Self::Descriptor(fd) => Box::new(Descriptor(File::from(duplicate(py, fd)?))),
            Self::Writer(writer) => Box::new(Writer(writer)),
        })
    }
}

/// Written directly. A signal ends a write to a full pipe, early or with nothing
/// written; it is handled then, since nobody knows when the pipe will have room again.
struct Descriptor(File);

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let written = match self.0.write(bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => None,
                answer => Some(answer?),
            };
            if written.is_none_or(|count| count < bytes.len()) {
                Python::attach(|py| py.check_signals()).map_err(io::Error::other)?;
            }
            if let Some(count) = written {
                return Ok(count);
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A Python object with a method `write`, which may take less than it was given.
/// Flushing it is left to whoever opened it.
struct Writer(Py<PyAny>);

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = Python::attach(|py| {
            let argument = PyBytes::new(py, bytes);
            let written = self.0.call_method1(py, intern!(py, "write"), (argument,))?;
            written.extract::<Option<usize>>(py)
        });
        // An object that says nothing has taken everything.
        let written = written.map_err(io::Error::other)?.unwrap_or(bytes.len());
        if written > bytes.len() {
            let text = format!("write() of {} bytes returned {written}", bytes.len());
            return Err(io::Error::new(ErrorKind::InvalidInput, text));
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
