//! Finding one key.

use std::marker::PhantomData;
use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::{Ascent, Cursor, MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, Value, check_bounds};
use crate::block::{BlockData, BlockManager, ReadGuard};
use crate::error::{Damage, Result};
use crate::units::BlockNr;

/// Whether a look-up may read the device and wait for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Read what is not cached.
    Yes,
    /// Answer [`WouldBlock`](crate::error::Error::WouldBlock) instead.
    No,
}

/// A tree: a root, and the type of its values.
pub struct BTree<V> {
    blocks: Arc<BlockManager>,
    root: BlockNr,
    value: PhantomData<fn() -> V>,
}

impl<V> Clone for BTree<V> {
    fn clone(&self) -> Self {
        Self {
            blocks: Arc::clone(&self.blocks),
            root: self.root,
            value: PhantomData,
        }
    }
}

impl<V: Value> BTree<V> {
    /// The tree under `root`.
    #[must_use]
    pub fn new(blocks: &Arc<BlockManager>, root: BlockNr) -> Self {
        Self {
            blocks: Arc::clone(blocks),
            root,
            value: PhantomData,
        }
    }

    /// Where the tree starts.
    #[must_use]
    pub fn root(&self) -> BlockNr {
        self.root
    }

    /// The block manager it reads through.
    #[must_use]
    pub fn blocks(&self) -> &Arc<BlockManager> {
        &self.blocks
    }

    pub(super) fn lock(&self, at: BlockNr, wait: Wait) -> Result<ReadGuard> {
        match wait {
            Wait::Yes => self.blocks.read_lock(at, &NODE_VALIDATOR),
            Wait::No => self.blocks.read_try_lock(at, &NODE_VALIDATOR),
        }
    }

    /// The value of `key`.
    pub fn lookup(&self, key: u64, wait: Wait) -> Result<Option<V>> {
        match wait {
            Wait::Yes => self.lookup_waiting(key),
            Wait::No => self.lookup_cached(key),
        }
    }

    fn lookup_waiting(&self, key: u64) -> Result<Option<V>> {
        let mut guard = self.lock(self.root, Wait::Yes)?;
        let mut way = Way::default();
        for _ in 0..MAX_DEPTH {
            match way.step(guard.location(), &guard, key)? {
                // The child is locked before its parent is let go.
                Step::Down(child) => guard = self.lock(child, Wait::Yes)?,
                Step::Found(value) => return Ok(value),
            }
        }
        Err(too_deep(guard.location()).into())
    }

    fn lookup_cached(&self, key: u64) -> Result<Option<V>> {
        self.blocks.peek(|cached| {
            let (mut at, mut way) = (self.root, Way::default());
            for _ in 0..MAX_DEPTH {
                match way.step(at, cached.block(at, &NODE_VALIDATOR)?, key)? {
                    Step::Down(child) => at = child,
                    Step::Found(value) => return Ok(value),
                }
            }
            Err(too_deep(at).into())
        })
    }

    /// The largest key.
    pub fn last_key(&self) -> Result<Option<u64>> {
        let mut guard = self.lock(self.root, Wait::Yes)?;
        let mut low = None;
        for _ in 0..MAX_DEPTH {
            let node = Node::parse(guard.location(), &guard)?;
            check_bounds(&node, low, None)?;
            low = node.keys().last().map(|key| key.get());
            if node.is_leaf() {
                node.values::<V>()?;
                return Ok(low);
            }
            let Some(child) = node.children()?.last() else {
                return Ok(low);
            };
            let child = BlockNr(child.get());
            guard = self.lock(child, Wait::Yes)?;
        }
        Err(too_deep(guard.location()).into())
    }

    /// The smallest key not below `key`, with its value.
    pub fn lookup_next(&self, key: u64) -> Result<Option<(u64, V)>> {
        let mut cursor = self.range(key, None);
        let Some(leaf) = cursor.next_leaf()? else {
            return Ok(None);
        };
        let (keys, values) = leaf.entries::<V>()?;
        Ok(keys
            .first()
            .zip(values.first())
            .map(|(key, value)| (key.get(), *value)))
    }

    /// Entries with keys in `begin..end` (`None`: to the end), in order.
    #[must_use]
    pub fn range(&self, begin: u64, end: Option<u64>) -> Cursor {
        Cursor::new::<V>(Arc::clone(&self.blocks), self.root, begin, end)
    }

    /// Look-ups of many keys, cheap while the keys rise.
    #[must_use]
    pub fn ascent(&self) -> Ascent<V> {
        Ascent::new(self)
    }
}

impl BTree<U64> {
    /// The tree that the value of `key` is the root of: the next level of a nested tree.
    pub fn subtree<W: Value>(&self, key: u64, wait: Wait) -> Result<Option<BTree<W>>> {
        let root = self.lookup(key, wait)?;
        Ok(root.map(|root| BTree::new(&self.blocks, BlockNr(root.get()))))
    }
}

/// What the parents of a node say about its keys.
#[derive(Default)]
struct Way {
    low: Option<u64>,
    high: Option<u64>,
}

/// Where a look-up goes from a node.
enum Step<V> {
    Down(BlockNr),
    Found(Option<V>),
}

impl Way {
    fn step<V: Value>(&mut self, at: BlockNr, block: &BlockData, key: u64) -> Result<Step<V>> {
        let node = Node::parse(at, block)?;
        check_bounds(&node, self.low, self.high)?;
        let index = node.search(key);
        if node.is_leaf() {
            // Asked of an empty leaf too: it may belong to another tree.
            let values = node.values::<V>()?;
            let found = index.filter(|index| node.keys()[*index].get() == key);
            return Ok(Step::Found(found.map(|index| values[index])));
        }
        let Some(index) = index else {
            return Ok(Step::Found(None));
        };
        let child = BlockNr(node.children()?[index].get());
        self.low = Some(node.keys()[index].get());
        self.high = node
            .keys()
            .get(index + 1)
            .map(|key| key.get())
            .or(self.high);
        Ok(Step::Down(child))
    }
}

/// A path that is longer than any sound tree's.
pub(super) fn too_deep(at: BlockNr) -> Damage {
    Damage::new(
        at,
        NODE_NAME,
        "depth",
        "a deeper level",
        format!("at most {MAX_DEPTH} levels"),
    )
}
