//! Which devices there will be, and where the root of each is.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::eras::{Best, Present};
use super::graft::Loose;
use super::outlook::TreeSource;
use super::plan::{Survey, Wanted};
use super::scan::Shape;
use super::trees::{Met, Trees, is_lost};
use crate::error::Result;
use crate::task::Task;
use crate::thin::DeviceInfo;
use crate::walk::{Forest, Reader};

/// A tree that hangs nowhere.
struct LooseTree {
    entries: u64,
    /// References to it that were not met.
    missing: u32,
}

impl Survey {
    /// Leaves of the top level that hang under a lost node of it.
    pub(super) fn find_tops(
        &self,
        live: &mut Trees,
        loose: &mut Vec<Loose>,
        task: &Task<'_>,
    ) -> Result<()> {
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
    pub(super) fn wanted(
        &mut self,
        live: &Trees,
        present: &Present<'_>,
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
        // Devices that are still there, or whose id is lost, too, as they were once.
        let found: FxHashSet<u64> = wanted.iter().map(|each| each.info.id).collect();
        let nothing = self.basis.roots.is_none();
        let may_be = |id: u64| {
            let is_known = details.contains_key(&id) || is_lost(&live.details_lost, id);
            nothing || is_known && is_lost(&live.roots_lost, id) && !found.contains(&id)
        };
        if nothing || live.may_have_more() || live.details.iter().any(|info| may_be(info.id)) {
            self.take_older(&mut wanted, &live.details, may_be, present, task)?;
        }
        if wanted.iter().any(|each| each.recorded.is_none()) {
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
        let trees = self.loose_trees(loose, task)?;
        let told = self.told(missing, &trees, task)?;
        let mut by_size: FxHashMap<u64, Vec<u32>> = FxHashMap::default();
        for (block, tree) in &trees {
            by_size.entry(tree.entries).or_default().push(*block);
        }
        let mut used: FxHashMap<u32, u32> = FxHashMap::default();
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
            let (root, source) = match (exact, told.get(&info.id), trees.keys().next()) {
                ([only], ..) => (*only, TreeSource::Found),
                (_, _, Some(only)) if alone => (*only, TreeSource::Found),
                (_, Some(said), _) => (*said, TreeSource::Older),
                _ => continue,
            };
            let room = trees.get(&root).map_or(0, |tree| tree.missing);
            let uses = used.entry(root).or_default();
            if *uses < room {
                *uses += 1;
                take(Some(root), source);
            }
        }
        loose.retain(|each| !used.contains_key(&each.node.block));
        Ok(())
    }

    /// Loose nodes that may be roots of devices.
    fn loose_trees(&self, loose: &[Loose], task: &Task<'_>) -> Result<FxHashMap<u32, LooseTree>> {
        let reader = Reader::new(&*self.device, false);
        let mut ours: Vec<&Loose> = loose
            .iter()
            .filter(|each| matches!(each.kind, Shape::Mappings | Shape::Top))
            .collect();
        ours.sort_unstable_by_key(|each| each.node.block);
        let roots: Vec<u32> = ours.iter().map(|each| each.node.block).collect();
        let mut counts = Met::new(self.basis.limit).counts;
        let mut forest = Forest::walk(&reader, task, &roots, self.limits, &mut counts, None)?;
        forest.resolve(&reader, task)?;
        let tree = |each: &&Loose| {
            let entries = forest.summary(each.node.block)?.entries.into();
            let missing = each.missing;
            Some((each.node.block, LooseTree { entries, missing }))
        };
        Ok(ours.iter().filter_map(tree).collect())
    }

    /// What older top levels say: a tree of the right size for each device. The one that is
    /// right about most devices is believed first, as it is the latest.
    fn told(
        &mut self,
        missing: &[DeviceInfo],
        trees: &FxHashMap<u32, LooseTree>,
        task: &Task<'_>,
    ) -> Result<FxHashMap<u64, u32>> {
        let limit = self.basis.limit;
        let device = Arc::clone(&self.device);
        let reader = Reader::new(&*device, false);
        let mapped: FxHashMap<u64, u64> = missing
            .iter()
            .map(|info| (info.id, info.mapped_blocks))
            .collect();
        let mut best = Best::new();
        for node in &self.scan(task)?.nodes {
            if node.shape != Shape::Top {
                continue;
            }
            let found = Trees::read(&reader, (node.block.into(), 0), &mut Met::new(limit), task)?;
            let mut right = found.roots;
            right.retain(|(id, root)| {
                let tree = trees.get(root).map(|tree| tree.entries);
                tree.is_some() && tree == mapped.get(id).copied()
            });
            if !right.is_empty() {
                best.offer((right.len(), node.block), right.len(), right);
            }
        }
        let mut told = FxHashMap::default();
        for (id, root) in best.descending().into_iter().flatten() {
            told.entry(id).or_insert(root);
        }
        Ok(told)
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

    /// Devices of the most plausible older roots, with the details that there still are.
    fn take_older(
        &mut self,
        wanted: &mut Vec<Wanted>,
        live: &[DeviceInfo],
        which: impl Fn(u64) -> bool,
        present: &Present<'_>,
        task: &Task<'_>,
    ) -> Result<()> {
        self.look_for_older(present, task)?;
        let Some(older) = self.older.as_ref() else {
            return Ok(());
        };
        let time = older.candidates.first().map_or(0, |best| best.time);
        for (id, root, once) in older.devices.iter().filter(|device| which(device.0)) {
            let now = live.binary_search_by_key(id, |info| info.id).ok();
            let known = now.and_then(|index| live.get(index)).copied().or(*once);
            let info = known.unwrap_or_else(|| {
                let unknown = self.unknown(*id);
                DeviceInfo {
                    creation_time: unknown.creation_time.max(time),
                    snapshotted_time: unknown.snapshotted_time.max(time),
                    ..unknown
                }
            });
            wanted.push(Wanted {
                info,
                recorded: known.map(|info| info.mapped_blocks),
                root: Some(*root),
                source: TreeSource::Older,
            });
        }
        Ok(())
    }
}
