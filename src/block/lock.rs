//! The state of one slot's lock, and whose guard stands for it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::sync::{NO_NUMBER, OWN_NUMBER};

/// A thread, by a number that is never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ThreadNr(u64);

impl ThreadNr {
    /// The calling thread.
    pub fn current() -> Self {
        static LAST: AtomicU64 = AtomicU64::new(NO_NUMBER);
        OWN_NUMBER.with(|own| {
            if own.get() == NO_NUMBER {
                own.set(LAST.fetch_add(1, Ordering::Relaxed) + 1);
            }
            Self(own.get())
        })
    }
}

/// Who has a slot.
#[derive(Default)]
pub(super) struct LockState {
    pub loading: bool,
    writer: Option<ThreadNr>,
    /// One reader is the rule, and needs no memory of its own.
    reader: Option<ThreadNr>,
    more_readers: Vec<ThreadNr>,
    /// Threads that wait to write: readers that come later let them go first.
    pub writers_waiting: usize,
}

impl LockState {
    pub fn is_free(&self) -> bool {
        !self.loading && self.writer.is_none() && self.reader.is_none()
    }

    pub fn is_held_by(&self, thread: ThreadNr) -> bool {
        self.is_written_by(thread)
            || self.reader == Some(thread)
            || self.more_readers.contains(&thread)
    }

    pub fn is_written_by(&self, thread: ThreadNr) -> bool {
        self.writer == Some(thread)
    }

    pub fn is_written(&self) -> bool {
        self.writer.is_some()
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

    pub fn set_writer(&mut self, thread: ThreadNr) {
        self.writer = Some(thread);
    }

    pub fn remove_writer(&mut self) {
        self.writer = None;
    }

    pub fn add_reader(&mut self, thread: ThreadNr) {
        match self.reader {
            None => self.reader = Some(thread),
            Some(_) => self.more_readers.push(thread),
        }
    }

    pub fn remove_reader(&mut self, thread: ThreadNr) {
        if self.reader == Some(thread) {
            self.reader = self.more_readers.pop();
        } else if let Some(place) = self.more_readers.iter().position(|one| *one == thread) {
            self.more_readers.swap_remove(place);
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
