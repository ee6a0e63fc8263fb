//! What a batch brings: entries with strictly ascending keys.

use std::ops::Range;

use zerocopy::little_endian::U64;

use crate::btree::rows::Row;

/// Entries in ascending order of their keys. `W` is the size of a value, 0 when
/// it is known at run time only.
pub(super) trait Source {
    /// Whether values are known to be of 8 bytes.
    const WORDS: bool;

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
    const WORDS: bool = W == size_of::<u64>();

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

/// A value of the usual size. Sorted along with its key: to fetch it from where
/// it stood would miss every cache.
pub(super) type Word = [u8; 8];

/// Rows in order that have their values with them.
pub(super) struct Words<'a> {
    pub rows: &'a [Row<Word>],
    /// The first row of each key that had several.
    pub firsts: &'a [Row<Word>],
}

impl Source for Words<'_> {
    const WORDS: bool = true;

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn key(&self, index: usize) -> u64 {
        self.rows[index].0
    }

    fn value(&self, index: usize) -> &[u8] {
        &self.rows[index].1
    }

    fn first_value(&self, index: usize) -> &[u8] {
        first_of(self.firsts, self.key(index)).map_or(self.value(index), |row| &row.1)
    }

    fn copy(&self, entries: Range<usize>, keys: &mut [U64], values: &mut [u8]) {
        let slots = keys.iter_mut().zip(values.chunks_exact_mut(8));
        for ((key, slot), row) in slots.zip(&self.rows[entries]) {
            key.set(row.0);
            slot.copy_from_slice(&row.1);
        }
    }
}

/// Rows in order whose values stand where they stood.
pub(super) struct Gathered<'a> {
    pub rows: &'a [Row<u32>],
    /// The first row of each key that had several.
    pub firsts: &'a [Row<u32>],
    pub values: &'a [u8],
    pub value_bytes: usize,
}

impl Source for Gathered<'_> {
    const WORDS: bool = false;

    fn len(&self) -> usize {
        self.rows.len()
    }

    fn key(&self, index: usize) -> u64 {
        self.rows[index].0
    }

    fn value(&self, index: usize) -> &[u8] {
        value_at(self.values, self.value_bytes, self.rows[index].1)
    }

    fn first_value(&self, index: usize) -> &[u8] {
        let first = first_of(self.firsts, self.key(index));
        first.map_or(self.value(index), |row| {
            value_at(self.values, self.value_bytes, row.1)
        })
    }

    fn copy(&self, entries: Range<usize>, keys: &mut [U64], values: &mut [u8]) {
        let slots = keys
            .iter_mut()
            .zip(values.chunks_exact_mut(self.value_bytes));
        for ((key, slot), row) in slots.zip(&self.rows[entries]) {
            key.set(row.0);
            slot.copy_from_slice(value_at(self.values, self.value_bytes, row.1));
        }
    }
}

/// The value of a place in the batch.
pub(super) fn value_at(values: &[u8], value_bytes: usize, place: u32) -> &[u8] {
    value::<0>(values, value_bytes, place as usize)
}

fn first_of<P>(firsts: &[Row<P>], key: u64) -> Option<&Row<P>> {
    let place = firsts.binary_search_by_key(&key, |row| row.0).ok()?;
    firsts.get(place)
}

fn width<const W: usize>(value_bytes: usize) -> usize {
    if W == 0 { value_bytes } else { W }
}

fn value<const W: usize>(values: &[u8], value_bytes: usize, index: usize) -> &[u8] {
    let width = width::<W>(value_bytes);
    &values[index * width..][..width]
}

/// Leaves one row of each key, the last, and answers the first of those that had
/// several. `unseen` is told of each that another one follows, and of that one.
pub(super) fn without_doubles<P: Copy>(
    rows: &mut Vec<Row<P>>,
    mut unseen: impl FnMut(&P, &P),
) -> Vec<Row<P>> {
    let mut firsts: Vec<Row<P>> = Vec::new();
    rows.dedup_by(|next, kept| {
        if next.0 != kept.0 {
            return false;
        }
        if firsts.last().is_none_or(|first| first.0 != kept.0) {
            firsts.push(*kept);
        }
        unseen(&kept.1, &next.1);
        kept.1 = next.1;
        true
    });
    firsts
}
