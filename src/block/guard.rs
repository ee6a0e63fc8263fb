//! Guards: scope is the lock.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::lock::Hold;
use super::{BlockData, BlockManager};
use crate::units::BlockNr;

/// Shared access to one block; released on drop, by any thread. Owns its
/// manager, so that an object of another language can hold it.
pub struct ReadGuard {
    pub(super) manager: Arc<BlockManager>,
    pub(super) hold: Hold,
    pub(super) at: BlockNr,
    pub(super) data: Arc<BlockData>,
}

impl ReadGuard {
    /// The block's number.
    #[must_use]
    pub fn location(&self) -> BlockNr {
        self.at
    }

    /// The bytes as of now, kept alive without keeping the lock.
    #[must_use]
    pub fn pin(&self) -> Arc<BlockData> {
        Arc::clone(&self.data)
    }
}

impl Deref for ReadGuard {
    type Target = BlockData;

    fn deref(&self) -> &BlockData {
        &self.data
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        self.manager.unlock_read(self.hold);
    }
}

/// Sole access to one block, to change it. Dropping it, by any thread, releases
/// the lock and leaves the block dirty, changed or not. Bytes that somebody has
/// pinned are copied before the first change, so that pins never change.
pub struct WriteGuard {
    pub(super) manager: Arc<BlockManager>,
    pub(super) hold: Hold,
    pub(super) at: BlockNr,
    /// Gone only once the guard is.
    pub(super) data: Option<Arc<BlockData>>,
    /// Whether the bytes may differ from those that were locked.
    pub(super) touched: bool,
    /// Whether the validator has prepared them as they are.
    pub(super) prepared: bool,
}

impl WriteGuard {
    /// The block's number.
    #[must_use]
    pub fn location(&self) -> BlockNr {
        self.at
    }

    /// The block manager it belongs to.
    #[must_use]
    pub fn manager(&self) -> &Arc<BlockManager> {
        &self.manager
    }

    /// Whether it still locks something: an abort takes blocks away from their guards.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        let mut cache = self.manager.lock_cache();
        cache.slot_in_life(self.hold.slot, self.hold.life).is_some()
    }

    /// The bytes, to be changed, where they stay until the guard is gone: who
    /// reads them elsewhere reads another copy.
    pub fn make_unique(&mut self) -> &mut BlockData {
        self
    }

    /// Gives the lock back without the change. A block that nobody has touched
    /// through this guard is as it was. One that somebody has is forgotten, with
    /// all that was not written of it: the next lock reads the device.
    pub fn discard(mut self) {
        if let Some(data) = self.data.take() {
            let unchanged = (!self.touched).then_some(data);
            self.manager.discard_locked(self.hold, unchanged);
        }
    }

    /// Releases the lock as dropping does, but gives the cache a copy: the
    /// memory itself stays with who has a view of it, and what is changed there
    /// later goes nowhere.
    #[must_use]
    pub fn orphan(mut self) -> Arc<BlockData> {
        let copy = Arc::new(BlockData::clone(self.data()));
        // Dropping the guard hands the copy over.
        match self.data.replace(copy) {
            Some(data) => data,
            None => unreachable!("only what ends the guard takes the bytes"),
        }
    }

    /// What it holds, for who releases the lock in its place.
    pub(super) fn into_parts(mut self) -> Option<(Hold, Arc<BlockData>)> {
        Some((self.hold, self.data.take()?))
    }

    pub(super) fn data(&self) -> &Arc<BlockData> {
        match &self.data {
            Some(data) => data,
            None => unreachable!("only what ends the guard takes the bytes"),
        }
    }
}

impl Deref for WriteGuard {
    type Target = BlockData;

    fn deref(&self) -> &BlockData {
        self.data()
    }
}

impl DerefMut for WriteGuard {
    fn deref_mut(&mut self) -> &mut BlockData {
        self.touched = true;
        self.prepared = false;
        match &mut self.data {
            Some(data) => Arc::make_mut(data),
            None => unreachable!("only what ends the guard takes the bytes"),
        }
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            self.manager.unlock_write(self.hold, data);
        }
        self.manager.write_guards.fetch_sub(1, Ordering::Relaxed);
    }
}
