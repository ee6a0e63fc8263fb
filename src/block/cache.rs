//! The slots of a block manager: bounded, evicted first in, first out, with a
//! second chance for what was used meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::lock::{LockState, ThreadNr};
use super::{BlockData, Checks};
use crate::units::BlockNr;

/// The number of a slot that holds nothing: no device is that large.
const NOWHERE: BlockNr = BlockNr(u64::MAX);

/// The place of a slot in the list of dirty ones, when it is not in it.
const CLEAN: u32 = u32::MAX;

/// One cached block. What a look-up asks for comes first, on one cache line.
#[repr(C, align(64))]
pub(super) struct Slot {
    /// The bytes; away while they are read, and while a writer has them.
    pub data: Option<Arc<BlockData>>,
    /// What accepted them, once something did.
    pub checks: Option<Checks>,
    pub at: BlockNr,
    used_lately: bool,
    pub lock: LockState,
    /// Counts the lives of this slot, so that a guard knows whether the slot is still its own.
    pub life: u64,
    /// Being written to the device: must stay until that is done.
    pub writing: bool,
    /// Place in the list of dirty slots.
    dirty: u32,
    /// Whether the slot stands in the queue of those that may go.
    offered: bool,
    /// Changed since its validator, which needs that, prepared it: not to be written.
    pub unprepared: bool,
}

impl Slot {
    fn new(at: BlockNr) -> Self {
        Self {
            at,
            data: None,
            checks: None,
            lock: LockState::default(),
            life: 0,
            writing: false,
            dirty: CLEAN,
            offered: false,
            unprepared: false,
            used_lately: true,
        }
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty != CLEAN
    }

    /// Whether the block may leave the cache.
    fn may_go(&self) -> bool {
        self.at != NOWHERE && self.lock.is_free() && !self.writing && !self.is_dirty()
    }

    /// Whether the block may be written now.
    pub fn may_be_written(&self) -> bool {
        self.is_dirty() && !self.writing && !self.lock.is_written() && self.data.is_some()
    }

    /// The bytes, if they have to be prepared and nobody changes them now.
    pub fn to_be_prepared(&self) -> Option<&Arc<BlockData>> {
        let waits = self.unprepared && self.is_dirty() && !self.lock.is_written();
        self.data.as_ref().filter(|_| waits)
    }
}

/// What is to be done about dirty blocks when a place is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dirty {
    /// Write them before they fill the cache.
    WriteSoon,
    /// Write them when there is no other place.
    WriteLast,
    /// They have to stay.
    Keep,
    /// Nothing will be written any more: drop them when there is no other place.
    Drop,
}

/// A place for a block that is not cached.
pub(super) enum Place {
    /// This slot, and the buffer it had, where nobody else holds that.
    Slot(usize, Option<Arc<BlockData>>),
    /// Too much is dirty: write first.
    WriteFirst,
    /// All that could go is dirty and has to stay.
    AllDirty,
    /// Every slot is held, or is being read or written.
    AllHeld,
}

/// Slots by block number.
pub(super) struct Cache {
    slots: Vec<Slot>,
    by_block: FxHashMap<u64, u32>,
    /// Slots changed since they were last written.
    dirty: Vec<u32>,
    /// Slots that hold nothing.
    empty: Vec<u32>,
    /// All slots that may go stand here, and some that no longer may: looking
    /// for one never passes over a slot twice without somebody having used it.
    may_go: VecDeque<u32>,
    capacity: usize,
    /// Threads that wait for a slot to change.
    pub waiting: usize,
    /// Those of them that wait for any slot at all.
    starving: Vec<ThreadNr>,
    /// Whether a block was ever one that its validator has to prepare.
    pub prepares: bool,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            by_block: FxHashMap::default(),
            dirty: Vec::new(),
            empty: Vec::new(),
            may_go: VecDeque::new(),
            // No cache has 2^32 slots.
            capacity: capacity.min(CLEAN as usize - 1),
            waiting: 0,
            starving: Vec::new(),
            prepares: false,
        }
    }

    pub fn find(&self, at: BlockNr) -> Option<usize> {
        self.by_block.get(&at.0).map(|slot| *slot as usize)
    }

    pub fn slot(&mut self, number: usize) -> &mut Slot {
        let slot = &mut self.slots[number];
        slot.used_lately = true;
        slot
    }

    /// The bytes of a block that `checks` has accepted before, if they are here:
    /// a writer has them with it, and a reader does not keep others away.
    pub fn glance(&mut self, at: BlockNr, checks: &Checks) -> Option<Arc<BlockData>> {
        let slot = &mut self.slots[*self.by_block.get(&at.0)? as usize];
        if !slot.checks.as_ref()?.same_as(checks) {
            return None;
        }
        slot.used_lately = true;
        slot.data.clone()
    }

    /// The slot, without taking note of it.
    pub fn slot_quietly(&mut self, number: usize) -> &mut Slot {
        &mut self.slots[number]
    }

    /// The slot, if it still lives the life that somebody remembers.
    pub fn slot_in_life(&mut self, number: usize, life: u64) -> Option<&mut Slot> {
        self.slots.get_mut(number).filter(|slot| slot.life == life)
    }

    /// Takes a slot for `at`, its lock free and its data away.
    pub fn take(&mut self, at: BlockNr, dirty: Dirty) -> Place {
        if dirty == Dirty::WriteSoon && self.dirty.len() * 4 > self.capacity * 3 {
            return Place::WriteFirst;
        }
        let (number, buffer) = if let Some(number) = self.empty.pop() {
            (number as usize, None)
        } else if self.slots.len() < self.capacity {
            self.slots.push(Slot::new(NOWHERE));
            (self.slots.len() - 1, None)
        } else if let Some(victim) = self.victim(dirty) {
            let slot = &mut self.slots[victim];
            self.by_block.remove(&slot.at.0);
            let buffer = slot.data.take().filter(|data| Arc::strong_count(data) == 1);
            (victim, buffer)
        } else {
            return self.no_place(dirty);
        };
        self.begin_life(number, at);
        self.by_block.insert(at.0, short(number));
        Place::Slot(number, buffer)
    }

    fn no_place(&self, dirty: Dirty) -> Place {
        match dirty {
            Dirty::WriteSoon | Dirty::WriteLast => {
                let mut dirty = self.dirty.iter();
                if dirty.any(|number| self.slots[*number as usize].may_be_written()) {
                    Place::WriteFirst
                } else {
                    Place::AllHeld
                }
            }
            Dirty::Keep if !self.dirty.is_empty() => Place::AllDirty,
            Dirty::Keep | Dirty::Drop => Place::AllHeld,
        }
    }

    fn begin_life(&mut self, number: usize, at: BlockNr) {
        let slot = &mut self.slots[number];
        *slot = Slot {
            life: slot.life + 1,
            // It stands in the queue or not, whoever lives in it.
            offered: slot.offered,
            ..Slot::new(at)
        };
    }

    /// Empties a slot, whoever holds it: its bytes are not to be seen any more.
    pub fn forget(&mut self, number: usize) {
        self.mark_clean(number);
        let at = self.slots[number].at;
        if at == NOWHERE {
            return;
        }
        self.by_block.remove(&at.0);
        self.begin_life(number, NOWHERE);
        self.empty.push(short(number));
    }

    /// Empties a slot that nobody holds and nobody writes. False: somebody does.
    pub fn forget_if_free(&mut self, number: usize) -> bool {
        let slot = &self.slots[number];
        let free = slot.lock.is_free() && !slot.writing;
        if free {
            self.forget(number);
        }
        free
    }

    /// Makes the bytes in a slot those of another block, if `checks` has accepted
    /// them and nobody else has them. False: nothing was done.
    pub fn relabel(&mut self, number: usize, to: BlockNr, checks: &Checks) -> bool {
        let slot = &mut self.slots[number];
        let accepted = slot
            .checks
            .as_ref()
            .is_some_and(|known| known.same_as(checks));
        let alone = |data: &Arc<BlockData>| Arc::strong_count(data) == 1;
        if !slot.may_go() || !accepted || !slot.data.as_ref().is_some_and(alone) {
            return false;
        }
        let (from, data) = (slot.at, slot.data.take());
        self.by_block.remove(&from.0);
        self.begin_life(number, to);
        self.slots[number].data = data;
        self.slots[number].checks = Some(checks.clone());
        self.by_block.insert(to.0, short(number));
        true
    }

    /// To be called whenever a slot was unlocked, read or written: it may be
    /// one that may go now.
    pub fn offer(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        if !slot.offered && slot.may_go() {
            slot.offered = true;
            self.may_go.push_back(short(number));
        }
    }

    pub fn mark_dirty(&mut self, number: usize) {
        let slot = &mut self.slots[number];
        if slot.dirty == CLEAN {
            slot.dirty = short(self.dirty.len());
            self.dirty.push(short(number));
        }
    }

    pub fn mark_clean(&mut self, number: usize) {
        let place = std::mem::replace(&mut self.slots[number].dirty, CLEAN);
        if place == CLEAN {
            return;
        }
        self.dirty.swap_remove(place as usize);
        if let Some(moved) = self.dirty.get(place as usize) {
            self.slots[*moved as usize].dirty = place;
        }
    }

    /// Slots changed since they were last written, in no order.
    pub fn dirty(&self) -> &[u32] {
        &self.dirty
    }

    /// The numbers of all slots.
    pub fn every_slot(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }

    /// Says that `thread` waits for any slot. False: every slot is held by
    /// somebody who waits for one, so that waiting would be for ever.
    pub fn starve(&mut self, thread: ThreadNr) -> bool {
        self.starving.push(thread);
        let stuck = |slot: &Slot| self.starving.iter().any(|one| slot.lock.is_held_by(*one));
        if self.slots.iter().all(stuck) {
            self.stop_starving(thread);
            return false;
        }
        true
    }

    /// Says that it does not any more.
    pub fn stop_starving(&mut self, thread: ThreadNr) {
        if let Some(place) = self.starving.iter().position(|one| *one == thread) {
            self.starving.swap_remove(place);
        }
    }

    /// The next slot that may go and that nobody used since it last came by.
    fn victim(&mut self, dirty: Dirty) -> Option<usize> {
        while let Some(number) = self.may_go.pop_front() {
            let slot = &mut self.slots[number as usize];
            if !slot.may_go() {
                // Who makes it one that may, offers it again.
                slot.offered = false;
            } else if std::mem::take(&mut slot.used_lately) {
                self.may_go.push_back(number);
            } else {
                slot.offered = false;
                return Some(number as usize);
            }
        }
        if dirty != Dirty::Drop {
            return None;
        }
        let droppable = |slot: &Slot| slot.lock.is_free() && !slot.writing;
        let mut dirty = self.dirty.iter().map(|number| *number as usize);
        let number = dirty.find(|number| droppable(&self.slots[*number]))?;
        self.mark_clean(number);
        Some(number)
    }
}

/// Slots are counted with 32 bits: `capacity` is bounded.
fn short(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(CLEAN)
}
