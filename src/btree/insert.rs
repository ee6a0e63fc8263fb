//! Making a tree, and putting entries into it.

use super::node_mut::{Form, NodeMut};
use super::spine::{Spine, check_child, open_child};
use super::{TreeType, check_value_bytes};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// A sibling with so many free slots is evened out with; with fewer it would
/// soon be full itself.
const WORTH_EVENING: usize = 8;

/// What an insertion did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inserted {
    /// Where the tree starts now.
    pub root: BlockNr,
    /// Whether there was no such key before.
    pub added: bool,
}

/// A new tree without entries: an empty leaf.
///
/// # Errors
/// [`Error::Usage`] when fewer than three values fit a node, and what
/// allocation says.
pub fn empty(txn: &mut Transaction, value_bytes: usize) -> Result<BlockNr> {
    check_value_bytes(value_bytes)?;
    let leaf = NodeMut::new(txn, Form::leaf(value_bytes))?;
    Ok(leaf.location())
}

/// Puts an entry into a tree, or a new value where the keys have one. Takes over
/// the caller's reference to `value`. The old root is not to be used any more.
///
/// # Errors
/// [`Error::Usage`] without a trace for keys or a value that are not the tree's.
/// After any other the transaction has to be aborted.
pub fn insert(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
    value: &[u8],
) -> Result<Inserted> {
    tree.check(keys)?;
    if value.len() != tree.value_bytes {
        let (found, size) = (value.len(), tree.value_bytes);
        let text = format!("a value of {found} bytes for a tree of values of {size}");
        return Err(Error::usage(text));
    }
    let mut spine = Spine::start(txn, tree, root)?;
    let Some((last, above)) = keys.split_last() else {
        return Err(Error::usage("a tree has at least one level"));
    };
    for key in above {
        let place = walk(&mut spine, *key)?;
        let index = match place {
            Place::Found(index) => index,
            Place::Absent(index) => {
                let size = spine.tree.value_bytes_at(spine.level + 1);
                let subtree = empty(spine.txn, size)?;
                let root = subtree.0.to_le_bytes();
                spine.node.insert(index, *key, &root)?;
                index
            }
        };
        spine.enter(index)?;
    }
    let added = match walk(&mut spine, *last)? {
        Place::Absent(index) => {
            spine.node.insert(index, *last, value)?;
            true
        }
        Place::Found(index) => {
            overwrite(&mut spine, index, value)?;
            false
        }
    };
    let root = spine.root;
    Ok(Inserted { root, added })
}

fn overwrite(spine: &mut Spine<'_, '_>, index: usize, value: &[u8]) -> Result<()> {
    let values = &mut spine.tree.values;
    let old = spine.node.value(index)?;
    if !values.equal(old, value) {
        values.dec(spine.txn, old)?;
    }
    Ok(spine.node.set_value(index, value)?)
}

/// Where a key is in a leaf, or would be.
enum Place {
    Found(usize),
    Absent(usize),
}

/// Down to the leaf of a key, which has room for it in the end. Nodes without
/// room are dealt with on the way, so that a parent always has some.
fn walk(spine: &mut Spine<'_, '_>, key: u64) -> Result<Place> {
    loop {
        if spine.node.is_full() && !(spine.node.is_leaf() && holds(&spine.node, key)?) {
            if spine.at_top {
                // And on from the root again, whose first key may have to be lowered.
                split_root(spine)?;
            } else {
                make_room(spine, key)?;
            }
        }
        let index = spine.node.view()?.search(key);
        if spine.node.is_leaf() {
            return Ok(match index {
                Some(index) if spine.node.key(index) == Some(key) => Place::Found(index),
                Some(index) => Place::Absent(index + 1),
                None => Place::Absent(0),
            });
        }
        let index = match index {
            Some(index) => index,
            None => {
                spine.node.set_key(0, key)?;
                0
            }
        };
        spine.descend(index)?;
    }
}

fn holds(leaf: &NodeMut, key: u64) -> Result<bool> {
    let index = leaf.view()?.search(key);
    Ok(index.is_some_and(|index| leaf.key(index) == Some(key)))
}

/// Two new nodes take a full root's entries; it keeps its block and points to them.
fn split_root(spine: &mut Spine<'_, '_>) -> Result<()> {
    let (txn, root) = (&mut *spine.txn, &mut spine.node);
    let (form, left_len) = (root.form(), root.len() / 2);
    let mut halves = [(0, BlockNr(0)); 2];
    for (count, half) in [left_len, root.len() - left_len]
        .into_iter()
        .zip(&mut halves)
    {
        let mut node = NodeMut::new(txn, form)?;
        node.take_front(root, count)?;
        *half = (node.key(0).unwrap_or(0), node.location());
    }
    root.become_empty(Form::internal());
    for (index, (key, child)) in halves.into_iter().enumerate() {
        root.insert(index, key, &child.0.to_le_bytes())?;
    }
    Ok(())
}

/// Gives a full node below a root room for `key`, and goes on in whichever node
/// then covers that key: even out with a sibling, else split. Shared siblings
/// are left alone, since to copy one costs more than it saves.
fn make_room(spine: &mut Spine<'_, '_>, key: u64) -> Result<()> {
    let Some(mut parent) = spine.parent.take() else {
        return Err(Error::usage("a root has no siblings"));
    };
    let index = parent.view()?.search(key).unwrap_or(0);
    let last = parent.len() - 1;
    let (mut any_shared, mut done) = (false, false);
    for left in [true, false] {
        let sibling = match left {
            true if index > 0 => index - 1,
            false if index < last => index + 1,
            _ => continue,
        };
        match examine(spine, &parent, sibling)? {
            Sibling::Shared => any_shared = true,
            Sibling::Free(free) if free >= WORTH_EVENING => {
                even_out(spine, &mut parent, index, sibling, key)?;
                done = true;
                break;
            }
            Sibling::Free(_) => {}
        }
    }
    if !done {
        let at_edge = index == 0 || index == last;
        if any_shared || parent.len() <= 2 || at_edge {
            split_in_two(spine, &mut parent, index, key)?;
        } else {
            two_into_three(spine, &mut parent, index, key)?;
        }
    }
    let now = parent.view()?.search(key).unwrap_or(0);
    spine.high = parent.key(now + 1).or(spine.parent_high);
    spine.parent = Some(parent);
    Ok(())
}

enum Sibling {
    Shared,
    Free(usize),
}

/// What a sibling is good for, without making it writable.
fn examine(spine: &Spine<'_, '_>, parent: &NodeMut, index: usize) -> Result<Sibling> {
    let at = parent.child(index)?;
    check_child(spine.txn, at, parent)?;
    check_child(spine.txn, at, &spine.node)?;
    if spine.txn.is_shared(at)? {
        return Ok(Sibling::Shared);
    }
    let block = spine.txn.read(at, &super::NODE_VALIDATOR)?;
    let value_bytes = spine.tree.value_bytes_at(spine.level);
    let (form, nr) = super::node_mut::inspect(at, &block, value_bytes)?;
    Ok(Sibling::Free(form.capacity - nr))
}

/// Makes a sibling of the node writable.
fn open_sibling(spine: &mut Spine<'_, '_>, parent: &mut NodeMut, index: usize) -> Result<NodeMut> {
    let (level, high) = (spine.level, spine.parent_high);
    let opened = open_child(spine.txn, spine.tree, level, parent, index, high)?;
    Ok(opened.0)
}

fn even_out(
    spine: &mut Spine<'_, '_>,
    parent: &mut NodeMut,
    index: usize,
    sibling: usize,
    key: u64,
) -> Result<()> {
    let mut other = open_sibling(spine, parent, sibling)?;
    let node = &mut spine.node;
    let right_index = index.max(sibling);
    let (left, right) = if sibling < index {
        (&mut other, node)
    } else {
        (node, &mut other)
    };
    share_out(left, right, (left.len() + right.len()) / 2)?;
    follow(parent, right_index, right)?;
    keep_covering(spine, other, sibling < index, key);
    Ok(())
}

/// Moves entries between neighbours until the left one has `left_len`.
pub(super) fn share_out(
    left: &mut NodeMut,
    right: &mut NodeMut,
    left_len: usize,
) -> Result<(), Damage> {
    match left.len().checked_sub(left_len) {
        Some(surplus) => left.give_back(right, surplus),
        None => {
            let missing = left_len - left.len();
            left.take_front(right, missing)
        }
    }
}

/// Sets the key of a node in its parent to the node's own first.
pub(super) fn follow(parent: &mut NodeMut, index: usize, node: &NodeMut) -> Result<(), Damage> {
    if let Some(first) = node.key(0) {
        parent.set_key(index, first)?;
    }
    Ok(())
}

/// Goes on in `other` where it covers the key; lets go of it where not.
fn keep_covering(spine: &mut Spine<'_, '_>, other: NodeMut, other_is_left: bool, key: u64) {
    let right_first = if other_is_left {
        spine.node.key(0)
    } else {
        other.key(0)
    };
    let in_right = right_first.is_some_and(|first| key >= first);
    if in_right != other_is_left {
        spine.node = other;
    }
}

/// A new right neighbour takes the upper half.
fn split_in_two(
    spine: &mut Spine<'_, '_>,
    parent: &mut NodeMut,
    index: usize,
    key: u64,
) -> Result<()> {
    let mut right = NodeMut::new(spine.txn, spine.node.form())?;
    let moved = spine.node.len() - spine.node.len() / 2;
    spine.node.give_back(&mut right, moved)?;
    hang(parent, index + 1, &right)?;
    keep_covering(spine, right, false, key);
    Ok(())
}

/// The left sibling and the node share out with a new one between them.
fn two_into_three(
    spine: &mut Spine<'_, '_>,
    parent: &mut NodeMut,
    index: usize,
    key: u64,
) -> Result<()> {
    let mut left = open_sibling(spine, parent, index - 1)?;
    left.check_like(&spine.node)?;
    let mut centre = NodeMut::new(spine.txn, left.form())?;
    let right = &mut spine.node;
    let total = left.len() + right.len();
    let left_len = total / 3;
    let centre_len = (total - left_len) / 2;
    let right_len = total - left_len - centre_len;
    match left.len().checked_sub(left_len) {
        Some(surplus) => {
            left.give_back(&mut centre, surplus)?;
            let missing = centre_len.checked_sub(centre.len());
            centre.take_front(right, missing.unwrap_or(0))?;
        }
        None => {
            left.take_front(right, left_len - left.len())?;
            centre.take_front(right, centre_len)?;
        }
    }
    if right.len() > right_len {
        let rest = right.len() - right_len;
        centre.take_front(right, rest)?;
    }
    follow(parent, index, right)?;
    hang(parent, index, &centre)?;
    let covers = |node: &NodeMut| node.key(0).is_some_and(|first| key >= first);
    if !covers(&spine.node) {
        spine.node = if covers(&centre) { centre } else { left };
    }
    Ok(())
}

/// Puts a new node before the entry at `index` of its parent.
fn hang(parent: &mut NodeMut, index: usize, node: &NodeMut) -> Result<()> {
    let first = node.key(0).unwrap_or(0);
    Ok(parent.insert(index, first, &node.location().0.to_le_bytes())?)
}
