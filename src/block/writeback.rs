//! Writing dirty blocks: sorted by location, neighbours in one request, sealed
//! in a copy that nobody else sees. What has to be prepared is so before.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::cache::Cache;
use super::hold::release_dirty;
use super::lock::Hold;
use super::{BlockData, BlockManager, Checks, WriteGuard};
use crate::device::AlignedBuffer;
use crate::error::{Error, Result};
use crate::sabotage::sabotaged;
use crate::units::{BLOCK_BYTES, BlockNr};

/// Most blocks in one request, and so in a copy that is sealed.
const MOST_STAGED: usize = 256;

/// Fewest blocks in one request, where there are as many neighbours.
const FEWEST_STAGED: usize = 8;

/// From so many blocks on a second thread seals what the first does not.
const WORTH_A_THREAD: usize = 1024;

/// One block to write.
struct Outgoing {
    at: BlockNr,
    slot: usize,
    life: u64,
    data: Arc<BlockData>,
    checks: Option<Checks>,
}

/// What a write-back needs, made with the manager: writing for want of a slot
/// must not depend on getting memory.
#[derive(Default)]
pub(super) struct Staging {
    outgoing: Vec<Outgoing>,
    copies: [AlignedBuffer; 2],
}

impl Staging {
    /// For a cache of about so many slots.
    pub fn new(slots: usize) -> Self {
        let blocks = (slots / 64).clamp(FEWEST_STAGED, MOST_STAGED);
        Self {
            // Who asks for a cache without bound shall not fail here.
            outgoing: Vec::with_capacity(slots.min(1 << 16)),
            copies: [(); 2].map(|()| AlignedBuffer::new(blocks * BLOCK_BYTES)),
        }
    }

    /// Blocks that its memory would hold.
    pub fn blocks(&self) -> usize {
        let copies: usize = self.copies.iter().map(|copy| copy.as_bytes().len()).sum();
        let outgoing = self.outgoing.capacity() * size_of::<Outgoing>();
        (copies + outgoing).div_ceil(BLOCK_BYTES)
    }
}

impl BlockManager {
    /// Writes all dirty blocks that nobody has locked, but not the superblock,
    /// and makes them durable.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Poisoned`] when a write or flush fails, now
    /// or earlier: then everything but reading is. What a validator says that
    /// cannot prepare a block: then nothing was written, and all is as before.
    pub fn flush(&self) -> Result<()> {
        self.check_writable()?;
        if sabotaged("early-superblock") {
            return Ok(());
        }
        let superblock = self.superblock();
        self.write_dirty(|at| Some(at) != superblock, None)?;
        if sabotaged("no-first-flush") {
            return Ok(());
        }
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
        let superblock = self.prepare_locked(superblock)?;
        let first = self
            .check_writable()
            .and_then(|()| {
                self.write_dirty(
                    |other| other != at && Some(other) != self.superblock(),
                    None,
                )
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
    /// As [`Self::flush`]; its changes are dropped when it cannot be prepared.
    pub fn write_superblock(&self, superblock: WriteGuard) -> Result<()> {
        if let Err(error) = self.check_writable() {
            superblock.discard();
            return Err(error);
        }
        let at = superblock.location();
        let superblock = self.prepare_locked(superblock)?;
        let written = self.write_dirty(|other| other == at, superblock.into_parts())?;
        if written == 0 {
            return Err(Error::usage(
                "the superblock's lock was taken away by an abort",
            ));
        }
        if sabotaged("no-second-flush") {
            return Ok(());
        }
        if sabotaged("early-superblock") {
            self.write_dirty(|other| other != at, None)?;
        }
        self.flush_device()
    }

    /// Overwrites a block by zeros, durably and at once: it is not to be taken
    /// for what it was, whatever happens next.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub fn wipe(&self, at: BlockNr) -> Result<()> {
        self.check_writable()?;
        self.check_address(at)?;
        // No write-back that holds the old content may come later.
        let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cache = self.lock_cache();
        if let Some(number) = cache.find(at) {
            cache.forget(number);
        }
        self.tell(cache);
        let [zeros, _] = &mut staging.copies;
        let zeros = zeros.first_mut(BLOCK_BYTES);
        zeros.fill(0);
        let offset = at.offset_bytes().unwrap_or(u64::MAX);
        let written = self.device.write_all_at(zeros, offset);
        written.or_else(|error| self.poisoned_by(&error))?;
        self.flush_device()
    }

    /// Writes what is dirty because somebody needs a slot; returns how many.
    pub(super) fn write_early(&self) -> Result<usize> {
        self.check_writable()?;
        let superblock = self.superblock();
        self.write_dirty(|at| Some(at) != superblock, None)
    }

    fn flush_device(&self) -> Result<()> {
        self.device
            .flush()
            .or_else(|error| self.poisoned_by(&error))
    }

    fn poisoned_by<T>(&self, error: &Error) -> Result<T> {
        self.poison(error);
        Err(Error::Poisoned(error.to_string()))
    }

    /// Writes dirty unlocked blocks that `wanted` names, `last` among them, whose
    /// lock is released for it; returns how many.
    fn write_dirty(
        &self,
        wanted: impl Fn(BlockNr) -> bool,
        last: Option<(Hold, Arc<BlockData>)>,
    ) -> Result<usize> {
        let (mut staging, mut cache) = self.lock_prepared(&wanted)?;
        let Staging { outgoing, copies } = &mut *staging;
        if let Some((hold, data)) = last
            && release_dirty(&mut cache, hold, data)
        {
            // It was prepared while it was locked.
            cache.slot_quietly(hold.slot).unprepared = false;
        }
        collect(&mut cache, &wanted, outgoing);
        self.tell(cache);
        // Somebody else's write may have failed while this one waited for its turn.
        let answer = self.check_poison().and_then(|()| {
            outgoing.sort_unstable_by_key(|block| block.at);
            self.write_all(outgoing, copies)
        });
        let written = outgoing.len();
        let mut cache = self.lock_cache();
        for block in outgoing.drain(..) {
            let Some(slot) = cache.slot_in_life(block.slot, block.life) else {
                continue;
            };
            slot.writing = false;
            if answer.is_err() {
                cache.mark_dirty(block.slot);
            }
            cache.offer(block.slot);
        }
        self.tell(cache);
        match answer {
            Ok(()) => Ok(written),
            Err(error @ Error::Poisoned(_)) => Err(error),
            Err(error) => self.poisoned_by(&error),
        }
    }

    /// Writes sorted blocks, with two threads where there are many.
    fn write_all(&self, blocks: &[Outgoing], copies: &mut [AlignedBuffer; 2]) -> Result<()> {
        let [copy, other_copy] = copies;
        let most = copy.as_bytes().len() / BLOCK_BYTES;
        let mut requests = blocks
            .chunk_by(|one, next| one.at.0 + 1 == next.at.0)
            .flat_map(|run| run.chunks(most));
        if blocks.len() < WORTH_A_THREAD {
            return requests.try_for_each(|request| self.write_request(request, copy));
        }
        let (requests, failed) = (Mutex::new(requests), AtomicBool::new(false));
        let work = |copy: &mut AlignedBuffer| {
            while !failed.load(Ordering::Relaxed) {
                let next = requests
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .next();
                let Some(request) = next else {
                    break;
                };
                self.write_request(request, copy)
                    .inspect_err(|_| failed.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let helper = std::thread::Builder::new().name("thinmeta-write".to_owned());
            // Without a thread one does it all.
            let helper = helper.spawn_scoped(scope, || work(other_copy)).ok();
            let own = work(copy);
            let others = helper.map_or(Ok(()), |helper| {
                let gone = || Err(Error::usage("a thread that wrote blocks has panicked"));
                helper.join().unwrap_or_else(|_| gone())
            });
            own.and(others)
        })
    }

    /// Writes neighbours, sealed in `copy`.
    fn write_request(&self, request: &[Outgoing], copy: &mut AlignedBuffer) -> Result<()> {
        let bytes = copy.first_mut(request.len() * BLOCK_BYTES);
        for (sealed, block) in BlockData::blocks_in_mut(bytes).iter_mut().zip(request) {
            sealed.bytes_mut().copy_from_slice(block.data.bytes());
            if let Some(checks) = &block.checks {
                checks.validator().seal(block.at, sealed);
            }
        }
        match request.first().and_then(|block| block.at.offset_bytes()) {
            Some(offset) => self.device.write_all_at(bytes, offset),
            None => Ok(()),
        }
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
        let ready = slot.may_be_written() && !slot.unprepared;
        let data = slot.data.as_ref().filter(|_| ready);
        let Some(data) = data.filter(|_| wanted(slot.at)) else {
            place += 1;
            continue;
        };
        outgoing.push(Outgoing {
            at: slot.at,
            slot: number,
            life: slot.life,
            data: Arc::clone(data),
            checks: slot.checks.clone(),
        });
        slot.writing = true;
        // Another slot takes this place in the list.
        cache.mark_clean(number);
    }
}
