//! The details tree: what the pool keeps of each device.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::btree::Value;

/// A value of the details tree. Source: docs/format.md, "Details tree".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct DeviceDetails {
    /// Mappings of the device.
    pub mapped_blocks: U64,
    /// The pool's transaction id when the device was made.
    pub transaction_id: U64,
    /// The pool's clock when the device was made.
    pub creation_time: U32,
    /// The pool's clock at the last snapshot of or from it.
    pub snapshotted_time: U32,
}
const _: () = assert!(size_of::<DeviceDetails>() == 24);

impl Value for DeviceDetails {}

/// A device's id and details, in the machine's own numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The thin device's id.
    pub id: u64,
    /// Mappings of the device, in data blocks.
    pub mapped_blocks: u64,
    /// The pool's transaction id when the device was made.
    pub transaction_id: u64,
    /// The pool's clock when the device was made.
    pub creation_time: u32,
    /// The pool's clock at the last snapshot of or from it.
    pub snapshotted_time: u32,
}

impl DeviceInfo {
    /// From an entry of the details tree.
    #[must_use]
    pub fn new(id: u64, details: &DeviceDetails) -> Self {
        Self {
            id,
            mapped_blocks: details.mapped_blocks.get(),
            transaction_id: details.transaction_id.get(),
            creation_time: details.creation_time.get(),
            snapshotted_time: details.snapshotted_time.get(),
        }
    }

    /// The pool's clock was there at least.
    pub(crate) fn latest_time(&self) -> u32 {
        self.creation_time.max(self.snapshotted_time)
    }

    /// As the details tree has it.
    pub(crate) fn details(&self) -> DeviceDetails {
        DeviceDetails {
            mapped_blocks: self.mapped_blocks.into(),
            transaction_id: self.transaction_id.into(),
            creation_time: self.creation_time.into(),
            snapshotted_time: self.snapshotted_time.into(),
        }
    }
}
