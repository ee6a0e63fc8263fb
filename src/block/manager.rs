//! The block manager, read side.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use super::cache::{Cache, State};
use super::{BlockData, ReadGuard, Validator};
use crate::device::Device;
use crate::error::{Damage, Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// What a pool's cache may take unless told otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;

/// Fewer slots than this and a deep tree's readers would wait for each other.
const MIN_SLOTS: u64 = 64;

/// A bounded cache of validated blocks over one device.
pub struct BlockManager {
    device: Arc<dyn Device>,
    nr_blocks: u64,
    cache: Mutex<Cache>,
    /// Told when a block was read, or its read failed, or a lock was released
    /// while every slot was held.
    changed: Condvar,
}

impl BlockManager {
    /// Blocks of `device`, at most `cache_bytes` of them in memory.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, cache_bytes: u64) -> Arc<Self> {
        let nr_blocks = device.size_bytes() / BLOCK_BYTES as u64;
        let slots = (cache_bytes / BLOCK_BYTES as u64)
            .max(MIN_SLOTS)
            .min(nr_blocks.max(MIN_SLOTS));
        let capacity = usize::try_from(slots).unwrap_or(usize::MAX);
        let (cache, changed) = (Mutex::new(Cache::new(capacity)), Condvar::new());
        Arc::new(Self {
            device,
            nr_blocks,
            cache,
            changed,
        })
    }

    /// Size of the device in whole blocks.
    #[must_use]
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// The device below.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Shared access to a block that `validator` has checked, read if need be.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the check fails (the next lock tries again),
    /// or [`Error::Io`].
    pub fn read_lock(
        self: &Arc<Self>,
        at: BlockNr,
        validator: &'static dyn Validator,
    ) -> Result<ReadGuard> {
        let mut cache = self.lock_cache();
        loop {
            if let Some(slot) = cache.find(at) {
                if let Some(guard) = self.lock_cached(&mut cache, slot, at, validator)? {
                    return Ok(guard);
                }
            } else {
                self.check_address(at)?;
                if let Some(slot) = cache.take(at) {
                    drop(cache);
                    return self.load(slot, at, validator);
                }
            }
            cache.waiting += 1;
            cache = self
                .changed
                .wait(cache)
                .unwrap_or_else(PoisonError::into_inner);
            cache.waiting -= 1;
        }
    }

    /// As [`Self::read_lock`], but never reads and never waits.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the block is not in the cache or somebody is
    /// busy with it.
    pub fn read_try_lock(
        self: &Arc<Self>,
        at: BlockNr,
        validator: &'static dyn Validator,
    ) -> Result<ReadGuard> {
        let mut cache = match self.cache.try_lock() {
            Ok(cache) => cache,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::WouldBlock),
        };
        let slot = cache.find(at).ok_or(Error::WouldBlock)?;
        self.lock_cached(&mut cache, slot, at, validator)?
            .ok_or(Error::WouldBlock)
    }

    /// Looks at cached blocks for the time of one short call, without locks on
    /// each of them: the cheapest way to go down a tree. Never reads and never waits.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when somebody else is busy here, and what `look` says.
    pub fn peek<T>(&self, look: impl FnOnce(&mut Peek<'_>) -> Result<T>) -> Result<T> {
        let cache = match self.cache.try_lock() {
            Ok(cache) => cache,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::WouldBlock),
        };
        look(&mut Peek(cache))
    }

    fn lock_cache(&self) -> MutexGuard<'_, Cache> {
        // No code that can panic runs under this lock.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_address(&self, at: BlockNr) -> Result<()> {
        if at.0 < self.nr_blocks {
            return Ok(());
        }
        let text = format!(
            "block {at} is past the end of a device of {} blocks",
            self.nr_blocks
        );
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, text);
        Err(Error::io(self.device.path(), at.offset_bytes(), source))
    }

    /// `None`: the block is being read.
    fn lock_cached(
        self: &Arc<Self>,
        cache: &mut Cache,
        number: usize,
        at: BlockNr,
        wanted: &'static dyn Validator,
    ) -> Result<Option<ReadGuard>> {
        let slot = cache.slot(number);
        let Some(data) = checked(&mut slot.state, at, wanted)? else {
            return Ok(None);
        };
        let data = Arc::clone(data);
        slot.readers += 1;
        Ok(Some(ReadGuard {
            manager: Arc::clone(self),
            slot: number,
            at,
            data,
        }))
    }

    fn load(
        self: &Arc<Self>,
        number: usize,
        at: BlockNr,
        validator: &'static dyn Validator,
    ) -> Result<ReadGuard> {
        let mut block = Box::new(BlockData::zeroed());
        let read = match at.offset_bytes() {
            Some(offset) => self.device.read_exact_at(block.bytes_mut(), offset),
            None => self.check_address(at),
        };
        let checked = read.and_then(|()| Ok(validator.check(at, &block)?));
        let mut cache = self.lock_cache();
        let answer = match checked {
            Ok(()) => {
                let data = Arc::new(*block);
                let slot = cache.slot(number);
                slot.state = State::Ready {
                    data: Arc::clone(&data),
                    validator: Some(validator),
                };
                slot.readers = 1;
                Ok(ReadGuard {
                    manager: Arc::clone(self),
                    slot: number,
                    at,
                    data,
                })
            }
            Err(error) => {
                cache.forget(at);
                Err(error)
            }
        };
        self.tell(cache);
        answer
    }

    pub(super) fn unlock(&self, number: usize) {
        let mut cache = self.lock_cache();
        let slot = cache.slot(number);
        slot.readers -= 1;
        if slot.readers == 0 {
            self.tell(cache);
        }
    }

    /// Wakes those who wait for a slot; a wake costs a system call, so not when nobody does.
    fn tell(&self, cache: MutexGuard<'_, Cache>) {
        let waiting = cache.waiting > 0;
        drop(cache);
        if waiting {
            self.changed.notify_all();
        }
    }
}

/// The cached blocks, while [`BlockManager::peek`] lasts.
pub struct Peek<'m>(MutexGuard<'m, Cache>);

impl Peek<'_> {
    /// A block that `validator` has checked.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when it is not in the cache, [`Error::Damaged`].
    pub fn block(&mut self, at: BlockNr, validator: &'static dyn Validator) -> Result<&BlockData> {
        let number = self.0.find(at).ok_or(Error::WouldBlock)?;
        let data = checked(&mut self.0.slot(number).state, at, validator)?;
        data.map(|data| &**data).ok_or(Error::WouldBlock)
    }
}

/// The data of a slot, if it is what `wanted` checks. `None`: it is being read.
fn checked<'s>(
    state: &'s mut State,
    at: BlockNr,
    wanted: &'static dyn Validator,
) -> Result<Option<&'s Arc<BlockData>>> {
    let State::Ready { data, validator } = state else {
        return Ok(None);
    };
    match validator {
        None => {
            wanted.check(at, data)?;
            *validator = Some(wanted);
        }
        Some(known) if known.name() == wanted.name() => {}
        Some(known) => {
            // Two structures claim one block; its checksum already said which is right.
            let name = wanted.name();
            return Err(Damage::new(at, name, "block kind", known.name(), name).into());
        }
    }
    Ok(Some(data))
}
