//! Layer 1: bytes at an offset, and the size of what holds them.
//!
//! Promises: a read or a write is whole or an error that names the place; sizes
//! are right for files and block devices; a flush passes every cache. Knows
//! nothing of blocks or formats. May use: `error`, `units`.

mod aligned;
mod direct;
mod discard;
mod faulty;
mod file;
mod in_use;
mod memory;
mod poisoned;
mod recording;
mod work_file;

use std::fmt::Debug;
use std::ops::Range;
use std::path::Path;

pub use aligned::AlignedBuffer;
pub use faulty::{Fault, FaultyDevice, Request};
pub use file::{Claim, FileDevice};
pub use memory::MemoryDevice;
pub use recording::{Crash, Operation, Piece, RecordingDevice, WriteLog};
pub use work_file::WorkFile;

use crate::error::{Error, Result};
use crate::units::BLOCK_BYTES;

/// Something that is read, and perhaps written, at byte offsets.
pub trait Device: Send + Sync + Debug {
    /// Fills `buffer` from `offset_bytes` on; past the end it is an error.
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()>;

    /// Size in bytes, when it was opened.
    fn size_bytes(&self) -> u64;

    /// What its size is a multiple of, unless something was cut off: files hold
    /// whole metadata blocks.
    fn size_unit_bytes(&self) -> u64 {
        BLOCK_BYTES as u64
    }

    /// The request size that suits it: in the page cache what stays in the
    /// processor's own cache, past it what keeps a disk busy.
    fn best_request_bytes(&self) -> usize {
        256 << 10
    }

    /// Whether [`Self::write_all_at`] and [`Self::flush`] can work.
    fn is_writable(&self) -> bool {
        false
    }

    /// Writes all of `bytes` from `offset_bytes` on. Durable once
    /// [`Self::flush`] has returned.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] on what was opened for reading.
    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        let _ = (bytes, offset_bytes);
        Err(Error::ReadOnly(self.path().display().to_string()))
    }

    /// Makes what was written durable, past every cache on the way.
    ///
    /// # Errors
    /// As [`Self::write_all_at`]; after an error nobody knows what is on the disk.
    fn flush(&self) -> Result<()> {
        Err(Error::ReadOnly(self.path().display().to_string()))
    }

    /// Gives up the space of these bytes, of which nobody knows afterwards what they are:
    /// zeros in a file.
    ///
    /// # Errors
    /// [`Error::Io`], of the kind [`Unsupported`](std::io::ErrorKind::Unsupported) where it
    /// has no space to give up; [`Error::ReadOnly`] on what was opened for reading.
    fn discard(&self, bytes: &Range<u64>) -> Result<()> {
        let unsupported = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(Error::io(self.path(), Some(bytes.start), unsupported))
    }

    /// Size in bytes as of now.
    fn current_size_bytes(&self) -> Result<u64> {
        Ok(self.size_bytes())
    }

    /// Makes it at least so large, where it can be; takes nothing away.
    ///
    /// # Errors
    /// [`Error::Usage`] when it is smaller and cannot be made larger.
    fn grow_to(&self, size_bytes: u64) -> Result<()> {
        let now = self.current_size_bytes()?;
        if now >= size_bytes {
            return Ok(());
        }
        let path = self.path().display();
        Err(Error::usage(format!(
            "{path} has {now} bytes and cannot be made {size_bytes}"
        )))
    }

    /// The next bytes from an offset on that are not a hole, as far as is known.
    fn next_data(&self, offset_bytes: u64) -> Option<Range<u64>> {
        let size = self.size_bytes();
        (offset_bytes < size).then_some(offset_bytes..size)
    }

    /// Told when a write or a flush has failed, so that who opens this next can be careful.
    fn note_poisoned(&self) {}

    /// What to call it in messages.
    fn path(&self) -> &Path;
}
