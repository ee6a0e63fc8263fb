//! The result: a table of ranges, by columns, and what fills it.

use zerocopy::little_endian::U64;

use crate::thin::MappingValue;

/// What is different about a range of virtual blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Mapped on both sides, to different data blocks.
    Changed = 0,
    /// Mapped on the left side alone.
    LeftOnly = 1,
    /// Mapped on the right side alone.
    RightOnly = 2,
    /// Mapped on both sides, to the same data blocks.
    Same = 3,
}

const CHANGED: u8 = Kind::Changed as u8;
const LEFT_ONLY: u8 = Kind::LeftOnly as u8;
const RIGHT_ONLY: u8 = Kind::RightOnly as u8;
const SAME: u8 = Kind::Same as u8;

impl Kind {
    /// As users see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::LeftOnly => "left_only",
            Self::RightOnly => "right_only",
            Self::Same => "same",
        }
    }

    /// Whether the range is mapped on the left side.
    #[must_use]
    pub fn has_left(self) -> bool {
        self != Self::RightOnly
    }

    /// Whether the range is mapped on the right side.
    #[must_use]
    pub fn has_right(self) -> bool {
        self != Self::LeftOnly
    }

    fn from_code(code: u8) -> Self {
        match code {
            CHANGED => Self::Changed,
            LEFT_ONLY => Self::LeftOnly,
            RIGHT_ONLY => Self::RightOnly,
            _ => Self::Same,
        }
    }
}

/// A longest range of one kind whose data is contiguous on every mapped side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// What is different.
    pub kind: Kind,
    /// First virtual block.
    pub begin: u64,
    /// Blocks.
    pub length: u64,
    /// First data block on the left side.
    pub left_data: Option<u64>,
    /// First data block on the right side.
    pub right_data: Option<u64>,
}

/// The rows by columns, all of one length. Counted in data blocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// [`Kind`] as a number.
    pub kind: Vec<u8>,
    /// First virtual block; ascending, and no two rows overlap.
    pub begin: Vec<u64>,
    /// Blocks, never none.
    pub length: Vec<u64>,
    /// First data block on the left side; 0 where [`Kind::has_left`] is false.
    pub left_data: Vec<u64>,
    /// First data block on the right side; 0 where [`Kind::has_right`] is false.
    pub right_data: Vec<u64>,
}

/// The ranges in which two thin devices differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    columns: Columns,
    block_bytes: u64,
    changed_blocks: u64,
}

impl Delta {
    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.columns.kind.len()
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.columns.kind.is_empty()
    }

    /// Bytes in a data block. A row's end in bytes fits 64 bits.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Blocks in all rows that are not [`Kind::Same`].
    #[must_use]
    pub fn changed_blocks(&self) -> u64 {
        self.changed_blocks
    }

    /// The rows by columns.
    #[must_use]
    pub fn columns(&self) -> &Columns {
        &self.columns
    }

    /// The columns themselves, for somebody who keeps them.
    #[must_use]
    pub fn into_columns(self) -> Columns {
        self.columns
    }

    /// One row; `None` past the end.
    #[must_use]
    pub fn row(&self, index: usize) -> Option<Row> {
        let columns = &self.columns;
        let kind = Kind::from_code(*columns.kind.get(index)?);
        Some(Row {
            kind,
            begin: columns.begin[index],
            length: columns.length[index],
            left_data: kind.has_left().then(|| columns.left_data[index]),
            right_data: kind.has_right().then(|| columns.right_data[index]),
        })
    }

    /// Every row, in ascending order.
    pub fn rows(&self) -> impl Iterator<Item = Row> + '_ {
        (0..self.len()).map_while(|index| self.row(index))
    }

    /// Kind, first virtual block and length of ranges that are longest whatever
    /// their data blocks: neighbouring rows of one kind joined.
    #[must_use]
    pub fn merged(&self) -> Vec<(Kind, u64, u64)> {
        let mut merged: Vec<(Kind, u64, u64)> = Vec::new();
        for row in self.rows() {
            match merged.last_mut() {
                // No sum that could pass 2^64: rows ascend.
                Some((kind, begin, length))
                    if *kind == row.kind && row.begin - *begin == *length =>
                {
                    *length += row.length;
                }
                _ => merged.push((row.kind, row.begin, row.length)),
            }
        }
        merged
    }
}

/// Keys and values of one leaf, as many of one as of the other.
#[derive(Clone, Copy)]
pub(super) struct Entries<'a> {
    pub keys: &'a [U64],
    pub values: &'a [U64],
}

impl Entries<'_> {
    fn get(&self, index: usize) -> Option<(u64, u64)> {
        let (key, value) = (self.keys.get(index)?, self.values.get(index)?);
        Some((key.get(), MappingValue(value.get()).data_block()))
    }

    fn each(&self, mut take: impl FnMut(u64, u64)) -> usize {
        for (key, value) in self.keys.iter().zip(self.values) {
            take(key.get(), MappingValue(value.get()).data_block());
        }
        self.keys.len()
    }
}

/// Joins single blocks, which have to come in ascending order, to rows.
pub(super) struct Builder {
    columns: Columns,
    with_same: bool,
    /// Rows are joined wherever the data lie.
    anywhere: bool,
    /// Rows tell where the data of their first block lie.
    placed: bool,
    /// The row that may still grow; none while its length is 0.
    kind: u8,
    begin: u64,
    length: u64,
    left: u64,
    right: u64,
}

impl Builder {
    pub fn new(with_same: bool) -> Self {
        Self {
            columns: Columns::default(),
            with_same,
            anywhere: false,
            placed: true,
            kind: CHANGED,
            begin: 0,
            length: 0,
            left: 0,
            right: 0,
        }
    }

    /// For rows that are longest whatever their data blocks, which are not kept.
    pub fn joined() -> Self {
        Self {
            anywhere: true,
            placed: false,
            ..Self::new(false)
        }
    }

    /// The same with what is the same, too; each row keeps the data of its first block.
    pub fn joined_and_placed() -> Self {
        Self {
            anywhere: true,
            ..Self::new(true)
        }
    }

    /// Compares two leaves until one of them ends. Returns how many entries of
    /// each are done.
    pub fn compare(&mut self, left: Entries<'_>, right: Entries<'_>) -> (usize, usize) {
        if self.with_same {
            self.compare_as::<true>(left, right)
        } else {
            self.compare_as::<false>(left, right)
        }
    }

    fn compare_as<const WITH_SAME: bool>(
        &mut self,
        left: Entries<'_>,
        right: Entries<'_>,
    ) -> (usize, usize) {
        let (mut l, mut r) = (0, 0);
        while let (Some((left_key, left_data)), Some((right_key, right_data))) =
            (left.get(l), right.get(r))
        {
            if left_key == right_key {
                if left_data != right_data {
                    self.add::<CHANGED>(left_key, left_data, right_data);
                } else if WITH_SAME {
                    self.add::<SAME>(left_key, left_data, right_data);
                }
                l += 1;
                r += 1;
            } else if left_key < right_key {
                self.add::<LEFT_ONLY>(left_key, left_data, 0);
                l += 1;
            } else {
                self.add::<RIGHT_ONLY>(right_key, 0, right_data);
                r += 1;
            }
        }
        (l, r)
    }

    /// Takes in entries that one side has and the other has not, and counts them.
    pub fn one_sided(&mut self, on_the_right: bool, entries: Entries<'_>) -> usize {
        if on_the_right {
            entries.each(|key, data| self.add::<RIGHT_ONLY>(key, 0, data))
        } else {
            entries.each(|key, data| self.add::<LEFT_ONLY>(key, data, 0))
        }
    }

    /// Takes in entries that both sides share, and counts them.
    pub fn same(&mut self, entries: Entries<'_>) -> usize {
        if self.anywhere
            && let (Some((first, data)), Some(last)) = (entries.get(0), entries.keys.last())
            && last.get() - first == entries.keys.len() as u64 - 1
        {
            // Keys rise, so that there are no holes between them.
            self.add_range(Kind::Same, first, last.get() - first + 1, data, data);
            return entries.keys.len();
        }
        entries.each(|key, data| self.add::<SAME>(key, data, data))
    }

    #[inline]
    fn add<const KIND: u8>(&mut self, key: u64, left: u64, right: u64) {
        // Differences and not sums: those may pass 2^64. The row of length 0
        // at the start joins nothing that it would not equal.
        let follows = |now: u64, begin: u64| now.wrapping_sub(begin) == self.length;
        let joins = self.kind == KIND
            && follows(key, self.begin)
            && (self.anywhere && self.length > 0
                || (KIND == RIGHT_ONLY || follows(left, self.left))
                    && (KIND == LEFT_ONLY || follows(right, self.right)));
        if joins {
            self.length += 1;
            return;
        }
        self.flush();
        self.kind = KIND;
        self.begin = key;
        self.length = 1;
        self.left = left;
        self.right = right;
    }

    /// Takes in a range whose data is contiguous on every side that has it.
    pub fn add_range(&mut self, kind: Kind, begin: u64, length: u64, left: u64, right: u64) {
        if kind == Kind::Same && !self.with_same {
            return;
        }
        let follows = |now: u64, begin: u64| now.wrapping_sub(begin) == self.length;
        let joins = self.length > 0
            && self.kind == kind as u8
            && follows(begin, self.begin)
            && (self.anywhere
                || (!kind.has_left() || follows(left, self.left))
                    && (!kind.has_right() || follows(right, self.right)));
        if joins {
            self.length += length;
            return;
        }
        self.flush();
        self.kind = kind as u8;
        (self.begin, self.length) = (begin, length);
        (self.left, self.right) = (left, right);
    }

    #[inline]
    fn flush(&mut self) {
        if self.length > 0 {
            self.columns.kind.push(self.kind);
            self.columns.begin.push(self.begin);
            self.columns.length.push(self.length);
            if self.placed {
                self.columns.left_data.push(self.left);
                self.columns.right_data.push(self.right);
            }
        }
    }

    /// Kind, first virtual block and length of the rows of [`Self::joined`].
    pub fn finish_joined(mut self) -> impl Iterator<Item = (Kind, u64, u64)> {
        self.flush();
        let Columns {
            kind,
            begin,
            length,
            ..
        } = self.columns;
        let kinds = kind.into_iter().map(Kind::from_code);
        let ranges = kinds.zip(begin).zip(length);
        ranges.map(|((kind, begin), length)| (kind, begin, length))
    }

    pub fn finish(mut self, block_bytes: u64) -> Delta {
        self.flush();
        let columns = self.columns;
        let lengths = columns.kind.iter().zip(&columns.length);
        let changed_blocks = lengths
            .filter(|(kind, _)| **kind != SAME)
            .map(|(_, length)| length)
            .sum();
        Delta {
            columns,
            block_bytes,
            changed_blocks,
        }
    }
}
