//! Writing what was planned.

use rustc_hash::FxHashMap;

use super::Repair;
use super::leaves::runs;
use super::patch::of_gap;
use super::walk::{Step, Walker};
use crate::block::BlockData;
use crate::build::{BuildOptions, Built, Output, PartId, PoolBuilder};
use crate::error::Result;
use crate::task::Task;
use crate::tools::dump::nodes::{NodeReader, NodeRef};

/// Leaves that are read at once.
const LEAVES: usize = 256;

impl Repair {
    /// Writes the new pool to `output`, which must not be what is repaired.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where it is too small; [`Error::Io`]; [`Error::Interrupted`].
    pub fn build(&self, output: Output, task: &Task<'_>) -> Result<Built> {
        let outlook = self.outlook();
        let mut reader = self.reader();
        let data_blocks = match outlook.basis.data_blocks {
            Some(blocks) => blocks,
            None => {
                let needed = self.data_blocks_needed(task)?;
                needed.max(outlook.basis.least_data_blocks)
            }
        };
        let options = BuildOptions {
            uuid: outlook.basis.uuid,
            time: outlook.basis.time,
            transaction_id: outlook.basis.transaction_id,
            // What was wrong is not there any more.
            flags: 0,
            version: outlook.basis.version,
            data_block_size_sectors: outlook.basis.data_block_size_sectors,
            data_blocks,
        };
        let mut builder = PoolBuilder::new(output, &options)?;
        let parts = self.parts(&mut builder, &mut reader, task)?;
        let mapped = outlook
            .devices
            .iter()
            .map(|device| device.info.mapped_blocks);
        task.expect(mapped.sum());
        for (device, root) in outlook.devices.iter().zip(&self.roots) {
            builder.begin_device(&device.info)?;
            let mut waiting: Vec<NodeRef> = Vec::new();
            let mut walker = Walker::new(self.reader(), &self.forest, &self.grafts);
            let mut visit = |step| {
                let cut = self.cuts.get(&device.info.id);
                let leaf = match step {
                    Step::Leaf { leaf, .. } => leaf,
                    Step::Lost(gap) => {
                        self.add(&mut builder, &mut reader, &waiting, task)?;
                        waiting.clear();
                        let runs = of_gap(&self.patches, &gap);
                        let rest = cut.map(|cut| cut.rest(&runs));
                        return builder.runs(rest.as_ref().unwrap_or(&runs));
                    }
                };
                if let Some(cut) = cut.filter(|cut| cut.touches(&self.forest, &leaf)) {
                    self.add(&mut builder, &mut reader, &waiting, task)?;
                    waiting.clear();
                    let block = reader.read_one(leaf.block)?;
                    return builder.runs(&cut.rest(&runs(&leaf.parse(&block)?, self.limits)?));
                }
                if let Some(part) = parts.get(&leaf.block) {
                    self.add(&mut builder, &mut reader, &waiting, task)?;
                    waiting.clear();
                    return builder.use_part(*part);
                }
                waiting.push(leaf);
                if waiting.len() == LEAVES {
                    self.add(&mut builder, &mut reader, &waiting, task)?;
                    waiting.clear();
                }
                Ok(())
            };
            if let Some(root) = root {
                walker.each(*root, &mut visit)?;
            }
            self.add(&mut builder, &mut reader, &waiting, task)?;
            builder.end_device()?;
            task.step(0, 0)?;
        }
        builder.finish(task)
    }

    fn reader(&self) -> NodeReader<'_> {
        NodeReader::of_device(&*self.device, self.limits.metadata_blocks)
    }

    /// Leaves that several devices have, each told once.
    fn parts(
        &self,
        builder: &mut PoolBuilder,
        reader: &mut NodeReader<'_>,
        task: &Task<'_>,
    ) -> Result<FxHashMap<u32, PartId>> {
        let mut parts = FxHashMap::default();
        for blocks in self.joint.chunks(LEAVES) {
            task.step(0, 0)?;
            reader.read_each(blocks, |index, block| {
                let node = NodeRef::root(blocks[index]).parse(block)?;
                builder.begin_part()?;
                builder.runs(&runs(&node, self.limits)?)?;
                parts.insert(blocks[index], builder.end_part()?);
                Ok(())
            })?;
        }
        Ok(parts)
    }

    /// Adds leaves, which come in order of keys and are read in order of place.
    fn add(
        &self,
        builder: &mut PoolBuilder,
        reader: &mut NodeReader<'_>,
        leaves: &[NodeRef],
        task: &Task<'_>,
    ) -> Result<()> {
        let mut order: Vec<usize> = (0..leaves.len()).collect();
        order.sort_unstable_by_key(|index| leaves[*index].block);
        let blocks: Vec<u32> = order.iter().map(|index| leaves[*index].block).collect();
        let mut found = BlockData::zeroed_blocks(leaves.len());
        reader.read_each(&blocks, |index, block| {
            found[order[index]]
                .bytes_mut()
                .copy_from_slice(block.bytes());
            Ok(())
        })?;
        for (leaf, block) in leaves.iter().zip(&found) {
            let node = leaf.parse(block)?;
            let runs = runs(&node, self.limits)?;
            builder.runs(&runs)?;
            task.step(0, node.keys().len() as u64)?;
        }
        Ok(())
    }

    /// One past the last data block that is kept.
    fn data_blocks_needed(&self, task: &Task<'_>) -> Result<u64> {
        let mut end = 0;
        let mut reader = self.reader();
        for root in self.roots.iter().flatten() {
            task.step(0, 0)?;
            let mut walker = Walker::new(self.reader(), &self.forest, &self.grafts);
            walker.each(*root, &mut |step| {
                if let Step::Leaf { leaf, .. } = step {
                    let block = reader.read_one(leaf.block)?;
                    for run in runs(&leaf.parse(&block)?, self.limits)? {
                        end = end.max(run.data_begin + run.length_blocks);
                    }
                }
                Ok(())
            })?;
        }
        Ok(end)
    }
}
