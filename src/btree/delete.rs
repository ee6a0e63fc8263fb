//! Letting go of a whole tree.

use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::node_mut::inspect;
use super::{Cursor, NODE_NAME, NODE_VALIDATOR, Node, TreeType, check_bounds, check_value_bytes};
use crate::block::BlockData;
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// All levels together: enough for any tree, little enough for hostile ones.
const MAX_FRAMES: usize = 64;

/// Drops a reference on a tree. What nobody else owns is freed, and the values in
/// it lose a reference; what others own stays as it is.
///
/// # Errors
/// [`Error::Usage`] without a trace for a tree that cannot be. After any other
/// the transaction has to be aborted.
pub fn delete(txn: &mut Transaction, tree: &mut TreeType<'_>, root: BlockNr) -> Result<()> {
    if tree.levels == 0 {
        return Err(Error::usage("a tree has at least one level"));
    }
    check_value_bytes(tree.value_bytes)?;
    let mut deletion = Deletion {
        txn,
        tree,
        // On the heap: stacks of threads are small, and trees in trees are deep.
        frames: Vec::with_capacity(8),
        removed: None,
    };
    deletion.push(root, 0, None)?;
    deletion.run()
}

/// A sub-tree of the last level that its parent has let go of.
pub(super) struct Dropped {
    pub at: BlockNr,
    /// The parent.
    pub above: BlockNr,
    /// The keys that the parent has for it and for what comes after it.
    pub low: u64,
    pub high: Option<u64>,
}

/// As [`delete`], of a part of a tree; gives how many entries it had. To tell, it
/// reads what others own as well. What does not keep to its parent's bounds is
/// damage here: otherwise a few wrong nodes could be counted for ever.
pub(super) fn drop_subtree(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    part: &Dropped,
) -> Result<u64> {
    check_pointer(txn, part.above, part.at)?;
    let level = tree.levels.saturating_sub(1);
    let mut deletion = Deletion {
        txn,
        tree,
        frames: Vec::with_capacity(4),
        removed: Some(0),
    };
    deletion.push(part.at, level, Some((part.low, part.high)))?;
    deletion.run()?;
    Ok(deletion.removed.unwrap_or(0))
}

/// What a node's parent says about its keys: the first possible one, and what all are below.
type Bounds = (u64, Option<u64>);

/// A node that is being freed.
struct Frame {
    at: BlockNr,
    block: Arc<BlockData>,
    /// The level that what it points to belongs to.
    level: usize,
    /// What all keys are below, where that is asked.
    high: Option<u64>,
    /// The next to be freed of those it points to.
    next: usize,
    /// How many those are; none in a leaf of the last level.
    children: usize,
}

impl Frame {
    fn next_child(&mut self) -> Result<Option<(BlockNr, Bounds)>, Damage> {
        if self.next >= self.children {
            return Ok(None);
        }
        let node = Node::parse(self.at, &self.block)?;
        let (child, keys) = (pointers(&node)?.get(self.next), node.keys());
        let low = keys.get(self.next).map_or(0, |key| key.get());
        let next = keys.get(self.next + 1).map(|key| key.get());
        self.next += 1;
        Ok(child.map(|child| (BlockNr(child.get()), (low, next.or(self.high)))))
    }
}

/// The children of a node, or the sub-trees of a leaf of an upper level.
fn pointers<'n>(node: &Node<'n>) -> Result<&'n [U64], Damage> {
    if node.is_leaf() {
        node.values::<U64>()
    } else {
        node.children()
    }
}

struct Deletion<'a, 'v> {
    txn: &'a mut Transaction,
    tree: &'a mut TreeType<'v>,
    frames: Vec<Frame>,
    /// Entries that went; `None`: nobody asks, and bounds are not checked.
    removed: Option<u64>,
}

impl Deletion<'_, '_> {
    fn run(&mut self) -> Result<()> {
        while let Some(frame) = self.frames.last_mut() {
            let (above, level) = (frame.at, frame.level);
            let Some((child, bounds)) = frame.next_child()? else {
                self.txn.dec(above)?;
                self.frames.pop();
                continue;
            };
            check_pointer(self.txn, above, child)?;
            self.push(child, level, self.removed.map(|_| bounds))?;
        }
        Ok(())
    }

    /// Takes on a node, unless it has other owners: then all that is under it stays theirs.
    fn push(&mut self, at: BlockNr, level: usize, bounds: Option<Bounds>) -> Result<()> {
        match self.txn.ref_count(at)? {
            0 => return Err(Damage::new(at, NODE_NAME, "references", 0_u32, "at least 1").into()),
            1 => {}
            _ => {
                self.count_shared(at, bounds)?;
                return self.txn.dec(at);
            }
        }
        if self.frames.len() >= MAX_FRAMES {
            let expected = format!("at most {MAX_FRAMES} levels");
            return Err(Damage::new(at, NODE_NAME, "depth", "a deeper level", expected).into());
        }
        let block = self.txn.read(at, &NODE_VALIDATOR)?;
        let value_bytes = self.tree.value_bytes_at(level);
        inspect(at, &block, value_bytes)?;
        let node = Node::parse(at, &block)?;
        if let Some((low, high)) = bounds {
            check_bounds(&node, Some(low), high)?;
        }
        let (mut level, mut children) = (level, node.keys().len());
        if node.is_leaf() {
            if self.tree.is_last(level) {
                if children > 0 {
                    let values = node.packed_values(value_bytes)?;
                    self.tree.values.dec(self.txn, values)?;
                }
                if let Some(removed) = &mut self.removed {
                    *removed += children as u64;
                }
                children = 0;
            }
            level += 1;
        }
        if children > 1 {
            let ahead = pointers(&node)?.iter().map(|child| BlockNr(child.get()));
            self.txn.blocks().prefetch(ahead.collect());
        }
        self.frames.push(Frame {
            at,
            block,
            level,
            high: bounds.and_then(|bounds| bounds.1),
            next: 0,
            children,
        });
        Ok(())
    }

    /// Counts the entries of what others go on owning, where somebody asks.
    fn count_shared(&mut self, at: BlockNr, bounds: Option<Bounds>) -> Result<()> {
        let (Some(removed), Some((low, high))) = (&mut self.removed, bounds) else {
            return Ok(());
        };
        let width = self.tree.value_bytes;
        let mut cursor = Cursor::below(self.txn.blocks(), at, width, low, high);
        while let Some(leaf) = cursor.next_leaf()? {
            *removed += leaf.entry_count();
        }
        Ok(())
    }
}

/// A number that came from a node has to be a block's.
fn check_pointer(txn: &Transaction, above: BlockNr, at: BlockNr) -> Result<(), Damage> {
    let blocks = txn.blocks().nr_blocks();
    if at.0 < blocks {
        return Ok(());
    }
    let expected = format!("a block below {blocks}");
    Err(Damage::new(above, NODE_NAME, "child", at.0, expected))
}
