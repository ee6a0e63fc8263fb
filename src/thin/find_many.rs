//! Many look-ups in one call.

use zerocopy::little_endian::U64;

use super::ThinDevice;
use super::mappings::MappingValue;
use crate::btree::Node;
use crate::error::Result;
use crate::task::Task;

/// Look-ups between two reports to the task.
const KEYS_PER_STEP: usize = 1 << 16;

/// Where many virtual blocks live: columns of one row for each block asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundMappings {
    /// Where they lie, in data blocks; 0 where nothing is mapped.
    pub data_blocks: Vec<u64>,
    /// The pool's clock when they were mapped.
    pub times: Vec<u32>,
    /// 1 where a snapshot may share the block, by the time rule.
    pub shared: Vec<u8>,
    /// 0 where nothing is mapped.
    pub mapped: Vec<u8>,
}

impl FoundMappings {
    fn holes(rows: usize) -> Self {
        Self {
            data_blocks: vec![0; rows],
            times: vec![0; rows],
            shared: vec![0; rows],
            mapped: vec![0; rows],
        }
    }
}

impl ThinDevice {
    /// The mappings of many virtual blocks, in the order given. They are looked
    /// up in ascending order, so that each node of the tree is entered once.
    pub fn find_many(&self, virtual_blocks: &[u64], task: &Task<'_>) -> Result<FoundMappings> {
        let mut found = FoundMappings::holes(virtual_blocks.len());
        task.expect(virtual_blocks.len() as u64);
        let rows = virtual_blocks.iter().copied().zip(0_usize..);
        if virtual_blocks.is_sorted() {
            self.find_rising(rows, &mut found, task)?;
        } else {
            let mut rows: Vec<(u64, usize)> = rows.collect();
            rows.sort_unstable();
            self.find_rising(rows.into_iter(), &mut found, task)?;
        }
        Ok(found)
    }

    /// Fills the rows of `keys`, which rise.
    fn find_rising(
        &self,
        keys: impl Iterator<Item = (u64, usize)>,
        found: &mut FoundMappings,
        task: &Task<'_>,
    ) -> Result<()> {
        let mut ascent = self.tree().ascent();
        let mut keys = keys.peekable();
        let mut since_step = 0;
        while let Some((first, _)) = keys.peek().copied() {
            let Some((leaf, end)) = ascent.leaf(first)? else {
                // Below the tree's first key.
                keys.next();
                continue;
            };
            let mut next = 0;
            while let Some((key, row)) = keys.next_if(|(key, _)| end.is_none_or(|end| *key < end)) {
                next = self.find_in_leaf(&leaf, next, key, row, found)?;
                since_step += 1;
                if since_step == KEYS_PER_STEP {
                    task.step(0, since_step as u64)?;
                    since_step = 0;
                }
            }
        }
        task.step(0, since_step as u64)
    }

    /// Fills one row, if `key` is among the leaf's entries from `begin` on, and
    /// says where to go on for the next key.
    fn find_in_leaf(
        &self,
        leaf: &Node<'_>,
        begin: usize,
        key: u64,
        row: usize,
        found: &mut FoundMappings,
    ) -> Result<usize> {
        let rest = &leaf.keys()[begin..];
        let index = begin + rest.partition_point(|at| at.get() < key);
        if leaf.keys().get(index).is_some_and(|at| at.get() == key) {
            let value = leaf.values::<U64>()?[index].get();
            self.pool().limits().check(leaf.location(), key, value)?;
            let mapping = self.interpret(MappingValue(value));
            found.data_blocks[row] = mapping.data_block;
            found.times[row] = mapping.time;
            found.shared[row] = mapping.shared.into();
            found.mapped[row] = 1;
        }
        Ok(index)
    }
}
