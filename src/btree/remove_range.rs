//! Clearing a range of keys, holes and all.

use std::ops::Range;

use super::spine::find_subtree;
use super::{NODE_NAME, TreeType, raw, remove_leaves};
use crate::error::{Damage, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Takes every entry whose last key is in `range` out of the tree under `prefix`, the
/// keys of all levels but the last. Costs what is there, not what the range spans.
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
    let mut keys = prefix.to_vec();
    keys.push(range.start);
    tree.check(&keys)?;
    let (mut root, mut begin, mut removed) = (root, range.start, 0_u64);
    while begin < range.end {
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
