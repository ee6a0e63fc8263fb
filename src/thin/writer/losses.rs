//! Committing what volumes have written. Volumes of a pool share one transaction, and
//! what takes that back takes back what all of them have written: each is told.

use rustc_hash::{FxHashMap, FxHashSet};

use super::{Mutator, PoolWriter, State};
use crate::error::{Error, Result};

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
        Some(Error::TakenBack(text))
    }

    /// What nobody has been told, for whoever closes the pool.
    pub fn tell_all(&mut self) -> Option<Error> {
        let mut lost: Vec<(u64, String)> = self.lost.drain().collect();
        lost.sort_unstable();
        let why = lost.first()?.1.clone();
        let ids: Vec<String> = lost.iter().map(|(id, _)| id.to_string()).collect();
        let text = format!(
            "what was written to device {} was taken back: {why}",
            ids.join(", ")
        );
        Some(Error::TakenBack(text))
    }
}

impl PoolWriter {
    /// Commits what volumes have written, if anything.
    ///
    /// # Errors
    /// As a transaction's commit.
    pub fn flush_volumes(&self) -> Result<()> {
        self.commit_volumes(&mut *self.lock()?)
    }

    /// As [`Self::flush_volumes`], for the volume of this id.
    ///
    /// # Errors
    /// As [`super::WritableVolume::flush`].
    pub fn flush_volume(&self, id: u64) -> Result<()> {
        let mut state = self.lock()?;
        let lost = state.losses.tell(id);
        // What was written since then is there all the same.
        let answer = self.commit_volumes(&mut state);
        if answer.is_err() {
            // This one has been told.
            state.losses.tell(id);
        }
        answer.and(lost.map_or(Ok(()), Err))
    }

    fn commit_volumes(&self, state: &mut State) -> Result<()> {
        if state.closed || state.mutator != Mutator::Volumes {
            return Ok(());
        }
        state.mutator = Mutator::None;
        self.commit(state)
    }
}
