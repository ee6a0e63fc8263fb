//! Bringing deleted devices back: what is taken, and what is left to those who have it now.

use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::RepairOptions;
use super::claims::{Claims, Fate, FateRange, Owner};
use super::deleted::{DeletedDevice, Search, Version};
use super::leaves::runs;
use super::outlook::TreeSource;
use super::patch::{Patches, of_gap};
use super::plan::{Survey, Wanted};
use super::scan::{Scanned, Shape};
use super::trees::Trees;
use super::walk::{Grafts, Step, Walker};
use super::ways::Ways;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, Run};
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::units::BlockNr;
use crate::walk::{BlockSet, Forest};

/// Ranges that are told of a device.
const MOST_RANGES: usize = 10_000;

/// A device that is to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Undelete {
    /// Its id.
    pub id: u64,
    /// The root of its tree; `None`: the most plausible one.
    pub root: Option<BlockNr>,
}

/// What comes back of a deleted device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undeleted {
    /// The tree that is taken.
    pub version: Version,
    /// Mappings whose data nobody has, by what became of them.
    pub free_blocks: u64,
    /// Those that somebody else may have had since.
    pub doubtful_blocks: u64,
    /// Those that other devices share.
    pub shared_blocks: u64,
    /// Those whose data somebody else has now.
    pub overwritten_blocks: u64,
    /// Whether the last are in what comes back all the same.
    pub keeps_overwritten: bool,
    /// All of them, the first few.
    pub ranges: Vec<FateRange>,
    /// Ranges in all.
    pub ranges_total: u64,
}

/// What of a device's tree is left out.
#[derive(Debug, Default)]
pub(super) struct Cut(Vec<Range<u64>>);

impl Cut {
    /// Of these virtual blocks, which ascend.
    pub fn of_blocks(blocks: &[u64]) -> Self {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for at in blocks {
            match ranges.last_mut() {
                Some(last) if last.end >= *at => last.end = at + 1,
                _ => ranges.push(*at..at + 1),
            }
        }
        Self(ranges)
    }

    /// Whether something of a leaf is.
    pub fn touches(&self, forest: &Forest, leaf: &NodeRef) -> bool {
        let Some(summary) = forest.summary(leaf.block) else {
            return !self.0.is_empty();
        };
        let next = self.0.partition_point(|range| range.end <= summary.first);
        self.0
            .get(next)
            .is_some_and(|range| range.start <= summary.last)
    }

    /// What is left of runs.
    pub fn rest(&self, runs: &[Run]) -> Vec<Run> {
        let mut rest = Vec::with_capacity(runs.len());
        for run in runs {
            let end = run.virtual_begin + run.length_blocks;
            let mut at = run.virtual_begin;
            let mut keep = |begin: u64, end: u64| {
                if begin < end {
                    rest.push(Run {
                        virtual_begin: begin,
                        data_begin: run.data_begin + (begin - run.virtual_begin),
                        length_blocks: end - begin,
                        ..*run
                    });
                }
            };
            let first = self.0.partition_point(|range| range.end <= at);
            for range in self.0[first..].iter().take_while(|each| each.start < end) {
                keep(at, range.start.max(at));
                at = range.end.min(end);
            }
            keep(at, end);
        }
        rest
    }
}

/// Where the mappings of a device are.
struct Tree<'t> {
    forest: &'t Forest,
    grafts: &'t Grafts,
    /// What is given to it for lost ones.
    patches: Option<&'t Patches>,
    root: Option<u32>,
}

impl<'t> Tree<'t> {
    /// Nothing but what it leads to itself.
    fn plain(forest: &'t Forest, root: Option<u32>, none: &'t Grafts) -> Self {
        Self {
            forest,
            grafts: none,
            patches: None,
            root,
        }
    }
}

/// What is known of the devices that come back.
#[derive(Default)]
pub(super) struct Undeletion {
    pub cuts: FxHashMap<u64, Arc<Cut>>,
    pub outlooks: FxHashMap<u64, Undeleted>,
}

impl Survey {
    /// Looks for deleted devices, where somebody wants to know, and adds those that are to
    /// come back to the devices that there will be.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`] where nothing is left of one; [`Error::DeviceExists`].
    pub(super) fn undelete(
        &mut self,
        wanted: &mut Vec<Wanted>,
        held: &Trees,
        task: &Task<'_>,
    ) -> Result<()> {
        let RepairOptions {
            undelete,
            list_deleted,
            ..
        } = self.options.clone();
        if undelete.is_empty() && !list_deleted {
            return Ok(());
        }
        let current = wanted
            .iter()
            .map(|each| (each.info.id, (each.root, each.info.creation_time)));
        let current: FxHashMap<u64, (Option<u32>, u32)> = current.collect();
        let (device, limits) = (Arc::clone(&self.device), self.limits);
        let search = Search {
            device: &*device,
            scan: self.scan(task)?,
            limits,
            current,
            held: held.roots.iter().map(|root| root.1).collect(),
        };
        self.deleted = search.run(task)?;
        for each in &undelete {
            let unknown = self.unknown_info(each.id);
            if wanted.iter().any(|known| known.info.id == each.id) {
                return Err(Error::DeviceExists(each.id));
            }
            let deleted = self.deleted.iter_mut().find(|known| known.id == each.id);
            let deleted = deleted.ok_or(Error::NoSuchDevice(each.id))?;
            if let Some(root) = each.root {
                let chosen = deleted.versions.iter().position(|one| one.root == root);
                let chosen = chosen.ok_or_else(|| {
                    Error::usage(format!(
                        "metadata block {root} is no root that device {} is known to have had: \
                         --list-deleted tells which are",
                        each.id
                    ))
                })?;
                deleted.versions[..=chosen].rotate_right(1);
            }
            let version = &deleted.versions[0];
            wanted.push(Wanted {
                info: version.info.unwrap_or(unknown),
                recorded: version.info.map(|info| info.mapped_blocks),
                root: u32::try_from(version.root.0).ok(),
                source: TreeSource::Deleted,
            });
        }
        wanted.sort_by_key(|each| each.info.id);
        Ok(())
    }

    fn unknown_info(&self, id: u64) -> DeviceInfo {
        DeviceInfo {
            id,
            mapped_blocks: 0,
            transaction_id: self.basis.transaction_id,
            creation_time: self.basis.time,
            snapshotted_time: self.basis.time,
        }
    }

    /// Finds out what has become of the data of devices that come back.
    pub(super) fn weigh(
        &mut self,
        forest: &Forest,
        grafts: &Grafts,
        patches: &Patches,
        wanted: &[Wanted],
        held: &Trees,
        task: &Task<'_>,
    ) -> Result<Undeletion> {
        let mut made = Undeletion::default();
        let is_back = |each: &&Wanted| each.source == TreeSource::Deleted;
        let mut coming: Vec<&Wanted> = wanted.iter().filter(is_back).collect();
        // Of two, the one that was made later had the block last.
        coming.sort_by_key(|each| {
            let info = &each.info;
            std::cmp::Reverse((info.transaction_id, info.creation_time, info.id))
        });
        let mut before: Vec<(Owner, Vec<Run>)> = Vec::new();
        let none = Grafts::default();
        for each in coming {
            let Some(deleted) = self.deleted.iter().find(|one| one.id == each.info.id) else {
                continue;
            };
            let (deleted, version) = (deleted.clone(), deleted.versions[0].clone());
            let mut mappings = Vec::new();
            let tree = Tree::plain(forest, each.root, &none);
            self.each_run(&tree, None, task, |runs| mappings.extend_from_slice(runs))?;
            let mut claims = Claims::new(each.info.id, version.era, &mappings);
            drop(mappings);
            // A leaf that several have is looked at once.
            let mut seen = BlockSet::new(self.limits.metadata_blocks);
            for other in wanted.iter().filter(|other| !is_back(other)) {
                let owner = Owner {
                    id: other.info.id,
                    snapshotted_time: other.info.snapshotted_time,
                    held: false,
                };
                let met = |runs: &[Run]| claims.meet(owner, runs);
                let tree = Tree {
                    forest,
                    grafts,
                    patches: Some(patches),
                    root: other.root,
                };
                self.each_run(&tree, Some(&mut seen), task, met)?;
            }
            for (id, root) in &held.roots {
                let owner = Owner {
                    id: *id,
                    snapshotted_time: u32::MAX,
                    held: true,
                };
                let tree = Tree::plain(forest, Some(*root), &none);
                let met = |runs: &[Run]| claims.meet(owner, runs);
                self.each_run(&tree, Some(&mut seen), task, met)?;
            }
            for (owner, runs) in &before {
                claims.meet(*owner, runs);
            }
            self.meet_old(&deleted, &mut claims, task)?;
            let ranges = claims.ranges();
            let keeps_overwritten = self.options.keep_overwritten;
            let gone = |range: &&FateRange| range.fate == Fate::Overwritten && !keeps_overwritten;
            let cut = Cut(ranges
                .iter()
                .filter(gone)
                .map(|range| range.begin..range.end)
                .collect());
            let sum = |fate| {
                let of_it = ranges.iter().filter(|range| range.fate == fate);
                of_it.map(|range| range.end - range.begin).sum()
            };
            let outlook = Undeleted {
                version,
                free_blocks: sum(Fate::Free),
                doubtful_blocks: sum(Fate::Doubtful),
                shared_blocks: sum(Fate::Shared),
                overwritten_blocks: sum(Fate::Overwritten),
                keeps_overwritten,
                ranges_total: ranges.len() as u64,
                ranges: ranges.iter().take(MOST_RANGES).copied().collect(),
            };
            let mut kept = Vec::new();
            self.each_run(&tree, None, task, |runs| kept.extend(cut.rest(runs)))?;
            let owner = Owner {
                id: each.info.id,
                // All of it will look shared.
                snapshotted_time: u32::MAX,
                held: false,
            };
            before.push((owner, kept));
            made.cuts.insert(each.info.id, Arc::new(cut));
            made.outlooks.insert(each.info.id, outlook);
        }
        Ok(made)
    }

    /// What old leaves tell of who has had a device's data.
    fn meet_old(
        &mut self,
        deleted: &DeletedDevice,
        claims: &mut Claims,
        task: &Task<'_>,
    ) -> Result<()> {
        let limits = self.limits;
        let device = Arc::clone(&self.device);
        let limit = limits.metadata_blocks;
        let roots = deleted.versions.iter();
        let roots: Vec<u32> = roots
            .filter_map(|one| u32::try_from(one.root.0).ok())
            .collect();
        let scan = self.scan(task)?;
        let own = Ways::new(&*device, scan, limit).reach(roots.into_iter(), task)?;
        let mut nodes = NodeReader::of_device(&*device, limit);
        // One that looks like the top level has nothing but block 0.
        let is_leaf = |node: &&Scanned| node.shape == Shape::Mappings;
        let leaves = scan.nodes.iter().filter(is_leaf);
        let leaves = leaves.filter(|node| u64::from(node.block) < limit);
        let leaves: Vec<u32> = leaves.map(|node| node.block).collect();
        let mut step = || task.step(0, 0);
        claims.meet_all_old(&mut nodes, &leaves, &own, limits, &mut step)
    }

    /// Visits the mappings of a device, but for those of leaves that were seen.
    fn each_run(
        &self,
        tree: &Tree<'_>,
        mut seen: Option<&mut BlockSet>,
        task: &Task<'_>,
        mut visit: impl FnMut(&[Run]),
    ) -> Result<()> {
        let Some(root) = tree.root else {
            return Ok(());
        };
        let limit = self.limits.metadata_blocks;
        let mut reader = NodeReader::of_device(&*self.device, limit);
        let nodes = NodeReader::of_device(&*self.device, limit);
        Walker::new(nodes, tree.forest, tree.grafts).each(root, &mut |step| {
            task.step(0, 0)?;
            match step {
                Step::Lost(gap) => {
                    visit(&tree.patches.map_or(Vec::new(), |found| of_gap(found, &gap)))
                }
                Step::Leaf { leaf, .. } => {
                    let mut is_new = |seen: &mut &mut BlockSet| seen.insert(leaf.block.into());
                    if !seen.as_mut().is_none_or(&mut is_new) {
                        return Ok(());
                    }
                    let block = reader.read_one(leaf.block)?;
                    visit(&runs(&leaf.parse(&block)?, self.limits)?);
                }
            }
            Ok(())
        })
    }
}
