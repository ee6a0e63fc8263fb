//! Reading arrays, as of a commit or in the middle of a transaction.

use std::ops::Range;
use std::sync::Arc;

use super::block::{ARRAY_NAME, ARRAY_VALIDATOR, ArrayBlock, capacity};
use super::change::beyond;
use super::place::missing;
use super::values::{check_len, check_pointer, check_value_bytes};
use super::{ArrayCursor, TREE_VALUE_BYTES};
use crate::block::{BlockData, BlockManager};
use crate::btree::{self, Cursor, Wait, block_numbers};
use crate::error::{Damage, Error, Result};
use crate::units::BlockNr;

/// Fewer missing blocks than this are not worth a thread that reads ahead.
const AHEAD: usize = 8;

/// An array: a root, the size of its elements, and how many its owner says there are.
#[derive(Clone)]
pub struct Array {
    blocks: Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    len: u64,
}

impl Array {
    /// The array under `root`. Nothing is read.
    ///
    /// # Errors
    /// [`Error::Usage`] for sizes that cannot be.
    pub fn new(
        blocks: &Arc<BlockManager>,
        root: BlockNr,
        value_bytes: usize,
        len: u64,
    ) -> Result<Self> {
        check_value_bytes(value_bytes)?;
        check_len(len)?;
        Ok(Self {
            blocks: Arc::clone(blocks),
            root,
            value_bytes,
            len,
        })
    }

    /// Where the array starts.
    #[must_use]
    pub fn root(&self) -> BlockNr {
        self.root
    }

    /// Bytes of an element.
    #[must_use]
    pub fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Elements, as the owner says.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies an element to `out`.
    ///
    /// # Errors
    /// [`Error::Usage`] at or past the end, or when `out` has another size;
    /// [`Error::WouldBlock`] where `wait` forbids waiting; [`Error::Damaged`],
    /// [`Error::Io`].
    pub fn get(&self, index: u64, out: &mut [u8], wait: Wait) -> Result<()> {
        if out.len() != self.value_bytes {
            let (found, size) = (out.len(), self.value_bytes);
            let text = format!("a buffer of {found} bytes for an element of {size}");
            return Err(Error::Usage(text));
        }
        if index >= self.len {
            return Err(beyond(&(index..index.saturating_add(1)), self.len));
        }
        let (key, place) = self.place(index);
        let at = self.find(key, wait)?;
        let element = place * self.value_bytes..(place + 1) * self.value_bytes;
        if wait == Wait::Yes {
            let block = self.blocks.read(at, &ARRAY_VALIDATOR)?;
            out.copy_from_slice(&self.values(key, at, &block)?[element]);
            return Ok(());
        }
        let enough = self.bytes(self.wanted(key));
        let copied = self.blocks.peek(|cached| {
            let block = cached.block(at, &ARRAY_VALIDATOR)?;
            let values = ArrayBlock::parse(at, block)?.packed_values(self.value_bytes)?;
            if values.len() >= enough {
                out.copy_from_slice(&values[element]);
            }
            Ok(values.len() >= enough)
        });
        // To find out why there are too few takes reading.
        if copied? {
            Ok(())
        } else {
            Err(Error::WouldBlock)
        }
    }

    /// Copies the elements from `first` on to `out`, as many as it has room for.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn read(&self, first: u64, out: &mut [u8]) -> Result<()> {
        if !out.len().is_multiple_of(self.value_bytes) {
            let (found, size) = (out.len(), self.value_bytes);
            let text = format!("a buffer of {found} bytes for elements of {size} each");
            return Err(Error::Usage(text));
        }
        let count = (out.len() / self.value_bytes) as u64;
        let mut rest = out;
        self.for_each_block(first..first.saturating_add(count), |_, values| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(values.len());
            now.copy_from_slice(values);
            rest = later;
            Ok(())
        })
    }

    /// Visits every element in order, with its index. An error of `visit` ends it.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and what `visit` says.
    pub fn walk(&self, mut visit: impl FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
        self.for_each_block(0..self.len, |first, values| {
            let elements = values.chunks_exact(self.value_bytes);
            (first..)
                .zip(elements)
                .try_for_each(|(index, element)| visit(index, element))
        })
    }

    /// Visits the elements of a range, those of one block at a time: the index
    /// of the first, and all of them packed. An error of `visit` ends it.
    ///
    /// # Errors
    /// As [`Self::walk`]; [`Error::Usage`] for a range that is not the array's.
    pub fn for_each_block(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        if range.start > range.end || range.end > self.len {
            return Err(beyond(&range, self.len));
        }
        if range.is_empty() {
            return Ok(());
        }
        let capacity = self.capacity();
        let mut key = range.start / capacity;
        let end = range.end.div_ceil(capacity);
        let mut leaves = Cursor::new(&self.blocks, self.root, TREE_VALUE_BYTES, key, Some(end));
        while let Some(leaf) = leaves.next_leaf()? {
            let (keys, places) = leaf.packed_entries(TREE_VALUE_BYTES)?;
            if keys.len() >= AHEAD {
                self.blocks.prefetch(block_numbers(places).collect());
            }
            for (found, at) in keys.iter().zip(block_numbers(places)) {
                if found.get() != key {
                    let (at, found) = (leaf.location(), found.get());
                    return Err(Damage::new(at, ARRAY_NAME, "tree key", found, key).into());
                }
                check_pointer(self.blocks.nr_blocks(), at)?;
                let block = self.blocks.read(at, &ARRAY_VALIDATOR)?;
                let values = self.values(key, at, &block)?;
                let base = key * capacity;
                let first = range.start.max(base);
                let last = range.end.min(base + capacity);
                let bytes = self.bytes(first - base)..self.bytes(last - base);
                visit(first, &values[bytes])?;
                key += 1;
            }
        }
        if key < end {
            return Err(self.absent(key)?.into());
        }
        Ok(())
    }

    /// A cursor that stands on the first element.
    ///
    /// # Errors
    /// As [`ArrayCursor::begin`].
    pub fn cursor(&self) -> Result<ArrayCursor> {
        ArrayCursor::begin(self)
    }

    /// The array block of `key`, which was read.
    pub(super) fn load(&self, key: u64) -> Result<(BlockNr, Arc<BlockData>)> {
        let at = self.find(key, Wait::Yes)?;
        let block = self.blocks.read(at, &ARRAY_VALIDATOR)?;
        self.values(key, at, &block)?;
        Ok((at, block))
    }

    /// The array block that an element is in, and its place there.
    pub(super) fn place(&self, index: u64) -> (u64, usize) {
        let capacity = self.capacity();
        // No more than a block has bytes.
        let place = usize::try_from(index % capacity).unwrap_or_default();
        (index / capacity, place)
    }

    fn capacity(&self) -> u64 {
        capacity(self.value_bytes) as u64
    }

    /// Elements that the block of `key` has to have.
    fn wanted(&self, key: u64) -> u64 {
        let capacity = self.capacity();
        let before = (key * capacity).min(self.len);
        (self.len - before).min(capacity)
    }

    /// Bytes of so many elements of one block.
    fn bytes(&self, elements: u64) -> usize {
        usize::try_from(elements).unwrap_or_default() * self.value_bytes
    }

    fn find(&self, key: u64, wait: Wait) -> Result<BlockNr> {
        let (blocks, root) = (&self.blocks, self.root);
        let mut place = [0; TREE_VALUE_BYTES];
        if !btree::get(blocks, root, TREE_VALUE_BYTES, key, &mut place, wait)? {
            return Err(match wait {
                Wait::Yes => self.absent(key)?.into(),
                // To find out why takes reading.
                Wait::No => Error::WouldBlock,
            });
        }
        let at = BlockNr(u64::from_le_bytes(place));
        check_pointer(blocks.nr_blocks(), at)?;
        Ok(at)
    }

    /// The elements of a block; all that the owner says are there.
    fn values<'b>(&self, key: u64, at: BlockNr, block: &'b BlockData) -> Result<&'b [u8]> {
        let values = ArrayBlock::parse(at, block)?.packed_values(self.value_bytes)?;
        if values.len() >= self.bytes(self.wanted(key)) {
            return Ok(values);
        }
        let capacity = self.capacity();
        let found = (values.len() / self.value_bytes) as u64;
        let after = btree::next(&self.blocks, self.root, TREE_VALUE_BYTES, key + 1)?;
        Err(match after {
            Some(_) => {
                let expected = format!("{capacity} in all but the last block");
                Damage::new(at, ARRAY_NAME, "entries", found, expected).into()
            }
            None => self.shorter(key * capacity + found).into(),
        })
    }

    /// What is wrong where a block is not there.
    fn absent(&self, key: u64) -> Result<Damage> {
        let after = btree::next(&self.blocks, self.root, TREE_VALUE_BYTES, key)?;
        Ok(match after {
            Some((found, _)) => Damage::new(self.root, ARRAY_NAME, "tree key", found, key),
            None => self.shorter(key * self.capacity()),
        })
    }

    fn shorter(&self, found: u64) -> Damage {
        missing(self.root, format!("{found} or fewer"), self.len)
    }
}
