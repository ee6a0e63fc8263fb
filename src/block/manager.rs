//! The block manager: locks, and where their blocks come from.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, TryLockError};

use super::accept::{accept, has_to_be_asked};
use super::cache::{Cache, Slot};
use super::hold::{Held, Mode};
use super::lock::Hold;
use super::prefetch::Prefetch;
use super::sync::{Condvar, Mutex, MutexGuard};
use super::writeback::Staging;
use super::{BlockData, Checks, ReadGuard, WriteGuard};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// What a pool's cache may take unless told otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;

/// Fewer slots than this and a deep tree's readers would wait for each other.
const MIN_SLOTS: usize = 64;

/// Asked a few times a second by those who wait; an error ends the wait.
pub type Patience<'p> = &'p dyn Fn() -> Result<()>;

/// No superblock is known.
const NO_SUPERBLOCK: u64 = u64::MAX;

/// A bounded write-back cache of validated blocks over one device.
pub struct BlockManager {
    pub(super) device: Arc<dyn Device>,
    nr_blocks: AtomicU64,
    cache: Mutex<Cache>,
    /// Told when a block was read, or its read failed, or a lock was released
    /// while somebody waits.
    pub(super) changed: Condvar,
    pub(super) prefetch: Arc<Prefetch>,
    /// One write-back at a time.
    pub(super) staging: Mutex<Staging>,
    /// The block that only a commit writes.
    superblock: AtomicU64,
    read_only: AtomicBool,
    /// Write guards that live, in force or not.
    pub(super) write_guards: AtomicUsize,
    /// Why nothing is written any more.
    poison: OnceLock<String>,
}

impl BlockManager {
    /// Blocks of `device`, at most `cache_bytes` of them in memory.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, cache_bytes: u64) -> Arc<Self> {
        let nr_blocks = device.size_bytes() / BLOCK_BYTES as u64;
        let slots = slots_in(cache_bytes);
        let writable = device.is_writable();
        let staging = if writable {
            Staging::new(slots)
        } else {
            Staging::default()
        };
        // A read-only manager stages nothing.
        let capacity = slots.saturating_sub(staging.blocks()).max(MIN_SLOTS);
        Arc::new(Self {
            device,
            nr_blocks: AtomicU64::new(nr_blocks),
            cache: Mutex::new(Cache::new(capacity)),
            changed: Condvar::new(),
            prefetch: Arc::default(),
            staging: Mutex::new(staging),
            superblock: AtomicU64::new(NO_SUPERBLOCK),
            read_only: AtomicBool::new(!writable),
            write_guards: AtomicUsize::new(0),
            poison: OnceLock::new(),
        })
    }

    /// Size of the device in whole blocks.
    #[must_use]
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks.load(Ordering::Relaxed)
    }

    /// Asks the device for its size again: it may have grown.
    pub fn refresh_size(&self) -> Result<u64> {
        let blocks = self.device.current_size_bytes()? / BLOCK_BYTES as u64;
        self.nr_blocks.fetch_max(blocks, Ordering::Relaxed);
        Ok(self.nr_blocks())
    }

    /// The device below.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Refuses every change from now on, or allows them again. Blocks that are
    /// dirty stay so and are not written meanwhile.
    ///
    /// # Errors
    /// [`Error::ReadOnly`] when the device itself cannot be written.
    pub fn set_read_only(&self, read_only: bool) -> Result<()> {
        if !read_only && !self.device.is_writable() {
            return Err(self.not_writable());
        }
        self.read_only.store(read_only, Ordering::Relaxed);
        Ok(())
    }

    /// Whether changes are refused.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.read_only.load(Ordering::Relaxed)
    }

    /// Names the block that nothing but a commit may write: not the need for a
    /// slot, and not [`Self::flush`].
    pub fn guard_superblock(&self, at: BlockNr) {
        self.superblock.store(at.0, Ordering::Relaxed);
    }

    pub(super) fn superblock(&self) -> Option<BlockNr> {
        let at = self.superblock.load(Ordering::Relaxed);
        (at != NO_SUPERBLOCK).then_some(BlockNr(at))
    }

    /// Shared access to a block that `checks` has accepted, read if need be.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the check fails (the next lock tries again),
    /// [`Error::Io`], or [`Error::Usage`] when this thread holds the block.
    pub fn read_lock(
        self: &Arc<Self>,
        at: BlockNr,
        checks: impl Into<Checks>,
    ) -> Result<ReadGuard> {
        self.read_lock_patiently(at, Some(&checks.into()), None)
    }

    /// As [`Self::read_lock`]; no validator: the bytes as they are, of a block
    /// that none is attached to. `patience` is asked while waiting.
    ///
    /// # Errors
    /// As [`Self::read_lock`], and what `patience` says.
    pub fn read_lock_patiently(
        self: &Arc<Self>,
        at: BlockNr,
        checks: Option<&Checks>,
        patience: Option<Patience<'_>>,
    ) -> Result<ReadGuard> {
        match self.hold(at, checks, Mode::Read, patience)? {
            Held::Locked(hold, data) => Ok(self.read_guard(hold, at, data)),
            Held::Pinned(_) => unreachable!("a read lock was asked for"),
        }
    }

    /// The bytes as of now, without keeping a lock.
    ///
    /// # Errors
    /// As [`Self::read_lock`]; a thread that holds the block for reading may glance at it.
    pub fn read(&self, at: BlockNr, checks: impl Into<Checks>) -> Result<Arc<BlockData>> {
        let checks = checks.into();
        if let Some(data) = self.lock_cache().glance(at, &checks) {
            return Ok(data);
        }
        match self.hold(at, Some(&checks), Mode::Pin, None)? {
            Held::Pinned(data) | Held::Locked(_, data) => Ok(data),
        }
    }

    /// As [`Self::read_lock`], but never reads and never waits for anybody.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the block is not in the cache, or somebody is
    /// busy with it, or waits to write it.
    pub fn read_try_lock(
        self: &Arc<Self>,
        at: BlockNr,
        checks: impl Into<Checks>,
    ) -> Result<ReadGuard> {
        match self.try_hold(at, &checks.into())? {
            Held::Locked(hold, data) => Ok(self.read_guard(hold, at, data)),
            Held::Pinned(_) => unreachable!("a read lock was asked for"),
        }
    }

    /// Looks at cached blocks for the time of one short call, without locks on
    /// each of them: the cheapest way to go down a tree. Never reads and never waits.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when somebody else is busy here, and what `look` says.
    pub fn peek<T>(&self, look: impl FnOnce(&mut Peek<'_>) -> Result<T>) -> Result<T> {
        look(&mut Peek(self.try_lock_cache()?))
    }

    /// Sole access to a block, to change it.
    ///
    /// # Errors
    /// As [`Self::read_lock`]; [`Error::ReadOnly`], [`Error::Poisoned`].
    pub fn write_lock(
        self: &Arc<Self>,
        at: BlockNr,
        checks: impl Into<Checks>,
    ) -> Result<WriteGuard> {
        self.write_lock_patiently(at, &checks.into(), false, None)
    }

    /// Sole access to a block of zeros in place of what `at` held. Nothing is
    /// read, and nothing is checked before the block is written and read again.
    ///
    /// # Errors
    /// As [`Self::write_lock`].
    pub fn write_lock_zero(
        self: &Arc<Self>,
        at: BlockNr,
        checks: impl Into<Checks>,
    ) -> Result<WriteGuard> {
        self.write_lock_patiently(at, &checks.into(), true, None)
    }

    /// Either of the two; `patience` is asked while waiting.
    ///
    /// # Errors
    /// As [`Self::write_lock`], and what `patience` says.
    pub fn write_lock_patiently(
        self: &Arc<Self>,
        at: BlockNr,
        checks: &Checks,
        zero: bool,
        patience: Option<Patience<'_>>,
    ) -> Result<WriteGuard> {
        self.check_writable()?;
        let mode = if zero { Mode::Fresh } else { Mode::Write };
        match self.hold(at, Some(checks), mode, patience)? {
            Held::Locked(hold, mut data) => {
                if zero {
                    match Arc::get_mut(&mut data) {
                        Some(block) => block.bytes_mut().fill(0),
                        None => data = Arc::new(BlockData::zeroed()),
                    }
                }
                Ok(self.write_guard(hold, at, data, zero))
            }
            Held::Pinned(_) => unreachable!("a write lock was asked for"),
        }
    }

    /// As [`Self::write_lock_zero`], with a copy of `source` in place of zeros.
    ///
    /// # Errors
    /// As [`Self::write_lock`].
    pub fn write_lock_copy(
        self: &Arc<Self>,
        at: BlockNr,
        checks: &Checks,
        source: &BlockData,
    ) -> Result<WriteGuard> {
        self.check_writable()?;
        match self.hold(at, Some(checks), Mode::Fresh, None)? {
            Held::Locked(hold, mut data) => {
                match Arc::get_mut(&mut data) {
                    Some(block) => block.bytes_mut().copy_from_slice(source.bytes()),
                    None => data = Arc::new(source.clone()),
                }
                Ok(self.write_guard(hold, at, data, true))
            }
            Held::Pinned(_) => unreachable!("a write lock was asked for"),
        }
    }

    /// Forgets every change that was not written, and those that were written
    /// early: what is on the disk and not reachable from the superblock. Guards
    /// that are still held keep bytes that belong to nobody.
    pub fn discard_dirty(&self, also: impl Fn(BlockNr) -> bool) {
        let mut cache = self.lock_cache();
        for number in cache.every_slot() {
            let slot = cache.slot_quietly(number);
            if slot.is_dirty() || slot.lock.is_written() || also(slot.at) {
                cache.forget(number);
            }
        }
        self.tell(cache);
    }

    /// A block other than the superblock that somebody has locked to change it:
    /// it would not be written now.
    pub(crate) fn write_locked(&self) -> Option<BlockNr> {
        if self.write_guards.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let superblock = self.superblock();
        let mut cache = self.lock_cache();
        cache.every_slot().find_map(|number| {
            let slot = cache.slot_quietly(number);
            (slot.lock.is_written() && Some(slot.at) != superblock).then_some(slot.at)
        })
    }

    /// Whether nothing is written any more, and why.
    pub(crate) fn check_poison(&self) -> Result<()> {
        match self.poison.get() {
            None => Ok(()),
            Some(cause) => Err(Error::Poisoned(cause.clone())),
        }
    }

    /// Whether a write or a flush has failed.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Refuses all that is not reading from now on.
    pub(super) fn poison(&self, cause: &Error) {
        let _first_cause_stays = self.poison.set(cause.to_string());
        self.device.note_poisoned();
        // Whoever waits to write waits in vain.
        self.tell(self.lock_cache());
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_poison()?;
        if self.is_read_only() {
            return Err(self.not_writable());
        }
        Ok(())
    }

    fn not_writable(&self) -> Error {
        Error::ReadOnly(format!(
            "{} may not be changed now",
            self.device.path().display()
        ))
    }

    pub(super) fn lock_cache(&self) -> MutexGuard<'_, Cache> {
        // No code that can panic runs under this lock.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock_cache(&self) -> Result<MutexGuard<'_, Cache>> {
        match self.cache.try_lock() {
            Ok(cache) => Ok(cache),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::WouldBlock),
        }
    }

    pub(super) fn check_address(&self, at: BlockNr) -> Result<()> {
        let blocks = self.nr_blocks();
        if at.0 < blocks {
            return Ok(());
        }
        let text = format!("block {at} is past the end of a device of {blocks} blocks");
        let source = io::Error::new(io::ErrorKind::UnexpectedEof, text);
        Err(Error::io(self.device.path(), at.offset_bytes(), source))
    }

    fn read_guard(self: &Arc<Self>, hold: Hold, at: BlockNr, data: Arc<BlockData>) -> ReadGuard {
        ReadGuard {
            manager: Arc::clone(self),
            hold,
            at,
            data,
        }
    }

    /// `fresh`: the bytes are not those that the block had.
    pub(super) fn write_guard(
        self: &Arc<Self>,
        hold: Hold,
        at: BlockNr,
        data: Arc<BlockData>,
        fresh: bool,
    ) -> WriteGuard {
        self.write_guards.fetch_add(1, Ordering::Relaxed);
        WriteGuard {
            manager: Arc::clone(self),
            hold,
            at,
            data: Some(data),
            touched: fresh,
            prepared: false,
        }
    }
}

/// Blocks that so much memory holds, with what is kept about each.
fn slots_in(cache_bytes: u64) -> usize {
    // Its number in the map and in three lists, what an allocation takes, and the
    // room that tables have for growing.
    const NOTES: usize = 256;
    let slot = (BLOCK_BYTES + size_of::<Slot>() + NOTES) as u64;
    let slots = usize::try_from(cache_bytes / slot).unwrap_or(usize::MAX);
    slots.max(MIN_SLOTS)
}

/// The cached blocks, while [`BlockManager::peek`] lasts.
pub struct Peek<'m>(MutexGuard<'m, Cache>);

impl Peek<'_> {
    /// A block that `checks` has accepted.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when it is not in the cache or somebody changes it, or
    /// its validator would have to run with nothing held; [`Error::Damaged`].
    pub fn block(&mut self, at: BlockNr, checks: impl Into<Checks>) -> Result<&BlockData> {
        let number = self.0.find(at).ok_or(Error::WouldBlock)?;
        let (slot, checks) = (self.0.slot(number), checks.into());
        if has_to_be_asked(slot, Some(&checks)) {
            return Err(Error::WouldBlock);
        }
        accept(slot, Some(&checks))?;
        slot.data.as_deref().ok_or(Error::WouldBlock)
    }
}
