//! Trees of which all entries are known, and which share nothing.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::blocks::{Blocks, Kind};
use super::content::Child;
use crate::btree::{Plan, Value, fill_node, max_entries};
use crate::error::Result;
use crate::units::BlockNr;

/// A tree of so many entries, which come in ascending order; its root, to which the
/// caller has one reference.
pub(super) fn tree<V: Value + IntoBytes>(
    blocks: &mut Blocks,
    count: u64,
    entries: impl Iterator<Item = (u64, V)>,
) -> Result<BlockNr> {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let mut nodes = level(blocks, true, count, entries)?;
    while nodes.len() > 1 {
        let children = nodes.iter().map(|child| (child.key, U64::new(child.at.0)));
        let above = level(blocks, false, nodes.len(), children)?;
        for child in &nodes {
            blocks.refer(child.at);
        }
        nodes = above;
    }
    let root = match nodes.first() {
        Some(root) => root.at,
        None => write::<V>(blocks, true, &[], &[])?.at,
    };
    blocks.refer(root);
    Ok(root)
}

/// Blocks of a tree of so many entries.
pub(super) fn tree_blocks(count: u64, value_bytes: usize) -> u64 {
    let mut nodes = count.div_ceil(max_entries(value_bytes) as u64).max(1);
    let mut blocks = nodes;
    while nodes > 1 {
        nodes = nodes.div_ceil(max_entries(8) as u64);
        blocks += nodes;
    }
    blocks
}

fn level<V: Value + IntoBytes>(
    blocks: &mut Blocks,
    leaf: bool,
    count: usize,
    mut entries: impl Iterator<Item = (u64, V)>,
) -> Result<Vec<Child>> {
    let plan = Plan::new(count, max_entries(size_of::<V>()), true);
    let mut nodes = Vec::with_capacity(plan.nodes());
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for node in 0..plan.nodes() {
        keys.clear();
        values.clear();
        for (key, value) in entries.by_ref().take(plan.size(node)) {
            keys.push(U64::new(key));
            values.push(value);
        }
        nodes.push(write(blocks, leaf, &keys, &values)?);
    }
    Ok(nodes)
}

fn write<V: Value + IntoBytes>(
    blocks: &mut Blocks,
    leaf: bool,
    keys: &[U64],
    values: &[V],
) -> Result<Child> {
    let (at, block) = blocks.append(Kind::Node)?;
    fill_node(block, leaf, size_of::<V>(), keys, <[V]>::as_bytes(values));
    Ok(Child {
        key: keys.first().map_or(0, |key| key.get()),
        at,
        nr: keys.len(),
    })
}
