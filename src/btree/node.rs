//! The format of a node, its validator, and a view that reads it in place.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Value;
use crate::block::data::slice_at;
use crate::block::{BlockData, Validator, check_location_and_checksum, seal_location_and_checksum};
use crate::error::Damage;
use crate::units::{BLOCK_BYTES, BlockNr};

/// The kind, as errors name it.
pub const NODE_NAME: &str = "btree node";
const NODE_SALT: u32 = 121_107;
pub(super) const INTERNAL: u32 = 1;
pub(super) const LEAF: u32 = 2;

/// Header of every B-tree node. Source: docs/format.md, "B-tree nodes".
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct NodeHeader {
    /// Checksum, salted for nodes.
    pub csum: U32,
    /// 1 = internal, 2 = leaf.
    pub flags: U32,
    /// Own location.
    pub blocknr: U64,
    /// Entries in use.
    pub nr_entries: U32,
    /// Capacity.
    pub max_entries: U32,
    /// Bytes per value; 8 in internal nodes.
    pub value_size: U32,
    /// Zero.
    pub padding: U32,
}
pub(super) const HEADER_BYTES: usize = size_of::<NodeHeader>();
const _: () = assert!(HEADER_BYTES == 32);

/// The capacity of a node with values of this size: a multiple of three, so
/// that thirds are exact.
#[must_use]
pub const fn max_entries(value_size: usize) -> usize {
    let fit = (BLOCK_BYTES - HEADER_BYTES) / (8 + value_size);
    fit - fit % 3
}

/// Checks location, checksum, header and the order of keys.
pub struct NodeValidator;

/// The only one there is.
pub static NODE_VALIDATOR: NodeValidator = NodeValidator;

impl Validator for NodeValidator {
    fn name(&self) -> &'static str {
        NODE_NAME
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        check_location_and_checksum(NODE_NAME, NODE_SALT, at, block)?;
        let node = Node::parse(at, block)?;
        match node.first_disorder() {
            None => Ok(()),
            Some(index) => {
                let (found, before) = (node.keys[index].get(), node.keys[index - 1].get());
                let expected = format!("key {index} above {before}");
                Err(Damage::new(at, NODE_NAME, "key order", found, expected))
            }
        }
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(NODE_SALT, at, block);
    }
}

/// A node, read where it lies. Made from a block that the validator accepted.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    at: BlockNr,
    header: &'a NodeHeader,
    keys: &'a [U64],
    values: &'a [u8],
}

impl<'a> Node<'a> {
    /// Checks the header, so that keys and values can be sliced.
    pub fn parse(at: BlockNr, block: &'a BlockData) -> Result<Self, Damage> {
        let header: &NodeHeader = block.view();
        let bad = |check, found: u32, expected: &str| {
            Err(Damage::new(at, NODE_NAME, check, found, expected))
        };
        let flags = header.flags.get();
        if flags != INTERNAL && flags != LEAF {
            return bad("flags", flags, "1 (internal) or 2 (leaf)");
        }
        let (nr, max) = (header.nr_entries.get(), header.max_entries.get());
        let value_size = header.value_size.get();
        if flags == INTERNAL && value_size != 8 {
            return bad("value size", value_size, "8 in an internal node");
        }
        if nr > max {
            return Err(Damage::new(
                at,
                NODE_NAME,
                "entries",
                nr,
                format!("at most {max}"),
            ));
        }
        if flags == INTERNAL && nr == 0 {
            return bad("entries", nr, "at least 1 in an internal node");
        }
        let (Ok(count), Ok(capacity), Ok(size)) = (
            usize::try_from(nr),
            usize::try_from(max),
            usize::try_from(value_size),
        ) else {
            return bad("capacity", max, "one that fits a block");
        };
        let bytes = &block.bytes()[..];
        let fits = capacity
            .checked_mul(size.saturating_add(8))
            .is_some_and(|body| body <= BLOCK_BYTES - HEADER_BYTES);
        let keys = slice_at(bytes, HEADER_BYTES, count);
        let values = slice_at(
            bytes,
            HEADER_BYTES + 8 * capacity.min(BLOCK_BYTES),
            count * size.min(BLOCK_BYTES),
        );
        match (fits, keys, values) {
            (true, Some(keys), Some(values)) => Ok(Self {
                at,
                header,
                keys,
                values,
            }),
            _ => bad("capacity", max, "one that fits a block"),
        }
    }

    /// Own location.
    #[must_use]
    pub fn location(&self) -> BlockNr {
        self.at
    }

    /// Whether the values are the tree's own and not children.
    #[must_use]
    pub fn is_leaf(&self) -> bool {
        self.header.flags.get() == LEAF
    }

    /// The header as it lies on disk.
    #[must_use]
    pub fn header(&self) -> &'a NodeHeader {
        self.header
    }

    /// Keys in use, ascending.
    #[must_use]
    pub fn keys(&self) -> &'a [U64] {
        self.keys
    }

    /// Children of an internal node.
    pub fn children(&self) -> Result<&'a [U64], Damage> {
        if self.is_leaf() {
            return Err(Damage::new(
                self.at,
                NODE_NAME,
                "flags",
                LEAF,
                "1 (internal)",
            ));
        }
        self.slice()
    }

    /// Values of a leaf whose tree holds `V`.
    pub fn values<V: Value>(&self) -> Result<&'a [V], Damage> {
        self.packed_values(size_of::<V>())?;
        self.slice()
    }

    /// Values of a leaf whose tree has values of so many bytes, one after the other.
    pub fn packed_values(&self, value_bytes: usize) -> Result<&'a [u8], Damage> {
        if !self.is_leaf() {
            return Err(Damage::new(
                self.at, NODE_NAME, "flags", INTERNAL, "2 (leaf)",
            ));
        }
        let found = self.header.value_size.get();
        if usize::try_from(found) != Ok(value_bytes) {
            return Err(Damage::new(
                self.at,
                NODE_NAME,
                "value size",
                found,
                value_bytes,
            ));
        }
        Ok(self.values)
    }

    fn slice<V: Value>(&self) -> Result<&'a [V], Damage> {
        let found = self.header.value_size.get();
        let wrong = || Damage::new(self.at, NODE_NAME, "value size", found, size_of::<V>());
        if usize::try_from(found) != Ok(size_of::<V>()) {
            return Err(wrong());
        }
        <[V]>::ref_from_bytes(self.values).map_err(|_| wrong())
    }

    /// The last entry whose key is not above `key`. A cold node costs a wait for
    /// memory wherever it is touched, so that a good guess beats halving: the keys
    /// of a well-mapped leaf have few gaps, those of other nodes are even.
    #[must_use]
    pub fn search(&self, key: u64) -> Option<usize> {
        let ahead = key.checked_sub(self.keys.first()?.get())?;
        let dense = usize::try_from(ahead).unwrap_or(usize::MAX);
        if self.keys.get(dense).is_some_and(|at| at.get() == key) {
            return Some(dense);
        }
        Some(self.search_from(self.guess(ahead), key))
    }

    /// Where a key so far above the first would be if keys were even.
    fn guess(&self, ahead: u64) -> usize {
        let (last, end) = (self.keys.len() - 1, self.keys[self.keys.len() - 1].get());
        let span = end.saturating_sub(self.keys[0].get());
        if ahead >= span {
            return last;
        }
        // Above 2^53 the guess is worse, and no less a guess.
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation)]
        #[allow(clippy::cast_sign_loss)]
        let guess = (ahead as f64 / span as f64 * last as f64) as usize;
        guess.min(last)
    }

    /// As [`Self::search`] for a key not below the first: looks around `guess`
    /// in steps that double, then halves.
    fn search_from(&self, guess: usize, key: u64) -> usize {
        let (mut low, mut high) = (guess, guess + 1);
        let mut step = 1;
        while low > 0 && self.keys[low].get() > key {
            high = low;
            low = low.saturating_sub(step);
            step *= 2;
        }
        while high < self.keys.len() && self.keys[high].get() <= key {
            low = high;
            high = (high + step).min(self.keys.len());
            step *= 2;
        }
        let below = self.keys[low..high].partition_point(|at| at.get() <= key);
        (low + below).saturating_sub(1)
    }

    /// The first entry whose key is not below `key`; `len` when there is none.
    #[must_use]
    pub fn search_at_least(&self, key: u64) -> usize {
        self.keys.partition_point(|at| at.get() < key)
    }

    /// As [`Self::search_at_least`], where nothing before `from` can be the
    /// answer: looks near it first.
    #[must_use]
    pub fn search_at_least_from(&self, from: usize, key: u64) -> usize {
        let rest = self.keys.get(from..).unwrap_or_default();
        let mut step = 1;
        let mut low = 0;
        while let Some(at) = rest.get(low + step - 1)
            && at.get() < key
        {
            low += step;
            step *= 2;
        }
        let high = (low + step).min(rest.len());
        from + low + rest[low..high].partition_point(|at| at.get() < key)
    }

    /// The first key that does not rise. One branch for the whole node, as
    /// nearly every node is in order.
    fn first_disorder(&self) -> Option<usize> {
        let rises = |pair: &[U64]| pair[0].get() < pair[1].get();
        let ordered = self
            .keys
            .windows(2)
            .fold(true, |so_far, pair| so_far & rises(pair));
        if ordered {
            return None;
        }
        self.keys
            .windows(2)
            .position(|pair| !rises(pair))
            .map(|index| index + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_are_those_of_the_format() {
        let found = [4, 8, 12, 16, 24].map(max_entries);
        assert_eq!(found, [336, 252, 201, 168, 126]);
    }

    #[test]
    fn every_key_is_found_however_the_keys_lie() {
        let shapes: [fn(u64) -> u64; 5] = [
            |index| 7 + index,
            |index| 10 + 3 * index,
            |index| index * index,
            |index| if index < 200 { index } else { index << 40 },
            |index| u64::MAX - 251 + index,
        ];
        for shape in shapes {
            for count in [1, 2, 3, 251, 252] {
                let mut block = node(2, count, 252, 8);
                for index in 0..u64::from(count) {
                    let at = 32 + 8 * usize::try_from(index).unwrap();
                    block.bytes_mut()[at..at + 8].copy_from_slice(&shape(index).to_le_bytes());
                }
                let node = Node::parse(BlockNr(1), &block).unwrap();
                let mut keys: Vec<u64> = vec![0, 1, u64::MAX / 3, u64::MAX];
                keys.extend(node.keys().iter().flat_map(|key| {
                    let key = key.get();
                    [key.saturating_sub(1), key, key.saturating_add(1)]
                }));
                for key in keys {
                    let plain = node.keys().iter().rposition(|at| at.get() <= key);
                    assert_eq!(node.search(key), plain, "{key} of {count}");
                }
            }
        }
    }

    fn node(flags: u32, nr: u32, max: u32, value_size: u32) -> BlockData {
        let mut block = BlockData::zeroed();
        for (offset, word) in [(4, flags), (16, nr), (20, max), (24, value_size)] {
            block.bytes_mut()[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
        }
        block
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let huge = u32::MAX;
        for (flags, nr, max, size) in [
            (0, 0, 252, 8),
            (3, 0, 252, 8),
            (1, 0, 252, 8),
            (1, 1, 252, 4),
            (2, 253, 252, 8),
            (2, 0, 255, 8),
            (2, huge, huge, huge),
            (2, 1, 1, huge),
            (2, 0, huge, 0),
        ] {
            let block = node(flags, nr, max, size);
            assert!(
                Node::parse(BlockNr(1), &block).is_err(),
                "{flags} {nr} {max} {size}"
            );
        }
        assert!(Node::parse(BlockNr(1), &node(2, 252, 252, 8)).is_ok());
    }
}
