//! What a pool is like, as plain numbers.

use std::sync::Arc;

use crate::error::Result;
use crate::task::Task;
use crate::thin::Pool;
use crate::tools::stat::{self, DeviceStat, FreeStat, Lengths, TreeStat};

/// Shortest length, runs, and their blocks, of each power of two that has some.
type Bins = Vec<(u64, u64, u64)>;
/// Levels, nodes, leaves, entries, capacity, least, most; and leaves by tenths.
type Tree = (u64, u64, u64, u64, u64, u64, u64, Vec<u64>);
/// Id, mapped, exclusive, seeks, runs, tree.
type Device = (u64, u64, u64, u64, Bins, Tree);
/// Blocks, free, runs.
type Free = (u64, u64, Bins);
/// Devices, owners, mappings, the other trees, and what is free of data and metadata.
pub(super) type Numbers = (
    Vec<Device>,
    Vec<u64>,
    Tree,
    Vec<(&'static str, Tree)>,
    Option<(Free, Free)>,
);

pub(super) fn numbers(pool: &Arc<Pool>, task: &Task<'_>) -> Result<Numbers> {
    let found = stat::statistics(pool, task)?;
    let trees = found.trees.iter().map(|(name, shape)| (*name, tree(shape)));
    Ok((
        found.devices.iter().map(device).collect(),
        found.owners,
        tree(&found.mappings),
        trees.collect(),
        found
            .free
            .map(|[data, metadata]| (free(&data), free(&metadata))),
    ))
}

fn device(found: &DeviceStat) -> Device {
    let DeviceStat {
        id,
        mapped_blocks,
        exclusive_blocks,
        seeks,
        runs,
        tree: shape,
    } = found;
    let runs = bins(runs);
    (
        *id,
        *mapped_blocks,
        *exclusive_blocks,
        *seeks,
        runs,
        tree(shape),
    )
}

fn tree(found: &TreeStat) -> Tree {
    (
        found.levels,
        found.nodes,
        found.leaves,
        found.entries,
        found.capacity,
        found.least,
        found.most,
        found.fill.to_vec(),
    )
}

fn free(found: &FreeStat) -> Free {
    (found.blocks, found.free, bins(&found.runs))
}

fn bins(lengths: &Lengths) -> Bins {
    let each = (0..).zip(lengths.runs.iter().zip(&lengths.blocks));
    each.filter(|(_, (runs, _))| **runs > 0)
        .map(|(power, (runs, blocks))| (1_u64 << power, *runs, *blocks))
        .collect()
}
