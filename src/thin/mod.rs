//! Layer 7: what a pool is.
//!
//! A thin pool gives out blocks of one *data device* to many thin devices. Its
//! metadata is a superblock that points to: the *mapping tree* (device id to a
//! tree of virtual block to data block and time), the *details tree* (device id
//! to its counters), and two space maps. A *metadata snapshot* (held root) is a
//! copy of the superblock whose trees nobody changes.
//!
//! Promises: a pool is opened only when its superblock and geometry are sound;
//! look-ups never give a mapping that points outside the data device.
//! May use: layers 0 to 6.

mod devices;
mod identify;
mod mappings;
mod pool;
mod superblock;
mod volume;

pub use devices::{DeviceDetails, DeviceInfo};
pub use identify::describe_foreign;
pub use mappings::{Mapping, MappingValue, Run, RunCursor};
pub use pool::{OpenOptions, Pool, Snapshot, ThinDevice, read_superblock};
pub use superblock::{NEEDS_CHECK, SUPERBLOCK_NAME, Superblock, SuperblockValidator};
pub use volume::{Volume, VolumeOptions};
