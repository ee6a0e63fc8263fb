//! Layer 6: bitsets: bits in an array of 64-bit words.
//!
//! Promises: bit *i* is bit *i* mod 64 of word *i* / 64, little-endian. The
//! length is not stored: the owner of a bitset knows it. A call beyond it is an
//! [`Error::Usage`](crate::Error::Usage) without a trace.
//!
//! [`Bitset`] changes one word at a time in memory. Its root comes from
//! [`Bitset::flush`] alone, so that nobody commits without what was changed last.
//! May use: `error`, `units`, `block`, `transaction`, `btree`, `array`.

mod change;
mod cursor;
mod read;

pub use change::Bitset;
pub use cursor::BitCursor;
pub use read::BitsetView;

use std::ops::Range;

use crate::error::{Error, Result};

/// The longest bitset.
pub const MAX_BITS: u64 = crate::array::MAX_LEN;

/// Bytes of a word.
const WORD_BYTES: usize = 8;

/// Bits in a word.
const WORD_BITS: u64 = 64;

/// Words that hold so many bits.
fn words(bits: u64) -> u64 {
    bits.div_ceil(WORD_BITS)
}

/// The one bit of its word that stands for `bit`.
fn mask(bit: u64) -> u64 {
    1 << (bit % WORD_BITS)
}

/// Whether there can be so many bits.
fn check_len(bits: u64) -> Result<()> {
    if bits <= MAX_BITS {
        return Ok(());
    }
    let text = format!("{bits} bits: a bitset holds at most {MAX_BITS}");
    Err(Error::Usage(text))
}

/// Whether a range of bits is the bitset's.
fn check_range(range: &Range<u64>, bits: u64) -> Result<()> {
    if range.start <= range.end && range.end <= bits {
        return Ok(());
    }
    let Range { start, end } = range;
    let text = format!("bits {start} to {end} of a bitset of {bits}");
    Err(Error::Usage(text))
}
