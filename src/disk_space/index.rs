//! Index entries: where the bitmaps are, and what they hold in sum.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{BlockData, Validator, check_location_and_checksum, seal_location_and_checksum};
use crate::btree::Value;
use crate::error::Damage;
use crate::units::BlockNr;

/// Bitmaps that the index block of a metadata space map can name.
pub const MAX_METADATA_BITMAPS: usize = 255;

/// The kind, as errors name it.
pub const INDEX_NAME: &str = "space map index";
const INDEX_SALT: u32 = 160_478;

/// One bitmap's place and summary. Source: docs/format.md, "Index entries".
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct IndexEntry {
    /// The bitmap's metadata block, for data maps too.
    pub blocknr: U64,
    /// Entries of zero, those past the end of the map included.
    pub nr_free: U32,
    /// No entry before this one is zero.
    pub none_free_before: U32,
}
const _: () = assert!(size_of::<IndexEntry>() == 16);

impl Value for IndexEntry {}

/// The index block of a metadata space map.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct MetadataIndex {
    /// Checksum, salted for index blocks.
    pub csum: U32,
    /// Zero.
    pub padding: U32,
    /// Own location.
    pub blocknr: U64,
    /// Entry *b* describes bitmap *b*.
    pub entries: [IndexEntry; MAX_METADATA_BITMAPS],
}
const _: () = assert!(size_of::<MetadataIndex>() == 4096);

/// Checks location and checksum.
pub struct IndexValidator;

/// The only one there is.
pub static INDEX_VALIDATOR: IndexValidator = IndexValidator;

impl Validator for IndexValidator {
    fn name(&self) -> &'static str {
        INDEX_NAME
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        check_location_and_checksum(INDEX_NAME, INDEX_SALT, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(INDEX_SALT, at, block);
    }
}
