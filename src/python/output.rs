//! Where a dump goes: a file descriptor or an object that writes.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::RawFd;

use pyo3::exceptions::PyBlockingIOError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::io::Errno;

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
            match written.extract::<Option<usize>>(py)? {
                Some(count) => Ok(count),
                None if is_raw(self.0.bind(py))? => Err(would_block()),
                // Any other object that says nothing has taken everything.
                None => Ok(bytes.len()),
            }
        });
        let written = written.map_err(io::Error::other)?;
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

/// Whether `None` from its `write` means that it has taken nothing.
fn is_raw(writer: &Bound<'_, PyAny>) -> PyResult<bool> {
    let io = writer.py().import(intern!(writer.py(), "io"))?;
    writer.is_instance(&io.getattr(intern!(writer.py(), "RawIOBase"))?)
}

fn would_block() -> PyErr {
    let text = "the output takes nothing now, and does not wait";
    PyBlockingIOError::new_err((Errno::AGAIN.raw_os_error(), text))
}
