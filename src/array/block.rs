//! The format of an array block, its validator, and views that read and change it in place.

use std::ops::Range;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::block::{BlockData, Validator, WriteGuard, checksum, kind_of};
use crate::error::{Damage, Result};
use crate::transaction::Transaction;
use crate::units::{BLOCK_BYTES, BlockNr};

/// The kind, as errors name it.
pub const ARRAY_NAME: &str = "array block";
const ARRAY_SALT: u32 = 595_846_735;

/// Header of every array block. Source: docs/format.md, "Arrays and bitsets".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct ArrayHeader {
    /// Checksum, salted for array blocks.
    pub csum: U32,
    /// Capacity.
    pub max_entries: U32,
    /// Elements in use.
    pub nr_entries: U32,
    /// Bytes per element.
    pub value_size: U32,
    /// Own location; 8 bytes further in than in other blocks.
    pub blocknr: U64,
}
const HEADER_BYTES: usize = size_of::<ArrayHeader>();
const _: () = assert!(HEADER_BYTES == 24);

/// The largest elements, of which one fits a block.
pub const MAX_ELEMENT_BYTES: usize = BLOCK_BYTES - HEADER_BYTES;

/// Elements of this size in a full block; 0 where none fits.
#[must_use]
pub const fn capacity(value_bytes: usize) -> usize {
    match MAX_ELEMENT_BYTES.checked_div(value_bytes) {
        Some(elements) => elements,
        None => 0,
    }
}

/// Checks location, checksum and header.
pub struct ArrayValidator;

/// The only one there is.
pub static ARRAY_VALIDATOR: ArrayValidator = ArrayValidator;

impl Validator for ArrayValidator {
    fn name(&self) -> &'static str {
        ARRAY_NAME
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        let header: &ArrayHeader = block.view();
        let (found, expected) = (header.csum.get(), checksum(block) ^ ARRAY_SALT);
        if found != expected {
            // Another kind has its location elsewhere, so that one is not asked for yet.
            return Err(match kind_of(block) {
                Some((other, _)) => Damage::new(at, ARRAY_NAME, "block kind", other, ARRAY_NAME),
                None if header.blocknr.get() != at.0 => wrong_location(at, header),
                None => Damage::new(at, ARRAY_NAME, "checksum", found, expected),
            });
        }
        if header.blocknr.get() != at.0 {
            return Err(wrong_location(at, header));
        }
        ArrayBlock::parse(at, block).map(drop)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        block.view_mut::<ArrayHeader>().blocknr.set(at.0);
        let sum = checksum(block) ^ ARRAY_SALT;
        block.view_mut::<ArrayHeader>().csum.set(sum);
    }
}

fn wrong_location(at: BlockNr, header: &ArrayHeader) -> Damage {
    Damage::new(at, ARRAY_NAME, "location", header.blocknr.get(), at.0)
}

/// An array block, read where it lies. Made from a block that the validator accepted.
#[derive(Clone, Copy)]
pub struct ArrayBlock<'a> {
    at: BlockNr,
    header: &'a ArrayHeader,
    values: &'a [u8],
}

impl<'a> ArrayBlock<'a> {
    /// Checks the header, so that elements can be sliced.
    pub fn parse(at: BlockNr, block: &'a BlockData) -> Result<Self, Damage> {
        let header: &ArrayHeader = block.view();
        let (size, max) = (header.value_size.get(), header.max_entries.get());
        let nr = header.nr_entries.get();
        let bytes = usize::try_from(size).unwrap_or(usize::MAX);
        if bytes == 0 || bytes > MAX_ELEMENT_BYTES {
            let expected = format!("1 to {MAX_ELEMENT_BYTES}");
            return Err(Damage::new(at, ARRAY_NAME, "value size", size, expected));
        }
        let fit = capacity(bytes);
        if usize::try_from(max) != Ok(fit) {
            return Err(Damage::new(at, ARRAY_NAME, "capacity", max, fit));
        }
        let count = usize::try_from(nr).unwrap_or(usize::MAX);
        if count > fit {
            let expected = format!("at most {fit}");
            return Err(Damage::new(at, ARRAY_NAME, "entries", nr, expected));
        }
        let values = &block.bytes()[HEADER_BYTES..][..count * bytes];
        Ok(Self { at, header, values })
    }

    /// Own location.
    #[must_use]
    pub fn location(&self) -> BlockNr {
        self.at
    }

    /// The header as it lies on disk.
    #[must_use]
    pub fn header(&self) -> &'a ArrayHeader {
        self.header
    }

    /// The elements of an array whose elements have so many bytes, one after the other.
    pub fn packed_values(&self, value_bytes: usize) -> Result<&'a [u8], Damage> {
        let found = self.header.value_size.get();
        if usize::try_from(found) == Ok(value_bytes) {
            return Ok(self.values);
        }
        let at = self.at;
        Err(Damage::new(
            at,
            ARRAY_NAME,
            "value size",
            found,
            value_bytes,
        ))
    }
}

/// A write-locked array block whose header was checked: its elements lie inside it.
pub(super) struct BlockMut {
    guard: WriteGuard,
    value_bytes: usize,
    nr: usize,
}

impl BlockMut {
    /// A new block of so many elements of zeros; they fit one.
    pub fn new(txn: &mut Transaction, value_bytes: usize, nr: usize) -> Result<Self> {
        let mut guard = txn.new_block(&ARRAY_VALIDATOR)?;
        let header: &mut ArrayHeader = guard.view_mut();
        header.max_entries.set(field(capacity(value_bytes)));
        header.value_size.set(field(value_bytes));
        let mut block = Self {
            guard,
            value_bytes,
            nr: 0,
        };
        block.set_len(nr);
        Ok(block)
    }

    /// The array block in a block.
    pub fn open(guard: WriteGuard, value_bytes: usize) -> Result<Self, Damage> {
        let view = ArrayBlock::parse(guard.location(), &guard)?;
        let nr = view.packed_values(value_bytes)?.len() / value_bytes;
        Ok(Self {
            guard,
            value_bytes,
            nr,
        })
    }

    pub fn location(&self) -> BlockNr {
        self.guard.location()
    }

    /// Elements in use.
    pub fn len(&self) -> usize {
        self.nr
    }

    /// More elements or fewer; what new ones are is left to the caller.
    pub fn set_len(&mut self, nr: usize) {
        debug_assert!(nr <= capacity(self.value_bytes), "{nr} elements");
        self.nr = nr.min(capacity(self.value_bytes));
        let nr = field(self.nr);
        self.guard.view_mut::<ArrayHeader>().nr_entries.set(nr);
    }

    /// Elements, packed.
    pub fn values(&self, elements: Range<usize>) -> &[u8] {
        &self.guard.bytes()[self.bytes_of(elements)]
    }

    /// Elements, packed, to be changed.
    pub fn values_mut(&mut self, elements: Range<usize>) -> &mut [u8] {
        let bytes = self.bytes_of(elements);
        &mut self.guard.bytes_mut()[bytes]
    }

    fn bytes_of(&self, elements: Range<usize>) -> Range<usize> {
        let byte = |element: usize| HEADER_BYTES + self.value_bytes * element.min(self.nr);
        byte(elements.start)..byte(elements.end)
    }
}

/// A number that is at most a block's bytes.
fn field(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
