//! Nodes that trees made so far consist of, to be found by what is in them.
//!
//! A node is looked for where its first entry comes up; only a node whose digest is
//! that of the entries to come is read and compared. What a device's own tree consists
//! of is entered when the tree is done, as keys ascend in it: no node comes twice.

use std::hash::Hasher;

use rustc_hash::{FxHashMap, FxHasher};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::blocks::Blocks;
use super::content::Child;
use crate::btree::Node;
use crate::error::Result;
use crate::units::BlockNr;

/// Bits of the filter that first entries go through: half a cache of the second level.
const FILTER_BITS: usize = 1 << 20;
/// There is no older one.
const NONE: u32 = u32::MAX;

/// A node that was just written.
pub(super) struct Fresh {
    first: u64,
    known: Known,
}

impl Fresh {
    pub fn new(level: usize, child: Child, keys: &[U64], values: &[U64]) -> Self {
        let value = values.first().map_or(0, |value| value.get());
        Self {
            first: first_hash(level, child.key, value),
            known: Known {
                digest: digest(keys, values),
                // Of 2^22 blocks at most, and of 252 entries.
                block: u32::try_from(child.at.0).unwrap_or(u32::MAX),
                nr: u16::try_from(child.nr).unwrap_or(u16::MAX),
                older: NONE,
            },
        }
    }
}

#[derive(Clone, Copy)]
struct Known {
    digest: u32,
    block: u32,
    nr: u16,
    /// The one before it with the same first entry.
    older: u32,
}

#[derive(Default)]
pub(super) struct Nodes {
    newest: FxHashMap<u64, u32>,
    known: Vec<Known>,
    filter: Vec<u64>,
}

/// Whether a node with too few entries to be below others may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below a parent: at least so many entries.
    Below { fewest: usize },
    /// All that there is, so that it becomes a root.
    Root,
}

impl Nodes {
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Makes nodes known.
    pub fn enter(&mut self, fresh: impl IntoIterator<Item = Fresh>) {
        if self.filter.is_empty() {
            self.filter.resize(FILTER_BITS / 64, 0);
        }
        for Fresh { first, mut known } in fresh {
            let Ok(own) = u32::try_from(self.known.len()) else {
                return;
            };
            known.older = self.newest.insert(first, own).unwrap_or(NONE);
            self.known.push(known);
            let (word, bit) = filter_place(first);
            self.filter[word] |= bit;
        }
    }

    /// Whether some node may begin with this entry.
    pub fn may_begin(&self, level: usize, key: u64, value: u64) -> bool {
        let (word, bit) = filter_place(first_hash(level, key, value));
        self.filter.get(word).is_some_and(|bits| bits & bit != 0)
    }

    /// The node whose entries are the next ones.
    pub fn find(
        &self,
        blocks: &mut Blocks,
        level: usize,
        keys: &[U64],
        values: &[U64],
        place: Place,
    ) -> Result<Option<Child>> {
        let (Some(key), Some(value)) = (keys.first(), values.first()) else {
            return Ok(None);
        };
        let newest = self.newest.get(&first_hash(level, key.get(), value.get()));
        let mut next = newest.copied().unwrap_or(NONE);
        // Nearly all have the same number of entries.
        let mut digested = (usize::MAX, 0);
        while let Some(known) = self.known.get(next as usize) {
            next = known.older;
            let nr = usize::from(known.nr);
            let fits = match place {
                Place::Root => nr == keys.len(),
                Place::Below { fewest } => nr >= fewest && nr <= keys.len(),
            };
            if !fits {
                continue;
            }
            if digested.0 != nr {
                digested = (nr, digest(&keys[..nr], &values[..nr]));
            }
            if digested.1 != known.digest {
                continue;
            }
            let at = BlockNr(known.block.into());
            let node = blocks.read(at)?;
            if node.is_leaf() == (level == 0)
                && node.keys() == &keys[..nr]
                && values_of(&node)? == &values[..nr]
            {
                let key = key.get();
                return Ok(Some(Child { key, at, nr }));
            }
        }
        Ok(None)
    }
}

/// Values of a node of a device's tree: mappings or children.
pub(super) fn values_of<'n>(node: &Node<'n>) -> Result<&'n [U64]> {
    Ok(if node.is_leaf() {
        node.values()?
    } else {
        node.children()?
    })
}

fn first_hash(level: usize, key: u64, value: u64) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write_u64(key);
    hasher.write_u64(value);
    hasher.write_usize(level);
    hasher.finish()
}

fn filter_place(first: u64) -> (usize, u64) {
    let bit = usize::try_from(first >> 40).unwrap_or(0) % FILTER_BITS;
    (bit / 64, 1 << (bit % 64))
}

fn digest(keys: &[U64], values: &[U64]) -> u32 {
    let mut hasher = FxHasher::default();
    hasher.write(keys.as_bytes());
    hasher.write(values.as_bytes());
    // The upper half is the better mixed one.
    u32::try_from(hasher.finish() >> 32).unwrap_or(0)
}
