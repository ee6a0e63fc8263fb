//! What an open volume keeps between calls, whether it is read or written.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use super::error::exception;
use crate::device::Device;
use crate::error::Error;
use crate::thin::VolumeOptions;

/// A volume's size and options, from which the core's volume is put together anew.
pub(super) struct OpenedVolume {
    pub size_bytes: u64,
    pub size_is_known: bool,
    /// `None` when closed.
    options: Mutex<Option<VolumeOptions>>,
}

impl OpenedVolume {
    pub fn new(
        size_bytes: u64,
        size_is_known: bool,
        external_origin: Option<Arc<dyn Device>>,
    ) -> Self {
        let options = VolumeOptions {
            size_bytes: Some(size_bytes),
            external_origin,
        };
        Self {
            size_bytes,
            size_is_known,
            options: Mutex::new(Some(options)),
        }
    }

    /// The options, with the size that was found; refused when closed.
    pub fn options(&self, py: Python<'_>) -> PyResult<VolumeOptions> {
        let options = self.lock(py).clone();
        options.ok_or_else(|| exception(py, Error::usage("the volume is closed")))
    }

    pub fn close(&self, py: Python<'_>) {
        let options = self.lock(py).take();
        py.detach(|| drop(options));
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Option<VolumeOptions>> {
        let options = self.options.lock_py_attached(py);
        options.unwrap_or_else(PoisonError::into_inner)
    }
}
