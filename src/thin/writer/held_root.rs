//! The metadata snapshot: a copy of the superblock whose trees nobody changes.

use zerocopy::FromZeros;

use super::refs::DataRefs;
use super::work::{Work, details_tree};
use crate::block::WriteGuard;
use crate::btree::{self, Plain};
use crate::error::{Error, Result};
use crate::thin::superblock::RootArea;
use crate::thin::{SUPERBLOCK_VALIDATOR, Superblock};
use crate::transaction::Transaction;
use crate::units::BlockNr;

impl Work {
    /// Takes a block for a metadata snapshot of what this transaction will commit.
    ///
    /// A kernel commits first and copies then. Here the copy is part of the commit
    /// that it shows: one transaction stays one.
    pub fn reserve_snapshot(&mut self, txn: &mut Transaction) -> Result<BlockNr> {
        if self.held_root != 0 {
            return Err(Error::MetadataSnapshotHeld(BlockNr(self.held_root)));
        }
        self.check_room(txn)?;
        let at = txn.new_block(&SUPERBLOCK_VALIDATOR)?.location();
        self.held_root = at.0;
        self.fresh_snapshot = Some(at);
        self.changed = true;
        Ok(at)
    }

    /// Fills in the copy, and gives it a reference of its own on both roots. Nothing
    /// but the space maps may be changed between this and the commit.
    pub fn write_snapshot(&mut self, txn: &mut Transaction) -> Result<()> {
        let Some(at) = self.fresh_snapshot else {
            return Ok(());
        };
        txn.inc(self.mapping_root)?;
        txn.inc(self.details_root)?;
        let mut guard = txn.blocks().write_lock_zero(at, &SUPERBLOCK_VALIDATOR)?;
        guard.bytes_mut().copy_from_slice(self.committed.bytes());
        self.fill_common(&mut guard);
        let copy: &mut Superblock = guard.view_mut();
        copy.held_root = 0.into();
        copy.data_space_map_root = RootArea::new_zeroed();
        copy.metadata_space_map_root = RootArea::new_zeroed();
        Ok(())
    }

    /// What the superblock and a metadata snapshot of it say alike.
    pub fn fill_common(&self, guard: &mut WriteGuard) {
        let superblock: &mut Superblock = guard.view_mut();
        superblock.time = self.time.into();
        superblock.trans_id = self.trans_id.into();
        superblock.data_mapping_root = self.mapping_root.0.into();
        superblock.device_details_root = self.details_root.0.into();
    }

    /// Lets go of the metadata snapshot, with all that it has for itself.
    pub fn release_snapshot(&mut self, txn: &mut Transaction) -> Result<()> {
        let at = BlockNr(self.held_root);
        if at.0 == 0 {
            let path = txn.blocks().device().path().to_owned();
            return Err(Error::NoMetadataSnapshot(path));
        }
        if self.fresh_snapshot == Some(at) {
            // Of this transaction: it has no trees yet.
            txn.dec(at)?;
        } else {
            self.release_committed(txn, at)?;
        }
        self.held_root = 0;
        self.fresh_snapshot = None;
        self.changed = true;
        Ok(())
    }

    fn release_committed(&mut self, txn: &mut Transaction, at: BlockNr) -> Result<()> {
        let copy = crate::thin::pool::read_snapshot(txn.blocks(), at)?;
        let mut refs = DataRefs {
            map: &mut self.map,
            pending: &mut self.pending,
            takes_over: true,
        };
        let mapping_root = BlockNr(copy.data_mapping_root.get());
        btree::delete(txn, &mut refs.levels(2), mapping_root)?;
        self.pending.settle(txn, &mut self.map)?;
        let mut plain = Plain;
        let details_root = BlockNr(copy.device_details_root.get());
        btree::delete(txn, &mut details_tree(&mut plain), details_root)?;
        txn.dec(at)
    }
}
