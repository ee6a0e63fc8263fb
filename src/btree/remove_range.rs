//! Clearing a range of keys, holes and all.

use std::ops::Range;

use super::cut::cut;
use super::spine::find_subtree;
use super::{Cursor, NODE_NAME, TreeType, raw, remove_leaves};
use crate::error::{Damage, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Up to so many leaves are emptied entry by entry, which leaves the nodes that a
/// kernel would leave. What reaches farther costs a look at each leaf.
const FEW_LEAVES: usize = 2;

/// Takes every entry whose last key is in `range` out of the tree under `prefix`, the
/// keys of all levels but the last. Costs what is there, not what the range spans,
/// and of a long range a look at each leaf and not a way down for each entry.
///
/// Gives where the tree starts now, and how many entries went; where none did,
/// nothing was done.
///
/// # Errors
/// [`Error::Usage`](crate::Error::Usage) without a trace for keys that are not the tree's. After any
/// other the transaction has to be aborted.
pub fn remove_range(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    prefix: &[u64],
    range: Range<u64>,
) -> Result<(BlockNr, u64)> {
    remove_or_cut(txn, tree, root, prefix, range, FEW_LEAVES)
}

/// As [`remove_range`]; a range that reaches more than `few` leaves is cut out.
pub(super) fn remove_or_cut(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    prefix: &[u64],
    range: Range<u64>,
    few: usize,
) -> Result<(BlockNr, u64)> {
    let mut keys = prefix.to_vec();
    keys.push(range.start);
    tree.check(&keys)?;
    let Some(subtree) = find_subtree(txn, tree, root, prefix)? else {
        return Ok((root, 0));
    };
    let leaves = count_leaves(txn, tree, subtree, &range, few + 1)?;
    match leaves {
        0 => Ok((root, 0)),
        _ if leaves > few => cut(txn, tree, root, prefix, range),
        _ => remove_one_by_one(txn, tree, root, keys, range),
    }
}

/// Leaves with entries in the range, no more than `most`.
fn count_leaves(
    txn: &Transaction,
    tree: &TreeType<'_>,
    root: BlockNr,
    range: &Range<u64>,
    most: usize,
) -> Result<usize> {
    let (begin, end) = (range.start, Some(range.end));
    let mut cursor = Cursor::new(txn.blocks(), root, tree.value_bytes, begin, end);
    let mut leaves = 0;
    while leaves < most && cursor.next_leaf()?.is_some() {
        leaves += 1;
    }
    Ok(leaves)
}

fn remove_one_by_one(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    mut keys: Vec<u64>,
    range: Range<u64>,
) -> Result<(BlockNr, u64)> {
    let (mut root, mut begin, mut removed) = (root, range.start, 0_u64);
    while begin < range.end {
        let prefix = keys.split_last().map_or(&[][..], |(_, prefix)| prefix);
        let Some(subtree) = find_subtree(txn, tree, root, prefix)? else {
            break;
        };
        let next = raw::next(txn.blocks(), subtree, tree.value_bytes, begin)?;
        let Some(first) = next.map(|found| found.0).filter(|key| *key < range.end) else {
            break;
        };
        if let Some(last) = keys.last_mut() {
            *last = first;
        }
        let (new_root, count) = remove_leaves(txn, tree, root, &keys, range.end)?;
        if count == 0 {
            let expected = format!("one way to key {first}");
            return Err(Damage::new(root, NODE_NAME, "keys", "two ways", expected).into());
        }
        (root, removed) = (new_root, removed + count);
        // The run has no key between: it ended at a hole.
        begin = first.saturating_add(1);
    }
    Ok((root, removed))
}
