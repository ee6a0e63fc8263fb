//! Roots that the pool has had in the course of time, and how each is doing.
//!
//! There may be one for each block of the device. They are read one after the other, and
//! the most plausible ones are kept.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::scan::{Scan, Shape};
use super::trees::{Met, Trees};
use super::uses::Uses;
use crate::device::Device;
use crate::disk_space::SpaceMapRoot;
use crate::error::Result;
use crate::task::Task;
use crate::thin::DeviceInfo;
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::walk::{BlockSet, Counts, Forest, ForestLimits, Reader, State};

/// Devices that are read in all, of roots of each kind.
const MOST_READ: usize = 1 << 24;
/// Earlier roots of a device that are looked into for what is lost.
const MOST_EARLIER: usize = 8;
/// Devices that are kept in all, of roots of each kind.
const MOST_KEPT: usize = 1 << 20;

/// What the pool is known to have now.
pub(super) struct Present<'p> {
    /// The metadata's space map, if it is known where that is.
    pub space: Option<SpaceMapRoot>,
    /// References to nodes that were met.
    pub met: &'p Counts,
    /// What can be reached.
    pub reached: &'p Forest,
    /// Id and root of each device that can be, ascending.
    pub roots: &'p [(u64, u32)],
    /// Ids of all devices, if they are known.
    pub devices: Option<FxHashSet<u64>>,
    /// The latest root of the mappings, sound or not.
    pub latest: Option<u64>,
}

/// How long ago a block was written, as against others. Blocks are taken in ascending order,
/// and from the front again when that is at an end.
pub(super) fn behind(root: u64, latest: u64) -> u64 {
    latest.wrapping_sub(root)
}

/// What of a device is still in use, by the metadata's space map.
#[derive(Clone, Copy, Default)]
pub(super) struct Live {
    /// Its root is: the device has not been changed since.
    pub root: bool,
    /// Mappings of leaves that are.
    pub blocks: u64,
}

/// A root of the mappings.
pub(super) struct Top {
    pub root: u32,
    /// Id and root of each device, ascending.
    pub roots: Vec<(u64, u32)>,
    /// Mappings of each device; `None` where some cannot be read.
    pub mapped: Vec<Option<u64>>,
    /// Mappings of each device that can be.
    pub readable: Vec<u64>,
    /// What of each device is still in use.
    pub live: Vec<Live>,
    /// When the latest mapping was made.
    pub time: u32,
}

impl Top {
    pub fn readable_blocks(&self) -> u64 {
        self.readable
            .iter()
            .fold(0, |sum, some| sum.saturating_add(*some))
    }

    /// As candidates are ranked, as far as the mappings tell.
    fn rank(&self) -> (u64, u64, bool, u64, u32, u64, u32) {
        let sound = self.mapped.iter().all(Option::is_some);
        let mapped = self.readable_blocks();
        (
            self.live.iter().map(|live| u64::from(live.root)).sum(),
            self.live.iter().map(|live| live.blocks).sum(),
            sound,
            if sound { 0 } else { mapped },
            self.time,
            mapped,
            self.root,
        )
    }
}

/// A root of the details.
pub(super) struct Details {
    pub root: u32,
    /// Ascending.
    pub devices: Vec<DeviceInfo>,
}

impl Details {
    pub fn get(&self, id: u64) -> Option<DeviceInfo> {
        let found = self.devices.binary_search_by_key(&id, |info| info.id);
        found
            .ok()
            .and_then(|index| self.devices.get(index))
            .copied()
    }

    pub fn transaction_id(&self) -> u64 {
        let ids = self.devices.iter().map(|info| info.transaction_id);
        ids.max().unwrap_or(0)
    }

    pub fn time(&self) -> u32 {
        let times = self.devices.iter().map(|info| info.latest_time());
        times.max().unwrap_or(0)
    }

    fn rank(&self) -> (u64, u32, u64, u32) {
        let mapped = self.devices.iter().map(|info| info.mapped_blocks);
        let mapped = mapped.fold(0, u64::saturating_add);
        (self.transaction_id(), self.time(), mapped, self.root)
    }
}

/// The best, as many as there is room for.
pub(super) struct Best<K, T> {
    kept: BTreeMap<K, (usize, T)>,
    devices: usize,
}

impl<K: Ord, T> Best<K, T> {
    pub fn new() -> Self {
        Self {
            kept: BTreeMap::new(),
            devices: 0,
        }
    }

    pub fn offer(&mut self, rank: K, devices: usize, value: T) {
        self.kept.insert(rank, (devices, value));
        self.devices += devices;
        while self.devices > MOST_KEPT && self.kept.len() > 1 {
            self.devices -= self.kept.pop_first().map_or(0, |worst| worst.1.0);
        }
    }

    pub fn descending(self) -> Vec<T> {
        self.kept.into_values().rev().map(|kept| kept.1).collect()
    }
}

/// Earlier roots of these devices, whose roots are now `current`: a few of each, the latest
/// ones first.
pub(super) fn earlier(
    tops: &[Top],
    current: &FxHashMap<u64, Option<u32>>,
    devices: &FxHashSet<u64>,
    latest: u64,
) -> FxHashMap<u64, Vec<u32>> {
    let is_as_now = |(id, root): &&(u64, u32)| current.get(id) == Some(&Some(*root));
    let mut order: Vec<(usize, u32, u64, &Top)> = tops
        .iter()
        .map(|top| {
            let same = top.roots.iter().filter(is_as_now).count();
            (same, top.time, behind(top.root.into(), latest), top)
        })
        .collect();
    order.sort_unstable_by_key(|top| (Reverse((top.0, top.1)), top.2));
    let mut found: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
    for (.., top) in order {
        for (id, root) in top.roots.iter().filter(|root| devices.contains(&root.0)) {
            let known = found.entry(*id).or_default();
            if known.len() < MOST_EARLIER
                && !known.contains(root)
                && current.get(id) != Some(&Some(*root))
            {
                known.push(*root);
            }
        }
    }
    found
}

/// Roots of details that can be read, the best first.
pub(super) fn details(
    device: &dyn Device,
    roots: &[u32],
    limits: ForestLimits,
    task: &Task<'_>,
) -> Result<Vec<Details>> {
    let reader = Reader::new(device, false);
    let mut best = Best::new();
    let mut read = 0;
    for root in roots {
        let mut met = Met::new(limits.metadata_blocks);
        let trees = Trees::read(&reader, (0, (*root).into()), &mut met, task)?;
        if !trees.details_lost.is_empty() {
            continue;
        }
        let found = Details {
            root: *root,
            devices: trees.details,
        };
        read += found.devices.len();
        best.offer(found.rank(), found.devices.len(), found);
        if read > MOST_READ {
            break;
        }
    }
    Ok(best.descending())
}

/// Roots of mappings that can be read, the best first.
pub(super) fn tops(
    device: &Arc<dyn Device>,
    scan: &Scan,
    roots: &[u32],
    limits: ForestLimits,
    present: &Present<'_>,
    task: &Task<'_>,
) -> Result<Vec<Top>> {
    let limit = limits.metadata_blocks;
    let reader = Reader::new(&**device, false);
    let read = |root: u32| {
        let trees = Trees::read(&reader, (root.into(), 0), &mut Met::new(limit), task)?;
        Ok::<_, crate::error::Error>(trees.roots_lost.is_empty().then_some(trees.roots))
    };
    // All trees at once: most of their nodes are in many of them.
    let mut seen = BlockSet::new(limit);
    let (mut trees, mut sound, mut entries) = (Vec::new(), Vec::new(), 0);
    for root in roots {
        let Some(devices) = read(*root)? else {
            continue;
        };
        sound.push(*root);
        entries += devices.len();
        let new = devices.iter().map(|entry| entry.1);
        trees.extend(new.filter(|tree| seen.insert((*tree).into())));
        if entries > MOST_READ {
            break;
        }
    }
    trees.sort_unstable();
    let mut counts = Counts::new(limit);
    let mut forest = Forest::walk(&reader, task, &trees, limits, &mut counts, None)?;
    forest.resolve(&reader, task)?;
    let mut uses = Uses::new(device, &forest, present, limit);
    let mut times = Times {
        nodes: NodeReader::of_device(&**device, limit),
        scan,
        known: FxHashMap::default(),
    };
    let mut best = Best::new();
    for root in sound {
        let Some(devices) = read(root)? else {
            continue;
        };
        let mut found = Top {
            root,
            mapped: Vec::with_capacity(devices.len()),
            readable: Vec::with_capacity(devices.len()),
            live: Vec::with_capacity(devices.len()),
            time: 0,
            roots: devices,
        };
        uses.begin();
        for (id, tree) in &found.roots {
            let summary = forest.summary(*tree);
            let summary = summary.filter(|summary| summary.state == State::Sound);
            let mapped = summary.map(|one| one.entries.into());
            found.mapped.push(mapped);
            found.readable.push(match mapped {
                Some(mapped) => mapped,
                None => uses.readable(*tree, task)?,
            });
            found.live.push(uses.live(*id, *tree, task)?);
            if summary.is_some() {
                found.time = found.time.max(times.latest(*tree, task)?);
            }
        }
        best.offer(found.rank(), found.roots.len(), found);
    }
    Ok(best.descending())
}

/// When the latest mapping of a sound tree was made.
struct Times<'t> {
    nodes: NodeReader<'t>,
    scan: &'t Scan,
    /// Of internal nodes.
    known: FxHashMap<u32, u32>,
}

impl Times<'_> {
    fn latest(&mut self, block: u32, task: &Task<'_>) -> Result<u32> {
        if let Some(time) = self.known.get(&block) {
            return Ok(*time);
        }
        match self.scan.get(block) {
            Some(node) if node.shape == Shape::Internal => {}
            node => return Ok(node.map_or(0, |leaf| leaf.time)),
        }
        let mut children = Vec::new();
        let here = NodeRef::root(block);
        self.nodes
            .each_child(std::slice::from_ref(&here), task, |_, child| {
                children.push(child.block);
                Ok(())
            })?;
        let mut time = 0;
        for child in children {
            time = time.max(self.latest(child, task)?);
        }
        self.known.insert(block, time);
        Ok(time)
    }
}
