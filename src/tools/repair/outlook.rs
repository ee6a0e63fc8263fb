//! What a repair keeps, rebuilds and loses.

use super::walk::Gap;
use super::{Basis, Candidate, DeletedDevice, Undeleted};
use crate::error::Damage;
use crate::thin::DeviceInfo;
use crate::units::BlockNr;

/// Lost ranges that are listed for a device.
const MOST_LISTED: usize = 64;

/// Where a device's mappings come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeSource {
    /// From where the superblock leads.
    Current,
    /// Its root was lost, and found as what nobody else refers to.
    Found,
    /// From the pool as it was: something may have changed since.
    Older,
    /// It was deleted, and this is what there is of it.
    Deleted,
}

impl TreeSource {
    /// The word used in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Found => "found",
            Self::Older => "older",
            Self::Deleted => "deleted",
        }
    }
}

/// Virtual blocks under a node that is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// First one.
    pub begin: u64,
    /// One past the last; `None`: to the device's end.
    pub end: Option<u64>,
    /// The node.
    pub block: BlockNr,
}

/// What becomes of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceOutlook {
    /// As it will be; `mapped_blocks` are those that are kept.
    pub info: DeviceInfo,
    /// What the details said; `None` where they are lost, and were put together from
    /// what is known.
    pub recorded_blocks: Option<u64>,
    /// Of the kept mappings, those found under lost nodes.
    pub found_blocks: u64,
    /// Of the kept mappings, those of lost nodes that an older tree has: what was met does
    /// not account for their data, or for the leaf that they are in.
    pub older_blocks: u64,
    /// Mappings in sound leaves that cannot be: past the end of the data, say.
    pub impossible_blocks: u64,
    /// Mappings that are left out because another place of the device has the same data
    /// block.
    pub doubled_blocks: u64,
    /// Where its tree comes from.
    pub source: TreeSource,
    /// What is lost, the first few.
    pub lost: Vec<Lost>,
    /// Ranges in all.
    pub lost_ranges: u64,
    /// Of a device that was deleted, what became of its data.
    pub undeleted: Option<Undeleted>,
}

impl DeviceOutlook {
    /// Takes note of what is lost.
    pub(super) fn lose(&mut self, gap: &Gap) {
        self.lost_ranges += 1;
        if self.lost.len() < MOST_LISTED {
            self.lost.push(Lost {
                begin: gap.low,
                end: gap.high,
                block: BlockNr(gap.block.into()),
            });
        }
    }
}

/// What becomes of a pool.
#[derive(Clone, Debug)]
pub struct Outlook {
    /// Its superblock.
    pub basis: Basis,
    /// Devices that will be there, ascending.
    pub devices: Vec<DeviceOutlook>,
    /// Devices in the details of whose mappings nothing is left.
    pub lost_devices: Vec<DeviceInfo>,
    /// Whether there may have been others, of which not even the id is left.
    pub maybe_more_devices: bool,
    /// Whether every block was looked at.
    pub scanned: bool,
    /// Roots that were found, the most plausible ones first.
    pub candidates: Vec<Candidate>,
    /// Trees that hang nowhere, and which nothing proves to be of a device.
    pub loose_trees: u64,
    /// Devices that were deleted and of which something is left, if somebody asked.
    pub deleted: Vec<DeletedDevice>,
    /// Fields that were wrong under a right checksum, and were read as they should be.
    pub mended: Vec<Damage>,
}
