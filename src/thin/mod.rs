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

mod batches;
mod devices;
mod find_many;
mod identify;
mod mappings;
mod pool;
mod superblock;
mod volume;
mod writer;

pub use batches::{MappingColumns, Position};
pub use devices::{DeviceDetails, DeviceInfo};
pub use find_many::FoundMappings;
pub use identify::describe_foreign;
pub use mappings::{MAX_TIME, Mapping, MappingValue, Run, RunCursor};
pub use pool::{OpenOptions, Pool, Snapshot, ThinDevice, read_superblock};
pub(crate) use superblock::{MAGIC, NewSuperblock, RootArea, check_data_block_size};
pub use superblock::{
    NEEDS_CHECK, SUPERBLOCK_NAME, SUPERBLOCK_VALIDATOR, Superblock, SuperblockValidator,
};
pub use volume::{Extent, Extents, Volume, VolumeOptions};
pub use writer::{
    CreateOptions, MAX_DEVICE_ID, PoolState, PoolTransaction, PoolWriter, Rows, WritableVolume,
    WriteOptions, clear_needs_check,
};
