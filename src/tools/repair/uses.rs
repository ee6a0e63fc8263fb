//! What of the pool as it was is still in use, by the metadata's space map.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::eras::{Live, Present};
use crate::block::BlockManager;
use crate::btree::MAX_DEPTH;
use crate::device::Device;
use crate::disk_space::DiskSpaceMap;
use crate::error::{Error, Result};
use crate::space::SpaceMap;
use crate::task::Task;
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::walk::{Forest, State};

/// Memory for the space map's nodes.
const CACHE_BYTES: u64 = 8 << 20;

/// Tells it of one state after the other.
pub(super) struct Uses<'u> {
    nodes: NodeReader<'u>,
    map: Option<DiskSpaceMap>,
    /// What the states have in them.
    forest: &'u Forest,
    present: &'u Present<'u>,
    /// Devices of this state that a root was counted for.
    roots: FxHashMap<u32, u32>,
    /// Mappings under inner nodes, of those in use and of those that hang under such ones.
    blocks: FxHashMap<(u32, bool), u64>,
}

impl<'u> Uses<'u> {
    pub fn new(
        device: &'u Arc<dyn Device>,
        forest: &'u Forest,
        present: &'u Present<'u>,
        limit: u64,
    ) -> Self {
        let blocks = BlockManager::new(Arc::clone(device), CACHE_BYTES);
        let space = present.space;
        Self {
            nodes: NodeReader::of_device(&**device, limit),
            map: space.map(|root| DiskSpaceMap::metadata(&blocks, root)),
            forest,
            present,
            roots: FxHashMap::default(),
            blocks: FxHashMap::default(),
        }
    }

    /// What follows is another state.
    pub fn begin(&mut self) {
        self.roots.clear();
    }

    /// What of a device is.
    pub fn live(&mut self, id: u64, root: u32, task: &Task<'_>) -> Result<Live> {
        let Present { roots, devices, .. } = self.present;
        if devices.as_ref().is_some_and(|known| !known.contains(&id)) {
            return Ok(Live::default());
        }
        let now = roots.binary_search_by_key(&id, |root| root.0).ok();
        let is_live = match now.and_then(|index| roots.get(index)) {
            Some((_, current)) => *current == root,
            // As often as something unknown refers to it.
            None => {
                let unmet = self
                    .count(root)
                    .saturating_sub(self.present.met.get(root.into()));
                let uses = self.roots.entry(root).or_default();
                *uses += 1;
                *uses <= unmet
            }
        };
        Ok(Live {
            root: is_live,
            blocks: self.blocks(root, is_live, 0, task)?,
        })
    }

    /// Mappings that can be read of a tree that is damaged.
    pub fn readable(&mut self, root: u32, task: &Task<'_>) -> Result<u64> {
        self.blocks(root, true, 0, task)
    }

    /// References to a block; where large counts are lost, there are 3 at least.
    fn count(&self, block: u32) -> u32 {
        let count = |map: &DiskSpaceMap| {
            let count = map.get_count(block.into());
            count.or_else(|_| map.least_count(block.into())).ok()
        };
        self.map.as_ref().and_then(count).unwrap_or(0)
    }

    /// Mappings under a node whose leaves are in use, or that can be read and hang under a
    /// node that is.
    fn blocks(&mut self, block: u32, live: bool, depth: usize, task: &Task<'_>) -> Result<u64> {
        if self.map.is_none() && !live || depth > MAX_DEPTH {
            return Ok(0);
        }
        let live = live || self.count(block) > 0 && self.present.reached.summary(block).is_none();
        if let Some(summary) = self.forest.summary(block)
            && summary.state == State::Sound
            && (live || summary.height == 0)
        {
            return Ok(if live { summary.entries.into() } else { 0 });
        }
        if let Some(known) = self.blocks.get(&(block, live)) {
            return Ok(*known);
        }
        // For whatever leads back to here.
        self.blocks.insert((block, live), 0);
        let mut children = Vec::new();
        let here = NodeRef::root(block);
        let read = self
            .nodes
            .each_child(std::slice::from_ref(&here), task, |_, child| {
                children.push(child.block);
                Ok(())
            });
        match read {
            // One that leads astray has what comes before that.
            Ok(()) | Err(Error::Damaged(_)) => {}
            Err(error) => return Err(error),
        }
        let mut sum: u64 = 0;
        for child in children {
            sum = sum.saturating_add(self.blocks(child, live, depth + 1, task)?);
        }
        self.blocks.insert((block, live), sum);
        Ok(sum)
    }
}
