//! Making, snapshotting and deleting devices.

use super::refs::{DataRefs, RootRefs, WORD};
use super::work::{Work, details_tree, top_level};
use crate::btree::{self, Plain};
use crate::error::{Error, Result};
use crate::thin::{DeviceInfo, MAX_TIME};
use crate::transaction::Transaction;

/// The largest id of a device: it has 24 bits.
pub const MAX_DEVICE_ID: u64 = (1 << 24) - 1;

impl Work {
    fn check_new(&self, txn: &Transaction, id: u64) -> Result<()> {
        if id > MAX_DEVICE_ID {
            let text = format!("a device's id is at most {MAX_DEVICE_ID}, not {id}");
            return Err(Error::Usage(text));
        }
        if self.exists(txn, id)? {
            return Err(Error::DeviceExists(id));
        }
        self.check_room(txn)
    }

    /// A device without mappings.
    pub fn create_thin(&mut self, txn: &mut Transaction, id: u64) -> Result<()> {
        self.check_new(txn, id)?;
        let root = btree::empty(txn, WORD)?;
        self.set_root(txn, id, root)?;
        let info = DeviceInfo {
            id,
            mapped_blocks: 0,
            transaction_id: self.trans_id,
            creation_time: self.time,
            snapshotted_time: self.time,
        };
        self.set_details(txn, &info)?;
        self.note(info, root);
        Ok(())
    }

    /// A device that is what `origin` is now, whatever its size: both have its root.
    pub fn create_snapshot(&mut self, txn: &mut Transaction, id: u64, origin: u64) -> Result<()> {
        self.check_new(txn, id)?;
        let origin = self.device(txn, origin)?;
        if self.time >= MAX_TIME {
            let text =
                format!("the pool's clock is at {MAX_TIME}: no snapshot can be told any more");
            return Err(Error::Usage(text));
        }
        txn.inc(origin.root)?;
        self.set_root(txn, id, origin.root)?;
        let time = self.time + 1;
        let info = DeviceInfo {
            id,
            mapped_blocks: origin.info.mapped_blocks,
            transaction_id: self.trans_id,
            creation_time: time,
            snapshotted_time: time,
        };
        self.set_details(txn, &info)?;
        self.time = time;
        self.note(info, origin.root);
        let origin_info = DeviceInfo {
            snapshotted_time: time,
            ..origin.info
        };
        self.note(origin_info, origin.root);
        Ok(())
    }

    /// Takes a device out, with all that it has for itself.
    pub fn delete(&mut self, txn: &mut Transaction, id: u64) -> Result<()> {
        let live = self.device(txn, id)?;
        let (mut plain, mut roots) = (Plain, RootRefs);
        let removed = btree::remove(txn, &mut details_tree(&mut plain), self.details_root, &[id])?;
        self.details_root = removed.unwrap_or(self.details_root);
        let removed = btree::remove(txn, &mut top_level(&mut roots), self.mapping_root, &[id])?;
        self.mapping_root = removed.unwrap_or(self.mapping_root);
        let mut refs = DataRefs {
            map: &mut self.map,
            pending: &mut self.pending,
            takes_over: true,
        };
        btree::delete(txn, &mut refs.tree(), live.root)?;
        self.pending.settle(txn, &mut self.map)?;
        self.forget(id);
        Ok(())
    }
}
