//! Leaves read ahead, by large requests in the order of location.

use std::sync::Arc;

use crate::block::{BlockData, Validator};
use crate::btree::{NODE_NAME, NODE_VALIDATOR};
use crate::device::AlignedBuffer;
use crate::error::Result;
use crate::thin::Pool;
use crate::units::BlockNr;
use crate::walk::Reader;

/// Some leaves of both trees, outside of the pool's cache: each is used once.
/// Bounded by two nodes' children; its memory serves every fill anew.
pub(super) struct Window<'a> {
    reader: Reader<'a>,
    request: AlignedBuffer,
    blocks: Vec<u32>,
    /// As many as `blocks`, and then some whose memory waits for its next use.
    leaves: Vec<Arc<BlockData>>,
}

impl<'a> Window<'a> {
    pub fn new(pool: &'a Pool) -> Self {
        let only_wanted = pool.snapshot().is_some();
        Self {
            reader: Reader::new(&**pool.device(), only_wanted),
            request: AlignedBuffer::new(0),
            blocks: Vec::new(),
            leaves: Vec::new(),
        }
    }

    /// A leaf that was read and found sound.
    pub fn get(&self, at: BlockNr) -> Option<&Arc<BlockData>> {
        let block = u32::try_from(at.0).ok()?;
        let index = self.blocks.binary_search(&block).ok()?;
        self.leaves.get(index)
    }

    /// Reads `wanted` in place of what was here. What cannot be read or used is
    /// left to whoever wants it in earnest.
    pub fn fill(&mut self, wanted: Vec<BlockNr>) -> Result<()> {
        let device_blocks = self.reader.device_blocks();
        let wanted = wanted.into_iter().filter(|at| at.0 < device_blocks);
        let mut wanted: Vec<u32> = wanted.filter_map(|at| u32::try_from(at.0).ok()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.blocks.clear();
        let (blocks, leaves) = (&mut self.blocks, &mut self.leaves);
        let keep = |index: usize, block: Result<&BlockData, _>| {
            let at = wanted[index];
            if let Ok(block) = block
                && NODE_VALIDATOR.check(BlockNr(at.into()), block).is_ok()
            {
                store(leaves, blocks.len(), block);
                blocks.push(at);
            }
            Ok(())
        };
        self.reader
            .read(&wanted, NODE_NAME, &mut self.request, keep)
    }
}

/// Puts a copy of `block` into `leaves[index]`, in place unless a walk still
/// stands in the leaf that was there.
fn store(leaves: &mut Vec<Arc<BlockData>>, index: usize, block: &BlockData) {
    match leaves.get_mut(index) {
        None => leaves.push(Arc::new(block.clone())),
        Some(leaf) => match Arc::get_mut(leaf) {
            Some(leaf) => leaf.bytes_mut().copy_from_slice(block.bytes()),
            None => *leaf = Arc::new(block.clone()),
        },
    }
}
