//! The slots of a block manager: bounded, evicted by the clock.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::lock::{LockState, ThreadNr};
use super::{BlockData, Checks};
use crate::units::BlockNr;

/// The number of a slot that holds nothing: no device is that large.
const NOWHERE: BlockNr = BlockNr(u64::MAX);

/// One cached block.
pub(super) struct Slot {
    pub at: BlockNr,
    /// The bytes; away while they are read, and while a writer has them.
    pub data: Option<Arc<BlockData>>,
    /// What accepted them, once something did.
    pub checks: Option<Checks>,
    pub lock: LockState,
    /// Counts the lives of this slot, so that a guard knows whether the slot is still its own.
    pub life: u64,
    /// Being written to the device: must stay until that is done.
    pub writing: bool,
    /// Place in the list of dirty slots.
    dirty: Option<usize>,
    used_lately: bool,
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
            dirty: None,
            used_lately: true,
        }
    }

    pub fn is_dirty(&self) -> bool {
        self.dirty.is_some()
    }

    /// What the slot's lock has to say before it may go.
    fn may_go(&self) -> bool {
        self.lock.is_free() && !self.writing && self.dirty.is_none()
    }
}

/// A place for a block that is not cached.
pub(super) enum Place {
    /// This slot, and the buffer it had, where nobody else holds that.
    Slot(usize, Option<Arc<BlockData>>),
    /// Too much is dirty: write first.
    WriteFirst,
    /// Every slot is held.
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
    capacity: usize,
    hand: usize,
    /// Threads that wait for a slot to change.
    pub waiting: usize,
}

impl Cache {
    pub fn new(capacity: usize) -> Self {
        Self {
            slots: Vec::new(),
            by_block: FxHashMap::default(),
            dirty: Vec::new(),
            empty: Vec::new(),
            capacity,
            hand: 0,
            waiting: 0,
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

    /// The slot, without taking note of it.
    pub fn slot_quietly(&mut self, number: usize) -> &mut Slot {
        &mut self.slots[number]
    }

    /// Takes a slot for `at`, its lock free and its data away.
    pub fn take(&mut self, at: BlockNr) -> Place {
        if self.dirty.len() * 4 > self.capacity * 3 {
            return Place::WriteFirst;
        }
        let (number, buffer) = if let Some(number) = self.empty.pop() {
            (number as usize, None)
        } else if self.slots.len() < self.capacity {
            self.slots.push(Slot::new(NOWHERE));
            (self.slots.len() - 1, None)
        } else if let Some(victim) = self.victim() {
            let slot = &mut self.slots[victim];
            self.by_block.remove(&slot.at.0);
            let buffer = slot.data.take().filter(|data| Arc::strong_count(data) == 1);
            (victim, buffer)
        } else if self.dirty.is_empty() {
            return Place::AllHeld;
        } else {
            return Place::WriteFirst;
        };
        let life = self.slots[number].life + 1;
        self.slots[number] = Slot {
            life,
            ..Slot::new(at)
        };
        // No cache has 2^32 slots: `capacity` is bounded by the manager.
        let short = u32::try_from(number).unwrap_or(u32::MAX);
        self.by_block.insert(at.0, short);
        Place::Slot(number, buffer)
    }

    /// Empties a slot, whoever holds it: its bytes are not to be seen any more.
    pub fn forget(&mut self, number: usize) {
        self.mark_clean(number);
        let slot = &mut self.slots[number];
        if slot.at == NOWHERE {
            return;
        }
        self.by_block.remove(&slot.at.0);
        let life = slot.life + 1;
        *slot = Slot {
            life,
            used_lately: false,
            ..Slot::new(NOWHERE)
        };
        self.empty.push(u32::try_from(number).unwrap_or(u32::MAX));
    }

    pub fn mark_dirty(&mut self, number: usize) {
        let place = self.dirty.len();
        let slot = &mut self.slots[number];
        if slot.dirty.is_none() {
            slot.dirty = Some(place);
            self.dirty.push(u32::try_from(number).unwrap_or(u32::MAX));
        }
    }

    pub fn mark_clean(&mut self, number: usize) {
        let Some(place) = self.slots[number].dirty.take() else {
            return;
        };
        self.dirty.swap_remove(place);
        if let Some(moved) = self.dirty.get(place) {
            self.slots[*moved as usize].dirty = Some(place);
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

    /// Whether no slot can be had, ever, unless somebody lets go of one.
    pub fn all_held(&self) -> bool {
        self.empty.is_empty()
            && self.slots.len() >= self.capacity
            && self.slots.iter().all(|slot| !slot.lock.is_free())
    }

    /// Whether all that is held is held by `thread`: waiting would be for ever.
    pub fn all_held_by(&self, thread: ThreadNr) -> bool {
        let mut held = self.slots.iter().filter(|slot| !slot.lock.is_free());
        held.all(|slot| slot.lock.is_held_by(thread))
    }

    /// The next slot that may go and that nobody used since the hand last came by.
    fn victim(&mut self) -> Option<usize> {
        for _ in 0..2 * self.slots.len() {
            let number = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[number];
            if slot.may_go() && !std::mem::take(&mut slot.used_lately) {
                return Some(number);
            }
        }
        None
    }
}
