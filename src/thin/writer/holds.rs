//! References on data blocks that a caller holds: so that a block which is unmapped
//! is not used again before the caller is done with it.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::work::Work;
use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// How often each data block is held. No disk knows: what is held when the process
/// ends has leaked.
#[derive(Clone, Default)]
pub(super) struct Holds(FxHashMap<u64, u32>);

impl Holds {
    fn of(&self, block: u64) -> u32 {
        self.0.get(&block).copied().unwrap_or(0)
    }

    fn add(&mut self, block: u64) {
        *self.0.entry(block).or_default() += 1;
    }

    fn drop_one(&mut self, block: u64) {
        match self.of(block) {
            0 => {}
            1 => drop(self.0.remove(&block)),
            more => drop(self.0.insert(block, more - 1)),
        }
    }
}

fn check(range: &Range<u64>, nr_blocks: u64) -> Result<()> {
    if range.start > range.end {
        let text = format!("a range from {} to {} is reversed", range.start, range.end);
        return Err(Error::Usage(text));
    }
    if range.end > nr_blocks {
        let text = format!("the data device has {nr_blocks} blocks, not {}", range.end);
        return Err(Error::Usage(text));
    }
    Ok(())
}

impl Work {
    /// One more reference on each block of a range, all of which are in use.
    pub fn hold_data(&mut self, txn: &mut Transaction, blocks: Range<u64>) -> Result<()> {
        check(&blocks, self.map.nr_blocks())?;
        if blocks.is_empty() {
            return Ok(());
        }
        self.check_room(txn)?;
        for block in blocks.clone() {
            if self.map.get_count(txn, block)? == 0 || self.reservations.contains(&block) {
                let text = format!("data block {block} is not in use: nothing is there to hold");
                return Err(Error::Usage(text));
            }
        }
        self.map.inc(txn, blocks.clone())?;
        blocks.for_each(|block| self.holds.add(block));
        self.changed = true;
        Ok(())
    }

    /// Drops references that [`Self::hold_data`] took. Those of mappings cannot be
    /// dropped but with the mapping.
    pub fn release_data(&mut self, txn: &mut Transaction, blocks: Range<u64>) -> Result<()> {
        check(&blocks, self.map.nr_blocks())?;
        if let Some(block) = blocks.clone().find(|block| self.holds.of(*block) == 0) {
            let text = format!("data block {block} is not held: inc_data comes before dec_data");
            return Err(Error::Usage(text));
        }
        if blocks.is_empty() {
            return Ok(());
        }
        self.map.dec(txn, blocks.clone())?;
        blocks.for_each(|block| self.holds.drop_one(block));
        self.changed = true;
        Ok(())
    }
}
