//! Details, the top level of the mappings, and the mappings themselves.

use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::little_endian::U64;

use super::Check;
use super::affected::{Place, places};
use super::finding::{Affected, Finding, Severity};
use crate::btree::Value;
use crate::error::Result;
use crate::task::Task;
use crate::thin::{DeviceDetails, DeviceInfo, Superblock};
use crate::units::BlockNr;
use crate::walk::{
    BadMapping, BadMappings, Counts, Forest, ForestLimits, State, each_leaf_in_order, tree_shape,
};

pub(super) const DETAILS: &str = "device details";
/// The code of a device with another number of mappings than its details say.
pub(super) const MAPPED_BLOCKS: &str = "mapped-blocks-wrong";
const TOP_LEVEL: &str = "mapping tree, top level";
pub(super) const MAPPINGS: &str = "mappings";

/// Ids have 24 bits.
const MAX_DEVICE_ID: u64 = (1 << 24) - 1;

/// What one superblock says of its devices.
pub(super) struct Roots {
    pub details: Vec<DeviceInfo>,
    /// Id and root of each device's mappings.
    pub trees: Vec<(u64, u32)>,
    time: u32,
}

impl Check<'_> {
    /// Reads details and top level, and compares whom they know.
    pub(super) fn read_roots(&mut self, superblock: &Superblock, task: &Task<'_>) -> Result<Roots> {
        let mut details = Vec::new();
        let root = superblock.device_details_root.get();
        let whole_details =
            self.read_tree(DETAILS, root, task, |_, id, value: &DeviceDetails| {
                details.push(DeviceInfo::new(id, value));
            })?;
        let mut tops = Vec::new();
        let root = superblock.data_mapping_root.get();
        let whole_tops = self.read_tree(TOP_LEVEL, root, task, |first_time, id, value: &U64| {
            tops.push((first_time, id, value.get()));
        })?;
        if whole_details && whole_tops {
            self.compare_ids(&details, &tops);
        }
        details.retain(|device| self.is_device_id(device.id));
        let mut trees = Vec::new();
        for (first_time, id, root) in tops {
            match u32::try_from(root) {
                Ok(block) if block != 0 && root < self.metadata_blocks => {
                    // Each distinct leaf of the top level holds a reference.
                    if first_time {
                        self.metadata.add(root);
                    }
                    trees.push((id, block));
                }
                _ => {
                    let text = format!("the root of device {id}'s mappings is block {root}");
                    let finding = Finding::new("bad-pointer", Severity::Fatal, text);
                    self.findings.push(finding.of(TOP_LEVEL).on_device(id));
                }
            }
        }
        Ok(Roots {
            details,
            trees,
            time: superblock.time.get(),
        })
    }

    /// Ids have 24 bits; a larger one is a finding and is not followed.
    fn is_device_id(&mut self, id: u64) -> bool {
        let fits = id <= MAX_DEVICE_ID;
        if !fits {
            let text = format!("device id {id} is above {MAX_DEVICE_ID}");
            self.findings
                .push(Finding::new("bad-device-id", Severity::Fatal, text).of(DETAILS));
        }
        fits
    }

    fn compare_ids(&mut self, details: &[DeviceInfo], tops: &[(bool, u64, u64)]) {
        let known: FxHashSet<u64> = details.iter().map(|device| device.id).collect();
        let mapped: FxHashSet<u64> = tops.iter().map(|top| top.1).collect();
        for device in details.iter().filter(|device| !mapped.contains(&device.id)) {
            let text = format!("device {} has details but no mapping tree", device.id);
            let finding = Finding::new("device-without-mappings", Severity::Fatal, text);
            self.findings.push(finding.of(DETAILS).on_device(device.id));
        }
        for (_, id, _) in tops.iter().filter(|top| !known.contains(&top.1)) {
            let text = format!("device {id} has a mapping tree but no details");
            let finding = Finding::new("mappings-without-device", Severity::Fatal, text);
            self.findings.push(finding.of(TOP_LEVEL).on_device(*id));
        }
    }

    /// Reads a small tree whole; `entry` also learns whether the leaf is met for
    /// the first time. Answers whether all of it could be read.
    pub(super) fn read_tree<V: Value>(
        &mut self,
        name: &'static str,
        root: u64,
        task: &Task<'_>,
        mut entry: impl FnMut(bool, u64, &V),
    ) -> Result<bool> {
        let (metadata, counted) = (&mut self.metadata, &mut self.counted);
        let shape = tree_shape(&self.reader, task, root, size_of::<V>(), metadata, counted)?;
        self.blocks_checked += shape.nodes;
        for bad in &shape.damages {
            self.findings.push(Finding::from_node(name, bad));
        }
        for odd in &shape.irregular {
            self.findings.push(Finding::from_damage(name, odd));
        }
        let (findings, counted) = (&mut self.findings, &mut self.counted);
        let mut whole = shape.damages.is_empty();
        each_leaf_in_order(&self.reader, &shape.leaves, |leaf| {
            let read = leaf.and_then(|node| {
                let first_time = counted.insert(node.location().0);
                for (key, value) in node.keys().iter().zip(node.values::<V>()?) {
                    entry(first_time, key.get(), value);
                }
                Ok(())
            });
            if let Err(damage) = read {
                whole = false;
                findings.push(Finding::from_damage(name, &damage));
            }
            Ok(())
        })?;
        Ok(whole)
    }

    /// Walks all mapping trees, each node once; the mappings in them.
    pub(super) fn check_mappings(
        &mut self,
        roots: &[Roots],
        data_blocks: u64,
        data: Option<&Counts>,
        task: &Task<'_>,
    ) -> Result<u64> {
        let mut devices: Vec<(u64, u32)> = roots
            .iter()
            .flat_map(|roots| roots.trees.iter().copied())
            .collect();
        devices.sort_unstable();
        devices.dedup();
        let mut blocks: Vec<u32> = devices.iter().map(|device| device.1).collect();
        blocks.sort_unstable();
        blocks.dedup();
        let limits = ForestLimits {
            metadata_blocks: self.metadata_blocks,
            data_blocks,
            virtual_blocks: self.live.virtual_blocks(),
            // The live roots come first, and their clock is never behind a snapshot's.
            time: roots.first().map_or(0, |roots| roots.time),
        };
        let metadata = &mut self.metadata;
        let mut forest = Forest::walk(&self.reader, task, &blocks, limits, metadata, data)?;
        forest.resolve(&self.reader, task)?;
        self.blocks_checked += forest.nodes();
        self.report_forest(&forest, &devices, limits, task)?;
        if let Some(data) = data {
            self.check_doubled(&forest, &devices, data, task)?;
        }
        for (index, roots) in roots.iter().enumerate() {
            let wrong = self.check_mapped_blocks(roots, &forest);
            // The live ones come first; what a snapshot says is not changed.
            if index == 0 && self.keeps {
                self.miscounted = wrong;
            }
        }
        Ok(forest.mappings)
    }

    fn report_forest(
        &mut self,
        forest: &Forest,
        devices: &[(u64, u32)],
        limits: ForestLimits,
        task: &Task<'_>,
    ) -> Result<()> {
        let of = |damage: &crate::Damage| u32::try_from(damage.block.0).ok();
        let wrong = forest
            .damages
            .iter()
            .chain(&forest.irregular)
            .filter_map(of);
        let wrong: FxHashSet<u32> = wrong
            .chain(forest.bad_mappings.iter().map(|bad| bad.leaf))
            .collect();
        if wrong.is_empty() {
            return Ok(());
        }
        let places = places(&self.reader, task, forest, devices, &wrong)?;
        for damage in forest.damages.iter().chain(&forest.irregular) {
            let mut finding = Finding::from_damage(MAPPINGS, damage);
            if let Some(place) = of(damage).and_then(|block| places.get(&block)) {
                put_at(&mut finding, place, None);
            }
            self.findings.push(finding);
        }
        for bad in &forest.bad_mappings {
            let mut finding = bad_mapping(bad, limits);
            if let Some(place) = places.get(&bad.leaf) {
                put_at(&mut finding, place, Some(bad.keys));
            }
            self.findings.push(finding);
        }
        self.findings.omit("node-damaged", forest.dropped);
        Ok(())
    }

    /// Compares how many mappings are stored with those found; the devices where they
    /// differ, with what was found.
    fn check_mapped_blocks(&mut self, roots: &Roots, forest: &Forest) -> Vec<DeviceInfo> {
        let mut wrong = Vec::new();
        let trees: FxHashMap<u64, u32> = roots.trees.iter().copied().collect();
        for device in &roots.details {
            let summary = trees.get(&device.id).and_then(|root| forest.summary(*root));
            let Some(summary) = summary.filter(|summary| summary.state == State::Sound) else {
                continue;
            };
            if u64::from(summary.entries) != device.mapped_blocks {
                let text = format!(
                    "device {} has {} mappings, its details say {}",
                    device.id, summary.entries, device.mapped_blocks
                );
                let finding = Finding::new(MAPPED_BLOCKS, Severity::NonFatal, text);
                self.findings.push(finding.of(DETAILS).on_device(device.id));
                wrong.push(DeviceInfo {
                    mapped_blocks: summary.entries.into(),
                    ..*device
                });
            }
        }
        wrong
    }
}

fn put_at(finding: &mut Finding, place: &Place, keys: Option<(u64, u64)>) {
    finding.path.clone_from(&place.path);
    finding.affected.clone_from(&place.affected);
    finding.affected_total = place.total;
    if let Some((first, last)) = keys {
        for affected in &mut finding.affected {
            let Affected {
                begin_block,
                end_block,
                ..
            } = affected;
            (*begin_block, *end_block) = (first, last.checked_add(1));
        }
    }
}

fn bad_mapping(bad: &BadMappings, limits: ForestLimits) -> Finding {
    let (code, text) = match bad.kind {
        BadMapping::BeyondData => (
            "mapping-beyond-data",
            format!(
                "{} mappings point past the data device: virtual block {} to data block {} of {}",
                bad.mappings, bad.keys.0, bad.found, limits.data_blocks
            ),
        ),
        BadMapping::BeyondVolume => (
            "mapping-beyond-volume",
            format!(
                "{} mappings lie past 2^64 bytes: virtual block {} of {}",
                bad.mappings, bad.found, limits.virtual_blocks
            ),
        ),
        BadMapping::FutureTime => (
            super::TIME,
            format!(
                "{} mappings are later than the pool's clock: virtual block {} has time {}, the clock {}",
                bad.mappings, bad.keys.0, bad.found, limits.time
            ),
        ),
    };
    Finding::new(code, Severity::Fatal, text).at(MAPPINGS, BlockNr(bad.leaf.into()))
}
