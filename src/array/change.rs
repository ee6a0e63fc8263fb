//! Making arrays and changing them.

use std::ops::Range;

use super::block::BlockMut;
use super::place::{missing, open_block};
use super::values::{ArrayBlocks, ArrayType, Hung, check_len, tree_type};
use super::{ARRAY_NAME, ARRAY_VALIDATOR, ArrayBlock, TREE_VALUE_BYTES};
use crate::btree::{self, Builder};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Blocks that are made before the tree is told of them.
const BATCH: u64 = 1024;

/// A new array without elements.
///
/// # Errors
/// What allocation says.
pub fn empty(txn: &mut Transaction) -> Result<BlockNr> {
    btree::empty(txn, TREE_VALUE_BYTES)
}

/// A new array of `len` elements, which `generator` is asked for in order: it is
/// handed the index and the bytes to fill. The array takes its own references to
/// what they refer to. Gives the root.
///
/// # Errors
/// [`Error::Usage`] for sizes that cannot be, and [`Error::NoSpace`] where fewer
/// blocks are free than it takes, with no trace. What `generator` says.
pub fn generate(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    len: u64,
    generator: &mut dyn FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<BlockNr> {
    array.capacity()?;
    let value_bytes = array.value_bytes;
    build(txn, array, len, |first, values| {
        let elements = values.chunks_exact_mut(value_bytes);
        (first..)
            .zip(elements)
            .try_for_each(|(index, element)| generator(index, element))
    })
}

/// A new array of elements that lie one after the other. As [`generate`].
///
/// # Errors
/// As [`generate`].
pub fn from_slice(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    elements: &[u8],
) -> Result<BlockNr> {
    array.capacity()?;
    let len = array.count(elements)?;
    let mut rest = elements;
    build(txn, array, len, |_, values| {
        let (now, later) = rest.split_at(values.len());
        values.copy_from_slice(now);
        rest = later;
        Ok(())
    })
}

/// Puts a new array together; `write` fills a block's elements, of which it is
/// told the first one's index.
fn build(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    len: u64,
    mut write: impl FnMut(u64, &mut [u8]) -> Result<()>,
) -> Result<BlockNr> {
    let capacity = array.capacity()?;
    check_len(len)?;
    let blocks = len.div_ceil(capacity);
    reserve(txn, blocks + Builder::blocks_for(blocks, TREE_VALUE_BYTES)?)?;
    let mut builder = Builder::new(TREE_VALUE_BYTES)?;
    for key in 0..blocks {
        let first = key * capacity;
        let nr = small((len - first).min(capacity));
        let mut block = BlockMut::new(txn, array.value_bytes, nr)?;
        write(first, block.values_mut(0..nr))?;
        array.values.inc(txn, block.values(0..nr))?;
        builder.push(txn, key, &block.location().0.to_le_bytes())?;
    }
    builder.finish(txn)
}

/// Changes one element of an array of `len`. A different one takes the array's
/// own reference, and what it replaces loses one. Gives the root; the old one is
/// not to be used any more.
///
/// # Errors
/// [`Error::Usage`] for an index at or past the end or a value of another size,
/// [`Error::Damaged`] where the array does not have the element; none of them
/// leaves a trace. After any other the transaction has to be aborted.
pub fn set(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    len: u64,
    index: u64,
    value: &[u8],
) -> Result<BlockNr> {
    array.capacity()?;
    check_value(array, value)?;
    set_range(txn, array, root, len, index, value)
}

/// Changes elements that lie side by side, `first` and those after it, each block
/// once. As [`set`].
///
/// # Errors
/// As [`set`]; damage further in is found when other blocks were changed already.
pub fn set_range(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    len: u64,
    first: u64,
    elements: &[u8],
) -> Result<BlockNr> {
    array.capacity()?;
    let count = array.count(elements)?;
    let mut rest = elements;
    let range = first..first.saturating_add(count);
    change(txn, array, root, len, range, |txn, array, block, places| {
        let (now, later) = rest.split_at(places.len() * array.value_bytes);
        rest = later;
        put(txn, array, block, places, now)
    })
}

/// Sets all elements in `range` to one value, each block once. As [`set`].
///
/// # Errors
/// As [`set_range`].
pub fn fill(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    len: u64,
    range: Range<u64>,
    value: &[u8],
) -> Result<BlockNr> {
    let capacity = array.capacity()?;
    check_value(array, value)?;
    let most = capacity.min(range.end.saturating_sub(range.start));
    let values = value.repeat(small(most));
    change(txn, array, root, len, range, |txn, array, block, places| {
        let now = &values[..places.len() * array.value_bytes];
        put(txn, array, block, places, now)
    })
}

/// Opens each block of a range, and hands it to `work` with the places to be changed in it.
fn change(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    len: u64,
    range: Range<u64>,
    mut work: impl FnMut(
        &mut Transaction,
        &mut ArrayType<'_>,
        &mut BlockMut,
        Range<usize>,
    ) -> Result<()>,
) -> Result<BlockNr> {
    let capacity = array.capacity()?;
    check_len(len)?;
    if range.start > range.end || range.end > len {
        return Err(beyond(&range, len));
    }
    let (mut root, mut first) = (root, range.start);
    while first < range.end {
        let (key, begin) = (first / capacity, small(first % capacity));
        let end = small((range.end - key * capacity).min(capacity));
        // All that the owner says are in it, not only those to be changed.
        let wanted = small((len - key * capacity).min(capacity));
        let opened = open_block(txn, array, root, key, wanted)?;
        let mut block = opened.0;
        root = opened.1;
        work(txn, array, &mut block, begin..end)?;
        first += (end - begin) as u64;
    }
    Ok(root)
}

/// Replaces elements of one block. What goes is let go of, what comes is counted.
fn put(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    block: &mut BlockMut,
    places: Range<usize>,
    elements: &[u8],
) -> Result<()> {
    let each = array.value_bytes;
    let old = block.values(places.clone()).chunks_exact(each);
    for (old, new) in old.zip(elements.chunks_exact(each)) {
        if !array.values.equal(old, new) {
            array.values.dec(txn, old)?;
            array.values.inc(txn, new)?;
        }
    }
    block.values_mut(places).copy_from_slice(elements);
    Ok(())
}

/// Makes an array of `old` elements one of `new`: those that come are `default`,
/// those that go are let go of. Gives the root; the old one is not to be used any more.
///
/// # Errors
/// [`Error::Usage`] for sizes that cannot be, or where the array is longer than
/// `old`; [`Error::Damaged`] where it is shorter, and [`Error::NoSpace`] where
/// fewer blocks are free than growing takes; none of them leaves a trace. After
/// any other the transaction has to be aborted.
pub fn resize(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    old: u64,
    new: u64,
    default: &[u8],
) -> Result<BlockNr> {
    array.capacity()?;
    check_value(array, default)?;
    check_len(old)?;
    check_len(new)?;
    if old == new {
        return Ok(root);
    }
    check_extent(txn, array, root, old)?;
    if new < old {
        shrink(txn, array, root, old, new)
    } else {
        grow(txn, array, root, old, new, default)
    }
}

/// Whether an array is as long as its owner says, as far as its last block tells.
fn check_extent(txn: &Transaction, array: &ArrayType<'_>, root: BlockNr, len: u64) -> Result<()> {
    let capacity = array.capacity()?;
    let mut found = 0;
    if let Some((key, value)) = btree::last(txn.blocks(), root, TREE_VALUE_BYTES)? {
        let at = btree::block_numbers(&value).next().unwrap_or_default();
        super::values::check_pointer(txn.nr_blocks(), at)?;
        let block = txn.read(at, &ARRAY_VALIDATOR)?;
        let values = ArrayBlock::parse(at, &block)?.packed_values(array.value_bytes)?;
        let own = array.count(values)?;
        found = key.saturating_mul(capacity).saturating_add(own);
        if own == 0 {
            return Err(Damage::new(at, ARRAY_NAME, "entries", 0_u32, "at least 1").into());
        }
    }
    match found {
        found if found == len => Ok(()),
        found if found < len => Err(missing(root, found.to_string(), len).into()),
        found => {
            let text = format!("the array has {found} elements and not {len}");
            Err(Error::Usage(text))
        }
    }
}

fn shrink(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    old: u64,
    new: u64,
) -> Result<BlockNr> {
    let capacity = array.capacity()?;
    let mut root = root;
    let gone = new.div_ceil(capacity)..old.div_ceil(capacity);
    if !gone.is_empty() {
        let mut values = ArrayBlocks(array);
        let mut tree = tree_type(&mut values);
        let (now, removed) = btree::remove_leaves(txn, &mut tree, root, &[gone.start], gone.end)?;
        let expected = gone.end - gone.start;
        if removed != expected {
            return Err(missing(root, format!("{removed} array blocks"), expected).into());
        }
        root = now;
    }
    let tail = small(new % capacity);
    if tail > 0 {
        let key = new / capacity;
        let wanted = small((old - key * capacity).min(capacity));
        let (mut block, now) = open_block(txn, array, root, key, wanted)?;
        root = now;
        if block.len() > tail {
            array.values.dec(txn, block.values(tail..block.len()))?;
            block.set_len(tail);
        }
    }
    Ok(root)
}

fn grow(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    old: u64,
    new: u64,
    default: &[u8],
) -> Result<BlockNr> {
    let capacity = array.capacity()?;
    let (begin, end) = (old.div_ceil(capacity), new.div_ceil(capacity));
    reserve(txn, end - begin)?;
    let most = small(capacity.min(new - old));
    let values = default.repeat(most);
    let mut root = root;
    let tail = small(old % capacity);
    if tail > 0 {
        let key = old / capacity;
        let (mut block, now) = open_block(txn, array, root, key, tail)?;
        root = now;
        let full = small((new - key * capacity).min(capacity));
        append(txn, array, &mut block, tail..full, &values)?;
    }
    for first in (begin..end).step_by(small(BATCH)) {
        let keys: Vec<u64> = (first..end.min(first + BATCH)).collect();
        let mut places = Vec::with_capacity(keys.len() * TREE_VALUE_BYTES);
        for key in &keys {
            let nr = small((new - key * capacity).min(capacity));
            let mut block = BlockMut::new(txn, array.value_bytes, 0)?;
            append(txn, array, &mut block, 0..nr, &values)?;
            places.extend_from_slice(&block.location().0.to_le_bytes());
        }
        let mut values = Hung;
        let mut tree = tree_type(&mut values);
        root = btree::insert_sorted(txn, &mut tree, root, &keys, &places)?.root;
    }
    Ok(root)
}

/// Adds elements to a block, from the end of those that it has.
fn append(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    block: &mut BlockMut,
    places: Range<usize>,
    values: &[u8],
) -> Result<()> {
    let values = &values[..places.len() * array.value_bytes];
    block.set_len(places.end);
    block.values_mut(places).copy_from_slice(values);
    if values.is_empty() {
        return Ok(());
    }
    array.values.inc(txn, values)
}

/// Drops a reference on an array. What nobody else owns is freed, and the
/// elements in it lose a reference.
///
/// # Errors
/// As [`btree::delete`].
pub fn delete(txn: &mut Transaction, array: &mut ArrayType<'_>, root: BlockNr) -> Result<()> {
    array.capacity()?;
    let mut values = ArrayBlocks(array);
    btree::delete(txn, &mut tree_type(&mut values), root)
}

/// Whether so many blocks are free; they are wanted side by side.
fn reserve(txn: &mut Transaction, blocks: u64) -> Result<()> {
    let free = txn.nr_free();
    if blocks > free {
        let text = format!("the array takes {blocks} blocks more, and {free} are free");
        return Err(Error::no_metadata_space(text));
    }
    txn.want_run(blocks);
    Ok(())
}

fn check_value(array: &ArrayType<'_>, value: &[u8]) -> Result<()> {
    if value.len() == array.value_bytes {
        return Ok(());
    }
    let (found, size) = (value.len(), array.value_bytes);
    let text = format!("a value of {found} bytes for an array of elements of {size}");
    Err(Error::Usage(text))
}

/// A range that is not the array's.
pub(super) fn beyond(range: &Range<u64>, len: u64) -> Error {
    let Range { start, end } = range;
    let text = format!("elements {start} to {end} of an array of {len}");
    Error::Usage(text)
}

/// A number of elements in one block, or of keys in a batch.
fn small(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
