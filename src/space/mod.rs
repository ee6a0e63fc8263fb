//! Layer 3: the contract of reference counts.
//!
//! Promises: a count is exact, an index past the end is an error. What keeps
//! counts on disk is in `disk_space`, which stands on B-trees; this room does
//! not, so that the layers between can speak of counts.
//! May use: `error`, `units`.

use crate::error::Result;

/// Reference counts of blocks numbered from 0, read side.
pub trait SpaceMap {
    /// Blocks that are counted.
    fn nr_blocks(&self) -> u64;

    /// Blocks whose count is zero, as the map's own summary says.
    fn nr_free(&self) -> u64;

    /// How many references `block` has.
    ///
    /// # Errors
    /// [`Error::Usage`](crate::Error::Usage) for a block past the end.
    fn get_count(&self, block: u64) -> Result<u32>;
}
