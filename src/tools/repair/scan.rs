//! Every block of the device, and what it looks like: for what nothing leads to.

use zerocopy::little_endian::U64;

use crate::block::{BlockData, Validator};
use crate::btree::{NODE_NAME, NODE_VALIDATOR, Node};
use crate::device::Device;
use crate::error::Result;
use crate::task::Task;
use crate::thin::{MAX_DEVICE_ID, MappingValue, SUPERBLOCK_VALIDATOR, Superblock};
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::Reader;

/// Blocks that are looked at before what was found is put away.
const CHUNK: usize = 1 << 16;

/// What a node is part of, as far as it shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Internal,
    /// A leaf of a device's mappings.
    Mappings,
    /// Values that are all pointers, keys that are all ids: the top level, or the first
    /// mappings of a volume.
    Top,
    Details,
    Other,
}

/// A sound node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scanned {
    pub block: u32,
    pub shape: Shape,
    pub first: u64,
    pub last: u64,
    /// The latest time of a mapping, if these are mappings.
    pub time: u32,
}

#[derive(Clone)]
enum Found {
    Node(Scanned),
    Superblock(Box<Superblock>),
}

/// What a device has in it.
#[derive(Default)]
pub(super) struct Scan {
    /// By block.
    pub nodes: Vec<Scanned>,
    /// Sound superblocks other than block 0.
    pub superblocks: Vec<(u32, Superblock)>,
}

impl Scan {
    /// Reads all that is no hole.
    pub fn read(device: &dyn Device, task: &Task<'_>) -> Result<Self> {
        let limit = (device.size_bytes() / BLOCK_BYTES as u64).min(MAX_METADATA_BLOCKS);
        let mut own = Self::default();
        let mut blocks: Vec<u32> = Vec::new();
        let (mut at, mut next) = (0, 1);
        while let Some(data) = device.next_data(at) {
            at = data.end.max(at + 1);
            let begin = (data.start / BLOCK_BYTES as u64).max(next);
            let end = data.end.div_ceil(BLOCK_BYTES as u64).min(limit);
            for block in begin..end {
                blocks.push(u32::try_from(block).unwrap_or(u32::MAX));
                if blocks.len() == CHUNK {
                    own.look_at(device, &blocks, limit, task)?;
                    blocks.clear();
                }
            }
            next = next.max(end);
        }
        own.look_at(device, &blocks, limit, task)?;
        Ok(own)
    }

    fn look_at(
        &mut self,
        device: &dyn Device,
        blocks: &[u32],
        limit: u64,
        task: &Task<'_>,
    ) -> Result<()> {
        let reader = Reader::new(device, false);
        let (found, _) = reader.visit(
            task,
            blocks,
            NODE_NAME,
            None,
            || (),
            |(), at, block| Ok(block.ok().and_then(|block| look(at, block, limit))),
        )?;
        for (block, found) in blocks.iter().zip(found) {
            match found {
                Some(Found::Node(node)) => self.nodes.push(node),
                Some(Found::Superblock(copy)) => self.superblocks.push((*block, *copy)),
                None => {}
            }
        }
        Ok(())
    }

    /// The node in a block.
    pub fn get(&self, block: u32) -> Option<&Scanned> {
        let found = self.nodes.binary_search_by_key(&block, |node| node.block);
        self.nodes.get(found.ok()?)
    }
}

fn look(at: BlockNr, block: &BlockData, limit: u64) -> Option<Found> {
    if SUPERBLOCK_VALIDATOR.check(at, block).is_ok() {
        let copy: Superblock = *block.view();
        return copy
            .unsupported()
            .is_none()
            .then(|| Found::Superblock(Box::new(copy)));
    }
    NODE_VALIDATOR.check(at, block).ok()?;
    let node = Node::parse(at, block).ok()?;
    let (first, last) = (node.keys().first()?.get(), node.keys().last()?.get());
    let (shape, time) = if !node.is_leaf() {
        (Shape::Internal, 0)
    } else {
        match node.header().value_size.get() {
            8 => leaf_shape(&node, last, limit),
            24 => (Shape::Details, 0),
            _ => (Shape::Other, 0),
        }
    };
    let block = u32::try_from(at.0).ok()?;
    Some(Found::Node(Scanned {
        block,
        shape,
        first,
        last,
        time,
    }))
}

/// What the values are, and the latest time in them if they are mappings.
fn leaf_shape(node: &Node<'_>, last: u64, limit: u64) -> (Shape, u32) {
    let values = node.values::<U64>().unwrap_or_default();
    let pointers = values.iter().all(|value| (1..limit).contains(&value.get()));
    let times = values.iter().map(|value| MappingValue(value.get()).time());
    let time = times.max().unwrap_or(0);
    if pointers && last <= MAX_DEVICE_ID {
        (Shape::Top, time)
    } else {
        (Shape::Mappings, time)
    }
}
