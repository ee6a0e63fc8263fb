//! A validator for blocks of somebody's own: the usual checksum, their salt.

use super::validator::{check_location_and_checksum, checksum, seal_location_and_checksum};
use super::{BlockData, Validator};
use crate::error::{Damage, Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// Checksum and location come first in every block.
const HEADER_BYTES: usize = 16;

/// Checks the location at byte 8 and a salted CRC-32C at byte 0; where it has a
/// magic number, that too, which it also puts there when the block is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrcValidator {
    name: String,
    salt: u32,
    /// 64 bits, and where they are.
    magic: Option<(u64, usize)>,
}

impl CrcValidator {
    /// For blocks that errors call `name`.
    ///
    /// # Errors
    /// [`Error::Usage`] when the magic number would not lie between byte 16 and
    /// the block's end.
    pub fn new(name: impl Into<String>, salt: u32, magic: Option<(u64, usize)>) -> Result<Self> {
        if let Some((_, offset)) = magic {
            let fits = offset >= HEADER_BYTES && offset <= BLOCK_BYTES - size_of::<u64>();
            if !fits {
                let text = format!("a magic number at byte {offset}: it takes 8 from 16 to 4095");
                return Err(Error::Usage(text));
            }
        }
        Ok(Self {
            name: name.into(),
            salt,
            magic,
        })
    }

    fn magic_in(&self, block: &BlockData) -> Option<(u64, u64)> {
        let (wanted, offset) = self.magic?;
        let bytes = block.bytes()[offset..].first_chunk();
        Some((u64::from_le_bytes(*bytes?), wanted))
    }
}

impl Validator for CrcValidator {
    fn name(&self) -> &str {
        &self.name
    }

    /// FNV-1a over what makes one check differ from another.
    fn identity(&self) -> u64 {
        let (magic, offset) = self.magic.unwrap_or_default();
        let words = [u64::from(self.salt), magic, offset as u64];
        let bytes = words.iter().flat_map(|word| word.to_le_bytes());
        bytes.fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        })
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        let csum = u32::from_le_bytes(*block.bytes().first_chunk().unwrap_or(&[0; 4]));
        let location = block.bytes()[8..]
            .first_chunk()
            .map(|bytes| u64::from_le_bytes(*bytes));
        if location != Some(at.0) || csum != checksum(block) ^ self.salt {
            // Only now: it needs a name of its own.
            check_location_and_checksum(self.name.clone(), self.salt, at, block)?;
        }
        match self.magic_in(block) {
            Some((found, wanted)) if found != wanted => {
                Err(Damage::new(at, self.name.clone(), "magic", found, wanted))
            }
            _ => Ok(()),
        }
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        if let Some((magic, offset)) = self.magic {
            block.bytes_mut()[offset..offset + 8].copy_from_slice(&magic.to_le_bytes());
        }
        seal_location_and_checksum(self.salt, at, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_is_accepted_and_nothing_else() {
        let validator = CrcValidator::new("mine", 7, Some((0x1234, 32))).unwrap();
        let mut block = BlockData::zeroed();
        block.bytes_mut()[100] = 1;
        validator.seal(BlockNr(5), &mut block);
        assert_eq!(validator.check(BlockNr(5), &block), Ok(()));
        let failed = |validator: &CrcValidator, at, block: &BlockData| {
            validator.check(BlockNr(at), block).unwrap_err().check
        };
        assert_eq!(failed(&validator, 6, &block), "location");
        let salted = CrcValidator::new("mine", 8, Some((0x1234, 32))).unwrap();
        assert_eq!(failed(&salted, 5, &block), "checksum");
        let magic = CrcValidator::new("mine", 7, Some((0x1235, 32))).unwrap();
        assert_eq!(failed(&magic, 5, &block), "magic");
        for byte in [0, 100, 4095] {
            let mut flipped = block.clone();
            flipped.bytes_mut()[byte] ^= 1;
            assert_eq!(failed(&validator, 5, &flipped), "checksum");
        }
        let identities = [&validator, &salted, &magic].map(Validator::identity);
        assert!(identities[0] != identities[1] && identities[0] != identities[2]);
    }

    #[test]
    fn a_magic_number_over_the_header_or_the_end_is_refused() {
        for offset in [0, 15, BLOCK_BYTES - 7, usize::MAX] {
            assert!(CrcValidator::new("it", 0, Some((1, offset))).is_err());
        }
        for offset in [16, BLOCK_BYTES - 8] {
            assert!(CrcValidator::new("it", 0, Some((1, offset))).is_ok());
        }
    }
}
