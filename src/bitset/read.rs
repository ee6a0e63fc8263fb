//! Reading bitsets, as of a commit or in the middle of a transaction.

use std::ops::Range;
use std::sync::Arc;

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use super::{BitCursor, WORD_BITS, WORD_BYTES, check_len, check_range, mask, words};
use crate::array::Array;
use crate::block::BlockManager;
use crate::btree::Wait;
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// A bitset: a root, and how many bits its owner says there are.
#[derive(Clone)]
pub struct BitsetView {
    array: Array,
    nr_bits: u64,
}

impl BitsetView {
    /// The bitset under `root`. Nothing is read.
    ///
    /// # Errors
    /// [`Error::Usage`] for more bits than a bitset can have.
    pub fn new(blocks: &Arc<BlockManager>, root: BlockNr, nr_bits: u64) -> Result<Self> {
        check_len(nr_bits)?;
        let array = Array::new(blocks, root, WORD_BYTES, words(nr_bits))?;
        Ok(Self { array, nr_bits })
    }

    /// Where it starts.
    #[must_use]
    pub fn root(&self) -> BlockNr {
        self.array.root()
    }

    /// Bits, as the owner says.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.nr_bits
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nr_bits == 0
    }

    /// The array of words below.
    #[must_use]
    pub fn words(&self) -> &Array {
        &self.array
    }

    /// Whether a bit is set.
    ///
    /// # Errors
    /// [`Error::Usage`] for a bit at or past the end, and as [`Array::get`].
    pub fn test(&self, bit: u64, wait: Wait) -> Result<bool> {
        check_range(&(bit..bit.saturating_add(1)), self.nr_bits)?;
        let mut word = [0; WORD_BYTES];
        self.array.get(bit / WORD_BITS, &mut word, wait)?;
        Ok(u64::from_le_bytes(word) & mask(bit) != 0)
    }

    /// Copies whole words to `out`, from the one with index `first` on. Bits past
    /// the end of the last one are as the disk has them.
    ///
    /// # Errors
    /// As [`Array::get`].
    pub fn read_words(&self, first: u64, out: &mut [u64]) -> Result<()> {
        let range = first..first.saturating_add(out.len() as u64);
        let mut rest = out.iter_mut();
        self.array.for_each_block(range, |_, values| {
            // Words come first: they end with each block, and take no slot then.
            for (word, slot) in as_words(values)?.iter().zip(rest.by_ref()) {
                *slot = word.get();
            }
            Ok(())
        })
    }

    /// How many bits of a range are set.
    ///
    /// # Errors
    /// [`Error::Usage`] for a range that is not the bitset's, and as [`Array::walk`].
    pub fn count_ones(&self, range: Range<u64>) -> Result<u64> {
        let mut ones = 0;
        self.for_each_word(range, |_, word| {
            ones += u64::from(word.count_ones());
            Ok(())
        })?;
        Ok(ones)
    }

    /// Visits every bit of a range that is set, in order. An error of `visit` ends it.
    ///
    /// # Errors
    /// As [`Self::count_ones`], and what `visit` says.
    pub fn for_each_one(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        self.for_each_word(range, |first, word| {
            let mut left = word;
            while left != 0 {
                visit(first + u64::from(left.trailing_zeros()))?;
                left &= left - 1;
            }
            Ok(())
        })
    }

    /// Visits the words of a range with the index of their first bit; bits that
    /// are not in the range are clear.
    fn for_each_word(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, u64) -> Result<()>,
    ) -> Result<()> {
        check_range(&range, self.nr_bits)?;
        if range.is_empty() {
            return Ok(());
        }
        let places = range.start / WORD_BITS..words(range.end);
        self.array.for_each_block(places, |index, values| {
            for (index, word) in (index..).zip(as_words(values)?) {
                let first = index * WORD_BITS;
                let mut bits = word.get();
                if first < range.start {
                    bits &= u64::MAX << (range.start - first);
                }
                if range.end - first < WORD_BITS {
                    bits &= mask(range.end) - 1;
                }
                visit(first, bits)?;
            }
            Ok(())
        })
    }

    /// A cursor that stands on the first bit.
    ///
    /// # Errors
    /// As [`BitCursor::begin`].
    pub fn cursor(&self) -> Result<BitCursor> {
        BitCursor::begin(self)
    }
}

/// Elements of an array of words.
fn as_words(values: &[u8]) -> Result<&[U64]> {
    <[U64]>::ref_from_bytes(values).map_err(|_| Error::usage("words have 8 bytes"))
}
