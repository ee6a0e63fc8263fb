//! Layer 1: bytes at an offset, and the size of what holds them.
//!
//! Promises: a read is whole or an error that names the place; sizes are right
//! for files and block devices. Knows nothing of blocks or formats.
//! May use: `error`, `units`.

mod aligned;
mod file;
mod in_use;
mod memory;

use std::fmt::Debug;
use std::path::Path;

pub use aligned::AlignedBuffer;
pub use file::{Claim, FileDevice};
pub use memory::MemoryDevice;

use crate::error::Result;
use crate::units::BLOCK_BYTES;

/// Something that is read at byte offsets.
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

    /// What to call it in messages.
    fn path(&self) -> &Path;
}
