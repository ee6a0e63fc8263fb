//! What was in a lost leaf, from the pool as it was.
//!
//! An older tree of the device may still have a leaf for those keys. If that very leaf is
//! still in use elsewhere and something refers to it that was not met, that may be the lost
//! node, and all of it is taken. Otherwise a mapping in it is taken if it must be somebody's:
//! its data block has more references than were met, by the data's space map, so that the
//! mapping was neither removed nor its block used again by anything that can be read. Where
//! that map cannot be read, there is nothing to say, and the device is to write elsewhere.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::leaves::{has_late, runs};
use super::walk::{Gap, Grafts, Step, Walker};
use crate::block::BlockManager;
use crate::device::Device;
use crate::disk_space::{DiskSpaceMap, SpaceMapRoot};
use crate::error::Result;
use crate::space::SpaceMap;
use crate::task::Task;
use crate::thin::Run;
use crate::tools::dump::nodes::NodeReader;
use crate::walk::{Counts, Forest, ForestLimits, State};

/// Memory for the space map's nodes.
const CACHE_BYTES: u64 = 8 << 20;

/// Mappings in the place of lost nodes.
pub(super) type Patches = FxHashMap<u32, Vec<Run>>;

/// Finds them.
pub(super) struct Patcher<'p> {
    pub device: &'p Arc<dyn Device>,
    pub forest: &'p Forest,
    pub limits: ForestLimits,
    /// The data's space map, if it is known where that is.
    pub space: Option<SpaceMapRoot>,
    /// References to data that were met.
    pub met: Counts,
    /// The metadata's space map.
    pub node_space: Option<SpaceMapRoot>,
    /// References to nodes that were met.
    pub nodes_met: &'p Counts,
    pub patches: Patches,
    /// Devices that took what somebody else may have.
    pub unproven: FxHashSet<u64>,
}

/// Both space maps, where it is known where they are.
struct Maps {
    nodes: Option<DiskSpaceMap>,
    data: Option<DiskSpaceMap>,
}

impl Patcher<'_> {
    /// Fills gaps, each with the id of a device that has it, from earlier roots of these
    /// devices: all gaps from the first ones, then what is left from the next.
    pub fn fill(
        &mut self,
        gaps: &[(u64, Gap)],
        roots: &FxHashMap<u64, Vec<u32>>,
        task: &Task<'_>,
    ) -> Result<()> {
        let blocks = BlockManager::new(Arc::clone(self.device), CACHE_BYTES);
        let nodes = self.node_space;
        let maps = Maps {
            nodes: nodes.map(|root| DiskSpaceMap::metadata(&blocks, root)),
            data: self.space.map(|root| DiskSpaceMap::data(&blocks, root)),
        };
        // What several devices have in common is lost and found once.
        let mut done = FxHashSet::default();
        for nth in 0..roots.values().map(Vec::len).max().unwrap_or(0) {
            for (device, gap) in gaps.iter().filter(|gap| gap.1.block != 0) {
                task.step(0, 0)?;
                let root = roots.get(device).and_then(|roots| roots.get(nth));
                let Some(root) = root.copied() else {
                    continue;
                };
                if done.insert((gap.block, gap.low, gap.high, root)) {
                    self.fill_one(&maps, *device, gap, root)?;
                }
            }
        }
        Ok(())
    }

    fn fill_one(&mut self, maps: &Maps, device: u64, gap: &Gap, root: u32) -> Result<()> {
        let none = Grafts::default();
        let nodes = NodeReader::of_device(&**self.device, self.limits.metadata_blocks);
        let mut reader = NodeReader::of_device(&**self.device, self.limits.metadata_blocks);
        let known = self.patches.remove(&gap.block).unwrap_or_default();
        let mut taken: Vec<Run> = Vec::new();
        let mut walker = Walker::new(nodes, self.forest, &none).within(gap.low, gap.high);
        walker.each(root, &mut |step| {
            let Step::Leaf { leaf, .. } = step else {
                return Ok(());
            };
            let block = reader.read_one(leaf.block)?;
            let node = leaf.parse(&block)?;
            if has_late(&node, self.limits)? {
                return Ok(());
            }
            let node_count = || maps.nodes.as_ref()?.get_count(leaf.block.into()).ok();
            let hangs_there = self
                .forest
                .summary(leaf.block)
                .is_some_and(|summary| summary.state == State::Sound)
                && node_count().is_none_or(|count| count > self.nodes_met.get(leaf.block.into()));
            for run in runs(&node, self.limits)? {
                for at in 0..run.length_blocks {
                    let (key, data) = (run.virtual_begin + at, run.data_begin + at);
                    let inside = gap.low <= key && gap.high.is_none_or(|high| key < high);
                    if !inside || has(&known, key) {
                        continue;
                    }
                    // A leaf that is shared has one reference to it for all.
                    if !hangs_there {
                        let count = maps.data.as_ref().and_then(|map| map.get_count(data).ok());
                        match count {
                            None => _ = self.unproven.insert(device),
                            Some(count) if count <= self.met.get(data) => continue,
                            Some(_) => {}
                        }
                        self.met.add(data);
                    }
                    taken.push(Run {
                        virtual_begin: key,
                        data_begin: data,
                        length_blocks: 1,
                        ..run
                    });
                }
            }
            Ok(())
        })?;
        taken.extend(known);
        taken.sort_unstable_by_key(|run| run.virtual_begin);
        let mut joined: Vec<Run> = Vec::new();
        for run in taken {
            if !joined.last_mut().is_some_and(|last| last.join(&run)) {
                joined.push(run);
            }
        }
        if !joined.is_empty() {
            self.patches.insert(gap.block, joined);
        }
        Ok(())
    }
}

fn has(runs: &[Run], key: u64) -> bool {
    let after = runs.partition_point(|run| run.virtual_begin <= key);
    after.checked_sub(1).is_some_and(|index| {
        let run = runs[index];
        key < run.virtual_begin + run.length_blocks
    })
}

/// Those of a lost node's that lie in a gap: another device may leave it fewer keys.
pub(super) fn of_gap(patches: &Patches, gap: &Gap) -> Vec<Run> {
    let runs = patches.get(&gap.block).map_or(&[][..], Vec::as_slice);
    let cut = |run: &Run| {
        let begin = run.virtual_begin.max(gap.low);
        let end = run.virtual_begin + run.length_blocks;
        let end = gap.high.map_or(end, |high| high.min(end));
        (begin < end).then(|| Run {
            virtual_begin: begin,
            data_begin: run.data_begin + (begin - run.virtual_begin),
            length_blocks: end - begin,
            ..*run
        })
    };
    runs.iter().filter_map(cut).collect()
}
