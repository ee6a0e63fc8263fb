//! The shapes of trees that are small beside the mappings.

use zerocopy::little_endian::U64;

use super::TreeStat;
use super::volumes::tenth;
use crate::btree::{Value, max_entries};
use crate::error::Result;
use crate::task::Task;
use crate::walk::{BlockSet, Counts, Reader, each_leaf_in_order, tree_shape};

/// Looks at a tree as a whole; calls `each` with the values of every leaf, in order.
///
/// # Errors
/// The first damage.
pub(super) fn measure<V: Value>(
    reader: &Reader<'_>,
    task: &Task<'_>,
    root: u64,
    metadata_blocks: u64,
    mut each: impl FnMut(&[U64], &[V]) -> Result<()>,
) -> Result<TreeStat> {
    let mut counts = Counts::new(metadata_blocks);
    let mut counted = BlockSet::new(metadata_blocks);
    let value_bytes = size_of::<V>();
    let shape = tree_shape(reader, task, root, value_bytes, &mut counts, &mut counted)?;
    if let Some(bad) = shape.damages.into_iter().next() {
        return Err(bad.damage.into());
    }
    let mut found = TreeStat {
        levels: shape.levels as u64,
        nodes: shape.nodes,
        leaves: shape.leaves.len() as u64,
        capacity: max_entries(value_bytes) as u64,
        least: u64::MAX,
        ..TreeStat::default()
    };
    each_leaf_in_order(reader, &shape.leaves, |leaf| {
        let leaf = leaf?;
        let entries = leaf.keys().len() as u64;
        found.add_leaf(entries);
        each(leaf.keys(), leaf.values::<V>()?)
    })?;
    Ok(found)
}

impl TreeStat {
    fn add_leaf(&mut self, entries: u64) {
        self.entries += entries;
        self.least = self.least.min(entries);
        self.most = self.most.max(entries);
        self.fill[tenth(entries, self.capacity)] += 1;
    }
}
