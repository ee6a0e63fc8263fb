//! Cutting a long range out of a tree: whole sub-trees at a time, and then the
//! nodes on both sides of the gap are made large enough again.
//!
//! At most two nodes of each depth are touched, those that reach across an end of
//! the range. What lies between them is dropped, as a tree is when it is deleted.
//! No node is locked while anything under it is dropped or visited.

use std::ops::Range;

use super::delete::{Dropped, drop_subtree};
use super::lookup::too_deep;
use super::node_mut::{Form, NodeMut};
use super::rebalance::{collapse, inspect_child, rebalance_children};
use super::remove::exactly;
use super::spine::{Spine, open_child, shadow_node};
use super::{MAX_DEPTH, NODE_NAME, TreeType};
use crate::error::{Damage, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Ways down to mend what a cut has left. Each one that has changed something
/// leaves what is left to do at a smaller depth.
const MOST_ROUNDS: usize = 4 * MAX_DEPTH;

/// Takes the entries with keys in `range` out of the tree under `prefix`, which is there.
///
/// Gives where the whole tree starts now, and how many entries went.
pub(super) fn cut(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    prefix: &[u64],
    range: Range<u64>,
) -> Result<(BlockNr, u64)> {
    let mut spine = Spine::start(txn, tree, root)?;
    for key in prefix {
        while !spine.node.is_leaf() {
            let index = spine.node.view()?.search(*key).unwrap_or(0);
            spine.descend(index)?;
        }
        let index = exactly(&spine, *key)?;
        spine.enter(index)?;
    }
    let (level, top, root) = (spine.level, spine.node.location(), spine.root);
    drop(spine);
    let mut cut = Cut {
        txn,
        tree,
        level,
        range,
        removed: 0,
    };
    cut.node(top, None, 0)?;
    cut.mend(top)?;
    Ok((root, cut.removed))
}

struct Cut<'a, 'v> {
    txn: &'a mut Transaction,
    tree: &'a mut TreeType<'v>,
    /// Where the tree stands in the nesting: the last level.
    level: usize,
    range: Range<u64>,
    removed: u64,
}

/// What an internal node's children are to the range.
struct Parts {
    /// Reaches across an end of the range, or both. Where there are two, the
    /// first is before `whole` and the second behind it.
    across: [Option<usize>; 2],
    /// Have nothing but keys of the range.
    whole: Range<usize>,
}

/// A child that reaches across an end of the range.
struct Border {
    /// Its place, once those between are gone.
    index: usize,
    at: BlockNr,
    high: Option<u64>,
}

impl Cut<'_, '_> {
    /// Cuts the range out of a node that is this transaction's own, and out of what is
    /// under it. Gives how many entries it has left; none but at the root means
    /// that it has to go itself.
    fn node(&mut self, at: BlockNr, high: Option<u64>, depth: usize) -> Result<usize> {
        if depth > MAX_DEPTH {
            return Err(too_deep(at).into());
        }
        let mut node = self.open(at)?;
        if node.is_leaf() {
            return self.leaf(node);
        }
        let parts = self.parts(&node, high)?;
        let mut borders = Vec::with_capacity(2);
        for index in parts.across.into_iter().flatten() {
            let (child, child_high) =
                open_child(self.txn, self.tree, self.level, &mut node, index, high)?;
            borders.push(Border {
                // Behind the whole ones, or before them.
                index: index.min(parts.whole.start),
                at: child.location(),
                high: child_high,
            });
        }
        let dropped = dropped(&node, parts.whole.clone(), high)?;
        let mut left = self.let_go(node, parts.whole)?;
        if dropped.len() > 1 {
            let ahead = dropped.iter().map(|child| child.at);
            self.txn.blocks().prefetch(ahead.collect());
        }
        for child in &dropped {
            self.removed += drop_subtree(self.txn, self.tree, child)?;
        }
        // The last one first: then the other's place is what it was.
        for border in borders.iter().rev() {
            if self.node(border.at, border.high, depth + 1)? == 0 {
                let node = self.open(at)?;
                left = self.let_go(node, border.index..border.index + 1)?;
                self.txn.dec(border.at)?;
            }
        }
        Ok(left)
    }

    /// Takes children out of an internal node; gives how many are left. Without any
    /// it becomes what an empty tree is, since there is no internal node without children.
    fn let_go(&self, mut node: NodeMut, children: Range<usize>) -> Result<usize, Damage> {
        node.remove_run(children)?;
        if node.len() == 0 {
            node.become_empty(Form::leaf(self.tree.value_bytes));
        }
        Ok(node.len())
    }

    fn leaf(&mut self, mut leaf: NodeMut) -> Result<usize> {
        let view = leaf.view()?;
        let begin = view.search_at_least(self.range.start);
        let end = view.search_at_least(self.range.end);
        if begin < end {
            let width = self.tree.value_bytes;
            let values = &leaf.values()[begin * width..end * width];
            self.tree.values.dec(self.txn, values)?;
            leaf.remove_run(begin..end)?;
            self.removed += (end - begin) as u64;
        }
        Ok(leaf.len())
    }

    /// A node that is this transaction's own already.
    fn open(&mut self, at: BlockNr) -> Result<NodeMut> {
        shadow_node(self.txn, self.tree, self.level, at)
    }

    /// Sorts the children of a node whose keys are below `high` and which the range reaches.
    fn parts(&self, node: &NodeMut, high: Option<u64>) -> Result<Parts, Damage> {
        let (start, end) = (self.range.start, self.range.end);
        let view = node.view()?;
        let keys = view.keys();
        // No child has a key below its own.
        let first = view.search_at_least(start);
        let touched = view.search_at_least(end);
        let begins_at_key = keys.get(first).is_some_and(|key| key.get() == start);
        let before = first.checked_sub(1).filter(|_| !begins_at_key);
        let ends_at_child = match keys.get(touched) {
            Some(next) => next.get() == end,
            None => high.is_some_and(|high| high <= end),
        };
        let behind = touched.checked_sub(1);
        let behind = behind.filter(|last| *last >= first && !ends_at_child);
        let whole = first..behind.unwrap_or(touched).max(first);
        Ok(Parts {
            across: [before, behind],
            whole,
        })
    }

    /// Makes the nodes along both sides of the gap as large as nodes have to be.
    fn mend(&mut self, top: BlockNr) -> Result<()> {
        for _ in 0..MOST_ROUNDS {
            let before = self.mend_along(top, self.range.start)?;
            let behind = self.mend_along(top, self.range.end)?;
            if !before && !behind {
                return Ok(());
            }
        }
        let expected = "nodes that can be merged";
        Err(Damage::new(top, NODE_NAME, "entries", "too few", expected).into())
    }

    /// Goes down towards a key; whether anything had to be done. A merge may leave
    /// the node above with too few children, which is the next way's business.
    fn mend_along(&mut self, top: BlockNr, key: u64) -> Result<bool> {
        let mut spine = Spine::start_at(self.txn, self.tree, self.level, top)?;
        let (mut changed, mut collapsed) = (false, 0);
        while !spine.node.is_leaf() {
            if spine.node.len() == 1 {
                if !spine.at_top {
                    break;
                }
                collapsed += 1;
                if collapsed > MAX_DEPTH {
                    return Err(too_deep(top).into());
                }
                collapse(&mut spine)?;
                changed = true;
                continue;
            }
            let index = spine.node.view()?.search(key).unwrap_or(0);
            let (form, nr) = inspect_child(&spine, index)?;
            if nr < form.capacity / 3 {
                // The child is large enough then, or the node has one child less.
                rebalance_children(&mut spine, key)?;
                changed = true;
            } else if form.leaf {
                break;
            } else {
                spine.descend(index)?;
            }
        }
        Ok(changed)
    }
}

/// Some children of a node whose keys are below `high`.
fn dropped(node: &NodeMut, whole: Range<usize>, high: Option<u64>) -> Result<Vec<Dropped>, Damage> {
    whole
        .map(|index| {
            Ok(Dropped {
                at: node.child(index)?,
                above: node.location(),
                low: node.key(index).unwrap_or(0),
                high: node.key(index + 1).or(high),
            })
        })
        .collect()
}
