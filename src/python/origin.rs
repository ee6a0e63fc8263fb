//! A Python file object that serves as a device.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::io::Errno;

use crate::device::Device;
use crate::error::{Error, Result};

/// The most that is asked of `read` at once.
const READ_BYTES: usize = 4 << 20;

/// Reads through `seek` and `read`, from any thread. Only used detached: whoever
/// waits for another's turn holds nothing that the other needs.
#[derive(Debug)]
pub(super) struct PythonFile {
    file: Py<PyAny>,
    path: PathBuf,
    size_bytes: u64,
    /// Seeking and reading is one turn.
    turn: Mutex<()>,
}

impl PythonFile {
    /// A device over `file`, as large as it is now.
    pub fn new(file: Py<PyAny>) -> Result<Self> {
        let path = PathBuf::from("<external origin>");
        let size = Python::attach(|py| {
            let file = file.bind(py);
            file.call_method1(intern!(py, "seek"), (0, 2))?;
            file.call_method0(intern!(py, "tell"))?.extract()
        });
        let size_bytes =
            size.map_err(|raised: PyErr| Error::io(&path, None, io::Error::other(raised)))?;
        let turn = Mutex::new(());
        Ok(Self {
            file,
            path,
            size_bytes,
            turn,
        })
    }

    fn fill(&self, py: Python<'_>, buffer: &mut [u8], offset_bytes: u64) -> PyResult<()> {
        let file = self.file.bind(py);
        file.call_method1(intern!(py, "seek"), (offset_bytes,))?;
        let mut rest = buffer;
        while !rest.is_empty() {
            let want = rest.len().min(READ_BYTES);
            let got = file.call_method1(intern!(py, "read"), (want,))?;
            let got = PyBuffer::<u8>::get(&got)?;
            let count = got.item_count();
            if count == 0 || count > want {
                let text = format!("read({want}) gave {count} bytes before the end");
                return Err(PyOSError::new_err((Errno::IO.raw_os_error(), text)));
            }
            let (now, later) = rest.split_at_mut(count);
            got.copy_to_slice(py, now)?;
            rest = later;
        }
        Ok(())
    }
}

impl Device for PythonFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        Python::attach(|py| self.fill(py, buffer, offset_bytes))
            .map_err(|raised| Error::io(&self.path, Some(offset_bytes), io::Error::other(raised)))
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
