//! Where a new pool's metadata go.

use std::sync::Arc;

use crate::block::{BlockData, Validator};
use crate::device::{AlignedBuffer, Device};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{SUPERBLOCK_VALIDATOR, Superblock};
use crate::units::{BLOCK_BYTES, BlockNr};

/// What is read and written at once.
const CHUNK_BYTES: usize = 1 << 20;

/// What a [`PoolBuilder`](super::PoolBuilder) writes to.
pub enum Output {
    /// As large as it is: the metadata have this size.
    Fixed(Arc<dyn Device>),
    /// A file that becomes as large as it has to, and twice that: changing a pool
    /// takes free blocks.
    Growing(Arc<dyn Device>),
}

/// Puts metadata that were built on `from` onto `to`, which may be a device with a
/// pool on it: block 0 becomes zero first and is written last.
///
/// # Errors
/// [`Error::NoSpace`] where `to` is smaller than what was built, before anything is
/// written; [`Error::Damaged`] where `from` holds no such thing; [`Error::Io`];
/// [`Error::Interrupted`].
pub fn publish(from: &dyn Device, to: &dyn Device, used: u64, task: &Task<'_>) -> Result<()> {
    let mut first = BlockData::zeroed();
    from.read_exact_at(first.bytes_mut(), 0)?;
    SUPERBLOCK_VALIDATOR.check(BlockNr(0), &first)?;
    let superblock: &Superblock = first.view();
    let needed = superblock.metadata_blocks();
    place(from, to, &first, needed, used.min(needed), task)
}

/// As [`publish`], for `blocks` blocks that are not looked at: whatever `from` has is then
/// on `to`, holes as zeros.
///
/// # Errors
/// As [`publish`], but for damage.
pub fn publish_image(
    from: &dyn Device,
    to: &dyn Device,
    blocks: u64,
    task: &Task<'_>,
) -> Result<()> {
    let mut first = BlockData::zeroed();
    from.read_exact_at(first.bytes_mut(), 0)?;
    place(from, to, &first, blocks, blocks, task)
}

fn place(
    from: &dyn Device,
    to: &dyn Device,
    first: &BlockData,
    needed: u64,
    used: u64,
    task: &Task<'_>,
) -> Result<()> {
    let have = to.current_size_bytes()?;
    if have / (BLOCK_BYTES as u64) < needed {
        let path = to.path().display();
        return Err(Error::no_metadata_space(format!(
            "{path} has {have} bytes, and {needed} blocks of {BLOCK_BYTES} bytes go there"
        )));
    }
    to.write_all_at(BlockData::zeroed().bytes(), 0)?;
    to.flush()?;
    let end = used * BLOCK_BYTES as u64;
    task.expect(used);
    let mut buffer = AlignedBuffer::new(CHUNK_BYTES);
    let mut at = BLOCK_BYTES as u64;
    while at < end {
        let length = usize::try_from(end - at).map_or(CHUNK_BYTES, |rest| rest.min(CHUNK_BYTES));
        let chunk = buffer.first_mut(length);
        from.read_exact_at(chunk, at)?;
        to.write_all_at(chunk, at)?;
        at += length as u64;
        task.step(0, (length / BLOCK_BYTES) as u64)?;
    }
    to.flush()?;
    task.step(0, 0)?;
    to.write_all_at(first.bytes(), 0)?;
    to.flush()
}
