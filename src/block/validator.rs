//! Checking a block before anyone sees it.

use std::borrow::Cow;
use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};

use super::BlockData;
use super::data::slice_at;
use crate::error::{Damage, Result};
use crate::units::BlockNr;

/// Knows one kind of block. Lives beside the struct it checks, so that this
/// room never learns what a node is.
pub trait Validator: Send + Sync {
    /// The kind, as it is named in errors.
    fn name(&self) -> &str;

    /// Tells validators of one name apart: two that differ check differently.
    fn identity(&self) -> u64 {
        0
    }

    /// Whether `block`, read from `at`, may be used.
    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage>;

    /// Makes `block` one that [`Self::check`] accepts at `at`: stores the location,
    /// then the checksum. Runs right before each write, on a copy, in any thread.
    fn seal(&self, at: BlockNr, block: &mut BlockData);

    /// As [`Self::check`], for one whose answer may be somebody else's error.
    ///
    /// # Errors
    /// [`Error::Damaged`](crate::error::Error::Damaged), or what it cannot put into one.
    fn accept(&self, at: BlockNr, block: &BlockData) -> Result<()> {
        Ok(self.check(at, block)?)
    }

    /// Whether it must not run while locks of the block manager are held, nor in
    /// its threads: an interpreter has to be asked. Then [`Self::accept`] and
    /// [`Self::prepare`] run on the thread that called, before anything is
    /// written, and [`Self::seal`] has nothing left to do.
    fn needs_preparation(&self) -> bool {
        false
    }

    /// What [`Self::seal`] is to others, for one that needs it, on a copy that
    /// becomes the block.
    ///
    /// # Errors
    /// Whatever it says: nothing is written then, and the block stays as it was.
    fn prepare(&self, at: BlockNr, block: &mut BlockData) -> Result<()> {
        let _nothing_to_do = (at, block);
        Ok(())
    }
}

/// Which validator a lock asks for.
#[derive(Clone)]
pub enum Checks {
    /// One that lives as long as the program: costs nothing to pass around.
    Builtin(&'static dyn Validator),
    /// One that somebody made.
    Own(Arc<dyn Validator>),
}

impl Checks {
    /// The validator.
    #[must_use]
    pub fn validator(&self) -> &dyn Validator {
        match self {
            Self::Builtin(validator) => *validator,
            Self::Own(validator) => &**validator,
        }
    }

    /// Whether both check the same kind of block.
    #[must_use]
    #[inline]
    pub fn same_as(&self, other: &Self) -> bool {
        let (own, other) = (self.validator(), other.validator());
        // One place with one set of functions is one validator; that two places
        // are two validators is for their names to say.
        let at_one_place = std::ptr::eq(own, other);
        at_one_place || Self::same_kind(own, other)
    }

    fn same_kind(own: &dyn Validator, other: &dyn Validator) -> bool {
        own.name() == other.name() && own.identity() == other.identity()
    }
}

impl<V: Validator + 'static> From<&'static V> for Checks {
    fn from(validator: &'static V) -> Self {
        Self::Builtin(validator)
    }
}

impl From<&'static dyn Validator> for Checks {
    fn from(validator: &'static dyn Validator) -> Self {
        Self::Builtin(validator)
    }
}

impl From<Arc<dyn Validator>> for Checks {
    fn from(validator: Arc<dyn Validator>) -> Self {
        Self::Own(validator)
    }
}

impl From<&Checks> for Checks {
    fn from(checks: &Checks) -> Self {
        checks.clone()
    }
}

/// What the checksum field of a block must hold but for its kind's salt:
/// CRC-32C over bytes 4 to 4095 without the final inversion.
/// Source: docs/format.md, "Checksums and block kinds".
#[must_use]
pub fn checksum(block: &BlockData) -> u32 {
    !crc_fast::crc32_iscsi(&block.bytes()[4..])
}

/// Salts of every block kind and where it keeps its own number.
const KINDS: [(u32, usize, &str); 7] = [
    (160_774, 8, "thin superblock"),
    (9_031_977, 8, "cache superblock"),
    (146_538_381, 8, "era superblock"),
    (121_107, 8, "btree node"),
    (240_779, 8, "space map bitmap"),
    (160_478, 8, "space map index"),
    (595_846_735, 16, "array block"),
];

/// The kind whose checksum the block bears, and the location it claims.
#[must_use]
pub fn kind_of(block: &BlockData) -> Option<(&'static str, u64)> {
    let salt = block.view::<U32>().get() ^ checksum(block);
    let (_, offset, name) = KINDS.iter().find(|kind| kind.0 == salt)?;
    let location = slice_at::<U64>(block.bytes(), *offset, 1)?.first()?;
    Some((name, location.get()))
}

/// Checks a block whose own number stands at byte 8. The address comes first:
/// a write that went astray has a good checksum.
pub fn check_location_and_checksum(
    name: impl Into<Cow<'static, str>>,
    salt: u32,
    at: BlockNr,
    block: &BlockData,
) -> Result<(), Damage> {
    let sum = checksum(block);
    let found = block.view::<U32>().get();
    let location = slice_at::<U64>(block.bytes(), 8, 1).map_or(0, |field| field[0].get());
    if found == sum ^ salt && location == at.0 {
        return Ok(());
    }
    if location != at.0 {
        return Err(Damage::new(at, name, "location", location, at.0));
    }
    match kind_of(block) {
        Some((other, _)) => {
            let name = name.into();
            let expected = name.clone().into_owned();
            Err(Damage::new(at, name, "block kind", other, expected))
        }
        None => Err(Damage::new(at, name, "checksum", found, sum ^ salt)),
    }
}

/// Stores a block's own number at byte 8 and then its checksum.
pub fn seal_location_and_checksum(salt: u32, at: BlockNr, block: &mut BlockData) {
    block.bytes_mut()[8..16].copy_from_slice(&at.0.to_le_bytes());
    let csum = checksum(block) ^ salt;
    block.bytes_mut()[..4].copy_from_slice(&csum.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference layout's empty leaf with values of 4 bytes, in block 2.
    /// Source: docs/format.md, "Reference layouts".
    fn empty_leaf() -> BlockData {
        let mut block = BlockData::zeroed();
        for (offset, word) in [(0, 0xC360_E452_u32), (4, 2), (8, 2), (20, 336), (24, 4)] {
            block.bytes_mut()[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
        }
        block
    }

    #[test]
    fn the_kernels_checksum_is_accepted() {
        let block = empty_leaf();
        assert_eq!(
            check_location_and_checksum("btree node", 121_107, BlockNr(2), &block),
            Ok(())
        );
        assert_eq!(kind_of(&block), Some(("btree node", 2)));
    }

    #[test]
    fn a_wrong_place_a_wrong_kind_and_a_flipped_bit_are_told_apart() {
        let mut block = empty_leaf();
        let check = |at, salt, block: &BlockData| {
            check_location_and_checksum("it", salt, BlockNr(at), block)
                .unwrap_err()
                .check
        };
        assert_eq!(check(3, 121_107, &block), "location");
        assert_eq!(check(2, 240_779, &block), "block kind");
        block.bytes_mut()[4000] ^= 1;
        assert_eq!(check(2, 121_107, &block), "checksum");
    }
}
