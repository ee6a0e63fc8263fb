//! A file that its owner alone knows: a result in the making.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Device;
use crate::error::{Error, Result};

/// A regular file that is open for reading and writing, and that nobody else has. It
/// has no lock, and may have no name.
#[derive(Debug)]
pub struct WorkFile {
    file: File,
    name: PathBuf,
}

impl WorkFile {
    /// `name` is what errors call it.
    #[must_use]
    pub fn new(file: File, name: PathBuf) -> Self {
        Self { file, name }
    }

    fn failed_at(&self, offset_bytes: Option<u64>) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::io(&self.name, offset_bytes, source)
    }
}

impl Device for WorkFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let answer = self.file.read_exact_at(buffer, offset_bytes);
        answer.map_err(self.failed_at(Some(offset_bytes)))
    }

    fn size_bytes(&self) -> u64 {
        self.current_size_bytes().unwrap_or_default()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        // No request uses the file's own position, so that it may be moved.
        let size = (&self.file).seek(SeekFrom::End(0));
        size.map_err(self.failed_at(None))
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let written = self.file.write_all_at(bytes, offset_bytes);
        written.map_err(self.failed_at(Some(offset_bytes)))
    }

    fn flush(&self) -> Result<()> {
        self.file.sync_data().map_err(self.failed_at(None))
    }

    fn grow_to(&self, size_bytes: u64) -> Result<()> {
        if self.current_size_bytes()? >= size_bytes {
            return Ok(());
        }
        let grown = self.file.set_len(size_bytes);
        grown.map_err(self.failed_at(Some(size_bytes)))
    }

    fn path(&self) -> &Path {
        &self.name
    }
}
