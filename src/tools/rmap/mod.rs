//! The reverse map: which virtual blocks lie in given data blocks.
//!
//! Leaves are listed in key order from the nodes above them, device after device, and
//! cut into jobs; threads read a job's leaves in order of location and make runs of what
//! lies in the regions asked for. The calling thread joins what they made and puts it
//! into buckets by data block, which are then sorted each by itself. Memory: 24 bytes for
//! each run that is found.

mod gather;
mod regions;
#[cfg(test)]
mod tests;
mod write;

use std::ops::Range;
use std::sync::Arc;

pub use regions::Regions;
pub use write::write;

use crate::error::Result;
use crate::task::Task;
use crate::thin::Pool;

/// Bits of a device's id.
const DEVICE_BITS: u32 = 24;

/// Blocks of a device that lie side by side, in the volume as in the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Data block above, device below: what rows are sorted by first and next to last.
    place: u64,
    virtual_begin: u64,
    /// No tree has as many mappings as this could count.
    length: u32,
}

impl Row {
    fn new(data_begin: u64, device: u64, virtual_begin: u64, length: u32) -> Self {
        Self {
            place: data_begin << DEVICE_BITS | device,
            virtual_begin,
            length,
        }
    }

    /// First data block.
    #[must_use]
    pub fn data_begin(&self) -> u64 {
        self.place >> DEVICE_BITS
    }

    /// The thin device's id.
    #[must_use]
    pub fn device_id(&self) -> u64 {
        self.place & ((1 << DEVICE_BITS) - 1)
    }

    /// First virtual block.
    #[must_use]
    pub fn virtual_begin(&self) -> u64 {
        self.virtual_begin
    }

    /// Blocks.
    #[must_use]
    pub fn length_blocks(&self) -> u64 {
        self.length.into()
    }

    /// By data, shorter ones first; then by device and virtual block, as `thin_rmap` 1.x.
    fn order(&self) -> (u64, u32, u64, u64) {
        (
            self.data_begin(),
            self.length,
            self.device_id(),
            self.virtual_begin,
        )
    }

    /// Takes on a row that goes on where this one ends; whether it does.
    fn join(&mut self, next: &Self) -> bool {
        let length = u64::from(self.length);
        let joins = next.place == self.place + (length << DEVICE_BITS)
            && next.virtual_begin == self.virtual_begin + length;
        if joins {
            self.length += next.length;
        }
        joins
    }
}

/// What lies in some regions of the data, in the order of [`Row`]s.
#[derive(Debug)]
pub struct ReverseMap {
    buckets: Vec<Vec<Row>>,
    block_bytes: u64,
}

impl ReverseMap {
    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.iter().all(Vec::is_empty)
    }

    /// All rows, in order.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.buckets.iter().flatten()
    }

    /// Rows in pieces, in order.
    #[must_use]
    pub fn pieces(&self) -> &[Vec<Row>] {
        &self.buckets
    }

    /// Bytes in a data block.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }
}

/// How to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RmapOptions {
    /// Data blocks to look at; none: all of them.
    pub regions: Vec<Range<u64>>,
    /// Tell what lies in a leaf that devices share for the first of them alone, as
    /// `thin_rmap` 1.x does. Otherwise every device has it.
    pub shared_once: bool,
}

/// Finds what lies in regions of the data.
///
/// # Errors
/// [`Error::Damaged`](crate::error::Error::Damaged) for any damage met;
/// [`Error::Usage`](crate::error::Error::Usage) for a region that ends before it begins.
pub fn rmap(pool: &Arc<Pool>, options: &RmapOptions, task: &Task<'_>) -> Result<ReverseMap> {
    let regions = Regions::new(&options.regions)?;
    let buckets = pool.confirmed(gather::gather(pool, &regions, options.shared_once, task))?;
    Ok(ReverseMap {
        buckets,
        block_bytes: pool.superblock().data_block_bytes(),
    })
}
