//! A bitset that is being changed: one word in memory, the others in blocks.

use std::sync::Arc;

use super::{BitsetView, WORD_BITS, WORD_BYTES, check_len, check_range, mask, words};
use crate::array::{self, Array, ArrayType};
use crate::block::BlockManager;
use crate::btree::{Plain, Wait};
use crate::error::{Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// The word that was used last.
#[derive(Clone, Copy, Debug)]
struct Word {
    index: u64,
    bits: u64,
    /// Whether the array has another.
    dirty: bool,
}

/// Bits, and the word of them that was used last. Made for one transaction after
/// the other: before each commit, [`Self::flush`] gives the root to be stored.
/// After an abort it is to be opened anew.
#[derive(Debug)]
pub struct Bitset {
    root: BlockNr,
    nr_bits: u64,
    word: Option<Word>,
}

impl Bitset {
    /// A new bitset without bits.
    ///
    /// # Errors
    /// What allocation says.
    pub fn empty(txn: &mut Transaction) -> Result<Self> {
        Ok(Self::over(array::empty(txn)?, 0))
    }

    /// A new bitset; `generator` is asked for each bit in order.
    ///
    /// # Errors
    /// As [`array::generate`].
    pub fn generate(
        txn: &mut Transaction,
        nr_bits: u64,
        generator: &mut dyn FnMut(u64) -> Result<bool>,
    ) -> Result<Self> {
        check_len(nr_bits)?;
        Self::from_words_by(txn, nr_bits, &mut |index| {
            let first = index * WORD_BITS;
            let mut bits = 0;
            for bit in first..nr_bits.min(first + WORD_BITS) {
                if generator(bit)? {
                    bits |= mask(bit);
                }
            }
            Ok(bits)
        })
    }

    /// A new bitset of bits that lie in words, the first in the lowest bit of the
    /// first word. What the last word has beyond `nr_bits` is left out.
    ///
    /// # Errors
    /// [`Error::Usage`] where the words are too many or too few; as [`array::generate`].
    pub fn from_bits(txn: &mut Transaction, nr_bits: u64, bits: &[u64]) -> Result<Self> {
        check_len(nr_bits)?;
        if words(nr_bits) != bits.len() as u64 {
            let text = format!("{} words for {nr_bits} bits", bits.len());
            return Err(Error::Usage(text));
        }
        let mut rest = bits.iter();
        Self::from_words_by(txn, nr_bits, &mut |index| {
            let word = rest.next().copied().unwrap_or_default();
            Ok(word & bits_in_use(index, nr_bits))
        })
    }

    fn from_words_by(
        txn: &mut Transaction,
        nr_bits: u64,
        word: &mut dyn FnMut(u64) -> Result<u64>,
    ) -> Result<Self> {
        let root = array::generate(
            txn,
            &mut of_words(&mut Plain),
            words(nr_bits),
            &mut |index, out| {
                out.copy_from_slice(&word(index)?.to_le_bytes());
                Ok(())
            },
        )?;
        Ok(Self::over(root, nr_bits))
    }

    /// The bitset under `root`, which has as many bits as its owner says. Nothing is read.
    ///
    /// # Errors
    /// [`Error::Usage`] for more bits than a bitset can have.
    pub fn open(root: BlockNr, nr_bits: u64) -> Result<Self> {
        check_len(nr_bits)?;
        Ok(Self::over(root, nr_bits))
    }

    fn over(root: BlockNr, nr_bits: u64) -> Self {
        Self {
            root,
            nr_bits,
            word: None,
        }
    }

    /// Bits in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.nr_bits
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nr_bits == 0
    }

    /// Whether something was changed that [`Self::flush`] has not written.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.word.is_some_and(|word| word.dirty)
    }

    /// Sets a bit.
    ///
    /// # Errors
    /// [`Error::Usage`] for a bit at or past the end, with no trace; as [`array::set`].
    pub fn set(&mut self, txn: &mut Transaction, bit: u64) -> Result<()> {
        self.set_to(txn, bit, true)
    }

    /// Clears a bit.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn clear(&mut self, txn: &mut Transaction, bit: u64) -> Result<()> {
        self.set_to(txn, bit, false)
    }

    /// Sets a bit, or clears it.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn set_to(&mut self, txn: &mut Transaction, bit: u64, value: bool) -> Result<()> {
        let mut word = self.load(txn, bit)?;
        let bits = if value {
            word.bits | mask(bit)
        } else {
            word.bits & !mask(bit)
        };
        if bits != word.bits {
            word.bits = bits;
            word.dirty = true;
            self.word = Some(word);
        }
        Ok(())
    }

    /// Whether a bit is set. Changes nothing, unless the word that was used last has to
    /// make room.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn test(&mut self, txn: &mut Transaction, bit: u64) -> Result<bool> {
        Ok(self.load(txn, bit)?.bits & mask(bit) != 0)
    }

    /// Sets or clears all bits of a range: what lies in whole words goes to the blocks at once.
    ///
    /// # Errors
    /// As [`Self::set`].
    pub fn fill(
        &mut self,
        txn: &mut Transaction,
        range: std::ops::Range<u64>,
        value: bool,
    ) -> Result<()> {
        check_range(&range, self.nr_bits)?;
        let whole = range.start.next_multiple_of(WORD_BITS)..range.end / WORD_BITS * WORD_BITS;
        if whole.is_empty() {
            return range
                .into_iter()
                .try_for_each(|bit| self.set_to(txn, bit, value));
        }
        for bit in (range.start..whole.start).chain(whole.end..range.end) {
            self.set_to(txn, bit, value)?;
        }
        self.write_back(txn)?;
        self.word = None;
        self.root = array::fill(
            txn,
            &mut of_words(&mut Plain),
            self.root,
            words(self.nr_bits),
            whole.start / WORD_BITS..whole.end / WORD_BITS,
            &word_of(value),
        )?;
        Ok(())
    }

    /// Writes what was changed last to its block, and gives the root, which the
    /// owner has to store before it commits.
    ///
    /// # Errors
    /// As [`array::set`].
    #[must_use = "this is the root to be stored"]
    pub fn flush(&mut self, txn: &mut Transaction) -> Result<BlockNr> {
        self.write_back(txn)?;
        Ok(self.root)
    }

    /// Makes it one of `nr_bits`. Only words that are new hold `default`; bits
    /// past the end of what was the last word stay what they were.
    ///
    /// # Errors
    /// As [`array::resize`].
    pub fn resize(&mut self, txn: &mut Transaction, nr_bits: u64, default: bool) -> Result<()> {
        check_len(nr_bits)?;
        self.write_back(txn)?;
        // It may be cut off.
        self.word = None;
        self.root = array::resize(
            txn,
            &mut of_words(&mut Plain),
            self.root,
            words(self.nr_bits),
            words(nr_bits),
            &word_of(default),
        )?;
        self.nr_bits = nr_bits;
        Ok(())
    }

    /// What it holds now, for cursors and bulk reading. Not to be used once the
    /// bitset is changed.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn view(&mut self, txn: &mut Transaction) -> Result<BitsetView> {
        let root = self.flush(txn)?;
        BitsetView::new(txn.blocks(), root, self.nr_bits)
    }

    /// Drops a reference on it.
    ///
    /// # Errors
    /// As [`array::delete`].
    pub fn delete(self, txn: &mut Transaction) -> Result<()> {
        array::delete(txn, &mut of_words(&mut Plain), self.root)
    }

    fn load(&mut self, txn: &mut Transaction, bit: u64) -> Result<Word> {
        check_range(&(bit..bit.saturating_add(1)), self.nr_bits)?;
        let index = bit / WORD_BITS;
        if let Some(word) = self.word.filter(|word| word.index == index) {
            return Ok(word);
        }
        // Read before the other is written: what cannot be read leaves no trace.
        let bits = self.read_word(txn.blocks(), index)?;
        self.write_back(txn)?;
        let word = Word {
            index,
            bits,
            dirty: false,
        };
        self.word = Some(word);
        Ok(word)
    }

    fn read_word(&self, blocks: &Arc<BlockManager>, index: u64) -> Result<u64> {
        let array = Array::new(blocks, self.root, WORD_BYTES, words(self.nr_bits))?;
        let mut out = [0; WORD_BYTES];
        match array.get(index, &mut out, Wait::No) {
            Err(Error::WouldBlock) => array.get(index, &mut out, Wait::Yes)?,
            answer => answer?,
        }
        Ok(u64::from_le_bytes(out))
    }

    fn write_back(&mut self, txn: &mut Transaction) -> Result<()> {
        let Some(word) = self.word.as_mut().filter(|word| word.dirty) else {
            return Ok(());
        };
        self.root = array::set(
            txn,
            &mut of_words(&mut Plain),
            self.root,
            words(self.nr_bits),
            word.index,
            &word.bits.to_le_bytes(),
        )?;
        word.dirty = false;
        Ok(())
    }
}

fn of_words(values: &mut Plain) -> ArrayType<'_> {
    ArrayType {
        value_bytes: WORD_BYTES,
        values,
    }
}

/// A word of nothing but one kind of bit.
fn word_of(value: bool) -> [u8; WORD_BYTES] {
    [if value { u8::MAX } else { 0 }; WORD_BYTES]
}

/// The bits of a word that lie below `nr_bits`.
fn bits_in_use(index: u64, nr_bits: u64) -> u64 {
    match nr_bits.saturating_sub(index * WORD_BITS) {
        0 => 0,
        bits if bits >= WORD_BITS => u64::MAX,
        bits => (1 << bits) - 1,
    }
}
