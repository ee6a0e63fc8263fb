//! New blocks, one after the other, and how many refer to each.

use std::sync::Arc;

use zerocopy::IntoBytes;

use super::Output;
use crate::block::{BlockData, Validator};
use crate::btree::{NODE_VALIDATOR, Node};
use crate::device::Device;
use crate::disk_space::{BITMAP_VALIDATOR, INDEX_VALIDATOR};
use crate::error::{Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::Counts;

/// Blocks that are written at once.
const BATCH: usize = 256;
/// A file that may grow does so by so many blocks.
const GROW_BLOCKS: u64 = 1024;
/// How many times what is in use such a file is in the end: changing a pool takes
/// free blocks.
const ROOM: u64 = 2;

/// What a block is, for its checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Node,
    Bitmap,
    Index,
}

impl Kind {
    fn seal(self, at: BlockNr, block: &mut BlockData) {
        match self {
            Self::Node => NODE_VALIDATOR.seal(at, block),
            Self::Bitmap => BITMAP_VALIDATOR.seal(at, block),
            Self::Index => INDEX_VALIDATOR.seal(at, block),
        }
    }
}

pub(super) struct Blocks {
    device: Arc<dyn Device>,
    /// Blocks there may be, and whether the device becomes as large as it has to.
    limit: u64,
    grows: bool,
    /// Blocks that are not written yet, the first of them at `begin`.
    batch: Vec<BlockData>,
    kinds: Vec<Kind>,
    begin: u64,
    counts: Counts,
    /// What was read back.
    scratch: Box<BlockData>,
}

impl Blocks {
    pub fn new(output: Output) -> Result<Self> {
        let (device, grows) = match output {
            Output::Fixed(device) => (device, false),
            Output::Growing(device) => (device, true),
        };
        let size = device.current_size_bytes()? / BLOCK_BYTES as u64;
        let limit = if grows {
            MAX_METADATA_BLOCKS
        } else {
            size.min(MAX_METADATA_BLOCKS)
        };
        let mut own = Self {
            device,
            limit,
            grows,
            batch: BlockData::zeroed_blocks(BATCH),
            kinds: Vec::with_capacity(BATCH),
            begin: 1,
            counts: Counts::new(limit),
            scratch: Box::new(BlockData::zeroed()),
        };
        if limit == 0 {
            return Err(own.no_space());
        }
        own.counts.add(0);
        own.make_room(1)?;
        own.device.write_all_at(BlockData::zeroed().bytes(), 0)?;
        own.device.flush()?;
        Ok(own)
    }

    /// Blocks there may be.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The next block to be handed out: all below are.
    pub fn next(&self) -> u64 {
        self.begin + self.kinds.len() as u64
    }

    /// A new block of zeros.
    pub fn append(&mut self, kind: Kind) -> Result<(BlockNr, &mut BlockData)> {
        if self.kinds.len() == BATCH {
            self.write_batch()?;
        }
        let at = self.next();
        if at >= self.limit {
            return Err(self.no_space());
        }
        let block = &mut self.batch[self.kinds.len()];
        self.kinds.push(kind);
        Ok((BlockNr(at), block))
    }

    fn no_space(&self) -> Error {
        Error::no_metadata_space(format!(
            "{} has {} blocks of {BLOCK_BYTES} bytes, which do not hold it all",
            self.device.path().display(),
            self.limit
        ))
    }

    /// One more reference to a block.
    pub fn refer(&mut self, at: BlockNr) {
        self.counts.add(at.0);
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// A node that was written, or is about to be.
    pub fn read(&mut self, at: BlockNr) -> Result<Node<'_>> {
        if at.0 >= self.begin {
            let index = usize::try_from(at.0 - self.begin).unwrap_or(usize::MAX);
            if let Some(block) = self.batch.get(index) {
                return Ok(Node::parse(at, block)?);
            }
        }
        let offset = at.0 * BLOCK_BYTES as u64;
        self.device
            .read_exact_at(self.scratch.bytes_mut(), offset)?;
        Ok(Node::parse(at, &self.scratch)?)
    }

    fn write_batch(&mut self) -> Result<()> {
        let count = self.kinds.len();
        if count == 0 {
            return Ok(());
        }
        self.make_room(self.begin + count as u64)?;
        for (index, kind) in self.kinds.iter().enumerate() {
            kind.seal(BlockNr(self.begin + index as u64), &mut self.batch[index]);
        }
        let bytes = self.batch[..count].as_bytes();
        self.device
            .write_all_at(bytes, self.begin * BLOCK_BYTES as u64)?;
        self.batch[..count].as_mut_bytes().fill(0);
        self.begin += count as u64;
        self.kinds.clear();
        Ok(())
    }

    fn make_room(&self, blocks: u64) -> Result<()> {
        let have = self.device.size_bytes() / BLOCK_BYTES as u64;
        if !self.grows || blocks <= have {
            return Ok(());
        }
        let wanted = blocks
            .next_multiple_of(GROW_BLOCKS)
            .min(MAX_METADATA_BLOCKS);
        self.device.grow_to(wanted * BLOCK_BYTES as u64)
    }

    /// Whether the device becomes as large as it has to.
    pub fn grows(&self) -> bool {
        self.grows
    }

    /// How large the metadata are to be, when all but their own bitmaps and index is
    /// there; what may grow is made so large.
    pub fn settle_size(&mut self) -> Result<u64> {
        if !self.grows {
            return Ok(self.limit);
        }
        self.make_room(self.next() * ROOM)?;
        self.limit = self.device.size_bytes() / BLOCK_BYTES as u64;
        Ok(self.limit)
    }

    /// Writes everything, and waits until it is durable.
    pub fn flush(&mut self) -> Result<()> {
        self.write_batch()?;
        self.device.flush()
    }

    /// Writes block 0, sealed, and waits until it is durable.
    pub fn write_first(&self, block: &BlockData) -> Result<()> {
        self.device.write_all_at(block.bytes(), 0)?;
        self.device.flush()
    }
}
