//! Guards: scope is the lock.

use std::ops::Deref;
use std::sync::Arc;

use super::{BlockData, BlockManager};
use crate::units::BlockNr;

/// Shared access to one block; released on drop, by any thread. Owns its
/// manager, so that an object of another language can hold it.
pub struct ReadGuard {
    pub(super) manager: Arc<BlockManager>,
    pub(super) slot: usize,
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
        self.manager.unlock(self.slot);
    }
}
