//! Taking and releasing locks: the one loop that all of them go through.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::accept::{accept, ask, attach, has_to_be_asked, needs_preparation};
use super::cache::{Cache, Dirty, Place, Slot};
use super::lock::{Hold, ThreadNr};
use super::sync::MutexGuard;
use super::{BlockData, BlockManager, Checks, Patience, patience};
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// How often somebody who waits asks whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How a block is to be locked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Read,
    Write,
    /// As write, of a block whose whole content will be new.
    Fresh,
    /// A glance at the bytes that holds nothing.
    Pin,
}

impl Mode {
    pub fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Fresh)
    }
}

/// What a lock gave.
pub(super) enum Held {
    Locked(Hold, Arc<BlockData>),
    Pinned(Arc<BlockData>),
}

/// What a try to lock gave.
enum Taken {
    Held(Held),
    /// Others have to be done with it first.
    Busy,
    /// The validator has to be asked first, with nothing held.
    Unchecked(Arc<BlockData>),
}

/// What somebody asks for.
#[derive(Clone, Copy)]
struct Wish<'w> {
    at: BlockNr,
    checks: Option<&'w Checks>,
    mode: Mode,
    thread: ThreadNr,
}

/// A place among the writers that wait for a slot. The slot may be forgotten
/// meanwhile, and with it the place.
#[derive(Default)]
struct Queued(Option<(usize, u64)>);

impl Queued {
    fn enter(&mut self, cache: &mut Cache, number: usize) {
        let slot = cache.slot_quietly(number);
        if self.0 != Some((number, slot.life)) {
            slot.lock.writers_waiting += 1;
            self.0 = Some((number, slot.life));
        }
    }

    /// Whether somebody may have waited for this writer to be done.
    fn leave(&mut self, cache: &mut Cache) -> bool {
        let Some((number, life)) = self.0.take() else {
            return false;
        };
        match cache.slot_in_life(number, life) {
            Some(slot) => {
                slot.lock.writers_waiting -= 1;
                true
            }
            None => false,
        }
    }
}

impl BlockManager {
    /// Locks a block; `patience` is asked while waiting, or that of the whole call.
    pub(super) fn hold(
        &self,
        at: BlockNr,
        checks: Option<&Checks>,
        mode: Mode,
        patience: Option<Patience<'_>>,
    ) -> Result<Held> {
        let wish = Wish {
            at,
            checks,
            mode,
            thread: ThreadNr::current(),
        };
        let mut queued = Queued::default();
        let mut dirty = self.about_dirty(false);
        let mut ambient = None;
        let mut cache = self.lock_cache();
        loop {
            if let Some(number) = cache.find(at) {
                let answer = match take_hold(cache.slot(number), number, wish) {
                    Ok(Taken::Busy) => None,
                    Ok(Taken::Held(held)) => Some(Ok(held)),
                    Ok(Taken::Unchecked(data)) => {
                        let life = cache.slot(number).life;
                        drop(cache);
                        let asked = ask(wish.at, wish.checks, &data);
                        cache = self.lock_cache();
                        if asked.is_ok() {
                            attach(cache.slot_in_life(number, life), &data, wish.checks);
                            continue;
                        }
                        asked.err().map(Err)
                    }
                    Err(error) => Some(Err(error)),
                };
                if let Some(answer) = answer {
                    if queued.leave(&mut cache) && answer.is_err() {
                        self.tell(cache);
                    }
                    return answer;
                }
                if mode.writes() {
                    queued.enter(&mut cache, number);
                }
                ambient = ambient.or_else(patience::ambient);
                cache = self.wait(cache, patience.is_some() || ambient.is_some());
            } else {
                self.check_address(at)?;
                match cache.take(at, dirty) {
                    Place::Slot(number, buffer) => return self.fill(cache, number, buffer, wish),
                    Place::WriteFirst => {
                        drop(cache);
                        let written = self.write_early();
                        // What cannot be written does not keep anybody from reading, unless
                        // that needs just the slots that would have become free.
                        let needed = dirty == Dirty::WriteLast && !self.is_poisoned();
                        if let Err(error) = written
                            && (mode.writes() || needed)
                        {
                            return Err(error);
                        }
                        dirty = self.about_dirty(true);
                        cache = self.lock_cache();
                        continue;
                    }
                    Place::AllDirty => {
                        let text = "the cache is full of changes that may not be written now";
                        return Err(Error::ReadOnly(text.to_owned()));
                    }
                    Place::AllHeld if !cache.starve(wish.thread) => {
                        let text = "every block that the cache has room for is locked, \
                                    and all who have locked them want more";
                        return Err(Error::usage(text));
                    }
                    Place::AllHeld => {
                        ambient = ambient.or_else(patience::ambient);
                        cache = self.wait(cache, patience.is_some() || ambient.is_some());
                        cache.stop_starving(wish.thread);
                    }
                }
            }
            dirty = self.about_dirty(false);
            let mut go_on = Ok(());
            if let Some(patience) = patience.or(ambient.as_deref()) {
                drop(cache);
                go_on = patience();
                cache = self.lock_cache();
            }
            if mode.writes() {
                go_on = go_on.and_then(|()| self.check_writable());
            }
            if let Err(error) = go_on {
                queued.leave(&mut cache);
                self.tell(cache);
                return Err(error);
            }
        }
    }

    /// What is to be done about dirty blocks; `written` when they just were.
    fn about_dirty(&self, written: bool) -> Dirty {
        if self.is_poisoned() {
            Dirty::Drop
        } else if self.is_read_only() {
            Dirty::Keep
        } else if written {
            Dirty::WriteLast
        } else {
            Dirty::WriteSoon
        }
    }

    fn wait<'c>(&self, mut cache: MutexGuard<'c, Cache>, ask: bool) -> MutexGuard<'c, Cache> {
        cache.waiting += 1;
        let mut cache = if ask {
            let woken = self.changed.wait_timeout(cache, ASK_EVERY);
            woken.unwrap_or_else(PoisonError::into_inner).0
        } else {
            let woken = self.changed.wait(cache);
            woken.unwrap_or_else(PoisonError::into_inner)
        };
        cache.waiting -= 1;
        cache
    }

    /// Puts a block into a slot that was taken for it, and locks it.
    fn fill(
        &self,
        mut cache: MutexGuard<'_, Cache>,
        number: usize,
        buffer: Option<Arc<BlockData>>,
        wish: Wish<'_>,
    ) -> Result<Held> {
        let slot = cache.slot(number);
        let hold = Hold {
            slot: number,
            life: slot.life,
            thread: wish.thread,
        };
        if wish.mode == Mode::Fresh {
            slot.lock.set_writer(wish.thread);
            slot.checks = wish.checks.cloned();
            drop(cache);
            let buffer = buffer.unwrap_or_else(|| Arc::new(BlockData::zeroed()));
            return Ok(Held::Locked(hold, buffer));
        }
        slot.lock.loading = true;
        drop(cache);
        let loaded = self.load(buffer, wish);
        let mut cache = self.lock_cache();
        let Some(slot) = cache.slot_in_life(number, hold.life) else {
            // An abort took the slot away meanwhile; the block itself is well, and
            // a lock on it a lock on nothing.
            return Ok(match wish.mode {
                Mode::Pin => Held::Pinned(loaded?),
                _ => Held::Locked(hold, loaded?),
            });
        };
        slot.lock.loading = false;
        let answer = match loaded {
            Ok(data) => {
                slot.checks = wish.checks.cloned();
                slot.data = Some(data);
                // Whoever came meanwhile comes after who has read it.
                let held = grant(slot, number, wish);
                cache.offer(number);
                held.ok_or(Error::WouldBlock)
            }
            Err(error) => {
                cache.forget(number);
                Err(error)
            }
        };
        self.tell(cache);
        answer
    }

    fn load(&self, buffer: Option<Arc<BlockData>>, wish: Wish<'_>) -> Result<Arc<BlockData>> {
        let at = wish.at;
        let mut data = buffer.unwrap_or_else(|| Arc::new(BlockData::zeroed()));
        let block = Arc::make_mut(&mut data);
        match at.offset_bytes() {
            Some(offset) => self.device.read_exact_at(block.bytes_mut(), offset)?,
            None => self.check_address(at)?,
        }
        ask(at, wish.checks, block)?;
        Ok(data)
    }

    /// Reads a block into the cache, unchecked, unless that would need waiting
    /// or writing.
    pub(super) fn load_if_easy(&self, at: BlockNr) {
        let wish = Wish {
            at,
            checks: None,
            mode: Mode::Pin,
            thread: ThreadNr::current(),
        };
        let dirty = self.about_dirty(false);
        let mut cache = self.lock_cache();
        if cache.find(at).is_some() || self.check_address(at).is_err() {
            return;
        }
        if let Place::Slot(number, buffer) = cache.take(at, dirty) {
            // The later lock tries again, and says what is wrong.
            drop(self.fill(cache, number, buffer, wish));
        }
    }

    /// A lock on a cached block, if it can be had without waiting for anybody.
    pub(super) fn try_hold(&self, at: BlockNr, checks: &Checks) -> Result<Held> {
        let mut cache = self.try_lock_cache()?;
        let number = cache.find(at).ok_or(Error::WouldBlock)?;
        let life = cache.slot(number).life;
        let wish = Wish {
            at,
            checks: Some(checks),
            mode: Mode::Read,
            thread: ThreadNr::current(),
        };
        let unchecked = match take_hold(cache.slot(number), number, wish)? {
            Taken::Held(held) => return Ok(held),
            Taken::Busy => return Err(Error::WouldBlock),
            Taken::Unchecked(data) => data,
        };
        drop(cache);
        ask(at, Some(checks), &unchecked)?;
        let mut cache = self.try_lock_cache()?;
        attach(cache.slot_in_life(number, life), &unchecked, Some(checks));
        let slot = cache.slot_in_life(number, life).ok_or(Error::WouldBlock)?;
        match take_hold(slot, number, wish)? {
            Taken::Held(held) => Ok(held),
            Taken::Busy | Taken::Unchecked(_) => Err(Error::WouldBlock),
        }
    }

    pub(super) fn unlock_read(&self, hold: Hold) {
        let mut cache = self.lock_cache();
        let Some(slot) = cache.slot_in_life(hold.slot, hold.life) else {
            return;
        };
        slot.lock.remove_reader(hold.thread);
        if slot.lock.is_free() {
            cache.offer(hold.slot);
            self.tell(cache);
        }
    }

    pub(super) fn unlock_write(&self, hold: Hold, data: Arc<BlockData>) {
        let mut cache = self.lock_cache();
        release_dirty(&mut cache, hold, data);
        self.tell(cache);
    }

    /// Releases a write lock; the block is as it was, or forgotten.
    pub(super) fn discard_locked(&self, hold: Hold, unchanged: Option<Arc<BlockData>>) {
        let mut cache = self.lock_cache();
        if let Some(slot) = cache.slot_in_life(hold.slot, hold.life) {
            slot.lock.remove_writer();
            match unchanged {
                Some(data) => {
                    slot.data = Some(data);
                    cache.offer(hold.slot);
                }
                None => cache.forget(hold.slot),
            }
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

/// Releases a write lock and leaves the block dirty; whether the lock still stood.
pub(super) fn release_dirty(cache: &mut Cache, hold: Hold, data: Arc<BlockData>) -> bool {
    let Some(slot) = cache.slot_in_life(hold.slot, hold.life) else {
        return false;
    };
    slot.lock.remove_writer();
    slot.data = Some(data);
    slot.unprepared = slot.checks.as_ref().is_some_and(needs_preparation);
    cache.prepares |= cache.slot_quietly(hold.slot).unprepared;
    cache.mark_dirty(hold.slot);
    true
}

/// Locks a cached block.
fn take_hold(slot: &mut Slot, number: usize, wish: Wish<'_>) -> Result<Taken> {
    let lock = &slot.lock;
    let own = match wish.mode {
        Mode::Pin => lock.is_written_by(wish.thread),
        _ => lock.is_held_by(wish.thread),
    };
    if own {
        let text = format!("this thread holds a lock on block {} already", slot.at);
        return Err(Error::usage(text));
    }
    let admitted = match wish.mode {
        Mode::Read => lock.admits_reader(),
        Mode::Pin => lock.admits_glance(),
        Mode::Write | Mode::Fresh => lock.is_free(),
    };
    if !admitted {
        return Ok(Taken::Busy);
    }
    if wish.mode == Mode::Fresh {
        // What was here is of no interest, nor is what checked it.
        slot.checks = wish.checks.cloned();
    } else if let Some(data) = slot.data.as_ref()
        && has_to_be_asked(slot, wish.checks)
    {
        return Ok(Taken::Unchecked(Arc::clone(data)));
    } else {
        accept(slot, wish.checks)?;
    }
    Ok(grant(slot, number, wish).map_or(Taken::Busy, Taken::Held))
}

/// Locks a block that is free to be locked and has its bytes.
fn grant(slot: &mut Slot, number: usize, wish: Wish<'_>) -> Option<Held> {
    let hold = Hold {
        slot: number,
        life: slot.life,
        thread: wish.thread,
    };
    if wish.mode.writes() {
        let data = slot.data.take()?;
        slot.lock.set_writer(wish.thread);
        return Some(Held::Locked(hold, data));
    }
    let data = slot.data.clone()?;
    if wish.mode == Mode::Pin {
        return Some(Held::Pinned(data));
    }
    slot.lock.add_reader(wish.thread);
    Some(Held::Locked(hold, data))
}
