//! Finding out what can be kept.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::RepairOptions;
use super::basis::{Basis, BasisSource};
use super::graft::{Loose, loose_nodes, place};
use super::leaves::{Doubtful, blocks, runs};
use super::older::candidates;
use super::outlook::{DeviceOutlook, Outlook, TreeSource};
use super::patch::{Patcher, Patches, of_gap};
use super::scan::{Scan, Shape};
use super::trees::{Met, Trees, is_lost};
use super::walk::{Gap, Grafts, Step, Walker};
use crate::device::Device;
use crate::disk_space::MAX_DATA_BLOCKS;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, MAX_TIME, SUPERBLOCK_VALIDATOR, Superblock};
use crate::tools::dump::nodes::NodeReader;
use crate::units::BlockNr;
use crate::walk::{BlockSet, Counts, Forest, ForestLimits, Reader};

/// A repair that is planned, of a device that must not change meanwhile.
pub struct Repair {
    pub(super) device: Arc<dyn Device>,
    pub(super) limits: ForestLimits,
    pub(super) forest: Forest,
    pub(super) grafts: Grafts,
    pub(super) patches: Patches,
    /// Root of each device of the outlook; none of those that have nothing mapped.
    pub(super) roots: Vec<Option<u32>>,
    /// Leaves that several devices have.
    pub(super) joint: Vec<u32>,
    outlook: Outlook,
}

/// A device on its way to the outlook.
struct Wanted {
    info: DeviceInfo,
    recorded: Option<u64>,
    root: Option<u32>,
    source: TreeSource,
}

impl Repair {
    /// Reads what there is.
    ///
    /// # Errors
    /// [`Error::Usage`] where something has to be said that the metadata do not tell any
    /// more; [`Error::Unsupported`] and [`Error::NotFormatted`] for what never was a pool;
    /// [`Error::Io`]; [`Error::Interrupted`].
    pub fn plan(device: Arc<dyn Device>, options: &RepairOptions, task: &Task<'_>) -> Result<Self> {
        let mut scan = None;
        let basis = match Basis::of_superblock(&*device, options) {
            Ok(basis) => basis,
            Err(error @ (Error::Usage(_) | Error::Io { .. })) => return Err(error),
            Err(error) => {
                let found = Scan::read(&*device, task)?;
                if found.nodes.is_empty() {
                    return Err(error);
                }
                let basis = Basis::of_scan(&*device, &found, options)?;
                scan = Some(found);
                basis
            }
        };
        Survey::new(device, basis, scan).run(task)
    }

    /// What [`Self::build`] will do.
    #[must_use]
    pub fn outlook(&self) -> &Outlook {
        &self.outlook
    }
}

/// What was found in the place of lost nodes.
struct Found {
    forest: Forest,
    grafts: Grafts,
    patches: Patches,
}

struct Survey {
    device: Arc<dyn Device>,
    basis: Basis,
    scan: Option<Scan>,
    limits: ForestLimits,
    candidates: Vec<super::Candidate>,
    /// What is under the most plausible of them.
    older: Option<Vec<Trees>>,
}

impl Survey {
    fn new(device: Arc<dyn Device>, basis: Basis, scan: Option<Scan>) -> Self {
        let limits = ForestLimits {
            metadata_blocks: basis.limit,
            data_blocks: basis.data_blocks.unwrap_or(MAX_DATA_BLOCKS),
            virtual_blocks: basis.virtual_blocks(),
            time: match basis.source {
                BasisSource::Superblock => basis.time,
                // It knew nothing of what came later.
                _ => MAX_TIME,
            },
        };
        Self {
            device,
            basis,
            scan,
            limits,
            candidates: Vec::new(),
            older: None,
        }
    }

    fn scan(&mut self, task: &Task<'_>) -> Result<&Scan> {
        if self.scan.is_none() {
            self.scan = Some(Scan::read(&*self.device, task)?);
        }
        Ok(self.scan.get_or_insert_default())
    }

    /// Roots of the pool as it was, looked for once.
    fn look_for_older(&mut self, task: &Task<'_>) -> Result<()> {
        if self.older.is_some() {
            return Ok(());
        }
        let (device, limits) = (Arc::clone(&self.device), self.limits);
        let scan = self.scan(task)?;
        let (found, trees) = candidates(&*device, scan, limits, task)?;
        self.candidates = found;
        self.older = Some(trees);
        Ok(())
    }

    fn run(mut self, task: &Task<'_>) -> Result<Repair> {
        let device = Arc::clone(&self.device);
        let reader = Reader::new(&*device, false);
        let mut met = Met::new(self.basis.limit);
        let mut live = Trees::default();
        let mut held = Trees::default();
        if let Some(roots) = self.basis.roots {
            self.count_roots(roots, &mut met);
            live = Trees::read(&reader, roots, &mut met, task)?;
            if let Some(roots) = self.held_roots(&reader) {
                self.count_roots(roots, &mut met);
                held = Trees::read(&reader, roots, &mut met, task)?;
            }
        } else {
            self.look_for_older(task)?;
        }
        let mut roots: Vec<u32> = live
            .roots
            .iter()
            .chain(&held.roots)
            .map(|root| root.1)
            .collect();
        roots.sort_unstable();
        roots.dedup();
        let mut forest = Forest::walk(&reader, task, &roots, self.limits, &mut met.counts, None)?;
        forest.resolve(&reader, task)?;
        let mut grafts = Grafts::default();
        let mut loose = Vec::new();
        let damaged = !forest.damages.is_empty()
            || !live.roots_lost.is_empty()
            || !live.details_lost.is_empty();
        if damaged && self.basis.roots.is_some() {
            let gaps = self.gaps(&live, &forest, task)?;
            let space = self.basis.metadata_space;
            let mut reached = BlockSet::new(self.basis.limit);
            for node in &self.scan(task)?.nodes {
                let block = node.block.into();
                if forest.summary(node.block).is_some() || met.counted.contains(block) {
                    reached.insert(block);
                }
            }
            let scan = self.scan.get_or_insert_default();
            loose = loose_nodes(&device, scan, space.as_ref(), &mut met, &reached, task)?;
            self.find_tops(&mut live, &mut loose, task)?;
            grafts = place(&gaps, &mut loose);
        }
        let wanted = self.wanted(&live, &mut loose, task)?;
        // What was found is verified as the rest was.
        let grafted = grafts.values().flatten().map(|graft| graft.block);
        let mut more: Vec<u32> = wanted.iter().filter_map(|each| each.root).collect();
        more.extend(grafted);
        more.sort_unstable();
        more.dedup();
        if more.iter().any(|root| forest.summary(*root).is_none()) {
            let mut counts = Met::new(self.basis.limit).counts;
            forest = Forest::walk(&reader, task, &more, self.limits, &mut counts, None)?;
            forest.resolve(&reader, task)?;
        }
        let patches = self.patches(&forest, &grafts, &wanted, &held, task)?;
        let found = Found {
            forest,
            grafts,
            patches,
        };
        self.finish(found, wanted, &live, loose, task)
    }

    /// A superblock refers to both of its roots.
    fn count_roots(&self, roots: (u64, u64), met: &mut Met) {
        for root in [roots.0, roots.1] {
            if root < self.basis.limit {
                met.counts.add(root);
            }
        }
    }

    /// The held metadata snapshot's roots.
    fn held_roots(&self, reader: &Reader<'_>) -> Option<(u64, u64)> {
        let at = BlockNr(self.basis.held_root);
        if at.0 == 0 {
            return None;
        }
        let block = reader.read_block(at, "metadata snapshot", &SUPERBLOCK_VALIDATOR);
        let held: Superblock = *block.ok()?.view();
        Some((held.data_mapping_root.get(), held.device_details_root.get()))
    }

    /// Nodes that cannot be read, with the keys that they must have had.
    fn gaps(&self, live: &Trees, forest: &Forest, task: &Task<'_>) -> Result<Vec<Gap>> {
        let none = Grafts::default();
        let nodes = NodeReader::of_device(&*self.device, self.basis.limit);
        let mut walker = Walker::new(nodes, forest, &none);
        let mut gaps: FxHashMap<u32, Gap> = FxHashMap::default();
        for (_, root) in &live.roots {
            task.step(0, 0)?;
            walker.each(*root, &mut |step| {
                if let Step::Lost(gap) = step
                    && gap.height != Some(0)
                {
                    let known = gaps.entry(gap.block).or_insert(gap);
                    known.low = known.low.max(gap.low);
                    known.high = match (known.high, gap.high) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                    known.height = known.height.or(gap.height);
                }
                Ok(())
            })?;
        }
        Ok(gaps.into_values().collect())
    }

    /// Leaves of the top level that hang under a lost node of it.
    fn find_tops(&self, live: &mut Trees, loose: &mut Vec<Loose>, task: &Task<'_>) -> Result<()> {
        if live.roots_lost.is_empty() {
            return Ok(());
        }
        let reader = Reader::new(&*self.device, false);
        let mut kept = Vec::new();
        for each in loose.drain(..) {
            let fits = each.kind == Shape::Top
                && is_lost(&live.roots_lost, each.node.first)
                && is_lost(&live.roots_lost, each.node.last);
            if !fits {
                kept.push(each);
                continue;
            }
            let block = each.node.block.into();
            let found = Trees::read(&reader, (block, 0), &mut Met::new(self.basis.limit), task)?;
            let known = live
                .roots
                .iter()
                .map(|root| root.0)
                .collect::<FxHashSet<u64>>();
            if found.roots.iter().any(|root| known.contains(&root.0)) {
                kept.push(each);
                continue;
            }
            live.roots.extend(found.roots);
        }
        live.roots.sort_unstable();
        *loose = kept;
        Ok(())
    }

    /// The devices that there will be.
    fn wanted(
        &mut self,
        live: &Trees,
        loose: &mut Vec<Loose>,
        task: &Task<'_>,
    ) -> Result<Vec<Wanted>> {
        let mut wanted: Vec<Wanted> = Vec::new();
        let details: FxHashMap<u64, DeviceInfo> =
            live.details.iter().map(|info| (info.id, *info)).collect();
        for (id, root) in &live.roots {
            let known = details.get(id).copied();
            // One that only the mappings know was half deleted, or its details are lost.
            if known.is_none() && !is_lost(&live.details_lost, *id) {
                continue;
            }
            wanted.push(Wanted {
                info: known.unwrap_or_else(|| self.unknown(*id)),
                recorded: known.map(|info| info.mapped_blocks),
                root: Some(*root),
                source: TreeSource::Current,
            });
        }
        let mapped: FxHashSet<u64> = live.roots.iter().map(|root| root.0).collect();
        let missing: Vec<DeviceInfo> = live
            .details
            .iter()
            .filter(|info| !mapped.contains(&info.id) && is_lost(&live.roots_lost, info.id))
            .copied()
            .collect();
        if !missing.is_empty() {
            self.find_roots(&missing, loose, &mut wanted, task)?;
        }
        let nothing = self.basis.roots.is_none()
            || (live.details.is_empty() && !live.details_lost.is_empty())
                && (live.roots.is_empty() && !live.roots_lost.is_empty());
        if nothing {
            self.take_older(&mut wanted, |_| true, task)?;
        } else if live.details_lost.is_empty() && !live.roots_lost.is_empty() {
            // Devices that are still there, as they were once.
            let found: FxHashSet<u64> = wanted.iter().map(|each| each.info.id).collect();
            if live.details.iter().any(|info| !found.contains(&info.id)) {
                let rest = |id| details.contains_key(&id) && !found.contains(&id);
                self.take_older(&mut wanted, rest, task)?;
            }
        } else if !live.details_lost.is_empty() {
            self.take_older_details(&mut wanted, task)?;
        }
        wanted.sort_by_key(|each| each.info.id);
        Ok(wanted)
    }

    /// Details of which nothing is left. Everything looks shared, so that nothing is
    /// overwritten that may be.
    fn unknown(&self, id: u64) -> DeviceInfo {
        DeviceInfo {
            id,
            mapped_blocks: 0,
            transaction_id: self.basis.transaction_id,
            creation_time: self.basis.time,
            snapshotted_time: self.basis.time,
        }
    }

    /// Roots of devices whose part of the top level is lost: the one loose tree that has as
    /// many mappings as the details speak of, or of several the one that an older top level
    /// has for the device.
    fn find_roots(
        &mut self,
        missing: &[DeviceInfo],
        loose: &mut Vec<Loose>,
        wanted: &mut Vec<Wanted>,
        task: &Task<'_>,
    ) -> Result<()> {
        let device = Arc::clone(&self.device);
        let limit = self.basis.limit;
        let limits = self.limits;
        let reader = Reader::new(&*device, false);
        let mut trees: Vec<(u32, u64, u32)> = Vec::new();
        let roots: Vec<u32> = {
            let ours = loose
                .iter()
                .filter(|each| matches!(each.kind, Shape::Mappings | Shape::Top));
            let mut roots: Vec<u32> = ours.map(|each| each.node.block).collect();
            roots.sort_unstable();
            roots
        };
        let mut counts = Met::new(limit).counts;
        let mut forest = Forest::walk(&reader, task, &roots, limits, &mut counts, None)?;
        forest.resolve(&reader, task)?;
        for each in loose.iter().filter(|each| roots.contains(&each.node.block)) {
            if let Some(summary) = forest.summary(each.node.block) {
                trees.push((each.node.block, summary.entries.into(), each.missing));
            }
        }
        let scan = self.scan(task)?;
        let mut told: FxHashMap<u64, FxHashSet<u32>> = FxHashMap::default();
        for node in scan.nodes.iter().filter(|node| node.shape == Shape::Top) {
            let found = Trees::read(&reader, (node.block.into(), 0), &mut Met::new(limit), task)?;
            for (id, root) in found.roots {
                if trees.iter().any(|tree| tree.0 == root) {
                    told.entry(id).or_default().insert(root);
                }
            }
        }
        let mut used: FxHashMap<u32, u32> = FxHashMap::default();
        let mut by_size: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
        for (block, entries, _) in &trees {
            by_size.entry(*entries).or_default().push(*block);
        }
        let mapped = missing.iter().filter(|info| info.mapped_blocks > 0);
        let alone = mapped.count() == 1 && trees.len() == 1;
        for info in missing {
            let mut take = |root, source| {
                wanted.push(Wanted {
                    info: *info,
                    recorded: Some(info.mapped_blocks),
                    root,
                    source,
                });
            };
            if info.mapped_blocks == 0 {
                take(None, TreeSource::Found);
                continue;
            }
            let exact = by_size
                .get(&info.mapped_blocks)
                .map_or(&[][..], Vec::as_slice);
            // The only tree of its size, or of all for the only device, is no guess; what
            // it once had is one.
            let (root, source) = match (exact, told.get(&info.id)) {
                ([only], _) => (*only, TreeSource::Found),
                _ if alone => (trees[0].0, TreeSource::Found),
                (several, Some(said)) => match several.iter().find(|root| said.contains(root)) {
                    Some(root) => (*root, TreeSource::Older),
                    None => continue,
                },
                _ => continue,
            };
            let room = trees
                .iter()
                .find(|tree| tree.0 == root)
                .map_or(0, |tree| tree.2);
            let uses = used.entry(root).or_default();
            if *uses < room {
                *uses += 1;
                take(Some(root), source);
            }
        }
        loose.retain(|each| !used.contains_key(&each.node.block));
        Ok(())
    }

    /// Devices of the most plausible older roots.
    fn take_older(
        &mut self,
        wanted: &mut Vec<Wanted>,
        which: impl Fn(u64) -> bool,
        task: &Task<'_>,
    ) -> Result<()> {
        self.look_for_older(task)?;
        let Some(older) = self.older.iter().flatten().next() else {
            return Ok(());
        };
        for (info, (id, root)) in older.details.iter().zip(&older.roots) {
            if which(*id) {
                wanted.push(Wanted {
                    info: *info,
                    recorded: Some(info.mapped_blocks),
                    root: Some(*root),
                    source: TreeSource::Older,
                });
            }
        }
        Ok(())
    }

    /// Lost details as they were once, but for the number of mappings.
    fn take_older_details(&mut self, wanted: &mut [Wanted], task: &Task<'_>) -> Result<()> {
        let limit = self.basis.limit;
        let device = Arc::clone(&self.device);
        let reader = Reader::new(&*device, false);
        let mut newest: FxHashMap<u64, DeviceInfo> = FxHashMap::default();
        for node in self
            .scan(task)?
            .nodes
            .iter()
            .filter(|node| node.shape == Shape::Details)
        {
            let found = Trees::read(&reader, (0, node.block.into()), &mut Met::new(limit), task)?;
            for info in found.details {
                let age = |info: &DeviceInfo| {
                    (
                        info.transaction_id,
                        info.creation_time,
                        info.snapshotted_time,
                    )
                };
                let known = newest.entry(info.id).or_insert(info);
                if age(&info) > age(known) {
                    *known = info;
                }
            }
        }
        for each in wanted.iter_mut().filter(|each| each.recorded.is_none()) {
            if let Some(older) = newest.get(&each.info.id) {
                each.info = DeviceInfo {
                    // It may have had snapshots since.
                    snapshotted_time: each.info.snapshotted_time,
                    ..*older
                };
            }
        }
        Ok(())
    }

    /// Mappings of lost nodes, from older trees.
    fn patches(
        &mut self,
        forest: &Forest,
        grafts: &Grafts,
        wanted: &[Wanted],
        held: &Trees,
        task: &Task<'_>,
    ) -> Result<Patches> {
        let device = Arc::clone(&self.device);
        let limit = self.basis.limit;
        let mut gaps: Vec<(u64, Gap)> = Vec::new();
        for each in wanted {
            task.step(0, 0)?;
            let mut walker = Walker::new(NodeReader::of_device(&*device, limit), forest, grafts);
            let mut visit = |step| {
                if let Step::Lost(gap) = step {
                    gaps.push((each.info.id, gap));
                }
                Ok(())
            };
            if let Some(root) = each.root {
                walker.each(root, &mut visit)?;
            }
        }
        // Without a superblock the trees are older ones already.
        if gaps.is_empty() || self.basis.roots.is_none() {
            return Ok(Patches::default());
        }
        self.look_for_older(task)?;
        // Each leaf counts once, those of the metadata snapshot, too.
        let grafted = grafts.values().flatten().map(|graft| graft.block);
        let held = held.roots.iter().map(|root| root.1);
        let mut roots: Vec<u32> = wanted.iter().filter_map(|each| each.root).collect();
        roots.extend(grafted.chain(held));
        roots.sort_unstable();
        roots.dedup();
        let reader = Reader::new(&*device, false);
        let data = Counts::new(self.basis.data_blocks.unwrap_or(0));
        let mut counts = Counts::new(limit);
        Forest::walk(&reader, task, &roots, self.limits, &mut counts, Some(&data))?;
        let mut patcher = Patcher {
            device: &device,
            forest,
            limits: self.limits,
            space: self.basis.data_space,
            met: data,
            patches: Patches::default(),
        };
        for older in self.older.iter().flatten() {
            patcher.fill(&gaps, older, task)?;
        }
        Ok(patcher.patches)
    }

    /// Walks all devices: what is kept of each.
    fn finish(
        mut self,
        found: Found,
        wanted: Vec<Wanted>,
        live: &Trees,
        loose: Vec<Loose>,
        task: &Task<'_>,
    ) -> Result<Repair> {
        let Found {
            forest,
            grafts,
            patches,
        } = found;
        let doubtful = Doubtful::of(&forest);
        let limit = self.basis.limit;
        let (mut seen, mut again) = (BlockSet::new(limit), BlockSet::new(limit));
        let mut joint = Vec::new();
        let mut devices = Vec::with_capacity(wanted.len());
        let mut latest = 0;
        for each in &wanted {
            task.step(0, 0)?;
            let nodes = NodeReader::of_device(&*self.device, limit);
            let mut reader = NodeReader::of_device(&*self.device, limit);
            let mut outlook = DeviceOutlook {
                info: DeviceInfo {
                    mapped_blocks: 0,
                    ..each.info
                },
                recorded_blocks: each.recorded,
                found_blocks: 0,
                older_blocks: 0,
                impossible_blocks: 0,
                source: each.source,
                lost: Vec::new(),
                lost_ranges: 0,
            };
            let mut between = Vec::new();
            let mut visit = |step| {
                match step {
                    Step::Lost(gap) => {
                        let older = blocks(&of_gap(&patches, &gap));
                        outlook.older_blocks += older;
                        outlook.info.mapped_blocks += older;
                        if gap.between {
                            between.push(gap);
                        } else {
                            outlook.lose(&gap);
                        }
                    }
                    Step::Leaf { leaf, grafted } => {
                        if !seen.insert(leaf.block.into()) && again.insert(leaf.block.into()) {
                            joint.push(leaf.block);
                        }
                        let summary = forest.summary(leaf.block);
                        let entries = summary.map(|summary| u64::from(summary.entries));
                        let kept = match entries {
                            Some(entries) if !doubtful.contains(leaf.block) => entries,
                            _ => {
                                let block = reader.read_one(leaf.block)?;
                                let node = leaf.parse(&block)?;
                                let kept = blocks(&runs(&node, self.limits)?);
                                outlook.impossible_blocks += node.keys().len() as u64 - kept;
                                kept
                            }
                        };
                        outlook.info.mapped_blocks += kept;
                        outlook.found_blocks += if grafted { kept } else { 0 };
                    }
                }
                Ok(())
            };
            if let Some(root) = each.root {
                Walker::new(nodes, &forest, &grafts).each(root, &mut visit)?;
            }
            // Between what was found there was more, if it is not all that there was.
            if outlook
                .recorded_blocks
                .is_none_or(|blocks| outlook.info.mapped_blocks < blocks)
            {
                between.iter().for_each(|gap| outlook.lose(gap));
            }
            latest = latest
                .max(each.info.creation_time)
                .max(each.info.snapshotted_time);
            devices.push(outlook);
        }
        if self.basis.source != BasisSource::Superblock {
            self.basis.time = self.basis.time.max(latest);
            let ids = devices.iter().map(|device| device.info.transaction_id);
            if let BasisSource::Options = self.basis.source
                && self.basis.transaction_id == 0
            {
                self.basis.transaction_id = ids.max().unwrap_or(0);
            }
        }
        let kept: FxHashSet<u64> = wanted.iter().map(|each| each.info.id).collect();
        let lost = live.details.iter().filter(|info| !kept.contains(&info.id));
        let outlook = Outlook {
            lost_devices: lost.copied().collect(),
            scanned: self.scan.is_some(),
            candidates: self.candidates,
            loose_trees: loose.len() as u64,
            basis: self.basis,
            devices,
        };
        joint.sort_unstable();
        Ok(Repair {
            device: self.device,
            limits: self.limits,
            forest,
            grafts,
            patches,
            roots: wanted.iter().map(|each| each.root).collect(),
            joint,
            outlook,
        })
    }
}
