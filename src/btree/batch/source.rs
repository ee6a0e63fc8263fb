//! What a batch brings: entries with strictly ascending keys.

use std::ops::Range;

use zerocopy::little_endian::U64;

use crate::btree::ValueType;
use crate::btree::rows::Row;

/// Entries in ascending order of their keys. `W` is the size of a value, 0 when
/// it is known at run time only.
pub(super) trait Source {
    fn len(&self) -> usize;

    fn key(&self, index: usize) -> u64;

    /// The value to be stored.
    fn value(&self, index: usize) -> &[u8];

    /// The first of the values that the batch gives this key: what overwrites
    /// the tree's own, if only for a moment.
    fn first_value(&self, index: usize) -> &[u8] {
        self.value(index)
    }

    /// Copies entries to where a node has them.
    fn copy(&self, entries: Range<usize>, keys: &mut [U64], values: &mut [u8]);

    /// The first of `entries` whose key is not below `key`: looked for near the start first.
    fn seek(&self, entries: Range<usize>, key: u64) -> usize {
        let (mut low, mut step) = (entries.start, 1);
        while low + step <= entries.end && self.key(low + step - 1) < key {
            low += step;
            step *= 2;
        }
        let mut high = (low + step).min(entries.end);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.key(middle) < key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }
}

/// Columns that are in order as they are.
pub(super) struct Sorted<'a, const W: usize> {
    pub keys: &'a [u64],
    pub values: &'a [u8],
    pub value_bytes: usize,
}

impl<const W: usize> Source for Sorted<'_, W> {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn key(&self, index: usize) -> u64 {
        self.keys[index]
    }

    fn value(&self, index: usize) -> &[u8] {
        value::<W>(self.values, self.value_bytes, index)
    }

    fn copy(&self, entries: Range<usize>, keys: &mut [U64], values: &mut [u8]) {
        let width = width::<W>(self.value_bytes);
        for (slot, key) in keys.iter_mut().zip(&self.keys[entries.clone()]) {
            slot.set(*key);
        }
        values.copy_from_slice(&self.values[entries.start * width..entries.end * width]);
    }
}

/// Rows of columns, put in order.
pub(super) struct Gathered<'a, const W: usize> {
    pub rows: &'a [Row],
    /// The first row of each key that had several.
    pub firsts: &'a [Row],
    pub values: &'a [u8],
    pub value_bytes: usize,
}

impl<const W: usize> Source for Gathered<'_, W> {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn key(&self, index: usize) -> u64 {
        self.rows[index].0
    }

    fn value(&self, index: usize) -> &[u8] {
        value::<W>(self.values, self.value_bytes, self.rows[index].1 as usize)
    }

    fn first_value(&self, index: usize) -> &[u8] {
        let key = self.key(index);
        let first = self.firsts.binary_search_by_key(&key, |row| row.0);
        match first.ok().and_then(|place| self.firsts.get(place)) {
            Some(row) => value::<W>(self.values, self.value_bytes, row.1 as usize),
            None => self.value(index),
        }
    }

    fn copy(&self, entries: Range<usize>, keys: &mut [U64], values: &mut [u8]) {
        let width = width::<W>(self.value_bytes);
        let slots = keys.iter_mut().zip(values.chunks_exact_mut(width));
        for ((key, slot), row) in slots.zip(&self.rows[entries]) {
            key.set(row.0);
            slot.copy_from_slice(value::<W>(self.values, width, row.1 as usize));
        }
    }
}

fn width<const W: usize>(value_bytes: usize) -> usize {
    if W == 0 { value_bytes } else { W }
}

fn value<const W: usize>(values: &[u8], value_bytes: usize, index: usize) -> &[u8] {
    let width = width::<W>(value_bytes);
    &values[index * width..][..width]
}

/// Leaves one row of each key, the last, and notes the first. The values between
/// are those that were never seen: what they refer to loses a reference, unless
/// the next one is equal.
pub(super) fn without_doubles(
    rows: &mut Vec<Row>,
    values: &[u8],
    value_bytes: usize,
    counting: &dyn ValueType,
) -> (Vec<Row>, Vec<u8>) {
    let (mut firsts, mut unseen): (Vec<Row>, Vec<u8>) = (Vec::new(), Vec::new());
    let at = |row: u32| value::<0>(values, value_bytes, row as usize);
    rows.dedup_by(|next, kept| {
        if next.0 != kept.0 {
            return false;
        }
        if firsts.last().is_none_or(|first| first.0 != kept.0) {
            firsts.push(*kept);
        }
        if !counting.equal(at(kept.1), at(next.1)) {
            unseen.extend_from_slice(at(kept.1));
        }
        kept.1 = next.1;
        true
    });
    (firsts, unseen)
}
