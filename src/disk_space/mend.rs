//! A map that is put right by somebody who knows the counts.
//!
//! Either kind of map is changed here as one beside the transaction: also the one that
//! counts metadata, since the transaction has its counts from elsewhere.

use std::sync::Arc;

use super::SpaceMapRoot;
use super::bitmap::{BITMAP_VALIDATOR, MANY};
use super::core::{Change, Core, Index, bitmaps_for, change_sorted};
use super::data::DataMap;
use super::index::{INDEX_VALIDATOR, IndexEntry, MAX_METADATA_BITMAPS, MetadataIndex};
use crate::block::{BlockData, BlockManager};
use crate::error::Result;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// A map whose counts and sums are set.
pub(crate) struct Mender {
    map: DataMap,
}

impl Mender {
    /// The map that counts data blocks.
    pub fn data(root: &SpaceMapRoot) -> Self {
        let map = DataMap::of(root);
        Self { map }
    }

    /// The map that counts metadata blocks, whose index block the transaction makes its
    /// own: it will have to be written.
    ///
    /// # Errors
    /// What shadowing says.
    pub fn metadata(txn: &mut Transaction, root: &SpaceMapRoot) -> Result<Self> {
        let old = BlockNr(root.bitmap_root.get());
        let (guard, _never_shared) = txn.shadow_block(old, &INDEX_VALIDATOR)?;
        let count = usize::try_from(bitmaps_for(root.nr_blocks.get())).unwrap_or(usize::MAX);
        let entries = &guard.view::<MetadataIndex>().entries;
        let index = Index::Block {
            at: guard.location(),
            entries: entries[..count.min(MAX_METADATA_BITMAPS)].to_vec(),
            changed: true,
        };
        drop(guard);
        let mut map = DataMap::of(root);
        map.core = Core::new("metadata", root, index);
        Ok(Self { map })
    }

    /// Where a bitmap is, and the sums that are kept of it.
    ///
    /// # Errors
    /// What reading the index says.
    pub fn entry(&self, blocks: &Arc<BlockManager>, bitmap: u64) -> Result<IndexEntry> {
        self.map.core.entry(blocks, bitmap)
    }

    /// A bitmap as it is now.
    ///
    /// # Errors
    /// What reading says.
    pub fn bitmap(&self, blocks: &Arc<BlockManager>, bitmap: u64) -> Result<Arc<BlockData>> {
        let at = self.entry(blocks, bitmap)?.blocknr.get();
        blocks.read(BlockNr(at), &BITMAP_VALIDATOR)
    }

    /// The count of a block whose entry says three or more.
    ///
    /// # Errors
    /// What reading says.
    pub fn many(&self, blocks: &Arc<BlockManager>, block: u64) -> Result<u32> {
        let count = self.map.core.stored_count(blocks, block)?;
        debug_assert!(count >= MANY);
        Ok(count)
    }

    /// Gives each of some blocks, which ascend, the same count.
    ///
    /// # Errors
    /// What changing a count says.
    pub fn set(&mut self, txn: &mut Transaction, blocks: &[u64], count: u32) -> Result<()> {
        change_sorted(&mut self.map.core, txn, blocks, Change::Set(count))
    }

    /// Replaces the sums of a bitmap.
    pub fn set_sums(&mut self, bitmap: u64, mut entry: IndexEntry, free: u32, first_free: u32) {
        entry.nr_free = free.into();
        entry.none_free_before = first_free.into();
        self.map.core.set_entry(bitmap, entry);
    }

    /// Writes the data map's index entries that changed. Allocates.
    ///
    /// # Errors
    /// What inserting says.
    pub fn write_index_tree(&mut self, txn: &mut Transaction) -> Result<()> {
        self.map.commit(txn)
    }

    /// Fills in the metadata map's index block, when nothing more is allocated.
    ///
    /// # Errors
    /// What a write lock says.
    pub fn write_index_block(&mut self, blocks: &Arc<BlockManager>) -> Result<()> {
        let Index::Block { at, entries, .. } = &self.map.core.index else {
            return Ok(());
        };
        let mut guard = blocks.write_lock(*at, &INDEX_VALIDATOR)?;
        let places = &mut guard.view_mut::<MetadataIndex>().entries;
        for (place, entry) in places.iter_mut().zip(entries) {
            *place = *entry;
        }
        Ok(())
    }

    /// The root, with so many blocks allocated.
    pub fn root(&self, allocated: u64) -> SpaceMapRoot {
        SpaceMapRoot {
            nr_allocated: allocated.into(),
            ..self.map.root()
        }
    }
}
