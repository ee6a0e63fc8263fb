//! Keeping nodes from getting too small: what is done to an internal node
//! before a removal goes below it.

use super::NODE_VALIDATOR;
use super::insert::{follow, share_out};
use super::node_mut::{Form, NodeMut, inspect};
use super::spine::{Spine, check_child, count_pointed};
use crate::error::{Damage, Result};
use crate::transaction::Transaction;

/// Sees to it that a removal below the child that covers `key` leaves no node
/// too small: evens out with the siblings, or merges with them.
pub(super) fn rebalance_children(spine: &mut Spine<'_, '_>, key: u64) -> Result<()> {
    let index = spine.node.view()?.search(key).unwrap_or(0);
    let last = spine.node.len().saturating_sub(1);
    // A single child is not the business of this function.
    match index {
        _ if last == 0 => Ok(()),
        0 => pair(spine, 0),
        _ if index == last => pair(spine, index - 1),
        _ => triple(spine, index),
    }
}

/// A node with a single child becomes what that child is, and the child loses it as an owner.
pub(super) fn collapse(spine: &mut Spine<'_, '_>) -> Result<()> {
    let at = spine.node.child(0)?;
    check_child(spine.txn, at, &spine.node)?;
    let child = spine.txn.read(at, &NODE_VALIDATOR)?;
    let shared = spine.txn.is_shared(at)?;
    let value_bytes = spine.tree.value_bytes_at(spine.level);
    spine.node.become_copy(at, &child, value_bytes)?;
    drop(child);
    if shared {
        // The others keep the child, and it keeps its children: these have one owner more.
        count_pointed(spine.txn, spine.tree, spine.level, &spine.node)?;
    }
    spine.txn.dec(at)
}

/// Whether a removal below the child that covers `key` could leave it too small.
/// A node that has just taken its only child's place is not rebalanced again, as
/// in kernels, unless this is so: a kernel then leaves a node of one entry less
/// than the format allows, which checkers complain of.
pub(super) fn is_covering_child_small(spine: &Spine<'_, '_>, key: u64) -> Result<bool> {
    let index = spine.node.view()?.search(key).unwrap_or(0);
    let (form, nr) = inspect_child(spine, index)?;
    Ok(nr <= form.capacity / 3)
}

/// What a child is and how many entries it has, without making it writable.
pub(super) fn inspect_child(spine: &Spine<'_, '_>, index: usize) -> Result<(Form, usize)> {
    let at = spine.node.child(index)?;
    check_child(spine.txn, at, &spine.node)?;
    let child = spine.txn.read(at, &NODE_VALIDATOR)?;
    Ok(inspect(at, &child, spine.tree.value_bytes_at(spine.level))?)
}

/// The children at `left` and after it.
fn pair(spine: &mut Spine<'_, '_>, left: usize) -> Result<()> {
    let (left_node, _) = spine.open_child(left)?;
    let (right_node, _) = spine.open_child(left + 1)?;
    settle_pair(spine.txn, &mut spine.node, left, left_node, right_node)
}

/// Merges two neighbours, or evens them out.
fn settle_pair(
    txn: &mut Transaction,
    parent: &mut NodeMut,
    left_index: usize,
    mut left: NodeMut,
    mut right: NodeMut,
) -> Result<()> {
    left.check_like(&right)?;
    let (total, least) = (left.len() + right.len(), left.form().capacity / 3);
    if total >= 2 * (least + 1) {
        share_out(&mut left, &mut right, total / 2)?;
        return Ok(follow(parent, left_index + 1, &right)?);
    }
    let all = right.len();
    left.take_front(&mut right, all)?;
    release(txn, parent, left_index + 1, right)
}

/// Drops a child whose entries have moved: they are somebody else's now.
fn release(
    txn: &mut Transaction,
    parent: &mut NodeMut,
    index: usize,
    child: NodeMut,
) -> Result<()> {
    parent.remove(index)?;
    let at = child.location();
    drop(child);
    txn.dec(at)
}

/// The child at `centre` and those on both sides.
fn triple(spine: &mut Spine<'_, '_>, centre: usize) -> Result<()> {
    let (left, _) = spine.open_child(centre - 1)?;
    let (middle, _) = spine.open_child(centre)?;
    let (right, _) = spine.open_child(centre + 1)?;
    left.check_like(&middle)?;
    left.check_like(&right)?;
    let total = left.len() + middle.len() + right.len();
    // In nodes of three, four thirds and one would leave a third with a single entry.
    let least = left.form().capacity / 3;
    let enough = (4 * least + 1).max(3 * (least + 1));
    let mut nodes = Triple {
        left,
        middle,
        right,
    };
    if total < enough {
        nodes.empty_the_middle()?;
        follow(&mut spine.node, centre + 1, &nodes.right)?;
        release(spine.txn, &mut spine.node, centre, nodes.middle)?;
        let (left, right) = (nodes.left, nodes.right);
        return settle_pair(spine.txn, &mut spine.node, centre - 1, left, right);
    }
    nodes.share_out(total)?;
    follow(&mut spine.node, centre, &nodes.middle)?;
    Ok(follow(&mut spine.node, centre + 1, &nodes.right)?)
}

/// Three neighbours of one form.
struct Triple {
    left: NodeMut,
    middle: NodeMut,
    right: NodeMut,
}

impl Triple {
    /// Left takes what fits, right the remainder.
    fn empty_the_middle(&mut self) -> Result<(), Damage> {
        let room = self.left.form().capacity - self.left.len();
        let to_left = room.min(self.middle.len());
        self.left.take_front(&mut self.middle, to_left)?;
        let to_right = self.middle.len();
        self.middle.give_back(&mut self.right, to_right)
    }

    /// A third each, what is over to the left and then to the middle.
    fn share_out(&mut self, total: usize) -> Result<(), Damage> {
        let right_len = total / 3;
        let left_len = right_len + usize::from(!total.is_multiple_of(3));
        // What the middle gives comes first, so that it never has too much.
        self.fill_right(left_len, right_len)?;
        self.fill_left(left_len, right_len)?;
        share_out(&mut self.left, &mut self.middle, left_len)?;
        share_out(
            &mut self.middle,
            &mut self.right,
            total - left_len - right_len,
        )
    }

    /// Where the right node lacks more than the middle has: all of the middle, and
    /// the rest from the left directly.
    fn fill_right(&mut self, left_len: usize, right_len: usize) -> Result<(), Damage> {
        let Some(missing) = right_len.checked_sub(self.right.len()) else {
            return Ok(());
        };
        let from_middle = missing.min(self.middle.len());
        self.middle.give_back(&mut self.right, from_middle)?;
        if self.middle.len() == 0 && self.left.len() > left_len {
            self.left
                .give_back(&mut self.right, missing - from_middle)?;
        }
        Ok(())
    }

    /// The mirror image.
    fn fill_left(&mut self, left_len: usize, right_len: usize) -> Result<(), Damage> {
        let Some(missing) = left_len.checked_sub(self.left.len()) else {
            return Ok(());
        };
        let from_middle = missing.min(self.middle.len());
        self.left.take_front(&mut self.middle, from_middle)?;
        if self.middle.len() == 0 && self.right.len() > right_len {
            self.left
                .take_front(&mut self.right, missing - from_middle)?;
        }
        Ok(())
    }
}
