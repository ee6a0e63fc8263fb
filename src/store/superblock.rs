//! Block 0 of a store.

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{
    BlockData, BlockManager, Validator, check_location_and_checksum, kind_of,
    seal_location_and_checksum,
};
use crate::disk_space::SpaceMapRoot;
use crate::error::{Damage, Error, Result};
use crate::units::BlockNr;

/// The kind, as errors name it.
pub const STORE_NAME: &str = "store superblock";
const STORE_SALT: u32 = 0x5354_4F52;
/// "thinmeta" in ASCII.
const MAGIC: u64 = u64::from_le_bytes(*b"thinmeta");
const VERSION: u32 = 1;

/// Block 0. All that changes from commit to commit lies in the first 512
/// bytes, so that a torn write leaves the old one or the new one.
/// Source: docs/format.md, "Store".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct StoreSuperblock {
    /// Checksum, salted for stores.
    pub csum: U32,
    /// Zero.
    pub flags: U32,
    /// Zero: own location.
    pub blocknr: U64,
    /// Zero.
    pub uuid: [u8; 16],
    /// "thinmeta" in ASCII.
    pub magic: U64,
    /// 1.
    pub version: U32,
    /// Features that a reader must know; none so far.
    pub incompat_flags: U32,
    /// Counts commits.
    pub generation: U64,
    /// Root of the tree of names.
    pub catalogue_root: U64,
    /// Root of the space map, as in a thin pool's superblock.
    pub metadata_space_map_root: [u8; 128],
}
const _: () = assert!(size_of::<StoreSuperblock>() <= 512);

impl StoreSuperblock {
    /// That of a new store.
    #[must_use]
    pub fn new(catalogue_root: BlockNr) -> Self {
        let mut superblock = Self::new_zeroed();
        superblock.magic = MAGIC.into();
        superblock.version = VERSION.into();
        superblock.generation = 1.into();
        superblock.catalogue_root = catalogue_root.0.into();
        superblock
    }

    /// Sets the root of its space map.
    pub fn set_space_root(&mut self, root: &SpaceMapRoot) {
        let (area, rest) = self.metadata_space_map_root.split_at_mut(size_of_val(root));
        area.copy_from_slice(root.as_bytes());
        rest.fill(0);
    }

    /// The root of its space map.
    ///
    /// # Errors
    /// Never: the area is large enough.
    pub fn space_root(&self) -> Result<SpaceMapRoot> {
        SpaceMapRoot::from_area(&self.metadata_space_map_root)
    }
}

/// Checks location, magic and checksum.
pub struct StoreValidator;

/// The only one there is.
pub static STORE_VALIDATOR: StoreValidator = StoreValidator;

impl Validator for StoreValidator {
    fn name(&self) -> &'static str {
        STORE_NAME
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        let superblock: &StoreSuperblock = block.view();
        if superblock.blocknr.get() == at.0 && superblock.magic.get() != MAGIC {
            let found = superblock.magic.get();
            return Err(Damage::new(at, STORE_NAME, "magic", found, MAGIC));
        }
        check_location_and_checksum(STORE_NAME, STORE_SALT, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(STORE_SALT, at, block);
    }
}

/// Reads block 0, and says what it is where it is no store's.
pub(super) fn read(blocks: &Arc<BlockManager>) -> Result<StoreSuperblock> {
    let path = || blocks.device().path().to_owned();
    if blocks.nr_blocks() == 0 {
        let reason = "it has no whole block: this is no store".to_owned();
        return Err(Error::Unsupported {
            path: path(),
            reason,
        });
    }
    let at = super::SUPERBLOCK;
    let raw = blocks.read_lock_patiently(at, None, None)?.pin();
    if raw.is_zero() {
        return Err(Error::NotFormatted(path()));
    }
    let unsupported = |reason: String| {
        Err(Error::Unsupported {
            path: path(),
            reason,
        })
    };
    let superblock: StoreSuperblock = *raw.view();
    if superblock.magic.get() != MAGIC {
        return match kind_of(&raw) {
            Some((kind, _)) => unsupported(format!("this is no store: block 0 is a {kind}")),
            None => unsupported("this is no store".to_owned()),
        };
    }
    blocks.read(at, &STORE_VALIDATOR)?;
    if superblock.version.get() != VERSION {
        let found = superblock.version.get();
        return unsupported(format!("version {found} of the store's format is unknown"));
    }
    if superblock.incompat_flags.get() != 0 {
        let found = superblock.incompat_flags.get();
        return unsupported(format!("the store uses unknown features ({found:#x})"));
    }
    let (root, size) = (superblock.catalogue_root.get(), blocks.nr_blocks());
    if root == 0 || root >= size {
        let expected = format!("1 to {}", size - 1);
        return Err(Damage::new(at, STORE_NAME, "catalogue root", root, expected).into());
    }
    Ok(superblock)
}
