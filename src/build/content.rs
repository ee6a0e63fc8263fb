//! What leaves refer to: data blocks, counted when the leaf is part of a device.

use rustc_hash::FxHashSet;
use zerocopy::little_endian::U64;

use super::blocks::{Blocks, Kind};
use super::nodes::{Fresh, Nodes, values_of};
use crate::btree::fill_node;
use crate::error::Result;
use crate::thin::MappingValue;
use crate::units::BlockNr;
use crate::walk::Counts;

/// A node, as its parent has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub key: u64,
    pub at: BlockNr,
    /// Its entries.
    pub nr: usize,
}

pub(super) struct Content {
    counts: Counts,
    /// Nodes that can be shared.
    pub nodes: Nodes,
    /// Leaves of parts that nobody has used yet: what they refer to is not counted.
    unused: FxHashSet<u64>,
    /// The leaf of all devices without mappings.
    empty: Option<Child>,
}

impl Content {
    pub fn new(data_blocks: u64) -> Self {
        Self {
            counts: Counts::new(data_blocks),
            nodes: Nodes::default(),
            unused: FxHashSet::default(),
            empty: None,
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Writes a node of a device's tree. With `unused` nobody refers to it yet.
    pub fn write(
        &mut self,
        blocks: &mut Blocks,
        level: usize,
        keys: &[U64],
        values: &[U64],
        unused: bool,
    ) -> Result<(Child, Fresh)> {
        let (at, block) = blocks.append(Kind::Node)?;
        let leaf = level == 0;
        fill_node(
            block,
            leaf,
            size_of::<U64>(),
            keys,
            zerocopy::IntoBytes::as_bytes(values),
        );
        if !leaf {
            for child in values {
                self.refer(blocks, BlockNr(child.get()))?;
            }
        } else if unused {
            self.unused.insert(at.0);
        } else {
            self.count(values);
        }
        let key = keys.first().map_or(0, |key| key.get());
        let child = Child {
            key,
            at,
            nr: keys.len(),
        };
        Ok((child, Fresh::new(level, child, keys, values)))
    }

    /// What a device without mappings has; all of them the same one.
    pub fn empty_leaf(&mut self, blocks: &mut Blocks) -> Result<Child> {
        if let Some(child) = self.empty {
            return Ok(child);
        }
        let (child, _) = self.write(blocks, 0, &[], &[], false)?;
        self.empty = Some(child);
        Ok(child)
    }

    /// Whether it is a leaf of a part and nobody has used it yet.
    pub fn is_unused(&self, child: Child) -> bool {
        self.unused.contains(&child.at.0)
    }

    fn count(&mut self, values: &[U64]) {
        for value in values {
            self.counts.add(MappingValue(value.get()).data_block());
        }
    }

    /// One more reference to a node.
    pub fn refer(&mut self, blocks: &mut Blocks, at: BlockNr) -> Result<()> {
        blocks.refer(at);
        if !self.unused.is_empty() && self.unused.remove(&at.0) {
            let node = blocks.read(at)?;
            let values = values_of(&node)?;
            self.count(values);
        }
        Ok(())
    }
}
