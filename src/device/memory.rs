//! A device in memory, for tests and fuzzing.

use std::io;
use std::path::{Path, PathBuf};

use super::Device;
use crate::error::{Error, Result};

/// Bytes that behave like a device.
#[derive(Debug)]
pub struct MemoryDevice {
    bytes: Vec<u8>,
    path: PathBuf,
}

impl MemoryDevice {
    /// A device that holds `bytes`.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            path: PathBuf::from("<memory>"),
        }
    }
}

impl Device for MemoryDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let found = usize::try_from(offset_bytes)
            .ok()
            .and_then(|begin| self.bytes.get(begin..begin.checked_add(buffer.len())?));
        match found {
            Some(bytes) => {
                buffer.copy_from_slice(bytes);
                Ok(())
            }
            None => {
                let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
                Err(Error::io(&self.path, Some(offset_bytes), eof))
            }
        }
    }

    fn size_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
