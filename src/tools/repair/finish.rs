//! What becomes of each device, when all that can be found is.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::Repair;
use super::basis::BasisSource;
use super::graft::Loose;
use super::leaves::{Doubtful, blocks, runs};
use super::outlook::{DeviceOutlook, Outlook};
use super::patch::{Patcher, Patches, of_gap};
use super::plan::{Found, Survey, Wanted};
use super::trees::Trees;
use super::walk::{Gap, Grafts, Step, Walker};
use crate::error::Result;
use crate::task::Task;
use crate::thin::DeviceInfo;
use crate::tools::dump::nodes::NodeReader;
use crate::walk::{BlockSet, Counts, Forest, Reader};

impl Survey {
    /// Mappings of lost nodes, from older trees.
    pub(super) fn patches(
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
                && (self.basis.transaction_id == 0 || self.basis.only_raise)
            {
                let own = self.basis.transaction_id;
                self.basis.transaction_id = ids.max().unwrap_or(0).max(own);
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
