//! What of a leaf can be kept.

use rustc_hash::FxHashSet;
use zerocopy::little_endian::U64;

use crate::btree::Node;
use crate::error::Result;
use crate::thin::{MappingValue, Run};
use crate::walk::{Forest, ForestLimits};

/// Leaves with mappings that cannot be.
pub(super) enum Doubtful {
    Some(FxHashSet<u32>),
    /// There were too many to remember.
    All,
}

impl Doubtful {
    pub fn of(forest: &Forest) -> Self {
        if forest.dropped > 0 {
            return Self::All;
        }
        Self::Some(forest.bad_mappings.iter().map(|bad| bad.leaf).collect())
    }

    pub fn contains(&self, leaf: u32) -> bool {
        match self {
            Self::Some(leaves) => leaves.contains(&leaf),
            Self::All => true,
        }
    }
}

/// The mappings of a leaf that can be. One that is later than the pool's clock is as old as
/// can be: in a device that has had a snapshot it looks shared, and the kernel copies before
/// it writes there.
pub(super) fn runs(node: &Node<'_>, limits: ForestLimits) -> Result<Vec<Run>> {
    let mut runs: Vec<Run> = Vec::new();
    for (key, value) in node.keys().iter().zip(node.values::<U64>()?) {
        let value = MappingValue(value.get());
        if key.get() >= limits.virtual_blocks || value.data_block() >= limits.data_blocks {
            continue;
        }
        let time = if value.time() > limits.time {
            0
        } else {
            value.time()
        };
        let next = Run::single(key.get(), MappingValue::new(value.data_block(), time).0);
        if !runs.last_mut().is_some_and(|last| last.join(&next)) {
            runs.push(next);
        }
    }
    Ok(runs)
}

/// Whether some mappings of a leaf are later than the pool's clock.
pub(super) fn has_late(node: &Node<'_>, limits: ForestLimits) -> Result<bool> {
    let mut values = node.values::<U64>()?.iter();
    Ok(values.any(|value| MappingValue(value.get()).time() > limits.time))
}

/// Blocks of runs.
pub(super) fn blocks(runs: &[Run]) -> u64 {
    runs.iter().map(|run| run.length_blocks).sum()
}
