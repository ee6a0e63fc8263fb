//! Letting go of a whole tree.

use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::node_mut::inspect;
use super::{NODE_NAME, NODE_VALIDATOR, Node, TreeType, check_value_bytes};
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
    // On the heap: stacks of threads are small, and trees in trees are deep.
    let mut frames = Vec::with_capacity(8);
    push(txn, tree, &mut frames, root, 0)?;
    while let Some(frame) = frames.last_mut() {
        let Some((child, level)) = frame.next_child()? else {
            txn.dec(frame.at)?;
            frames.pop();
            continue;
        };
        push(txn, tree, &mut frames, child, level)?;
    }
    Ok(())
}

/// A node that is being freed.
struct Frame {
    at: BlockNr,
    block: Arc<BlockData>,
    /// The level that what it points to belongs to.
    level: usize,
    /// The next to be freed of those it points to.
    next: usize,
    /// How many those are; none in a leaf of the last level.
    children: usize,
}

impl Frame {
    fn next_child(&mut self) -> Result<Option<(BlockNr, usize)>, Damage> {
        if self.next >= self.children {
            return Ok(None);
        }
        let node = Node::parse(self.at, &self.block)?;
        let child = pointers(&node)?.get(self.next).map(|child| child.get());
        self.next += 1;
        Ok(child.map(|child| (BlockNr(child), self.level)))
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

/// Takes on a node, unless it has other owners: then all that is under it stays theirs.
fn push(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    frames: &mut Vec<Frame>,
    at: BlockNr,
    level: usize,
) -> Result<()> {
    if let Some(above) = frames.last() {
        check_pointer(txn, above.at, at)?;
    }
    match txn.ref_count(at)? {
        0 => return Err(Damage::new(at, NODE_NAME, "references", 0_u32, "at least 1").into()),
        1 => {}
        _ => return txn.dec(at),
    }
    if frames.len() >= MAX_FRAMES {
        let expected = format!("at most {MAX_FRAMES} levels");
        return Err(Damage::new(at, NODE_NAME, "depth", "a deeper level", expected).into());
    }
    let block = txn.read(at, &NODE_VALIDATOR)?;
    let value_bytes = tree.value_bytes_at(level);
    inspect(at, &block, value_bytes)?;
    let node = Node::parse(at, &block)?;
    let (mut level, mut children) = (level, node.keys().len());
    if node.is_leaf() {
        if tree.is_last(level) {
            if children > 0 {
                tree.values.dec(txn, node.packed_values(value_bytes)?)?;
            }
            children = 0;
        }
        level += 1;
    }
    if children > 1 {
        let ahead = pointers(&node)?.iter().map(|child| BlockNr(child.get()));
        txn.blocks().prefetch(ahead.collect());
    }
    frames.push(Frame {
        at,
        block,
        level,
        next: 0,
        children,
    });
    Ok(())
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
