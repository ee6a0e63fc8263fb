//! Devices that the pool had once and has no more, and what is left of each.
//!
//! Deleting a device takes its root out of the top level, and frees the nodes below. They
//! stay as they are until something else is written there; and so does, for a while, the
//! leaf of the top level that led to them. Each root that such a leaf has for a device is a
//! *version* of it; and so is, where no leaf is left, a tree that nobody has and that is of
//! the size of the device. Which one is the latest nothing says outright: details with just
//! as many mappings make it one that there really was; snapshots, clock and the other
//! devices beside it tell how late.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;
use zerocopy::little_endian::U64;

use super::records::{Record, Records};
use super::scan::{Scan, Scanned, Shape};
use super::ways::Ways;
use crate::device::Device;
use crate::error::Result;
use crate::task::Task;
use crate::thin::{DeviceDetails, DeviceInfo};
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::units::BlockNr;
use crate::walk::{Counts, Forest, ForestLimits, Reader, State, Summary};

/// Leaves that are read at once.
const LEAVES: usize = 256;
/// Entries that are looked at, of leaves of each kind.
const MOST_READ: usize = 1 << 22;
/// Trees of a device that are remembered.
const MOST_VERSIONS: usize = 1 << 12;
/// Trees of the size of a device that are taken for its own.
const MOST_ALIKE: usize = 4;

/// A tree that a device once had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its root.
    pub root: BlockNr,
    /// Mappings that can be read.
    pub mapped_blocks: u64,
    /// Whether all of it can be read, and is as much as the latest details of the device
    /// that there are speak of.
    pub is_whole: bool,
    /// Whether it is as much as some details of the device speak of.
    is_exact: bool,
    /// The details that go with it.
    pub info: Option<DeviceInfo>,
    /// Whether a leaf of the top level leads there; otherwise it is known by its size alone.
    pub is_led: bool,
    /// In that leaf all other devices are as they are now.
    is_last: bool,
    /// The pool's clock stood there at least when this was the device's tree.
    pub(super) era: u32,
    /// How much of the pool as it is the leaf that led here knew: devices, and roots.
    known: (u32, u32),
    /// When its latest mapping was made.
    time: u32,
}

impl Version {
    /// The latest first, as far as that can be told; of equals the one with the most.
    fn rank(&self) -> impl Ord + use<> {
        let info = self.info.as_ref();
        (
            info.map(|info| (info.transaction_id, info.creation_time)),
            info.map(|info| info.snapshotted_time),
            self.lateness(),
            self.mapped_blocks,
            self.is_led,
            self.root,
        )
    }

    fn lateness(&self) -> impl Ord + use<> {
        (self.known, self.is_last, self.time)
    }
}

/// A device that the pool has no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedDevice {
    /// Its id.
    pub id: u64,
    /// Its trees, the most plausible one first; there is one at least.
    pub versions: Vec<Version>,
}

/// A leaf of the top level that has a root for a device.
#[derive(Clone, Copy, Default)]
struct Sighting {
    known: (u32, u32),
    era: u32,
    is_last: bool,
}

/// Finds deleted devices on a device that was scanned.
pub(super) struct Search<'s> {
    pub device: &'s dyn Device,
    pub scan: &'s Scan,
    pub limits: ForestLimits,
    /// What is there now, by id: the root, and when it was made.
    pub current: FxHashMap<u64, (Option<u32>, u32)>,
    /// Roots that the metadata snapshot has.
    pub held: Vec<u32>,
}

impl Search<'_> {
    /// All of them, by id.
    pub fn run(&self, task: &Task<'_>) -> Result<Vec<DeletedDevice>> {
        let records = self.records(task)?;
        let seen = self.sightings(&records, task)?;
        let forest = self.forest(seen.keys().map(|seen| seen.1), task)?;
        let mut ways = Ways::new(self.device, self.scan, self.limits.metadata_blocks);
        let mut devices: BTreeMap<u64, Vec<Version>> = BTreeMap::new();
        for ((id, root), sighting) in &seen {
            task.step(0, 0)?;
            let Some(summary) = forest.summary(*root) else {
                continue;
            };
            let record = records.of(*id);
            let is_sound = summary.state == State::Sound;
            // One that never had anything is back with nothing; one that had is not.
            let is_empty = is_sound && record.infos().last().is_some_and(|i| i.mapped_blocks == 0);
            if summary.entries > 0 || is_empty {
                let mut made = version(*root, summary, record, ways.latest(*root, task)?);
                made.era = made.era.max(sighting.era);
                (made.known, made.is_led) = (sighting.known, true);
                made.is_last = sighting.is_last;
                devices.entry(*id).or_default().push(made);
            }
        }
        for versions in devices.values_mut() {
            rank(versions);
        }
        self.find_by_size(&records, &forest, &mut ways, &mut devices, task)?;
        let found = devices.into_iter().map(|(id, mut versions)| {
            rank(&mut versions);
            DeletedDevice { id, versions }
        });
        Ok(found.collect())
    }

    /// What is under every node that may be a root.
    fn forest(&self, more: impl Iterator<Item = u32>, task: &Task<'_>) -> Result<Forest> {
        let limit = self.limits.metadata_blocks;
        let all = self.scan.nodes.iter().filter(|node| {
            matches!(node.shape, Shape::Internal | Shape::Mappings) && u64::from(node.block) < limit
        });
        let mut roots: Vec<u32> = all.map(|node| node.block).chain(more).collect();
        roots.sort_unstable();
        roots.dedup();
        let reader = Reader::new(self.device, false);
        let mut counts = Counts::new(limit);
        let mut forest = Forest::walk(&reader, task, &roots, self.limits, &mut counts, None)?;
        forest.resolve(&reader, task)?;
        Ok(forest)
    }

    /// Trees to which no leaf of the top level leads any more: what nobody has, and of which
    /// the size is just what details of a device speak of.
    fn find_by_size(
        &self,
        records: &Records,
        forest: &Forest,
        ways: &mut Ways<'_>,
        devices: &mut BTreeMap<u64, Vec<Version>>,
        task: &Task<'_>,
    ) -> Result<()> {
        // Of each size: those that are under nothing, and those that something leads to.
        let mut alike: FxHashMap<u64, [Vec<u32>; 2]> = FxHashMap::default();
        let gone = |id: u64| !self.current.contains_key(&id);
        for (_, record) in records.iter().filter(|record| gone(record.0)) {
            for info in record.infos().iter().filter(|info| info.mapped_blocks > 0) {
                alike.entry(info.mapped_blocks).or_default();
            }
        }
        let taken = self.current.values().filter_map(|current| current.0);
        let reached = ways.reach(taken.chain(self.held.iter().copied()), task)?;
        let parents = ways.children(task)?;
        for node in &self.scan.nodes {
            let summary = forest.summary(node.block);
            let summary = summary.filter(|summary| summary.state == State::Sound);
            if let Some(summary) = summary
                && matches!(node.shape, Shape::Internal | Shape::Mappings)
                && !reached.contains(node.block.into())
                && let Some(found) = alike.get_mut(&summary.entries.into())
            {
                found[usize::from(parents.contains(node.block.into()))].push(node.block);
            }
        }
        for (id, record) in records.iter().filter(|record| gone(record.0)) {
            let versions = devices.entry(id).or_default();
            let lateness = versions.iter().map(|version| version.known).max();
            for info in record.infos().iter().filter(|info| info.mapped_blocks > 0) {
                let is_it = |version: &Version| version.is_exact && version.info == Some(*info);
                if versions.iter().any(is_it) {
                    continue;
                }
                let Some([alone, under]) = alike.get(&info.mapped_blocks) else {
                    continue;
                };
                let found = if alone.is_empty() { under } else { alone };
                for root in found.iter().filter(|_| found.len() <= MOST_ALIKE) {
                    let time = ways.latest(*root, task)?;
                    let at = BlockNr((*root).into());
                    if time > self.limits.time || versions.iter().any(|one| one.root == at) {
                        continue;
                    }
                    if let Some(summary) = forest.summary(*root) {
                        let mut made = version(*root, summary, record, time);
                        // Nothing speaks against it.
                        made.known = lateness.unwrap_or_default();
                        versions.push(made);
                    }
                }
            }
        }
        devices.retain(|_, versions| !versions.is_empty());
        Ok(())
    }

    /// Details of devices, all that there are.
    fn records(&self, task: &Task<'_>) -> Result<Records> {
        let mut infos: Vec<DeviceInfo> = Vec::new();
        self.each_leaf(Shape::Details, task, |block, at| {
            let node = NodeRef::root(at).parse(block)?;
            let details = node.keys().iter().zip(node.values::<DeviceDetails>()?);
            infos.extend(details.map(|(id, details)| DeviceInfo::new(id.get(), details)));
            Ok(infos.len() < MOST_READ)
        })?;
        Ok(Records::new(infos))
    }

    /// Roots of devices that are not there now, and what is known of when they were.
    fn sightings(
        &self,
        records: &Records,
        task: &Task<'_>,
    ) -> Result<BTreeMap<(u64, u32), Sighting>> {
        let mut seen: BTreeMap<(u64, u32), Sighting> = BTreeMap::new();
        let limit = self.limits.metadata_blocks;
        let mut read = 0;
        self.each_leaf(Shape::Top, task, |block, at| {
            let node = NodeRef::root(at).parse(block)?;
            let entries = node.keys().iter().zip(node.values::<U64>()?);
            let entries = entries.filter_map(|(id, root)| {
                let root = u32::try_from(root.get()).ok();
                let root = root.filter(|root| *root != 0 && u64::from(*root) < limit)?;
                Some((id.get(), root))
            });
            let mut beside = Sighting {
                is_last: true,
                ..Sighting::default()
            };
            for (id, root) in entries.clone() {
                if let Some((now, _)) = self.current.get(&id) {
                    beside.known.0 += 1;
                    beside.known.1 += u32::from(*now == Some(root));
                    beside.is_last &= *now == Some(root);
                }
                // The leaf is no older than any device in it.
                beside.era = beside.era.max(self.made_at(id, records).unwrap_or(0));
            }
            for (id, root) in entries.filter(|entry| !self.current.contains_key(&entry.0)) {
                let known = seen.entry((id, root)).or_default();
                known.known = known.known.max(beside.known);
                known.era = known.era.max(beside.era);
                known.is_last |= beside.is_last;
            }
            read += node.keys().len();
            Ok(read < MOST_READ)
        })?;
        Ok(seen)
    }

    /// When a device was made, unless several have had its id.
    fn made_at(&self, id: u64, records: &Records) -> Option<u32> {
        let now = self.current.get(&id).map(|current| current.1);
        let record = records.of(id);
        match (now, record.made_at) {
            (None, made_at) => made_at,
            (now, None) if record.newest.is_none() => now,
            (now, made_at) => now.filter(|_| now == made_at),
        }
    }

    /// Visits the leaves of one shape until `visit` has enough.
    fn each_leaf(
        &self,
        shape: Shape,
        task: &Task<'_>,
        mut visit: impl FnMut(&crate::block::BlockData, u32) -> Result<bool>,
    ) -> Result<()> {
        let mut nodes = NodeReader::of_device(self.device, self.limits.metadata_blocks);
        let wanted = |node: &&Scanned| {
            node.shape == shape && u64::from(node.block) < self.limits.metadata_blocks
        };
        let leaves = self.scan.nodes.iter().filter(wanted);
        let leaves: Vec<u32> = leaves.map(|node| node.block).collect();
        let mut goes_on = true;
        for part in leaves.chunks(LEAVES) {
            task.step(0, 0)?;
            nodes.read_each(part, |index, block| {
                if goes_on {
                    goes_on = visit(block, part[index])?;
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// A tree that may have been a device's, of which these are the details.
fn version(root: u32, summary: &Summary, record: &Record, time: u32) -> Version {
    let mapped = u64::from(summary.entries);
    let exact = match summary.state {
        State::Sound => record.of_size(mapped),
        State::Open | State::Damaged => &[],
    };
    let (info, newest) = (exact.last().copied(), record.newest);
    // It was alive then in any case.
    let least = exact.iter().map(DeviceInfo::latest_time).min();
    Version {
        root: BlockNr(root.into()),
        mapped_blocks: mapped,
        is_whole: info.is_some() && info == newest,
        is_exact: info.is_some(),
        info: info.or(newest),
        is_led: false,
        is_last: false,
        era: time.max(least.unwrap_or(0)),
        known: (0, 0),
        time,
    }
}

/// The most plausible one first. One that really was goes before what has lost something,
/// unless there is far less in it and it is no later: then it is from the device's youth.
fn rank(versions: &mut Vec<Version>) {
    versions.sort_by_key(|version| std::cmp::Reverse((version.is_exact, version.rank())));
    versions.dedup_by_key(|version| version.root);
    let torn = versions.iter().position(|version| !version.is_exact);
    if let Some(torn) = torn.filter(|torn| *torn > 0) {
        let (best, other) = (&versions[0], &versions[torn]);
        if other.mapped_blocks / 2 > best.mapped_blocks && other.lateness() >= best.lateness() {
            versions[..=torn].rotate_right(1);
        }
    }
    versions.truncate(MOST_VERSIONS);
}
