//! Inserting many entries at once: sorted, one way down for each leaf, every node shadowed once.
//!
//! Trees of one level only. The nodes that come out are those of the format's
//! invariants, not those that single insertions would have left: what does not
//! fit a node is shared out evenly among as few nodes as can hold it, and what
//! is appended behind the last key fills nodes completely.

mod merge;
mod source;

use std::ops::Range;

use merge::Merge;
use source::{Gathered, Sorted, Source, Word, Words, value_at, without_doubles};

use super::fill::grow_root;
use super::lookup::too_deep;
use super::rows::{sorted_places, sorted_rows};
use super::{MAX_DEPTH, NODE_VALIDATOR, Node, TreeType, check_bounds, check_value_bytes};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Bytes of the values that have a way of their own.
const WORD: usize = 8;

/// Below this many nodes the run of blocks is not worth counting what is touched.
const SMALL: usize = 64;

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchInserted {
    /// Where the tree starts now.
    pub root: BlockNr,
    /// Keys that were not there before.
    pub added: u64,
}

/// Inserts entries whose keys ascend strictly; `values` has theirs, one after
/// the other. What is there already is overwritten.
///
/// # Errors
/// [`Error::Usage`] for other keys, other lengths, or a nested tree, with no
/// trace. Otherwise [`Error::NoSpace`], [`Error::Damaged`], [`Error::Io`], and
/// what counting says, after which the transaction has to be aborted if it has
/// had side effects.
pub fn insert_sorted(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
    values: &[u8],
) -> Result<BatchInserted> {
    check(tree, keys, values)?;
    if let Some(index) = first_disorder(keys) {
        let (before, key) = (keys[index - 1], keys[index]);
        let text = format!("keys have to ascend: {key} follows {before}");
        return Err(Error::Usage(text));
    }
    insert_in_order(txn, tree, root, keys, values)
}

/// Inserts entries in any order; of those with the same key the last one wins.
/// Takes 16 bytes for each key, unless they ascend strictly already.
///
/// # Errors
/// As [`insert_sorted`], but for the order.
pub fn insert_batch(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
    values: &[u8],
) -> Result<BatchInserted> {
    check(tree, keys, values)?;
    if first_disorder(keys).is_none() {
        return insert_in_order(txn, tree, root, keys, values);
    }
    let value_bytes = tree.value_bytes;
    let task = Task::default();
    // Values that are overwritten before anybody sees them.
    let (counting, mut unseen) = (&*tree.values, Vec::new());
    let mut lost = |old: &[u8], new: &[u8]| {
        if !counting.equal(old, new) {
            unseen.extend_from_slice(old);
        }
    };
    if value_bytes == WORD {
        let words = values.chunks_exact(WORD);
        let words = words.map(|word| word.try_into().unwrap_or_default());
        let mut rows = sorted_rows(keys, words, &task)?;
        let firsts = without_doubles(&mut rows, |old: &Word, new| lost(old, new));
        let batch = Words {
            rows: &rows,
            firsts: &firsts,
        };
        return merge(txn, tree, root, batch, &unseen);
    }
    let mut rows = sorted_places(keys, &task)?;
    let firsts = without_doubles(&mut rows, |old, new| {
        let [old, new] = [old, new].map(|place| value_at(values, value_bytes, *place));
        lost(old, new);
    });
    let batch = Gathered {
        rows: &rows,
        firsts: &firsts,
        values,
        value_bytes,
    };
    merge(txn, tree, root, batch, &unseen)
}

fn insert_in_order(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
    values: &[u8],
) -> Result<BatchInserted> {
    let value_bytes = tree.value_bytes;
    if value_bytes == WORD {
        let batch = Sorted::<WORD> {
            keys,
            values,
            value_bytes,
        };
        merge(txn, tree, root, batch, &[])
    } else {
        let batch = Sorted::<0> {
            keys,
            values,
            value_bytes,
        };
        merge(txn, tree, root, batch, &[])
    }
}

fn check(tree: &TreeType<'_>, keys: &[u64], values: &[u8]) -> Result<()> {
    if tree.levels != 1 {
        let text = format!("batches go to trees of 1 level, not of {}", tree.levels);
        return Err(Error::Usage(text));
    }
    check_value_bytes(tree.value_bytes)?;
    if keys.len().checked_mul(tree.value_bytes) == Some(values.len()) {
        return Ok(());
    }
    let (keys, found, each) = (keys.len(), values.len(), tree.value_bytes);
    let text = format!("{keys} keys and {found} bytes of values, {each} bytes each");
    Err(Error::Usage(text))
}

/// The first key that is not above the one before it. One branch for many keys.
fn first_disorder(keys: &[u64]) -> Option<usize> {
    let ordered = |keys: &[u64]| {
        keys.windows(2)
            .fold(true, |so_far, pair| so_far & (pair[0] < pair[1]))
    };
    let mut begin = 0;
    while begin < keys.len() {
        let end = keys.len().min(begin + 1024);
        let run = &keys[begin..keys.len().min(end + 1)];
        if !ordered(run) {
            let place = run.windows(2).position(|pair| pair[0] >= pair[1]);
            return place.map(|place| begin + place + 1);
        }
        begin = end;
    }
    None
}

/// Merges a batch into a tree. `unseen`: values of the batch that later ones of
/// the batch overwrite.
fn merge<S: Source>(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    root: BlockNr,
    batch: S,
    unseen: &[u8],
) -> Result<BatchInserted> {
    if batch.len() == 0 {
        return Ok(BatchInserted { root, added: 0 });
    }
    let blocks = blocks_needed(txn, root, tree.value_bytes, &batch)?;
    txn.want_run(blocks);
    if !unseen.is_empty() {
        tree.values.dec(txn, unseen)?;
    }
    let mut merge = Merge {
        txn,
        counting: tree.values,
        value_bytes: tree.value_bytes,
        batch,
        added: 0,
        overwritten: Vec::new(),
    };
    let nodes = merge.tree(root)?;
    let added = merge.added;
    let root = grow_root(txn, nodes)?.unwrap_or(root);
    Ok(BatchInserted { root, added })
}

/// About how many blocks a batch will allocate: the nodes it touches, and those
/// that hold what it adds. Reads internal nodes only, and writes nothing.
fn blocks_needed(
    txn: &Transaction,
    root: BlockNr,
    value_bytes: usize,
    batch: &impl Source,
) -> Result<u64> {
    let height = height(txn, root)?;
    let added = batch.len().div_ceil(super::max_entries(value_bytes)) as u64;
    if batch.len() <= SMALL {
        return Ok((batch.len() * height) as u64 + added);
    }
    let touched = touched(txn, root, (None, None), batch, 0..batch.len(), height)?;
    Ok(touched + added)
}

/// Levels of nodes on the way to the first leaf.
fn height(txn: &Transaction, root: BlockNr) -> Result<usize> {
    let (mut at, mut low) = (root, None);
    for height in 1..=MAX_DEPTH {
        let block = txn.read(at, &NODE_VALIDATOR)?;
        let node = Node::parse(at, &block)?;
        check_bounds(&node, low, None)?;
        if node.is_leaf() {
            return Ok(height);
        }
        low = node.keys().first().map(|key| key.get());
        at = BlockNr(node.children()?.first().map_or(0, |child| child.get()));
    }
    Err(too_deep(at).into())
}

/// Nodes that a part of the batch touches, from this one on down.
fn touched(
    txn: &Transaction,
    at: BlockNr,
    (low, high): (Option<u64>, Option<u64>),
    batch: &impl Source,
    part: Range<usize>,
    height: usize,
) -> Result<u64> {
    if height <= 1 {
        return Ok(1);
    }
    let block = txn.read(at, &NODE_VALIDATOR)?;
    let node = Node::parse(at, &block)?;
    check_bounds(&node, low, high)?;
    let (mut count, mut begin) = (1, part.start);
    if node.is_leaf() {
        return Ok(count);
    }
    while begin < part.end {
        let index = node.search(batch.key(begin)).unwrap_or(0);
        let low = node.keys()[index].get();
        let above = node.keys().get(index + 1).map(|key| key.get());
        let end = above.map_or(part.end, |above| batch.seek(begin..part.end, above));
        let child = BlockNr(node.children()?[index].get());
        let bounds = (Some(low), above.or(high));
        count += touched(txn, child, bounds, batch, begin..end, height - 1)?;
        begin = end;
    }
    Ok(count)
}

#[cfg(test)]
mod tests;
