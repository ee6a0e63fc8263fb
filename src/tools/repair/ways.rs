//! Ways down from nodes that may lead nowhere: what is under them, as far as it can be read.

use rustc_hash::FxHashMap;

use super::scan::{Scan, Shape};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::walk::BlockSet;

/// Goes down through the internal nodes that a scan has found.
pub(super) struct Ways<'w> {
    nodes: NodeReader<'w>,
    scan: &'w Scan,
    limit: u64,
    /// The latest time under roots that were asked for.
    times: FxHashMap<u32, u32>,
}

impl<'w> Ways<'w> {
    pub fn new(device: &'w dyn Device, scan: &'w Scan, limit: u64) -> Self {
        Self {
            nodes: NodeReader::of_device(device, limit),
            scan,
            limit,
            times: FxHashMap::default(),
        }
    }

    /// Everything that these lead to, themselves included.
    pub fn reach(&mut self, roots: impl Iterator<Item = u32>, task: &Task<'_>) -> Result<BlockSet> {
        let mut reached = BlockSet::new(self.limit);
        let mut todo: Vec<u32> = roots.collect();
        while let Some(block) = todo.pop() {
            if reached.insert(block.into()) {
                self.children_of(block, task, &mut |child| todo.push(child))?;
            }
        }
        Ok(reached)
    }

    /// Everything that some internal node leads to.
    pub fn children(&mut self, task: &Task<'_>) -> Result<BlockSet> {
        let mut children = BlockSet::new(self.limit);
        for node in &self.scan.nodes {
            if node.shape == Shape::Internal && u64::from(node.block) < self.limit {
                self.children_of(node.block, task, &mut |child| {
                    children.insert(child.into());
                })?;
            }
        }
        Ok(children)
    }

    /// When the latest mapping under a root was made.
    pub fn latest(&mut self, root: u32, task: &Task<'_>) -> Result<u32> {
        if let Some(time) = self.times.get(&root) {
            return Ok(*time);
        }
        let (mut todo, mut met) = (vec![root], rustc_hash::FxHashSet::default());
        let mut time = 0;
        while let Some(block) = todo.pop() {
            if let Some(known) = self.times.get(&block) {
                time = time.max(*known);
            } else if met.insert(block) {
                time = time.max(self.scan.get(block).map_or(0, |node| node.time));
                self.children_of(block, task, &mut |child| todo.push(child))?;
            }
        }
        self.times.insert(root, time);
        Ok(time)
    }

    /// Visits the children of a node, if it is an internal one; what cannot be read has none.
    fn children_of(
        &mut self,
        block: u32,
        task: &Task<'_>,
        visit: &mut dyn FnMut(u32),
    ) -> Result<()> {
        let node = self.scan.get(block);
        if node.is_none_or(|node| node.shape != Shape::Internal) {
            return Ok(());
        }
        let here = NodeRef::root(block);
        let read = self
            .nodes
            .each_child(std::slice::from_ref(&here), task, |_, child| {
                visit(child.block);
                Ok(())
            });
        match read {
            Err(error @ (Error::Interrupted | Error::Io { .. })) => Err(error),
            _ => Ok(()),
        }
    }
}
