//! What becomes of each device, when all that can be found is.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::Repair;
use super::basis::BasisSource;
use super::eras::{Present, earlier};
use super::graft::Loose;
use super::leaves::{Doubtful, blocks, has_late, runs};
use super::outlook::{DeviceOutlook, Outlook, TreeSource};
use super::patch::{Patcher, Patches, of_gap};
use super::plan::{Found, Survey, Wanted};
use super::trees::Trees;
use super::undelete::Undeletion;
use super::walk::{Gap, Grafts, Step, Walker};
use crate::error::Result;
use crate::task::Task;
use crate::thin::{DeviceInfo, MAX_TIME};
use crate::tools::dump::nodes::NodeReader;
use crate::walk::{BlockSet, Counts, Forest, Reader};

impl Survey {
    /// Mappings of lost nodes, from older trees, and devices that took some which
    /// somebody else may have.
    pub(super) fn patches(
        &mut self,
        forest: &Forest,
        grafts: &Grafts,
        wanted: &[Wanted],
        held: &Trees,
        present: &Present<'_>,
        task: &Task<'_>,
    ) -> Result<(Patches, FxHashSet<u64>)> {
        let device = Arc::clone(&self.device);
        let limit = self.basis.limit;
        let mut gaps: Vec<(u64, Gap)> = Vec::new();
        let stays = |each: &&Wanted| each.source != TreeSource::Deleted;
        for each in wanted.iter().filter(stays) {
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
            return Ok(Default::default());
        }
        self.look_for_older(present, task)?;
        // Each leaf counts once, those of the metadata snapshot, too.
        let grafted = grafts.values().flatten().map(|graft| graft.block);
        let held = held.roots.iter().map(|root| root.1);
        let stay = wanted.iter().filter(stays);
        let mut roots: Vec<u32> = stay.filter_map(|each| each.root).collect();
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
            node_space: self.basis.metadata_space,
            nodes_met: present.met,
            patches: Patches::default(),
            unproven: FxHashSet::default(),
        };
        let current = wanted
            .iter()
            .map(|each| (each.info.id, each.root))
            .collect();
        let devices = gaps.iter().map(|gap| gap.0).collect();
        let tops = self.older.as_ref().map_or(&[][..], |older| &older.tops);
        let latest = present.latest.unwrap_or(0);
        let roots = earlier(tops, &current, &devices, latest);
        patcher.fill(&gaps, &roots, task)?;
        Ok((patcher.patches, patcher.unproven))
    }

    /// Walks all devices: what is kept of each.
    pub(super) fn finish(
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
            unproven,
            undeletion,
        } = found;
        let Undeletion { cuts, mut outlooks } = undeletion;
        let doubtful = Doubtful::of(&forest);
        let is_current = self.basis.source == BasisSource::Superblock;
        // What may be somebody else's, and is no state of the pool as a whole.
        let is_one_state = live.details.is_empty() && live.roots.is_empty();
        let is_guess = |each: &Wanted| {
            let guessed = each.source == TreeSource::Older && !is_one_state;
            is_current && (guessed || unproven.contains(&each.info.id))
        };
        if wanted.iter().any(is_guess) {
            self.basis.time = self.basis.time.saturating_add(1).min(MAX_TIME);
        }
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
                doubled_blocks: 0,
                source: each.source,
                lost: Vec::new(),
                lost_ranges: 0,
                undeleted: outlooks.remove(&each.info.id),
            };
            let cut = cuts.get(&each.info.id);
            let is_deleted = each.source == TreeSource::Deleted;
            if is_guess(each) {
                // All of it looks shared: the kernel copies before it writes there.
                outlook.info.snapshotted_time = self.basis.time;
            }
            let mut between = Vec::new();
            let mut has_late_ones = false;
            let mut visit = |step| {
                match step {
                    Step::Lost(gap) => {
                        let runs = of_gap(&patches, &gap);
                        let rest = cut.map(|cut| cut.rest(&runs));
                        let older = blocks(rest.as_ref().unwrap_or(&runs));
                        outlook.doubled_blocks += blocks(&runs) - older;
                        outlook.older_blocks += older;
                        outlook.info.mapped_blocks += older;
                        if gap.between {
                            between.push(gap);
                        } else {
                            outlook.lose(&gap);
                        }
                    }
                    Step::Leaf { leaf, grafted }
                        if cut.is_some_and(|cut| cut.touches(&forest, &leaf)) =>
                    {
                        let block = reader.read_one(leaf.block)?;
                        let node = leaf.parse(&block)?;
                        let runs = runs(&node, self.limits)?;
                        let rest = cut.map(|cut| cut.rest(&runs)).unwrap_or_default();
                        let kept = blocks(&rest);
                        outlook.info.mapped_blocks += kept;
                        if !is_deleted {
                            let can_be = blocks(&runs);
                            outlook.found_blocks += if grafted { kept } else { 0 };
                            outlook.doubled_blocks += can_be - kept;
                            outlook.impossible_blocks += node.keys().len() as u64 - can_be;
                            has_late_ones |= has_late(&node, self.limits)?;
                            let scanned = self.scan.as_ref().and_then(|scan| scan.get(leaf.block));
                            latest = latest.max(scanned.map_or(0, |leaf| leaf.time));
                        }
                    }
                    Step::Leaf { leaf, grafted } => {
                        if !seen.insert(leaf.block.into()) && again.insert(leaf.block.into()) {
                            joint.push(leaf.block);
                        }
                        if !is_current {
                            // Nobody else tells what the clock was.
                            let scanned = self.scan.as_ref().and_then(|scan| scan.get(leaf.block));
                            latest = latest.max(scanned.map_or(0, |leaf| leaf.time));
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
                                has_late_ones |= has_late(&node, self.limits)?;
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
            if has_late_ones {
                outlook.info.snapshotted_time = outlook.info.snapshotted_time.max(1);
                self.basis.time = self.basis.time.max(1);
            }
            latest = latest.max(each.info.latest_time());
            devices.push(outlook);
        }
        if self.basis.source != BasisSource::Superblock {
            self.basis.time = self.basis.time.max(latest);
            let ids = devices.iter().map(|device| device.info.transaction_id);
            if let BasisSource::Options = self.basis.source
                && (self.basis.transaction_id == 0 || self.basis.only_raise)
            {
                let own = self.basis.transaction_id;
                self.basis.transaction_id = ids.max().unwrap_or(0).max(own);
            }
        }
        if devices
            .iter()
            .any(|device| device.source == TreeSource::Deleted)
        {
            // All of what comes back looks shared: nobody writes it in its place.
            self.basis.time = self.basis.time.saturating_add(1).min(MAX_TIME);
            let back = devices.iter_mut();
            for device in back.filter(|device| device.source == TreeSource::Deleted) {
                device.info.snapshotted_time = self.basis.time;
            }
        }
        let kept: FxHashSet<u64> = wanted.iter().map(|each| each.info.id).collect();
        let lost = live.details.iter().filter(|info| !kept.contains(&info.id));
        let outlook = Outlook {
            lost_devices: lost.copied().collect(),
            maybe_more_devices: live.may_have_more(),
            scanned: self.scan.is_some(),
            candidates: self.older.unwrap_or_default().candidates,
            loose_trees: loose.len() as u64,
            basis: self.basis,
            devices,
            deleted: self.deleted,
            mended: self.mended,
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
            cuts,
            outlook,
        })
    }
}
