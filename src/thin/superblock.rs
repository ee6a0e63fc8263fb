//! The superblock: its bytes, its validator, and what makes it unusable.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{BlockData, Validator, check_location_and_checksum, seal_location_and_checksum};
use crate::disk_space::SpaceMapRoot;
use crate::error::{Damage, Error, Result};
use crate::units::{BlockNr, MAX_METADATA_BLOCKS, SECTOR_BYTES};

/// The kind, as errors name it.
pub const SUPERBLOCK_NAME: &str = "thin superblock";
const SUPERBLOCK_SALT: u32 = 160_774;
/// What the `magic` field holds.
pub const MAGIC: u64 = 27_022_010;
/// Bit 0 of `flags`.
pub const NEEDS_CHECK: u32 = 1;

/// Data blocks are a multiple of this, in sectors.
const DATA_BLOCK_GRAIN: u32 = 128;
const MAX_DATA_BLOCK: u32 = 2_097_152;
pub(super) const METADATA_BLOCK: u32 = 8;

/// Whether data blocks can have so many sectors.
pub(super) fn is_data_block_size(sectors: u32) -> bool {
    sectors > 0 && sectors <= MAX_DATA_BLOCK && sectors.is_multiple_of(DATA_BLOCK_GRAIN)
}

/// Refuses data blocks of a size that cannot be.
pub(crate) fn check_data_block_size(sectors: u32) -> Result<()> {
    if is_data_block_size(sectors) {
        return Ok(());
    }
    let text = format!("data blocks have {}, not {sectors}", data_block_sizes());
    Err(Error::Usage(text))
}

/// How many they can have.
pub(super) fn data_block_sizes() -> String {
    format!("{DATA_BLOCK_GRAIN} to {MAX_DATA_BLOCK} sectors, in steps of {DATA_BLOCK_GRAIN}")
}

/// A space map root and the room around it. Writers leave stray bytes there.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RootArea {
    /// The root itself.
    pub root: SpaceMapRoot,
    stray: [u8; 96],
}

impl RootArea {
    /// A root, and nothing around it.
    #[must_use]
    pub fn new(root: SpaceMapRoot) -> Self {
        let stray = [0; 96];
        Self { root, stray }
    }
}

/// Block 0, and the block of a metadata snapshot. Source: docs/format.md, "Thin superblock".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Superblock {
    /// Checksum, salted for thin superblocks.
    pub csum: U32,
    /// Bit 0: `needs_check`.
    pub flags: U32,
    /// Own location.
    pub blocknr: U64,
    /// Unused; the kernel writes zeros.
    pub uuid: [u8; 16],
    /// 27022010.
    pub magic: U64,
    /// 1 or 2.
    pub version: U32,
    /// The pool's clock: one more per snapshot.
    pub time: U32,
    /// Userspace's own number; a commit never moves it.
    pub trans_id: U64,
    /// Block of the metadata snapshot, 0 = none.
    pub held_root: U64,
    /// Counts of data blocks.
    pub data_space_map_root: RootArea,
    /// Counts of metadata blocks.
    pub metadata_space_map_root: RootArea,
    /// Root of the two-level mapping tree.
    pub data_mapping_root: U64,
    /// Root of the details tree.
    pub device_details_root: U64,
    /// Sectors in a data block.
    pub data_block_size: U32,
    /// Sectors in a metadata block: 8.
    pub metadata_block_size: U32,
    /// Metadata blocks when formatted; not updated by growing.
    pub metadata_nr_blocks: U64,
    /// No bits are defined.
    pub compat_flags: U32,
    /// Unknown bits forbid writing.
    pub compat_ro_flags: U32,
    /// Unknown bits forbid opening.
    pub incompat_flags: U32,
}
const _: () = assert!(size_of::<Superblock>() == 364);

/// What the superblock of a pool says that was made in one pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSuperblock {
    pub flags: u32,
    pub uuid: [u8; 16],
    pub version: u32,
    pub time: u32,
    pub transaction_id: u64,
    pub data_block_size_sectors: u32,
    pub data_space: SpaceMapRoot,
    pub metadata_space: SpaceMapRoot,
    pub mapping_root: BlockNr,
    pub details_root: BlockNr,
}

impl Superblock {
    /// As [`NewSuperblock`] says, without a metadata snapshot.
    pub(crate) fn of_new_pool(new: &NewSuperblock) -> Self {
        let mut own = Self::new_zeroed();
        own.flags = new.flags.into();
        own.uuid = new.uuid;
        own.magic = MAGIC.into();
        own.version = new.version.into();
        own.time = new.time.into();
        own.trans_id = new.transaction_id.into();
        own.data_space_map_root = RootArea::new(new.data_space);
        own.metadata_space_map_root = RootArea::new(new.metadata_space);
        own.data_mapping_root = new.mapping_root.0.into();
        own.device_details_root = new.details_root.0.into();
        own.data_block_size = new.data_block_size_sectors.into();
        own.metadata_block_size = METADATA_BLOCK.into();
        own.metadata_nr_blocks = new.metadata_space.nr_blocks;
        own
    }

    /// Whether the kernel asked for a check before the pool is written again.
    #[must_use]
    pub fn needs_check(&self) -> bool {
        self.flags.get() & NEEDS_CHECK != 0
    }

    /// Bytes in a data block.
    #[must_use]
    pub fn data_block_bytes(&self) -> u64 {
        u64::from(self.data_block_size.get()) * SECTOR_BYTES
    }

    /// Data blocks that a volume of 2^64 bytes has: no device can be longer.
    #[must_use]
    pub fn virtual_blocks(&self) -> u64 {
        u64::MAX / self.data_block_bytes().max(1)
    }

    /// Metadata blocks in use by the format: the space map's size.
    #[must_use]
    pub fn metadata_blocks(&self) -> u64 {
        self.metadata_space_map_root.root.nr_blocks.get()
    }

    /// Data blocks of the pool.
    #[must_use]
    pub fn data_blocks(&self) -> u64 {
        self.data_space_map_root.root.nr_blocks.get()
    }

    /// Why nobody who does not know all of its features may change it, if so.
    #[must_use]
    pub fn unwritable(&self) -> Option<String> {
        let features = self.compat_ro_flags.get();
        (features != 0).then(|| {
            format!("thin pool metadata with features {features:#x}, which only readers may ignore")
        })
    }

    /// Whether this version and its features are known: `None`, or why not.
    #[must_use]
    pub fn unsupported(&self) -> Option<String> {
        let (version, incompat) = (self.version.get(), self.incompat_flags.get());
        if !(1..=2).contains(&version) {
            return Some(format!(
                "thin pool metadata of version {version}; 1 and 2 are known"
            ));
        }
        (incompat != 0)
            .then(|| format!("thin pool metadata with unknown incompatible features {incompat:#x}"))
    }

    /// What is wrong with the sizes. `device_blocks`: of the metadata device.
    /// A metadata snapshot has no space maps, so there is less to ask.
    pub fn check_geometry(&self, at: BlockNr, device_blocks: u64) -> Result<(), Damage> {
        let bad = |check, found: u64, expected: String| {
            Err(Damage::new(at, SUPERBLOCK_NAME, check, found, expected))
        };
        let data = self.data_block_size.get();
        if !is_data_block_size(data) {
            return bad("data block size", data.into(), data_block_sizes());
        }
        let metadata = self.metadata_block_size.get();
        if metadata != METADATA_BLOCK {
            return bad(
                "metadata block size",
                metadata.into(),
                format!("{METADATA_BLOCK} sectors"),
            );
        }
        let is_snapshot = at.0 != 0;
        let blocks = self.metadata_blocks();
        let limit = device_blocks.min(MAX_METADATA_BLOCKS);
        if !is_snapshot && (blocks == 0 || blocks > limit) {
            return bad(
                "metadata size",
                blocks,
                format!("1 to {limit} blocks, as the device has"),
            );
        }
        for (check, root) in [
            ("data mapping root", self.data_mapping_root),
            ("device details root", self.device_details_root),
        ] {
            if root.get() == 0 || root.get() >= device_blocks {
                return bad(
                    check,
                    root.get(),
                    format!("1 to {}", device_blocks.saturating_sub(1)),
                );
            }
        }
        Ok(())
    }
}

/// Checks location, magic and checksum.
pub struct SuperblockValidator;

/// The only one there is.
pub static SUPERBLOCK_VALIDATOR: SuperblockValidator = SuperblockValidator;

impl Validator for SuperblockValidator {
    fn name(&self) -> &'static str {
        SUPERBLOCK_NAME
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        let superblock: &Superblock = block.view();
        let bad = |check, found: u64, expected| {
            Err(Damage::new(at, SUPERBLOCK_NAME, check, found, expected))
        };
        if superblock.blocknr.get() != at.0 {
            return bad("location", superblock.blocknr.get(), at.0);
        }
        if superblock.magic.get() != MAGIC {
            return bad("magic", superblock.magic.get(), MAGIC);
        }
        check_location_and_checksum(SUPERBLOCK_NAME, SUPERBLOCK_SALT, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(SUPERBLOCK_SALT, at, block);
    }
}
