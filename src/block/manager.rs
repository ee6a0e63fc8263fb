//! The block manager: locks, and where their blocks come from.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use super::cache::{Cache, Place, Slot};
use super::lock::{Hold, ThreadNr};
use super::writeback::Staging;
use super::{BlockData, Checks, ReadGuard, WriteGuard};
use crate::device::Device;
use crate::error::{Damage, Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// What a pool's cache may take unless told otherwise.
pub const DEFAULT_CACHE_BYTES: u64 = 64 << 20;

/// Fewer slots than this and a deep tree's readers would wait for each other.
const MIN_SLOTS: u64 = 64;

/// How often somebody who waits asks whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(50);

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
    changed: Condvar,
    /// One write-back at a time.
    pub(super) staging: Mutex<Staging>,
    /// The block that only a commit writes.
    superblock: AtomicU64,
    read_only: AtomicBool,
    /// Why nothing is written any more.
    poison: OnceLock<String>,
}

/// How a block is to be locked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Read,
    Write,
    /// As write, of a block whose whole content will be new.
    Fresh,
    /// A glance at the bytes that holds nothing.
    Pin,
}

/// What a lock gave.
enum Held {
    Locked(Hold, Arc<BlockData>),
    Pinned(Arc<BlockData>),
}

impl BlockManager {
    /// Blocks of `device`, at most `cache_bytes` of them in memory.
    #[must_use]
    pub fn new(device: Arc<dyn Device>, cache_bytes: u64) -> Arc<Self> {
        let nr_blocks = device.size_bytes() / BLOCK_BYTES as u64;
        let slots = (cache_bytes / BLOCK_BYTES as u64)
            .max(MIN_SLOTS)
            .min(u64::from(u32::MAX / 2));
        let capacity = usize::try_from(slots).unwrap_or(usize::MAX);
        let read_only = AtomicBool::new(!device.is_writable());
        Arc::new(Self {
            device,
            nr_blocks: AtomicU64::new(nr_blocks),
            cache: Mutex::new(Cache::new(capacity)),
            changed: Condvar::new(),
            staging: Mutex::default(),
            superblock: AtomicU64::new(NO_SUPERBLOCK),
            read_only,
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
        match self.hold(at, Some(&checks.into()), Mode::Pin, None)? {
            Held::Pinned(data) | Held::Locked(_, data) => Ok(data),
        }
    }

    /// As [`Self::read_lock`], but never reads and never waits.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when the block is not in the cache, or somebody is
    /// busy with it, or waits to write it.
    pub fn read_try_lock(
        self: &Arc<Self>,
        at: BlockNr,
        checks: impl Into<Checks>,
    ) -> Result<ReadGuard> {
        let mut cache = self.try_lock_cache()?;
        let number = cache.find(at).ok_or(Error::WouldBlock)?;
        let thread = ThreadNr::current();
        let slot = cache.slot(number);
        let held = take_hold(slot, number, Some(&checks.into()), Mode::Read, thread)?;
        match held {
            Some(Held::Locked(hold, data)) => Ok(self.read_guard(hold, at, data)),
            _ => Err(Error::WouldBlock),
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
                Ok(self.write_guard(hold, at, data))
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
                Ok(self.write_guard(hold, at, data))
            }
            Held::Pinned(_) => unreachable!("a write lock was asked for"),
        }
    }

    /// Reads blocks in the background, so that a later lock finds them. What
    /// fails is left to that lock.
    pub fn prefetch(self: &Arc<Self>, blocks: Vec<BlockNr>) {
        let cache = self.lock_cache();
        let missing: Vec<BlockNr> = blocks
            .into_iter()
            .filter(|at| at.0 < self.nr_blocks() && cache.find(*at).is_none())
            .collect();
        drop(cache);
        if missing.is_empty() {
            return;
        }
        let manager = Arc::downgrade(self);
        let reader = move || {
            for at in missing {
                let Some(manager) = manager.upgrade() else {
                    return;
                };
                if manager.hold(at, None, Mode::Pin, None).is_err() {
                    continue;
                }
            }
        };
        let builder = std::thread::Builder::new().name("thinmeta-prefetch".to_owned());
        // Without a thread the later lock reads the block itself.
        drop(builder.spawn(reader));
    }

    /// Forgets every change that was not written, and those that were written
    /// early: what is on the disk and not reachable from the superblock. Guards
    /// that are still held keep bytes that belong to nobody.
    pub fn discard_dirty(&self, also: impl Fn(BlockNr) -> bool) {
        let mut cache = self.lock_cache();
        for number in cache.every_slot() {
            let slot = cache.slot_quietly(number);
            if slot.is_dirty() || slot.lock.writer.is_some() || also(slot.at) {
                cache.forget(number);
            }
        }
        self.tell(cache);
    }

    /// Whether nothing is written any more, and why.
    pub(super) fn check_poison(&self) -> Result<()> {
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
        // Whoever waits for a slot to be written waits in vain.
        self.changed.notify_all();
    }

    pub(super) fn check_writable(&self) -> Result<()> {
        self.check_poison()?;
        if self.is_read_only() {
            return Err(self.not_writable());
        }
        Ok(())
    }

    fn not_writable(&self) -> Error {
        Error::ReadOnly(format!(
            "{} is open for reading",
            self.device.path().display()
        ))
    }

    pub(super) fn lock_cache(&self) -> MutexGuard<'_, Cache> {
        // No code that can panic runs under this lock.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock_cache(&self) -> Result<MutexGuard<'_, Cache>> {
        match self.cache.try_lock() {
            Ok(cache) => Ok(cache),
            Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => Err(Error::WouldBlock),
        }
    }

    fn check_address(&self, at: BlockNr) -> Result<()> {
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

    fn write_guard(self: &Arc<Self>, hold: Hold, at: BlockNr, data: Arc<BlockData>) -> WriteGuard {
        WriteGuard {
            manager: Arc::clone(self),
            hold,
            at,
            data: Some(data),
        }
    }

    /// Locks a block: the one loop that all locks go through.
    fn hold(
        &self,
        at: BlockNr,
        checks: Option<&Checks>,
        mode: Mode,
        patience: Option<Patience<'_>>,
    ) -> Result<Held> {
        let thread = ThreadNr::current();
        let mut cache = self.lock_cache();
        let mut queued = false;
        loop {
            if let Some(number) = cache.find(at) {
                let slot = cache.slot(number);
                let held = take_hold(slot, number, checks, mode, thread);
                if !matches!(held, Ok(None)) && queued {
                    slot.lock.writers_waiting = slot.lock.writers_waiting.saturating_sub(1);
                }
                match held? {
                    Some(held) => return Ok(held),
                    None if mode == Mode::Write || mode == Mode::Fresh => {
                        slot.lock.writers_waiting += usize::from(!queued);
                        queued = true;
                    }
                    None => {}
                }
            } else {
                queued = false;
                self.check_address(at)?;
                match cache.take(at) {
                    Place::Slot(number, buffer) => {
                        return self.fill(cache, number, buffer, checks, mode, thread);
                    }
                    Place::WriteFirst => {
                        drop(cache);
                        self.write_early()?;
                        cache = self.lock_cache();
                        continue;
                    }
                    Place::AllHeld if cache.all_held_by(thread) => {
                        let text = "this thread holds every block that the cache has room for";
                        return Err(Error::usage(text));
                    }
                    Place::AllHeld => {}
                }
            }
            cache.waiting += 1;
            cache = self.wait(cache, patience.is_some());
            cache.waiting -= 1;
            if let Some(patience) = patience {
                drop(cache);
                let answer = patience();
                cache = self.lock_cache();
                if let Err(error) = answer {
                    if let Some(number) = cache.find(at).filter(|_| queued) {
                        let lock = &mut cache.slot(number).lock;
                        lock.writers_waiting = lock.writers_waiting.saturating_sub(1);
                    }
                    self.tell(cache);
                    return Err(error);
                }
            }
        }
    }

    fn wait<'c>(&self, cache: MutexGuard<'c, Cache>, ask: bool) -> MutexGuard<'c, Cache> {
        if ask {
            let woken = self.changed.wait_timeout(cache, ASK_EVERY);
            return woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        self.changed
            .wait(cache)
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a block into a slot that was taken for it, and locks it.
    fn fill(
        &self,
        mut cache: MutexGuard<'_, Cache>,
        number: usize,
        buffer: Option<Arc<BlockData>>,
        checks: Option<&Checks>,
        mode: Mode,
        thread: ThreadNr,
    ) -> Result<Held> {
        let slot = cache.slot(number);
        let (at, life) = (slot.at, slot.life);
        let hold = Hold {
            slot: number,
            life,
            thread,
        };
        if mode == Mode::Fresh {
            slot.lock.writer = Some(thread);
            slot.checks = checks.cloned();
            drop(cache);
            let buffer = buffer.unwrap_or_else(|| Arc::new(BlockData::zeroed()));
            return Ok(Held::Locked(hold, buffer));
        }
        slot.lock.loading = true;
        drop(cache);
        let loaded = self.load(at, buffer, checks);
        let mut cache = self.lock_cache();
        let slot = cache.slot(number);
        if slot.life != life {
            // An abort took the slot away meanwhile; the block itself is well.
            let data = loaded?;
            drop(cache);
            return Ok(match mode {
                Mode::Pin => Held::Pinned(data),
                _ => Held::Locked(hold, data),
            });
        }
        slot.lock.loading = false;
        let answer = match loaded {
            Ok(data) => {
                slot.data = Some(data);
                let held = take_hold(slot, number, checks, mode, thread);
                held.and_then(|held| held.ok_or(Error::WouldBlock))
            }
            Err(error) => {
                cache.forget(number);
                Err(error)
            }
        };
        self.tell(cache);
        answer
    }

    fn load(
        &self,
        at: BlockNr,
        buffer: Option<Arc<BlockData>>,
        checks: Option<&Checks>,
    ) -> Result<Arc<BlockData>> {
        let mut data = buffer.unwrap_or_else(|| Arc::new(BlockData::zeroed()));
        let block = Arc::make_mut(&mut data);
        match at.offset_bytes() {
            Some(offset) => self.device.read_exact_at(block.bytes_mut(), offset)?,
            None => self.check_address(at)?,
        }
        if let Some(checks) = checks {
            checks.validator().check(at, block)?;
        }
        Ok(data)
    }

    pub(super) fn unlock_read(&self, hold: Hold) {
        let mut cache = self.lock_cache();
        let slot = cache.slot(hold.slot);
        if slot.life != hold.life {
            return;
        }
        slot.lock.remove_reader(hold.thread);
        if slot.lock.is_free() {
            self.tell(cache);
        }
    }

    pub(super) fn unlock_write(&self, hold: Hold, data: Arc<BlockData>) {
        let mut cache = self.lock_cache();
        let slot = cache.slot(hold.slot);
        if slot.life != hold.life {
            return;
        }
        slot.lock.writer = None;
        slot.data = Some(data);
        cache.mark_dirty(hold.slot);
        self.tell(cache);
    }

    pub(super) fn discard_locked(&self, hold: Hold) {
        let mut cache = self.lock_cache();
        if cache.slot(hold.slot).life == hold.life {
            cache.forget(hold.slot);
        }
        self.tell(cache);
    }

    /// Wakes those who wait for a slot; a wake costs a system call, so not when nobody does.
    pub(super) fn tell(&self, cache: MutexGuard<'_, Cache>) {
        let waiting = cache.waiting > 0;
        drop(cache);
        if waiting {
            self.changed.notify_all();
        }
    }
}

/// Locks a cached block. `None`: others have to be done with it first.
fn take_hold(
    slot: &mut Slot,
    number: usize,
    checks: Option<&Checks>,
    mode: Mode,
    thread: ThreadNr,
) -> Result<Option<Held>> {
    let lock = &slot.lock;
    let own = match mode {
        Mode::Pin => lock.writer == Some(thread),
        _ => lock.is_held_by(thread),
    };
    if own {
        let text = format!("this thread holds a lock on block {} already", slot.at);
        return Err(Error::usage(text));
    }
    let admitted = match mode {
        Mode::Read => lock.admits_reader(),
        Mode::Pin => lock.admits_glance(),
        Mode::Write | Mode::Fresh => lock.admits_writer(),
    };
    if !admitted {
        return Ok(None);
    }
    let hold = Hold {
        slot: number,
        life: slot.life,
        thread,
    };
    if mode == Mode::Fresh {
        // What was here is of no interest, nor is what checked it.
        slot.checks = checks.cloned();
    } else {
        accept(slot, checks)?;
    }
    match mode {
        Mode::Read => {
            slot.lock.add_reader(thread);
            Ok(slot.data.clone().map(|data| Held::Locked(hold, data)))
        }
        Mode::Pin => Ok(slot.data.clone().map(Held::Pinned)),
        Mode::Write | Mode::Fresh => {
            let data = slot.data.take();
            if data.is_some() {
                slot.lock.writer = Some(thread);
            }
            Ok(data.map(|data| Held::Locked(hold, data)))
        }
    }
}

/// Sees to it that the block in a slot is what `wanted` checks.
fn accept(slot: &mut Slot, wanted: Option<&Checks>) -> Result<()> {
    let (Some(data), Some(wanted)) = (&slot.data, wanted) else {
        return Ok(());
    };
    match &slot.checks {
        None => {
            wanted.validator().check(slot.at, data)?;
            slot.checks = Some(wanted.clone());
            Ok(())
        }
        Some(known) if known.same_as(wanted) => Ok(()),
        Some(known) => {
            // Two structures claim one block; its checksum already said which is right.
            let names = [known, wanted].map(|checks| checks.validator().name().to_owned());
            let [known, name] = names;
            Err(Damage::new(slot.at, name.clone(), "block kind", known, name).into())
        }
    }
}

/// The cached blocks, while [`BlockManager::peek`] lasts.
pub struct Peek<'m>(MutexGuard<'m, Cache>);

impl Peek<'_> {
    /// A block that `checks` has accepted.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when it is not in the cache or somebody changes it,
    /// [`Error::Damaged`].
    pub fn block(&mut self, at: BlockNr, checks: impl Into<Checks>) -> Result<&BlockData> {
        let number = self.0.find(at).ok_or(Error::WouldBlock)?;
        let slot = self.0.slot(number);
        accept(slot, Some(&checks.into()))?;
        slot.data.as_deref().ok_or(Error::WouldBlock)
    }
}
