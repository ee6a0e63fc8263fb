//! Counted things, so that block numbers, sectors and bytes are never mixed.

use std::fmt;

/// Bytes in a metadata block; the unit of all metadata I/O.
pub const BLOCK_BYTES: usize = 4096;

/// Bytes in a sector, the unit of `data_block_size` on disk.
pub const SECTOR_BYTES: u64 = 512;

/// The largest metadata device the format can describe, in blocks.
/// Source: docs/format.md, "Limits": 255 bitmaps of 16320 entries.
pub const MAX_METADATA_BLOCKS: u64 = 255 * 16320;

/// A metadata block, counted in 4096-byte blocks from the start of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockNr(pub u64);

impl BlockNr {
    /// Where the block starts on the device, or `None` where that is past `u64`.
    #[must_use]
    pub fn offset_bytes(self) -> Option<u64> {
        self.0.checked_mul(BLOCK_BYTES as u64)
    }
}

impl fmt::Display for BlockNr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
