//! Guards: scope is the lock. And the state of one slot's lock.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{BlockData, BlockManager};
use crate::units::BlockNr;

/// A thread, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadNr(u64);

impl ThreadNr {
    /// The calling thread.
    pub fn current() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        thread_local! {
            static OWN: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
        }
        OWN.with(|own| Self(*own))
    }
}

/// Who has a slot.
#[derive(Default)]
pub(super) struct LockState {
    pub loading: bool,
    pub writer: Option<ThreadNr>,
    readers: Vec<ThreadNr>,
    /// Threads that wait to write: readers that come later let them go first.
    pub writers_waiting: usize,
}

impl LockState {
    pub fn is_free(&self) -> bool {
        !self.loading && self.writer.is_none() && self.readers.is_empty()
    }

    pub fn is_held_by(&self, thread: ThreadNr) -> bool {
        self.writer == Some(thread) || self.readers.contains(&thread)
    }

    /// Whether a reader may come in now.
    pub fn admits_reader(&self) -> bool {
        !self.loading && self.writer.is_none() && self.writers_waiting == 0
    }

    /// Whether a glance that holds nothing may be taken now. It does not let
    /// waiting writers go first: who glances may be whom they wait for.
    pub fn admits_glance(&self) -> bool {
        !self.loading && self.writer.is_none()
    }

    pub fn admits_writer(&self) -> bool {
        self.is_free()
    }

    pub fn add_reader(&mut self, thread: ThreadNr) {
        self.readers.push(thread);
    }

    pub fn remove_reader(&mut self, thread: ThreadNr) {
        if let Some(place) = self.readers.iter().position(|reader| *reader == thread) {
            self.readers.swap_remove(place);
        }
    }
}

/// Which lock of which life of which slot a guard stands for.
#[derive(Clone, Copy)]
pub(super) struct Hold {
    pub slot: usize,
    pub life: u64,
    pub thread: ThreadNr,
}

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

    /// Gives the lock back and leaves the block as it was before: for a change
    /// that did not come about. What was not written to the device is lost.
    pub fn discard(mut self) {
        self.data = None;
        self.manager.discard_locked(self.hold);
    }

    fn data(&self) -> &Arc<BlockData> {
        match &self.data {
            Some(data) => data,
            None => unreachable!("only drop and discard take the bytes"),
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
        match &mut self.data {
            Some(data) => Arc::make_mut(data),
            None => unreachable!("only drop and discard take the bytes"),
        }
    }
}

impl Drop for WriteGuard {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            self.manager.unlock_write(self.hold, data);
        }
    }
}
