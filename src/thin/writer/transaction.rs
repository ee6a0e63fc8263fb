//! A change of a pool, all of it or nothing.

use std::ops::Range;
use std::sync::Arc;

use super::mappings::Rows;
use super::work::Work;
use super::{Mutator, PoolWriter, State, check_data_size, free_blocks, grow};
use crate::error::{Error, Result};
use crate::thin::{DeviceInfo, Mapping};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// The open transaction of a pool. Dropping it rolls it back. Each method that
/// changes something is either done or has left no trace; one that failed half-way
/// leaves a transaction that answers everything with [`Error::Aborted`].
pub struct PoolTransaction {
    writer: Arc<PoolWriter>,
    number: u64,
}

impl PoolTransaction {
    pub(super) fn new(writer: &Arc<PoolWriter>, number: u64) -> Self {
        Self {
            writer: Arc::clone(writer),
            number,
        }
    }

    /// The pool that it changes.
    #[must_use]
    pub fn writer(&self) -> &Arc<PoolWriter> {
        &self.writer
    }

    fn check(&self, state: &State) -> Result<()> {
        if state.closed || state.mutator != Mutator::Transaction(self.number) {
            return Err(Error::usage("the transaction has ended"));
        }
        Ok(())
    }

    fn change<T>(&self, work: impl FnOnce(&mut Work, &mut Transaction) -> Result<T>) -> Result<T> {
        let mut state = self.writer.lock()?;
        self.check(&state)?;
        let own = &mut state.work;
        own.notice_readers(&self.writer.manager);
        self.writer.change(|txn| work(own, txn))
    }

    fn look<T>(&self, look: impl FnOnce(&Work, &Transaction) -> Result<T>) -> Result<T> {
        let mut state = self.writer.lock()?;
        self.check(&state)?;
        state.work.notice_readers(&self.writer.manager);
        self.writer.manager.look(|txn| look(&state.work, txn))
    }

    /// Whether it was committed or rolled back.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let state = self.writer.lock();
        !state.is_ok_and(|state| self.check(&state).is_ok())
    }

    /// Makes a device without mappings.
    ///
    /// # Errors
    /// [`Error::DeviceExists`], [`Error::Usage`] for an id of more than 24 bits,
    /// [`Error::NoSpace`].
    pub fn create_thin(&self, id: u64) -> Result<()> {
        self.change(|work, txn| work.create_thin(txn, id))
    }

    /// Makes a device that is what another is now, at the same cost whatever its size.
    ///
    /// # Errors
    /// As [`Self::create_thin`]; [`Error::NoSuchDevice`]; [`Error::Usage`] when the
    /// pool's clock would pass 24 bits.
    pub fn create_snapshot(&self, id: u64, origin: u64) -> Result<()> {
        self.change(|work, txn| work.create_snapshot(txn, id, origin))
    }

    /// Takes a device out.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], [`Error::Damaged`].
    pub fn delete(&self, id: u64) -> Result<()> {
        self.change(|work, txn| work.delete(txn, id))
    }

    /// Maps a virtual block to a data block; whether it was not mapped before. The
    /// mapping takes a reference of its own, or that of a reservation.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Usage`] past the end of either device, and
    /// for a block that was freed in this transaction; [`Error::NoSpace`].
    pub fn insert(&self, id: u64, virtual_block: u64, data_block: u64) -> Result<bool> {
        self.change(|work, txn| work.insert(txn, id, virtual_block, data_block))
    }

    /// Maps `len` blocks, given by `rows`; of a virtual block that comes twice the
    /// last mapping counts. How many were not mapped before.
    ///
    /// # Errors
    /// As [`Self::insert`], without a trace, and what `rows` says.
    pub fn insert_many(&self, id: u64, len: usize, rows: Rows<'_>) -> Result<u64> {
        let rows: Rows<'_> = &mut |part, virtual_blocks, data_blocks| {
            self.writer
                .call_outside(|| rows(part, virtual_blocks, data_blocks))
        };
        self.look(|work, txn| work.check_batch(txn, id, len, rows))?;
        self.change(|work, txn| work.insert_batch(txn, id, len, rows))
    }

    /// Hands out a data block that is free now and was at the last commit. The next
    /// mapping to it takes it over; the commit takes it back.
    ///
    /// # Errors
    /// [`Error::NoSpace`].
    pub fn allocate_data(&self) -> Result<u64> {
        let mut state = self.writer.lock()?;
        self.check(&state)?;
        let own = &mut state.work;
        own.notice_readers(&self.writer.manager);
        let answer = self.writer.change(|txn| own.allocate_data(txn));
        state.note_space(&answer);
        answer
    }

    /// Unmaps a block; whether it was mapped.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], [`Error::Damaged`].
    pub fn remove(&self, id: u64, virtual_block: u64) -> Result<bool> {
        self.change(|work, txn| work.remove(txn, id, virtual_block))
    }

    /// Unmaps a range; how many blocks of it were mapped.
    ///
    /// # Errors
    /// As [`Self::remove`]; [`Error::Usage`] for a range that is reversed.
    pub fn remove_range(&self, id: u64, range: Range<u64>) -> Result<u64> {
        self.change(|work, txn| work.remove_range(txn, id, range))
    }

    /// Sets userspace's own number.
    ///
    /// # Errors
    /// [`Error::StaleTransaction`] when it is not the expected one.
    pub fn set_transaction_id(&self, expected: u64, new: u64) -> Result<()> {
        self.change(|work, _| {
            let found = work.trans_id;
            if found != expected {
                return Err(Error::StaleTransaction { found, expected });
            }
            if found != new {
                work.trans_id = new;
                work.changed = true;
            }
            Ok(())
        })
    }

    /// Holds a metadata snapshot of what this transaction commits; its block.
    ///
    /// # Errors
    /// [`Error::MetadataSnapshotHeld`], [`Error::NoSpace`].
    pub fn reserve_metadata_snapshot(&self) -> Result<BlockNr> {
        self.change(Work::reserve_snapshot)
    }

    /// Lets go of the metadata snapshot.
    ///
    /// # Errors
    /// [`Error::NoMetadataSnapshot`], [`Error::Damaged`].
    pub fn release_metadata_snapshot(&self) -> Result<()> {
        self.change(Work::release_snapshot)
    }

    /// Makes the data device's space larger; `blocks` in all. An image file is made
    /// longer, and stays so.
    ///
    /// # Errors
    /// [`Error::Usage`] for less than there is, or more than the device has;
    /// [`Error::NoSpace`] when the metadata cannot hold the counts.
    pub fn grow_data(&self, blocks: u64) -> Result<()> {
        let superblock = self.look(|work, txn| {
            work.check_data_growth(txn, blocks)?;
            Ok(*work.superblock())
        })?;
        if let Some(data) = &self.writer.data {
            let bytes = blocks.checked_mul(superblock.data_block_bytes());
            if let Some(bytes) = bytes {
                data.grow_to(bytes)?;
            }
            check_data_size(&**data, &superblock, blocks)?;
            // The new size has to be as durable as the number of blocks.
            self.writer.lock()?.data_written = true;
        }
        self.change(|work, txn| {
            let more = work.data_growth(blocks)?;
            work.grow_data(txn, more)
        })
    }

    /// Makes the metadata device's space larger; `blocks` in all. A file is made
    /// longer, and stays so.
    ///
    /// # Errors
    /// [`Error::Usage`] for less than there is, more than the device has, or more
    /// than 4 161 600; [`Error::NoSpace`] when the new blocks cannot even hold
    /// their own counts.
    pub fn grow_metadata(&self, blocks: u64) -> Result<()> {
        let now = self.look(|_, txn| Ok(txn.nr_blocks()))?;
        grow::make_room(self.writer.manager.blocks(), now, blocks)?;
        self.change(|work, txn| {
            let more = grow::metadata_growth(txn.nr_blocks(), blocks)?;
            work.grow_metadata(txn, more)
        })
    }

    /// One more reference on each data block of a range, so that none is used again
    /// when it is unmapped.
    ///
    /// # Errors
    /// [`Error::Usage`] for blocks that are not in use or not there.
    pub fn inc_data(&self, blocks: Range<u64>) -> Result<()> {
        self.change(|work, txn| work.hold_data(txn, blocks))
    }

    /// Drops references that [`Self::inc_data`] took, in this transaction or before.
    ///
    /// # Errors
    /// [`Error::Usage`] for blocks that are not held.
    pub fn dec_data(&self, blocks: Range<u64>) -> Result<()> {
        self.change(|work, txn| work.release_data(txn, blocks))
    }

    /// How many references a data block has.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end.
    pub fn data_count(&self, block: u64) -> Result<u32> {
        self.look(|work, txn| work.map.get_count(txn, block))
    }

    /// Whether a data block has more than one reference.
    ///
    /// # Errors
    /// [`Error::Usage`] past the end.
    pub fn block_is_shared(&self, block: u64) -> Result<bool> {
        self.look(|work, txn| work.map.count_is_more_than_one(txn, block))
    }

    /// Ids of all devices, ascending.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn device_ids(&self) -> Result<Vec<u64>> {
        self.look(Work::ids)
    }

    /// A device as it is now.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], [`Error::Damaged`].
    pub fn device(&self, id: u64) -> Result<DeviceInfo> {
        self.look(|work, txn| Ok(work.device(txn, id)?.info))
    }

    /// What a virtual block is mapped to.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`], [`Error::Damaged`].
    pub fn find(&self, id: u64, virtual_block: u64) -> Result<Option<Mapping>> {
        self.look(|work, txn| work.mapping(txn, id, virtual_block))
    }

    /// Whether a device is another than at the last commit.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`].
    pub fn is_changed(&self, id: u64) -> Result<bool> {
        self.look(|work, txn| {
            work.device(txn, id)?;
            Ok(work.is_changed(id))
        })
    }

    /// Whether there is anything to commit.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has ended.
    pub fn changed(&self) -> Result<bool> {
        self.look(|work, _| Ok(work.changed))
    }

    /// The transaction id, the clock, and the block of the metadata snapshot (0: none).
    ///
    /// # Errors
    /// [`Error::Usage`] when it has ended.
    pub fn numbers(&self) -> Result<(u64, u32, u64)> {
        self.look(|work, _| Ok((work.trans_id, work.time, work.held_root)))
    }

    /// Free blocks of data and of metadata, as a kernel counts them.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has ended.
    pub fn free_blocks(&self) -> Result<(u64, u64)> {
        self.look(|work, txn| Ok(free_blocks(work, txn)))
    }

    /// Data blocks, those of them that have a reference now (reservations are none),
    /// and metadata blocks. What was freed counts, though it is not used again
    /// before the commit.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has ended.
    pub fn sizes(&self) -> Result<(u64, u64, u64)> {
        self.look(|work, txn| {
            let reserved = work.reservations.len() as u64;
            let used = work.map.root().nr_allocated.get().saturating_sub(reserved);
            Ok((work.map.nr_blocks(), used, txn.nr_blocks()))
        })
    }

    /// Makes all changes durable, at once. It has ended then, whatever happens:
    /// what fails has been rolled back.
    ///
    /// # Errors
    /// [`Error::CommitFailed`], [`Error::NoSpace`], [`Error::Aborted`] after a
    /// change that failed half-way.
    pub fn commit(&self) -> Result<()> {
        let mut state = self.writer.lock()?;
        self.check(&state)?;
        state.mutator = Mutator::None;
        if let Some(cause) = self.writer.manager.aborted() {
            if let Err(poisoned) = self.writer.manager.blocks().check_poison() {
                // A block was written early, and that failed.
                return self.writer.failed(&mut state, poisoned, false);
            }
            self.writer.roll_back(&mut state)?;
            return Err(Error::Aborted(cause));
        }
        self.writer.commit(&mut state)
    }

    /// Takes all changes back.
    ///
    /// # Errors
    /// [`Error::Usage`] when it has ended; what reading the last commit says, after
    /// which the pool has failed.
    pub fn abort(&self) -> Result<()> {
        let mut state = self.writer.lock()?;
        self.check(&state)?;
        state.mutator = Mutator::None;
        self.writer.roll_back(&mut state)
    }
}

impl State {
    /// Remembers that a data block was wanted and none was there.
    pub(super) fn note_space<T>(&mut self, answer: &Result<T>) {
        match answer {
            Err(Error::NoSpace { space: "data", .. }) => self.out_of_data = true,
            Ok(_) if self.work.map.nr_free() > 0 => self.out_of_data = false,
            _ => {}
        }
    }
}

impl Drop for PoolTransaction {
    fn drop(&mut self) {
        // Nobody is left to be told; the next call says it again.
        let _ = self.abort();
    }
}
