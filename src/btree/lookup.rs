//! Finding one key.

use std::marker::PhantomData;
use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::{Ascent, Cursor, MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, Value, check_bounds};
use crate::block::{BlockManager, ReadGuard};
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
        let mut guard = self.lock(self.root, wait)?;
        let (mut low, mut high) = (None, None);
        for _ in 0..MAX_DEPTH {
            let node = Node::parse(guard.location(), &guard)?;
            check_bounds(&node, low, high)?;
            let Some(index) = node.search(key) else {
                return Ok(None);
            };
            if node.is_leaf() {
                let values = node.values::<V>()?;
                return Ok((node.keys()[index].get() == key).then(|| values[index]));
            }
            let child = BlockNr(node.children()?[index].get());
            low = Some(node.keys()[index].get());
            high = node.keys().get(index + 1).map(|key| key.get()).or(high);
            // The child is locked before its parent is let go.
            guard = self.lock(child, wait)?;
        }
        Err(too_deep(guard.location()).into())
    }

    /// The largest key.
    pub fn last_key(&self) -> Result<Option<u64>> {
        let mut guard = self.lock(self.root, Wait::Yes)?;
        let mut low = None;
        for _ in 0..MAX_DEPTH {
            let node = Node::parse(guard.location(), &guard)?;
            check_bounds(&node, low, None)?;
            low = node.keys().last().map(|key| key.get());
            let Some(child) = (if node.is_leaf() {
                None
            } else {
                node.children()?.last()
            }) else {
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
        Cursor::new(Arc::clone(&self.blocks), self.root, begin, end)
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
