//! Whose writes are gone. Volumes of a pool share one transaction, and what takes that
//! back takes back what all of them have written.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::error::Error;

/// Volumes that have written, and those that have not been told what became of it.
#[derive(Default)]
pub(super) struct Losses {
    /// Volumes with changes that are not committed.
    written: FxHashSet<u64>,
    /// Volumes whose changes were taken back, and why.
    lost: FxHashMap<u64, String>,
}

impl Losses {
    pub fn wrote(&mut self, id: u64) {
        self.written.insert(id);
    }

    /// Everything is durable.
    pub fn committed(&mut self) {
        self.written.clear();
    }

    pub fn taken_back(&mut self, why: &Error) {
        let lost = self.written.drain().map(|id| (id, why.to_string()));
        self.lost.extend(lost);
    }

    /// What a volume has to be told, once.
    pub fn tell(&mut self, id: u64) -> Option<Error> {
        let why = self.lost.remove(&id)?;
        let text = format!("what was written to device {id} was taken back: {why}");
        Some(Error::Aborted(text))
    }
}
