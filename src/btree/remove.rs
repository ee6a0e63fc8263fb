//! Taking single entries and runs of them out of a tree.

use super::TreeType;
use super::rebalance::{collapse, is_covering_child_small, rebalance_children};
use super::spine::{Spine, contains, find_subtree};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Takes an entry out of a tree. `None`: there is no such entry, and nothing was
/// done. Otherwise where the tree starts now; the old root is not to be used any more.
///
/// # Errors
/// [`Error::Usage`] without a trace for keys that are not the tree's. After any
/// other the transaction has to be aborted.
pub fn remove(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
) -> Result<Option<BlockNr>> {
    tree.check(keys)?;
    // Once the walk has begun the tree is another one.
    if !contains(txn, tree, root, keys)? {
        return Ok(None);
    }
    let mut spine = Spine::start(txn, tree, root)?;
    let Some((last, above)) = keys.split_last() else {
        return Ok(None);
    };
    walk_above(&mut spine, above)?;
    walk(&mut spine, *last)?;
    let index = exactly(&spine, *last)?;
    take_out(&mut spine, index)?;
    Ok(Some(spine.root))
}

/// Takes a run of entries out: `first`, the next key and so on, up to the first
/// that is not there or `end`. `keys` are those of the levels above and then
/// `first`, which is there. Where the run ends, the walk that finds nothing more
/// rebalances too. Keys behind a gap at the beginning of a leaf may go as well.
///
/// Gives where the tree starts now, and how many entries went.
///
/// # Errors
/// As [`remove`].
pub fn remove_leaves(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
    end: u64,
) -> Result<(BlockNr, u64)> {
    tree.check(keys)?;
    let Some((first, above)) = keys.split_last() else {
        return Ok((root, 0));
    };
    if find_subtree(txn, tree, root, above)?.is_none() {
        return Ok((root, 0));
    }
    let (mut root, mut wanted, mut removed) = (root, *first, 0);
    loop {
        let mut spine = Spine::start(txn, tree, root)?;
        walk_above(&mut spine, above)?;
        walk(&mut spine, wanted)?;
        root = spine.root;
        let index = spine.node.view()?.search(wanted).unwrap_or(0);
        match spine.node.key(index) {
            Some(key) if key >= wanted && key < end => {
                take_out(&mut spine, index)?;
                removed += 1;
                // Below `end`, so that there is a next one.
                wanted = key.saturating_add(1);
            }
            _ => return Ok((root, removed)),
        }
    }
}

/// From the root of the first level to that of the last.
fn walk_above(spine: &mut Spine<'_, '_>, keys: &[u64]) -> Result<()> {
    for key in keys {
        walk(spine, *key)?;
        let index = exactly(spine, *key)?;
        spine.enter(index)?;
    }
    Ok(())
}

/// Down to the leaf that covers a key, which can then do without an entry.
fn walk(spine: &mut Spine<'_, '_>, key: u64) -> Result<()> {
    while !spine.node.is_leaf() {
        if spine.node.len() == 1 {
            collapse(spine)?;
            if spine.node.is_leaf() {
                return Ok(());
            }
            if is_covering_child_small(spine, key)? {
                rebalance_children(spine, key)?;
            }
        } else {
            rebalance_children(spine, key)?;
        }
        let index = spine.node.view()?.search(key).unwrap_or(0);
        spine.descend(index)?;
    }
    Ok(())
}

/// The entry of a key that was found before.
pub(super) fn exactly(spine: &Spine<'_, '_>, key: u64) -> Result<usize> {
    let index = spine.node.view()?.search(key);
    let found = index.filter(|index| spine.node.key(*index) == Some(key));
    found.ok_or_else(|| {
        let (at, expected) = (spine.node.location(), format!("an entry for key {key}"));
        Error::from(Damage::new(at, super::NODE_NAME, "keys", "none", expected))
    })
}

/// Drops an entry of the last level. The parent's key stays, even if the first entry goes.
fn take_out(spine: &mut Spine<'_, '_>, index: usize) -> Result<()> {
    let value = spine.node.value(index)?;
    spine.tree.values.dec(spine.txn, value)?;
    Ok(spine.node.remove(index)?)
}
