//! Layer 3: the contract of reference counts and allocation.
//!
//! Promises: a count is exact, an index past the end is an error; a block is
//! handed out only when it is free now *and* was free at the last commit, so that
//! nothing that the committed state reaches is ever overwritten. What keeps
//! counts on disk is in `disk_space`, which stands on B-trees; this room does
//! not, so that the layers between can speak of counts.
//! May use: `error`, `units`.

mod checking;
mod memory;

use std::ops::Range;

pub use checking::{Checker, CheckingSpaceMap};
pub use memory::MemorySpaceMap;

use crate::error::{Error, Result};

/// Reference counts of blocks numbered from 0, read side.
pub trait SpaceMap {
    /// Blocks that are counted.
    fn nr_blocks(&self) -> u64;

    /// Blocks that can be allocated: free now and at the last commit. A map
    /// that is only read answers what its own summary says.
    fn nr_free(&self) -> u64;

    /// How many references `block` has.
    ///
    /// # Errors
    /// [`Error::Usage`] for a block past the end.
    fn get_count(&self, block: u64) -> Result<u32>;
}

/// Reference counts that change. Every call that fails with
/// [`Error::Usage`] has changed nothing.
pub trait SpaceMapMut: SpaceMap {
    /// Whether `block` has several references; may say so of a block that has
    /// one, never the reverse.
    ///
    /// # Errors
    /// [`Error::Usage`] for a block past the end.
    fn count_is_more_than_one(&self, block: u64) -> Result<bool> {
        Ok(self.get_count(block)? > 1)
    }

    /// Sets a count, for checkers and restorers.
    ///
    /// # Errors
    /// [`Error::Usage`] for a block past the end.
    fn set_count(&mut self, block: u64, count: u32) -> Result<()>;

    /// One more reference on each block.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end or above 2^32 - 1.
    fn inc(&mut self, blocks: Range<u64>) -> Result<()>;

    /// One reference less on each block.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end or below zero.
    fn dec(&mut self, blocks: Range<u64>) -> Result<()>;

    /// Takes a free block: its count goes from 0 to 1.
    ///
    /// # Errors
    /// [`Error::NoSpace`] when there is none.
    fn new_block(&mut self) -> Result<u64>;

    /// Adds so many free blocks at the end.
    ///
    /// # Errors
    /// [`Error::Usage`] past what the map can count.
    fn extend(&mut self, blocks: u64) -> Result<()>;

    /// Makes the counts of now the committed ones.
    ///
    /// # Errors
    /// What keeps the counts may fail.
    fn commit(&mut self) -> Result<()>;
}

/// Whether a range lies inside a map of so many blocks.
pub(crate) fn check_range(blocks: &Range<u64>, nr_blocks: u64) -> Result<()> {
    if blocks.start <= blocks.end && blocks.end <= nr_blocks {
        return Ok(());
    }
    let what = if blocks.start.checked_add(1) == Some(blocks.end) {
        format!("block {}", blocks.start)
    } else {
        format!("blocks {} to {}", blocks.start, blocks.end)
    };
    let text = format!("{what}: past the {nr_blocks} of the space map");
    Err(Error::Usage(text))
}

/// A count that cannot go down.
pub(crate) fn below_zero(block: u64) -> Error {
    Error::Usage(format!("block {block} has no reference to drop"))
}

/// A count that cannot go up.
pub(crate) fn above_limit(block: u64) -> Error {
    let text = format!(
        "block {block} has {} references, the most there can be",
        u32::MAX
    );
    Error::Usage(text)
}
