//! Roots of the pool as it was: what nothing leads to any more, and where the superblock
//! is lost, what it may have led to.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::graft::kind;
use super::scan::{Scan, Shape};
use super::trees::{Met, Trees};
use crate::block::BlockManager;
use crate::device::Device;
use crate::disk_space::{DiskSpaceMap, SpaceMapRoot};
use crate::error::Result;
use crate::space::SpaceMap;
use crate::task::Task;
use crate::tools::dump::nodes::NodeReader;
use crate::units::BlockNr;
use crate::walk::{Counts, Forest, ForestLimits, Reader, State};

/// Memory for the space map's nodes.
const CACHE_BYTES: u64 = 8 << 20;
/// Pairs that are told of.
const MOST_CANDIDATES: usize = 16;
/// Of these, how many are looked into for what is lost.
const MOST_TREES: usize = 4;
/// Roots of each kind that are looked at, the last ones on the device first.
const MOST_ROOTS: usize = 4096;

/// Two roots that know the same devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Root of the mappings.
    pub mapping_root: BlockNr,
    /// Root of the details.
    pub details_root: BlockNr,
    /// Devices.
    pub devices: u64,
    /// Devices whose mappings are all there, and as many as the details say.
    pub whole_devices: u64,
    /// Devices whose root the metadata's space map has in use, where it can be read: the
    /// pool has changed the others since.
    pub live_devices: u64,
    /// Mappings of sound trees.
    pub mapped_blocks: u64,
    /// The highest transaction id that a device was made in.
    pub transaction_id: u64,
    /// The latest time that the details speak of.
    pub time: u32,
}

impl Candidate {
    /// Whole ones first, then those of which most is still in use, then newer ones, then
    /// larger ones; of what is not whole, that with the most mappings.
    fn rank(&self) -> (bool, u64, u64, u64, u32, u64, u64, u64) {
        let whole = self.whole_devices == self.devices;
        (
            whole,
            if whole { 0 } else { self.mapped_blocks },
            self.live_devices * 1000 / self.devices.max(1),
            self.transaction_id,
            self.time,
            self.mapped_blocks,
            self.mapping_root.0,
            self.details_root.0,
        )
    }
}

/// All pairs, the most plausible one first, and what is under the first few.
pub(super) fn candidates(
    device: &Arc<dyn Device>,
    scan: &Scan,
    limits: ForestLimits,
    space: Option<&SpaceMapRoot>,
    task: &Task<'_>,
) -> Result<(Vec<Candidate>, Vec<Trees>)> {
    let reader = Reader::new(&**device, false);
    let limit = limits.metadata_blocks;
    let mut nodes = NodeReader::of_device(&**device, limit);
    let (mut tops, mut details) = (Vec::new(), Vec::new());
    for node in scan.nodes.iter().rev() {
        task.step(0, 0)?;
        let list = match kind(&mut nodes, scan, node, task)? {
            Some((_, Shape::Top)) => &mut tops,
            Some((_, Shape::Details)) => &mut details,
            _ => continue,
        };
        if list.len() < MOST_ROOTS {
            list.push(u64::from(node.block));
        }
    }
    let read = |mapping: u64, details: u64| {
        Trees::read(&reader, (mapping, details), &mut Met::new(limit), task)
    };
    // Devices by id, and where their details are.
    let mut known: FxHashMap<Vec<u64>, Vec<(u64, Trees)>> = FxHashMap::default();
    for root in details {
        let trees = read(0, root)?;
        if trees.details_lost.is_empty() {
            let ids = trees.details.iter().map(|info| info.id).collect();
            known.entry(ids).or_default().push((root, trees));
        }
    }
    let mut pairs = Vec::new();
    for root in tops {
        let trees = read(root, 0)?;
        let ids: Vec<u64> = trees.roots.iter().map(|entry| entry.0).collect();
        let Some(with) = known.get(&ids).filter(|_| trees.roots_lost.is_empty()) else {
            continue;
        };
        for (details_root, details) in with {
            let both = Trees {
                details: details.details.clone(),
                roots: trees.roots.clone(),
                ..Trees::default()
            };
            pairs.push((root, *details_root, both));
        }
    }
    let mut roots: Vec<u32> = pairs
        .iter()
        .flat_map(|pair| pair.2.roots.iter().map(|entry| entry.1))
        .collect();
    roots.sort_unstable();
    roots.dedup();
    let mut counts = Counts::new(limit);
    let mut forest = Forest::walk(&reader, task, &roots, limits, &mut counts, None)?;
    forest.resolve(&reader, task)?;
    let blocks = BlockManager::new(Arc::clone(device), CACHE_BYTES);
    let map = space.map(|root| DiskSpaceMap::metadata(&blocks, *root));
    let is_live = |root: u32| {
        let count = map.as_ref().and_then(|map| map.get_count(root.into()).ok());
        count.is_some_and(|count| count > 0)
    };
    let mut ranked: Vec<(Candidate, Trees)> = pairs
        .into_iter()
        .map(|(mapping, details, trees)| {
            let live = trees.roots.iter().filter(|root| is_live(root.1)).count() as u64;
            let candidate = judge(mapping, details, &trees, &forest);
            let live_devices = live;
            (
                Candidate {
                    live_devices,
                    ..candidate
                },
                trees,
            )
        })
        .collect();
    ranked.sort_by_key(|(candidate, _)| std::cmp::Reverse(candidate.rank()));
    ranked.truncate(MOST_CANDIDATES);
    let (candidates, mut trees): (Vec<_>, Vec<_>) = ranked.into_iter().unzip();
    trees.truncate(MOST_TREES);
    Ok((candidates, trees))
}

fn judge(mapping: u64, details: u64, trees: &Trees, forest: &Forest) -> Candidate {
    let (mut whole, mut mapped) = (0, 0);
    for (info, (_, root)) in trees.details.iter().zip(&trees.roots) {
        let summary = forest.summary(*root);
        if let Some(summary) = summary.filter(|summary| summary.state == State::Sound) {
            mapped += u64::from(summary.entries);
            whole += u64::from(u64::from(summary.entries) == info.mapped_blocks);
        }
    }
    let infos = || trees.details.iter();
    Candidate {
        mapping_root: BlockNr(mapping),
        details_root: BlockNr(details),
        devices: trees.details.len() as u64,
        whole_devices: whole,
        live_devices: 0,
        mapped_blocks: mapped,
        transaction_id: infos().map(|info| info.transaction_id).max().unwrap_or(0),
        time: infos()
            .map(|info| info.creation_time.max(info.snapshotted_time))
            .max()
            .unwrap_or(0),
    }
}
