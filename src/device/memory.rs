//! A device in memory, for tests and fuzzing.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use super::Device;
use crate::error::{Error, Result};

/// Bytes that behave like a device.
#[derive(Debug)]
pub struct MemoryDevice {
    bytes: RwLock<Vec<u8>>,
    path: PathBuf,
    writable: bool,
}

impl MemoryDevice {
    /// A device that holds `bytes`, to be read.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RwLock::new(bytes),
            path: PathBuf::from("<memory>"),
            writable: false,
        }
    }

    /// A device that holds `bytes`, to be read and written.
    #[must_use]
    pub fn writable(bytes: Vec<u8>) -> Self {
        Self {
            writable: true,
            ..Self::new(bytes)
        }
    }

    /// A copy of what it holds.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.read().clone()
    }

    /// Makes it larger, with zeros at the end.
    pub fn grow(&self, size_bytes: usize) {
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        if size_bytes > bytes.len() {
            bytes.resize(size_bytes, 0);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<u8>> {
        self.bytes.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn past_end(&self, offset_bytes: u64) -> Error {
        let eof = io::Error::from(io::ErrorKind::UnexpectedEof);
        Error::io(&self.path, Some(offset_bytes), eof)
    }
}

impl Device for MemoryDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let bytes = self.read();
        let found = range(offset_bytes, buffer.len()).and_then(|range| bytes.get(range));
        buffer.copy_from_slice(found.ok_or_else(|| self.past_end(offset_bytes))?);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.read().len() as u64
    }

    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes())
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        if !self.writable {
            return Err(Error::ReadOnly(self.path.display().to_string()));
        }
        let mut held = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let place = range(offset_bytes, bytes.len()).and_then(|range| held.get_mut(range));
        let place = place.ok_or_else(|| self.past_end(offset_bytes))?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }

    fn grow_to(&self, size_bytes: u64) -> Result<()> {
        let too_large = |_| Error::usage("memory is not that large");
        self.grow(usize::try_from(size_bytes).map_err(too_large)?);
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.path
    }
}

fn range(offset_bytes: u64, length: usize) -> Option<Range<usize>> {
    let begin = usize::try_from(offset_bytes).ok()?;
    Some(begin..begin.checked_add(length)?)
}
