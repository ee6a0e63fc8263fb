//! Blocks that somebody will want soon, read in the background.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use super::BlockManager;
use crate::units::BlockNr;

/// As many as wait at a time; more are not worth remembering.
const MOST: usize = 128;

/// What waits to be read, and whether a thread is at it.
#[derive(Default)]
pub(super) struct Prefetch {
    queue: Mutex<Queue>,
    /// Told when the thread has nothing more to do.
    idle: Condvar,
}

#[derive(Default)]
struct Queue {
    blocks: VecDeque<BlockNr>,
    at_work: bool,
}

impl Prefetch {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next block, or that the thread is done.
    fn next(&self) -> Option<BlockNr> {
        let mut queue = self.queue();
        let next = queue.blocks.pop_front();
        if next.is_none() {
            queue.at_work = false;
            drop(queue);
            self.idle.notify_all();
        }
        next
    }

    fn stop(&self) {
        let mut queue = self.queue();
        queue.blocks.clear();
        while queue.at_work {
            queue = self
                .idle
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl BlockManager {
    /// Reads blocks in the background, so that a later lock finds them: 128 at a
    /// time, the others are left to that lock, as is everything that fails.
    pub fn prefetch(self: &Arc<Self>, blocks: Vec<BlockNr>) {
        let wanted = self.not_cached(blocks);
        let mut queue = self.prefetch.queue();
        for at in wanted {
            if queue.blocks.len() >= MOST {
                break;
            }
            if !queue.blocks.contains(&at) {
                queue.blocks.push_back(at);
            }
        }
        if queue.blocks.is_empty() || queue.at_work {
            return;
        }
        queue.at_work = true;
        drop(queue);
        let (manager, prefetch) = (Arc::downgrade(self), Arc::clone(&self.prefetch));
        let builder = std::thread::Builder::new().name("thinmeta-prefetch".to_owned());
        if builder
            .spawn(move || read_all(&manager, &prefetch))
            .is_err()
        {
            // Without a thread the later lock reads the block itself.
            let mut queue = self.prefetch.queue();
            queue.blocks.clear();
            queue.at_work = false;
        }
    }

    /// Forgets what waits to be read in the background, and waits for the read
    /// that is under way: nobody but the caller uses the device then.
    pub fn stop_prefetching(&self) {
        self.prefetch.stop();
    }

    fn not_cached(&self, mut blocks: Vec<BlockNr>) -> Vec<BlockNr> {
        let cache = self.lock_cache();
        blocks.retain(|at| at.0 < self.nr_blocks() && cache.find(*at).is_none());
        blocks
    }
}

/// Keeps the manager alive for no longer than one read.
fn read_all(manager: &Weak<BlockManager>, prefetch: &Prefetch) {
    while let Some(at) = prefetch.next() {
        if let Some(manager) = manager.upgrade() {
            manager.load_if_easy(at);
        }
    }
}
