//! Writing dirty blocks: sorted by location, neighbours in one request, sealed
//! in a copy that nobody else sees.

use std::sync::{Arc, PoisonError};

use super::cache::Cache;
use super::{BlockData, BlockManager, Checks, WriteGuard};
use crate::device::AlignedBuffer;
use crate::error::{Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// Blocks in one request, and so in the copy that is sealed.
const STAGED_BLOCKS: usize = 256;

/// One block to write.
struct Outgoing {
    at: BlockNr,
    slot: usize,
    data: Arc<BlockData>,
    checks: Option<Checks>,
}

/// What a write-back needs, kept from one to the next: writing for want of a
/// slot must not depend on getting memory.
#[derive(Default)]
pub(super) struct Staging {
    outgoing: Vec<Outgoing>,
    copy: Option<AlignedBuffer>,
}

impl BlockManager {
    /// Writes all dirty blocks that nobody has locked, but not the superblock,
    /// and makes them durable.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; what the device says, after which everything but
    /// reading is [`Error::Poisoned`].
    pub fn flush(&self) -> Result<()> {
        self.check_writable()?;
        let superblock = self.superblock();
        self.write_dirty(|at| Some(at) != superblock)?;
        self.flush_device()
    }

    /// The commit of one call: writes all other dirty blocks and makes them
    /// durable, then unlocks the superblock, writes it, and makes it durable.
    /// When the first half fails the superblock is not written and its changes are dropped.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn flush_and_unlock(&self, superblock: WriteGuard) -> Result<()> {
        let at = superblock.location();
        let first = self
            .check_writable()
            .and_then(|()| {
                self.write_dirty(|other| other != at && Some(other) != self.superblock())
            })
            .and_then(|_written| self.flush_device());
        if let Err(error) = first {
            superblock.discard();
            return Err(error);
        }
        self.write_superblock(superblock)
    }

    /// Unlocks the superblock, writes it and makes it durable: the second half
    /// of a commit, whose first is [`Self::flush`].
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn write_superblock(&self, superblock: WriteGuard) -> Result<()> {
        if let Err(error) = self.check_writable() {
            superblock.discard();
            return Err(error);
        }
        let at = superblock.location();
        drop(superblock);
        self.write_dirty(|other| other == at)?;
        self.flush_device()
    }

    /// Writes what is dirty because somebody needs a slot.
    pub(super) fn write_early(&self) -> Result<()> {
        self.check_writable()?;
        let superblock = self.superblock();
        let written = self.write_dirty(|at| Some(at) != superblock)?;
        if written == 0 && self.lock_cache().all_held() {
            return Err(Error::usage(
                "every block that the cache has room for is locked",
            ));
        }
        Ok(())
    }

    fn flush_device(&self) -> Result<()> {
        self.device.flush().inspect_err(|error| self.poison(error))
    }

    /// Writes dirty unlocked blocks that `wanted` names; returns how many.
    fn write_dirty(&self, wanted: impl Fn(BlockNr) -> bool) -> Result<usize> {
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let Staging { outgoing, copy } = &mut *staging;
        collect(&mut self.lock_cache(), &wanted, outgoing);
        outgoing.sort_unstable_by_key(|block| block.at);
        let copy = copy.get_or_insert_with(|| AlignedBuffer::new(STAGED_BLOCKS * BLOCK_BYTES));
        let answer = outgoing
            .chunk_by(|one, next| one.at.0 + 1 == next.at.0)
            .flat_map(|run| run.chunks(STAGED_BLOCKS))
            .try_for_each(|request| self.write_request(request, copy));
        let written = outgoing.len();
        let mut cache = self.lock_cache();
        for block in outgoing.drain(..) {
            cache.slot_quietly(block.slot).writing = false;
            if answer.is_err() {
                cache.mark_dirty(block.slot);
            }
        }
        self.tell(cache);
        answer.inspect_err(|error| self.poison(error))?;
        Ok(written)
    }

    /// Writes neighbours, sealed in `copy`.
    fn write_request(&self, request: &[Outgoing], copy: &mut AlignedBuffer) -> Result<()> {
        let bytes = copy.first_mut(request.len() * BLOCK_BYTES);
        let blocks = BlockData::blocks_in_mut(bytes);
        for (sealed, block) in blocks.iter_mut().zip(request) {
            sealed.bytes_mut().copy_from_slice(block.data.bytes());
            if let Some(checks) = &block.checks {
                checks.validator().seal(block.at, sealed);
            }
        }
        let offset = request.first().and_then(|block| block.at.offset_bytes());
        let Some(offset) = offset else {
            return Ok(());
        };
        self.device
            .write_all_at(copy.first_mut(request.len() * BLOCK_BYTES), offset)
    }
}

/// Takes what is to be written out of the list of dirty slots. The slots stay
/// until they are written.
fn collect(cache: &mut Cache, wanted: &impl Fn(BlockNr) -> bool, outgoing: &mut Vec<Outgoing>) {
    outgoing.clear();
    let mut place = 0;
    while let Some(number) = cache.dirty().get(place) {
        let number = *number as usize;
        let slot = cache.slot_quietly(number);
        let free = slot.lock.writer.is_none() && wanted(slot.at);
        let Some(data) = slot.data.clone().filter(|_| free) else {
            place += 1;
            continue;
        };
        outgoing.push(Outgoing {
            at: slot.at,
            slot: number,
            data,
            checks: slot.checks.clone(),
        });
        slot.writing = true;
        // Another slot takes this place in the list.
        cache.mark_clean(number);
    }
}
