//! The slots of a block manager: bounded, evicted by the clock.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::{BlockData, Validator};
use crate::units::BlockNr;

/// Where a slot is in its life.
pub(super) enum State {
    /// Being read; nobody may look yet.
    Loading,
    /// Read; checked by `validator` where there is one.
    Ready {
        data: Arc<BlockData>,
        validator: Option<&'static dyn Validator>,
    },
}

/// One cached block.
pub(super) struct Slot {
    pub at: BlockNr,
    pub state: State,
    pub readers: u32,
    used_lately: bool,
}

/// Slots by block number.
pub(super) struct Cache {
    slots: Vec<Slot>,
    by_block: FxHashMap<u64, u32>,
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

    /// Takes a slot for `at`, in state loading. `None`: every slot is held.
    pub fn take(&mut self, at: BlockNr) -> Option<usize> {
        let slot = Slot {
            at,
            state: State::Loading,
            readers: 0,
            used_lately: true,
        };
        let number = if self.slots.len() < self.capacity {
            self.slots.push(slot);
            self.slots.len() - 1
        } else {
            let victim = self.victim()?;
            self.by_block.remove(&self.slots[victim].at.0);
            self.slots[victim] = slot;
            victim
        };
        self.by_block.insert(at.0, u32::try_from(number).ok()?);
        Some(number)
    }

    /// Forgets a block whose read failed.
    pub fn forget(&mut self, at: BlockNr) {
        if let Some(number) = self.by_block.remove(&at.0) {
            let slot = &mut self.slots[number as usize];
            // An empty slot is an unlocked one that no number leads to.
            slot.at = BlockNr(u64::MAX);
            slot.state = State::Ready {
                data: Arc::new(BlockData::zeroed()),
                validator: None,
            };
            slot.used_lately = false;
        }
    }

    /// The next slot that nobody holds and nobody used since the hand last came by.
    fn victim(&mut self) -> Option<usize> {
        for _ in 0..2 * self.slots.len() {
            let number = self.hand;
            self.hand = (self.hand + 1) % self.slots.len();
            let slot = &mut self.slots[number];
            let held = slot.readers > 0 || matches!(slot.state, State::Loading);
            if !held && !std::mem::take(&mut slot.used_lately) {
                return Some(number);
            }
        }
        None
    }
}
