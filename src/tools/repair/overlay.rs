//! A device some of whose blocks are read as they should be.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::block::BlockData;
use crate::device::Device;
use crate::error::Result;
use crate::units::BLOCK_BYTES;

/// Blocks in the place of others.
pub(super) type Blocks = BTreeMap<u64, Box<BlockData>>;

/// The device below it, but for a few blocks. It is never written.
pub(super) struct Overlay {
    below: Arc<dyn Device>,
    blocks: Blocks,
}

impl Overlay {
    pub fn over(below: &Arc<dyn Device>, blocks: Blocks) -> Arc<dyn Device> {
        let below = Arc::clone(below);
        Arc::new(Self { below, blocks })
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} blocks over {:?}", self.blocks.len(), self.below)
    }
}

impl Device for Overlay {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.below.read_exact_at(buffer, offset_bytes)?;
        let size = BLOCK_BYTES as u64;
        let end = offset_bytes.saturating_add(buffer.len() as u64);
        for (at, block) in self.blocks.range(offset_bytes / size..end.div_ceil(size)) {
            let begin = at * size;
            let (from, to) = (begin.max(offset_bytes), (begin + size).min(end));
            // Both lie within a buffer, so that they fit.
            let place = |base: u64, at: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
            buffer[place(offset_bytes, from)..place(offset_bytes, to)]
                .copy_from_slice(&block.bytes()[place(begin, from)..place(begin, to)]);
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.below.size_bytes()
    }

    fn size_unit_bytes(&self) -> u64 {
        self.below.size_unit_bytes()
    }

    fn best_request_bytes(&self) -> usize {
        self.below.best_request_bytes()
    }

    fn next_data(&self, offset_bytes: u64) -> Option<Range<u64>> {
        self.below.next_data(offset_bytes)
    }

    fn path(&self) -> &Path {
        self.below.path()
    }
}
