//! Counting from many threads without fighting over cache lines.
//!
//! A thread gathers the blocks that fall into a region and counts them in one
//! go, so that the region's 64 KiB are hot meanwhile. Each region has one thread
//! that counts in it: two that took turns would pull its cache lines to and fro,
//! which costs more than all the counting. What a thread gathers for another's
//! region it sends there, 2 KiB at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Counts;
use super::counts::place;

/// What a thread's gathered offsets may take together, in bytes.
const GATHERED_BYTES: usize = 1 << 20;

/// Parcels that may wait for a thread; beyond that their senders count themselves.
const MAX_WAITING: usize = 64;

/// Blocks of one region, to be counted by its thread.
struct Parcel {
    region: usize,
    offsets: Box<[u16]>,
}

/// What others gathered for a thread.
#[derive(Default)]
struct Inbox {
    /// Whether the thread is there and will look.
    open: bool,
    parcels: Vec<Parcel>,
}

/// Threads that count together.
pub struct Crew<'c> {
    counts: &'c Counts,
    inboxes: Vec<Mutex<Inbox>>,
    joined: AtomicUsize,
}

impl<'c> Crew<'c> {
    /// A crew of at most `threads` that fills `counts`.
    #[must_use]
    pub fn new(counts: &'c Counts, threads: usize) -> Self {
        let inboxes = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        Self {
            counts,
            inboxes,
            joined: AtomicUsize::new(0),
        }
    }

    /// A thread's gatherer. What it holds is counted when it is dropped.
    #[must_use]
    pub fn join(&self) -> Scatter<'_> {
        let member = self.joined.fetch_add(1, Ordering::Relaxed) % self.inboxes.len();
        self.inbox(member).open = true;
        let regions = self.counts.nr_regions();
        let room = (GATHERED_BYTES / 2 / regions.max(1)).clamp(8, 1024);
        Scatter {
            crew: self,
            member,
            offsets: vec![0; regions * room],
            filled: vec![0; regions],
            room,
        }
    }

    fn inbox(&self, member: usize) -> MutexGuard<'_, Inbox> {
        self.inboxes[member]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gathers references by region.
pub struct Scatter<'c> {
    crew: &'c Crew<'c>,
    member: usize,
    offsets: Vec<u16>,
    filled: Vec<u16>,
    room: usize,
}

impl Scatter<'_> {
    /// One more reference to `block`, which has to be below `nr_blocks`.
    #[inline]
    pub fn add(&mut self, block: u64) {
        let (region, offset) = place(block);
        let Some(filled) = self.filled.get_mut(region) else {
            return;
        };
        self.offsets[region * self.room + usize::from(*filled)] = offset;
        *filled += 1;
        if usize::from(*filled) == self.room {
            self.flush(region);
        }
    }

    /// Counts what was gathered for a region, or sends it to who does.
    fn flush(&mut self, region: usize) {
        let filled = usize::from(std::mem::take(&mut self.filled[region]));
        let begin = region * self.room;
        let offsets = &self.offsets[begin..begin + filled];
        let owner = region % self.crew.inboxes.len();
        if owner != self.member {
            let mut inbox = self.crew.inbox(owner);
            if inbox.open && inbox.parcels.len() < MAX_WAITING {
                inbox.parcels.push(Parcel {
                    region,
                    offsets: offsets.into(),
                });
                return;
            }
        }
        self.crew.counts.add_to_region(region, offsets);
        self.count_parcels(true);
    }

    fn count_parcels(&self, stay_open: bool) {
        let mut inbox = self.crew.inbox(self.member);
        inbox.open = stay_open;
        let parcels = std::mem::take(&mut inbox.parcels);
        drop(inbox);
        for parcel in parcels {
            self.crew
                .counts
                .add_to_region(parcel.region, &parcel.offsets);
        }
    }
}

impl Drop for Scatter<'_> {
    fn drop(&mut self) {
        for region in 0..self.filled.len() {
            if self.filled[region] > 0 {
                self.flush(region);
            }
        }
        self.count_parcels(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_lose_no_count() {
        let counts = Counts::new(300_000);
        for (crew, threads) in [(4, 4), (3, 2), (1, 3)] {
            let crew = Crew::new(&counts, crew);
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        let mut scatter = crew.join();
                        (0..300_000).for_each(|block| scatter.add(block * 7919 % 300_000));
                    });
                }
            });
        }
        assert!((0..300_000).all(|block| counts.get(block) == 9));
    }
}
