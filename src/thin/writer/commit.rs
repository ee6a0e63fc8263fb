//! Ending a transaction: all of it, or nothing.

use std::sync::Arc;
use std::thread;

use super::work::Work;
use super::{Mode, PoolWriter, State};
use crate::block::{BlockData, Validator, WriteGuard};
use crate::disk_space::SpaceMapRoot;
use crate::error::{Error, Result};
use crate::sabotage::sabotaged;
use crate::thin::superblock::RootArea;
use crate::thin::{NEEDS_CHECK, SUPERBLOCK_VALIDATOR, Superblock};
use crate::transaction::Transaction;
use crate::units::BlockNr;

impl Work {
    /// All that a commit has to allocate and count.
    fn prepare(&mut self, txn: &mut Transaction) -> Result<()> {
        let mut unused: Vec<u64> = self.reservations.drain().collect();
        unused.sort_unstable();
        self.map.dec_sorted(txn, &unused)?;
        self.write_details(txn)?;
        self.write_snapshot(txn)?;
        self.map.commit(txn)
    }

    /// The superblock of the new state: nothing here can fail.
    fn fill(&self, guard: &mut WriteGuard, space: &SpaceMapRoot) {
        self.fill_common(guard);
        let superblock: &mut Superblock = guard.view_mut();
        superblock.held_root = self.held_root.into();
        superblock.data_space_map_root = RootArea::new(self.map.root());
        superblock.metadata_space_map_root = RootArea::new(*space);
    }
}

impl PoolWriter {
    /// Makes what was changed durable. After an error everything is as it was at the
    /// last commit; what is on the disk, the error says.
    pub(super) fn commit(&self, state: &mut State) -> Result<()> {
        if !state.work.changed && !state.data_written {
            return self.drop_unused(state);
        }
        if !state.work.changed {
            // Blocks were written in their places, which the disk knows.
            self.drop_unused(state)?;
            return match self.flush_data() {
                Ok(()) => {
                    state.data_written = false;
                    state.losses.committed();
                    Ok(())
                }
                Err(error) => self.failed(state, error, false),
            };
        }
        let mut reached = false;
        match self.write_commit(state, &mut reached) {
            Ok(superblock) => {
                state.data_written = false;
                state.losses.committed();
                state.work.has_committed(superblock);
                self.publish(state);
                state.work.hand_back(&self.manager)
            }
            Err(error) => self.failed(state, error, reached),
        }
    }

    /// Reservations were all that was done, or what was done was undone.
    fn drop_unused(&self, state: &mut State) -> Result<()> {
        if self.manager.look(|txn| Ok(txn.has_shadows()))? {
            return self.roll_back(state);
        }
        Ok(())
    }

    fn flush_data(&self) -> Result<()> {
        if sabotaged("no-data-flush") {
            return Ok(());
        }
        match &self.data {
            Some(data) => data.flush().map_err(|error| {
                data.note_poisoned();
                Error::Poisoned(error.to_string())
            }),
            None => Ok(()),
        }
    }

    /// Both halves of a commit; the new block 0. Data and metadata are made durable
    /// side by side, and both before block 0 is touched. `reached`: it was.
    fn write_commit(&self, state: &mut State, reached: &mut bool) -> Result<Box<BlockData>> {
        let work = &mut state.work;
        self.change(|txn| work.prepare(txn))?;
        let mut superblock = Box::new(BlockData::zeroed());
        thread::scope(|scope| {
            let mut flushing = None;
            if state.data_written && !sabotaged("late-data-flush") {
                let builder = thread::Builder::new().name("thinmeta-flush".to_owned());
                match builder.spawn_scoped(scope, || self.flush_data()) {
                    Ok(helper) => flushing = Some(helper),
                    // Without a thread it comes first.
                    Err(_) => self.flush_data()?,
                }
            }
            self.manager
                .commit_with(&SUPERBLOCK_VALIDATOR, 0, |guard, space| {
                    if let Some(helper) = flushing.take() {
                        let gone =
                            || Err(Error::usage("the thread that flushed data has panicked"));
                        helper.join().unwrap_or_else(|_| gone())?;
                    }
                    work.fill(guard, space);
                    superblock.bytes_mut().copy_from_slice(guard.bytes());
                    *reached = true;
                    Ok(())
                })
        })?;
        if sabotaged("late-data-flush") {
            self.flush_data()?;
        }
        Ok(superblock)
    }

    /// Goes back to the last commit. What failed before block 0 was touched is told
    /// to whoever opens the pool next, if that can be written; after it, nothing is
    /// known and nothing more is written.
    pub(super) fn failed(&self, state: &mut State, error: Error, reached: bool) -> Result<()> {
        let back = self.roll_back(state);
        state.losses.taken_back(&error);
        // Space is no reason to have anything checked; nor is a call out of order.
        let harmless = matches!(error, Error::NoSpace { .. } | Error::Usage(_));
        if harmless && back.is_ok() {
            return Err(error);
        }
        let told = !reached && !harmless && self.set_needs_check(state).is_ok();
        let reason = format!("a commit failed: {error}");
        if state.mode == Mode::Write {
            state.mode = Mode::ReadOnly(reason);
        }
        self.publish(state);
        Err(Error::CommitFailed {
            source: Box::new(error),
            needs_check_set: told,
        })
    }

    /// Writes the superblock of the last commit again, with the flag: the one thing
    /// that is written after a failure.
    fn set_needs_check(&self, state: &mut State) -> Result<()> {
        let mut block = state.work.committed.clone();
        let superblock: &mut Superblock = block.view_mut();
        superblock.flags = (superblock.flags.get() | NEEDS_CHECK).into();
        SUPERBLOCK_VALIDATOR.seal(BlockNr(0), &mut block);
        let device = self.manager.blocks().device();
        device.write_all_at(block.bytes(), 0)?;
        device.flush()?;
        state.work.committed = block;
        Ok(())
    }

    /// Takes back what was not committed.
    pub(super) fn roll_back(&self, state: &mut State) -> Result<()> {
        let blocks = Arc::clone(self.manager.blocks());
        let back = self
            .manager
            .abort()
            .and_then(|()| state.work.go_back(&blocks));
        let Err(error) = back else {
            return Ok(());
        };
        let reason = error.to_string();
        state.mode = match &error {
            // The last commit can be read as before.
            Error::Poisoned(_) => Mode::ReadOnly(reason),
            _ => Mode::Failed(reason),
        };
        self.publish(state);
        Err(error)
    }
}
