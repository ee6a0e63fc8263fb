//! Mapping virtual blocks to data blocks, and unmapping them.

use std::ops::Range;

use rustc_hash::FxHashMap;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::refs::WORD;
use super::work::Work;
use crate::btree;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Mapping, MappingValue};
use crate::transaction::Transaction;

/// Mappings of a batch that are sorted at once: 32 bytes each.
const MOST_ROWS: usize = 1 << 19;

/// Where a batch comes from: fills the two columns with the rows of a range.
pub type Rows<'r> = &'r mut dyn FnMut(Range<usize>, &mut Vec<u64>, &mut Vec<u64>) -> Result<()>;

impl Work {
    fn check_virtual_block(&self, virtual_block: u64) -> Result<()> {
        let blocks = self.superblock().virtual_blocks();
        if virtual_block < blocks {
            return Ok(());
        }
        let text =
            format!("a volume has at most {blocks} blocks: there is no block {virtual_block}");
        Err(Error::Usage(text))
    }

    fn check_data_block(&self, data_block: u64) -> Result<()> {
        let blocks = self.map.nr_blocks();
        if data_block < blocks {
            return Ok(());
        }
        let text = format!("the data device has {blocks} blocks: there is no block {data_block}");
        Err(Error::Usage(text))
    }

    /// A block that was freed is still the last commit's: who writes to it would
    /// change what a crash goes back to.
    fn check_not_freed(&self, data_block: u64) -> Result<()> {
        if !self.map.was_freed(data_block) {
            return Ok(());
        }
        let text = format!(
            "data block {data_block} was freed in this transaction, or is being read of an older \
             commit; it can be used after that"
        );
        Err(Error::Usage(text))
    }

    /// Maps a block. The mapping has a reference of its own on the data block,
    /// which takes over a reservation where there is one.
    pub fn insert(
        &mut self,
        txn: &mut Transaction,
        id: u64,
        virtual_block: u64,
        data_block: u64,
    ) -> Result<bool> {
        self.check_virtual_block(virtual_block)?;
        self.check_data_block(data_block)?;
        let live = self.device(txn, id)?;
        self.check_room(txn)?;
        let old = self.find(txn, &live, virtual_block)?;
        let same = old.is_some_and(|old| old.data_block() == data_block);
        if same && old.is_some_and(|old| old.time() < live.info.snapshotted_time) {
            // A snapshot may have it too. With a new time it would be written in its place.
            return Ok(false);
        }
        let reserved = self.reservations.contains(&data_block);
        if !same && !reserved {
            self.check_not_freed(data_block)?;
            self.map.inc(txn, data_block..data_block + 1)?;
        }
        let value = U64::new(MappingValue::new(data_block, self.time).0);
        let added = self.change_mappings(txn, id, true, |txn, tree, root| {
            let done = btree::insert(txn, tree, root, &[virtual_block], value.as_bytes())?;
            Ok((done.root, done.added))
        })?;
        if reserved {
            self.reservations.remove(&data_block);
        }
        self.count_mappings(id, added.into(), 0)?;
        Ok(added)
    }

    /// Refuses a batch of `len` mappings that could not be made.
    pub fn check_batch(
        &self,
        txn: &Transaction,
        id: u64,
        len: usize,
        rows: Rows<'_>,
    ) -> Result<()> {
        self.device(txn, id)?;
        self.check_room(txn)?;
        let freed = self.map.has_freed();
        let (mut keys, mut data) = (Vec::new(), Vec::new());
        for part in parts(len) {
            rows(part, &mut keys, &mut data)?;
            self.check_rows(&keys, &data)?;
            if freed {
                let mut blocks = data
                    .iter()
                    .filter(|block| !self.reservations.contains(block));
                blocks.try_for_each(|block| self.check_not_freed(*block))?;
            }
        }
        Ok(())
    }

    fn check_rows(&self, keys: &[u64], data: &[u64]) -> Result<()> {
        // One comparison for many: the worst one tells.
        let worst = |column: &[u64]| column.iter().copied().max().unwrap_or(0);
        if !keys.is_empty() {
            self.check_virtual_block(worst(keys))?;
            self.check_data_block(worst(data))?;
        }
        Ok(())
    }

    /// Maps a batch that was checked; of a block that comes twice the last counts.
    /// How many virtual blocks were not mapped before.
    pub fn insert_batch(
        &mut self,
        txn: &mut Transaction,
        id: u64,
        len: usize,
        rows: Rows<'_>,
    ) -> Result<u64> {
        let mut added = 0;
        for part in parts(len) {
            let (mut keys, mut data) = (Vec::new(), Vec::new());
            rows(part, &mut keys, &mut data)?;
            self.check_rows(&keys, &data)?;
            for block in &data {
                if self.reservations.is_empty() || !self.reservations.remove(block) {
                    self.pending.gain(*block);
                }
            }
            self.pending.settle(txn, &mut self.map)?;
            let kept = self.shared_with_snapshots(txn, id, &keys, &data)?;
            for (row, block) in data.iter_mut().enumerate() {
                let value = MappingValue::new(*block, self.time);
                let value = kept.get(&row).copied().unwrap_or(value);
                *block = value.0.to_le();
            }
            let more = self.change_mappings(txn, id, false, |txn, tree, root| {
                let done = btree::insert_batch(txn, tree, root, &keys, data.as_bytes())?;
                Ok((done.root, done.added))
            })?;
            self.count_mappings(id, more, 0)?;
            added += more;
        }
        Ok(added)
    }

    /// Rows of a batch that map a block to where it is mapped already, and where a
    /// snapshot may have it too: they keep the time that says so.
    fn shared_with_snapshots(
        &self,
        txn: &Transaction,
        id: u64,
        keys: &[u64],
        data: &[u64],
    ) -> Result<FxHashMap<usize, MappingValue>> {
        let live = self.device(txn, id)?;
        let mut kept = FxHashMap::default();
        if live.info.snapshotted_time == 0 || live.info.mapped_blocks == 0 {
            return Ok(kept);
        }
        let mut values = vec![0; keys.len() * WORD];
        let mut found = vec![0; keys.len()];
        let (blocks, task) = (txn.blocks(), Task::default());
        btree::get_many(
            blocks,
            live.root,
            WORD,
            keys,
            &mut values,
            &mut found,
            &task,
        )?;
        let old = values.as_chunks::<WORD>().0.iter().zip(&found).zip(data);
        for (row, ((old, found), block)) in old.enumerate() {
            let old = MappingValue(u64::from_le_bytes(*old));
            let same = *found != 0 && old.data_block() == *block;
            if same && old.time() < live.info.snapshotted_time {
                kept.insert(row, old);
            }
        }
        Ok(kept)
    }

    /// Unmaps a block; whether it was mapped.
    pub fn remove(&mut self, txn: &mut Transaction, id: u64, virtual_block: u64) -> Result<bool> {
        let live = self.device(txn, id)?;
        if self.find(txn, &live, virtual_block)?.is_none() {
            return Ok(false);
        }
        self.change_mappings(txn, id, true, |txn, tree, root| {
            let root = btree::remove(txn, tree, root, &[virtual_block])?.unwrap_or(root);
            Ok((root, ()))
        })?;
        self.count_mappings(id, 0, 1)?;
        Ok(true)
    }

    /// Unmaps a range; how many blocks of it were mapped.
    pub fn remove_range(
        &mut self,
        txn: &mut Transaction,
        id: u64,
        range: Range<u64>,
    ) -> Result<u64> {
        if range.start > range.end {
            let text = format!("a range from {} to {} is reversed", range.start, range.end);
            return Err(Error::Usage(text));
        }
        let live = self.device(txn, id)?;
        let next = btree::next(txn.blocks(), live.root, size_of::<U64>(), range.start)?;
        if next.is_none_or(|(key, _)| key >= range.end) {
            return Ok(0);
        }
        let removed = self.change_mappings(txn, id, true, |txn, tree, root| {
            btree::remove_range(txn, tree, root, &[], range)
        })?;
        self.count_mappings(id, 0, removed)?;
        Ok(removed)
    }

    /// What a virtual block is mapped to, as of now.
    pub fn mapping(
        &self,
        txn: &Transaction,
        id: u64,
        virtual_block: u64,
    ) -> Result<Option<Mapping>> {
        let live = self.device(txn, id)?;
        let found = self.find(txn, &live, virtual_block)?;
        Ok(found.map(|value| Mapping {
            data_block: value.data_block(),
            time: value.time(),
            shared: live.info.snapshotted_time > value.time(),
        }))
    }

    /// Hands out a data block, for the next mapping to it to take. What is not
    /// taken is free again after the commit.
    pub fn allocate_data(&mut self, txn: &mut Transaction) -> Result<u64> {
        self.check_room(txn)?;
        let block = self.map.new_block(txn)?;
        self.reservations.insert(block);
        Ok(block)
    }

    /// Gives a reservation back.
    pub fn give_back(&mut self, txn: &mut Transaction, data_block: u64) -> Result<()> {
        if self.reservations.remove(&data_block) {
            self.map.dec(txn, data_block..data_block + 1)?;
        }
        Ok(())
    }
}

fn parts(len: usize) -> impl Iterator<Item = Range<usize>> {
    let begins = (0..len).step_by(MOST_ROWS);
    begins.map(move |begin| begin..len.min(begin + MOST_ROWS))
}
