//! Finding one key.

use std::marker::PhantomData;
use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::{Ascent, Cursor, MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, Value, check_bounds};
use crate::block::{BlockData, BlockManager};
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

    /// The value of `key`.
    pub fn lookup(&self, key: u64, wait: Wait) -> Result<Option<V>> {
        find(&self.blocks, self.root, key, wait, |leaf, index| {
            // Asked of an empty leaf too: it may belong to another tree.
            let values = leaf.values::<V>()?;
            Ok(index.map(|index| values[index]))
        })
    }

    /// The largest key.
    pub fn last_key(&self) -> Result<Option<u64>> {
        find_last(&self.blocks, self.root, |leaf| {
            leaf.values::<V>()?;
            Ok(leaf.keys().last().map(|key| key.get()))
        })
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
        Cursor::new(&self.blocks, self.root, size_of::<V>(), begin, end)
    }

    /// Look-ups of many keys, cheap while the keys rise.
    #[must_use]
    pub fn ascent(&self) -> Ascent {
        Ascent::new(&self.blocks, self.root, size_of::<V>())
    }
}

impl BTree<U64> {
    /// The tree that the value of `key` is the root of: the next level of a nested tree.
    pub fn subtree<W: Value>(&self, key: u64, wait: Wait) -> Result<Option<BTree<W>>> {
        let root = self.lookup(key, wait)?;
        Ok(root.map(|root| BTree::new(&self.blocks, BlockNr(root.get()))))
    }
}

/// Goes down to the leaf that has `key` if any has, and asks `found` with it and
/// the entry's place. `None` as well where the key is below every key of the tree.
pub(super) fn find<T>(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    key: u64,
    wait: Wait,
    found: impl FnOnce(&Node<'_>, Option<usize>) -> Result<Option<T>>,
) -> Result<Option<T>> {
    match wait {
        // A pin, not a lock: a wrong tree may lead to a block that this thread has already.
        Wait::Yes => find_by(|at| blocks.read(at, &NODE_VALIDATOR), root, key, found),
        Wait::No => find_cached(blocks, root, key, found),
    }
}

/// As [`find`], by whatever `read` makes of reading a node.
pub(super) fn find_by<T>(
    read: impl Fn(BlockNr) -> Result<Arc<BlockData>>,
    root: BlockNr,
    key: u64,
    found: impl FnOnce(&Node<'_>, Option<usize>) -> Result<Option<T>>,
) -> Result<Option<T>> {
    let (mut at, mut way) = (root, Way::default());
    for _ in 0..MAX_DEPTH {
        let block = read(at)?;
        let node = way.node(at, &block)?;
        if node.is_leaf() {
            return found(&node, exact(&node, key));
        }
        let Some(child) = way.down(&node, key)? else {
            return Ok(None);
        };
        at = child;
    }
    Err(too_deep(at).into())
}

fn find_cached<T>(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    key: u64,
    found: impl FnOnce(&Node<'_>, Option<usize>) -> Result<Option<T>>,
) -> Result<Option<T>> {
    blocks.peek(|cached| {
        let (mut at, mut way) = (root, Way::default());
        for _ in 0..MAX_DEPTH {
            let node = way.node(at, cached.block(at, &NODE_VALIDATOR)?)?;
            if node.is_leaf() {
                return found(&node, exact(&node, key));
            }
            let Some(child) = way.down(&node, key)? else {
                return Ok(None);
            };
            at = child;
        }
        Err(too_deep(at).into())
    })
}

/// Goes down to the last leaf.
pub(super) fn find_last<T>(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    found: impl FnOnce(&Node<'_>) -> Result<T>,
) -> Result<T> {
    let (mut at, mut way) = (root, Way::default());
    for _ in 0..MAX_DEPTH {
        let block = blocks.read(at, &NODE_VALIDATOR)?;
        let node = way.node(at, &block)?;
        let Some(child) = way.down_last(&node)? else {
            return found(&node);
        };
        at = child;
    }
    Err(too_deep(at).into())
}

/// What the parents of a node say about its keys.
#[derive(Default)]
struct Way {
    low: Option<u64>,
    high: Option<u64>,
}

impl Way {
    /// The node in a block, if it keeps to what its parents say.
    fn node<'b>(&self, at: BlockNr, block: &'b BlockData) -> Result<Node<'b>> {
        let node = Node::parse(at, block)?;
        check_bounds(&node, self.low, self.high)?;
        Ok(node)
    }

    /// The child of an internal node that covers `key`.
    fn down(&mut self, node: &Node<'_>, key: u64) -> Result<Option<BlockNr>> {
        let Some(index) = node.search(key) else {
            return Ok(None);
        };
        let child = BlockNr(node.children()?[index].get());
        self.low = Some(node.keys()[index].get());
        let next = node.keys().get(index + 1);
        self.high = next.map(|key| key.get()).or(self.high);
        Ok(Some(child))
    }

    /// The last child; `None` for a leaf.
    fn down_last(&mut self, node: &Node<'_>) -> Result<Option<BlockNr>> {
        if node.is_leaf() {
            return Ok(None);
        }
        self.low = node.keys().last().map(|key| key.get());
        Ok(node.children()?.last().map(|child| BlockNr(child.get())))
    }
}

fn exact(leaf: &Node<'_>, key: u64) -> Option<usize> {
    leaf.search(key)
        .filter(|index| leaf.keys()[*index].get() == key)
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
