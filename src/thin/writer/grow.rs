//! Making a pool larger.

use super::work::Work;
use crate::block::BlockManager;
use crate::disk_space::MAX_DATA_BLOCKS;
use crate::error::{Error, Result};
use crate::transaction::Transaction;
use crate::units::{BLOCK_BYTES, MAX_METADATA_BLOCKS};

fn more(what: &str, now: u64, blocks: u64, most: u64) -> Result<u64> {
    if blocks > most {
        let text = format!("{what} has at most {most} blocks, not {blocks}");
        return Err(Error::Usage(text));
    }
    blocks.checked_sub(now).ok_or_else(|| {
        let text = format!("{what} has {now} blocks, and cannot shrink to {blocks}");
        Error::Usage(text)
    })
}

impl Work {
    /// How many blocks the data device would gain.
    pub fn data_growth(&self, blocks: u64) -> Result<u64> {
        more(
            "the data device",
            self.map.nr_blocks(),
            blocks,
            MAX_DATA_BLOCKS,
        )
    }

    /// Refuses a growth of the data device that cannot be, before anything is made longer.
    pub fn check_data_growth(&self, txn: &Transaction, blocks: u64) -> Result<()> {
        self.map.check_extend(txn, self.data_growth(blocks)?)
    }

    /// Adds data blocks at the end, which the data device has by now.
    pub fn grow_data(&mut self, txn: &mut Transaction, more: u64) -> Result<()> {
        if more > 0 {
            self.map.extend(txn, more)?;
            self.changed = true;
        }
        Ok(())
    }

    /// Adds metadata blocks at the end; `nr_blocks` in all, which the device has by now.
    pub fn grow_metadata(&mut self, txn: &mut Transaction, more: u64) -> Result<()> {
        if more > 0 {
            txn.extend(more)?;
            self.changed = true;
        }
        Ok(())
    }
}

/// How many blocks the metadata would gain.
pub(super) fn metadata_growth(now: u64, wanted: u64) -> Result<u64> {
    more("the metadata device", now, wanted, MAX_METADATA_BLOCKS)
}

/// Sees to it that the metadata device has so many blocks. A file is made longer, and
/// stays so.
pub(super) fn make_room(blocks: &BlockManager, now: u64, wanted: u64) -> Result<()> {
    if metadata_growth(now, wanted)? > 0 {
        blocks.device().grow_to(wanted * BLOCK_BYTES as u64)?;
        blocks.refresh_size()?;
    }
    Ok(())
}
