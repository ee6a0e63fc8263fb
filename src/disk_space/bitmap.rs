//! Bitmaps: two bits per block, the lower one the more significant.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{BlockData, Validator, check_location_and_checksum, seal_location_and_checksum};
use crate::error::Damage;
use crate::units::BlockNr;

/// Entries in one bitmap block.
pub const ENTRIES_PER_BITMAP: usize = 16320;
/// Entries in one 64-bit word.
pub const ENTRIES_PER_WORD: usize = 32;
/// The entry that sends to the overflow tree: three or more.
pub const MANY: u32 = 3;

/// The kind, as errors name it.
pub const BITMAP_NAME: &str = "space map bitmap";
const BITMAP_SALT: u32 = 240_779;

/// A bitmap block. Source: docs/format.md, "Bitmap block".
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Bitmap {
    /// Checksum, salted for bitmaps.
    pub csum: U32,
    /// Zero.
    pub not_used: U32,
    /// Own location.
    pub blocknr: U64,
    /// Thirty-two entries a word.
    pub words: [U64; 510],
}
const _: () = assert!(size_of::<Bitmap>() == 4096);

impl Bitmap {
    /// The entry of `index`: 0, 1, 2, or [`MANY`].
    #[must_use]
    pub fn entry(&self, index: usize) -> u32 {
        let word = self.words[index / ENTRIES_PER_WORD].get();
        let field = word >> (2 * (index % ENTRIES_PER_WORD));
        // Read as a number the two bits stand the wrong way round.
        u32::from(field & 1 != 0) << 1 | u32::from(field & 2 != 0)
    }

    /// Sets the entry of `index`: 0, 1, 2, or [`MANY`].
    pub fn set_entry(&mut self, index: usize, entry: u32) {
        let word = &mut self.words[index / ENTRIES_PER_WORD];
        let shift = 2 * (index % ENTRIES_PER_WORD);
        let field = u64::from(entry & 1 != 0) << 1 | u64::from(entry & 2 != 0);
        *word = (word.get() & !(3 << shift) | field << shift).into();
    }
}

/// Checks location and checksum; every pattern of bits is a bitmap.
pub struct BitmapValidator;

/// The only one there is.
pub static BITMAP_VALIDATOR: BitmapValidator = BitmapValidator;

impl Validator for BitmapValidator {
    fn name(&self) -> &'static str {
        BITMAP_NAME
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        check_location_and_checksum(BITMAP_NAME, BITMAP_SALT, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(BITMAP_SALT, at, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_bit_is_the_more_significant() {
        let mut block = BlockData::zeroed();
        block.bytes_mut()[16] = 0b1101_1000;
        let bitmap: &Bitmap = block.view();
        assert_eq!(
            [0, 1, 2, 3, 4].map(|index| bitmap.entry(index)),
            [0, 1, 2, MANY, 0]
        );
    }

    #[test]
    fn an_entry_is_set_without_touching_others() {
        let mut block = BlockData::zeroed();
        block.bytes_mut()[16..].fill(0xFF);
        let bitmap: &mut Bitmap = block.view_mut();
        for (index, entry) in [(0, 0), (1, 1), (2, 2), (31, 1), (16319, 0)] {
            bitmap.set_entry(index, entry);
            assert_eq!(bitmap.entry(index), entry);
        }
        let many = (0..16320)
            .filter(|index| bitmap.entry(*index) == MANY)
            .count();
        assert_eq!(many, 16320 - 5);
    }
}
