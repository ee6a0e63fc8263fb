//! Going from bit to bit.

use super::{BitsetView, WORD_BITS, WORD_BYTES, mask};
use crate::array::ArrayCursor;
use crate::error::{Error, Result};

/// Stands on a bit, or past the last one. The bitset must not be changed
/// meanwhile. It can be dropped at any time, after an error too.
pub struct BitCursor {
    words: ArrayCursor,
    nr_bits: u64,
    /// The bit; the bitset's length at the end.
    bit: u64,
}

impl BitCursor {
    /// A cursor on the first bit.
    ///
    /// # Errors
    /// [`Error::Usage`] for a bitset without bits; [`Error::Damaged`], [`Error::Io`].
    pub fn begin(bits: &BitsetView) -> Result<Self> {
        if bits.is_empty() {
            return Err(Error::usage("a bitset without bits has no first one"));
        }
        Ok(Self {
            words: bits.words().cursor()?,
            nr_bits: bits.len(),
            bit: 0,
        })
    }

    /// Which bit it stands on; the bitset's length at the end.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.bit
    }

    /// Whether the bit is set.
    ///
    /// # Errors
    /// [`Error::Usage`] at the end.
    pub fn get(&self) -> Result<bool> {
        if self.bit >= self.nr_bits {
            return Err(Error::usage("the cursor is at the end of the bitset"));
        }
        let word = <[u8; WORD_BYTES]>::try_from(self.words.get()?).unwrap_or_default();
        Ok(u64::from_le_bytes(word) & mask(self.bit) != 0)
    }

    /// On to the next bit; whether there is one. After an error the cursor is at
    /// its end.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`].
    pub fn next_bit(&mut self) -> Result<bool> {
        if self.bit + 1 >= self.nr_bits {
            self.bit = self.nr_bits;
            return Ok(false);
        }
        self.go(self.bit + 1)?;
        Ok(true)
    }

    /// On by so many bits.
    ///
    /// # Errors
    /// [`Error::Usage`] where there are not so many, and the cursor stays where
    /// it is. After any other error it is at its end.
    pub fn skip(&mut self, bits: u64) -> Result<()> {
        match self.bit.checked_add(bits) {
            Some(target) if target < self.nr_bits => self.go(target),
            _ => {
                let (at, all) = (self.bit, self.nr_bits);
                let text = format!("{bits} bits on from {at} of a bitset of {all}");
                Err(Error::Usage(text))
            }
        }
    }

    fn go(&mut self, bit: u64) -> Result<()> {
        let words = bit / WORD_BITS - self.bit / WORD_BITS;
        if words > 0
            && let Err(error) = self.words.skip(words)
        {
            self.bit = self.nr_bits;
            return Err(error);
        }
        self.bit = bit;
        Ok(())
    }
}
