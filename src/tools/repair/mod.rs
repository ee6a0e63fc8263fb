//! A new pool from what can be read of a damaged one.
//!
//! First all is found out, then written elsewhere: [`Repair::plan`] reads, and says what
//! would be kept, rebuilt and lost; [`Repair::build`] does just that. Both space maps, all
//! sums and the nodes are made anew in any case. Where nodes are damaged, every block of
//! the device is looked at for what hung under them; where roots are lost, for roots; and
//! where a deleted device is to come back, for its tree.

mod basis;
mod claims;
mod deleted;
mod devices;
mod doubled;
mod eras;
mod finish;
mod graft;
mod ids;
mod kinds;
mod leaves;
mod older;
mod order;
mod outlook;
mod overlay;
mod patch;
mod plan;
mod rebuild;
mod records;
mod scan;
mod slips;
mod trees;
mod undelete;
mod uses;
mod walk;
mod ways;

pub use basis::{Basis, BasisSource};
pub use claims::{Fate, FateRange};
pub use deleted::{DeletedDevice, Version};
pub use older::Candidate;
pub use outlook::{DeviceOutlook, Lost, Outlook, TreeSource};
pub use plan::Repair;
pub use undelete::{Undelete, Undeleted};

/// What to take as said, whatever the metadata say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairOptions {
    /// This transaction id.
    pub transaction_id: Option<u64>,
    /// This size of data blocks, in sectors.
    pub data_block_size_sectors: Option<u32>,
    /// This number of data blocks.
    pub nr_data_blocks: Option<u64>,
    /// Transaction id and data blocks are taken only where they are more than what is
    /// found, as 1.x does.
    pub only_raise: bool,
    /// Devices to bring back that were deleted.
    pub undelete: Vec<Undelete>,
    /// Give them also the data that somebody else has now.
    pub keep_overwritten: bool,
    /// Say which could be brought back.
    pub list_deleted: bool,
}
