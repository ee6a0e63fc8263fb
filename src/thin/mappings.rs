//! Mapping values, and runs of them.

use zerocopy::little_endian::U64;

use crate::btree::{Cursor, LeafSlice};
use crate::error::{Damage, Result};
use crate::units::BlockNr;

/// Bits of a mapping value that hold the time.
const TIME_BITS: u32 = 24;

/// The last time that a mapping can hold.
pub const MAX_TIME: u32 = (1 << TIME_BITS) - 1;

/// A value of a device's mapping tree: `(data_block << 24) | time`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingValue(pub u64);

impl MappingValue {
    /// A mapping to `data_block`, which has 40 bits, made at `time`, which has 24.
    #[must_use]
    pub fn new(data_block: u64, time: u32) -> Self {
        Self(data_block << TIME_BITS | u64::from(time))
    }

    /// Where the block lies on the data device, in data blocks.
    #[must_use]
    pub fn data_block(self) -> u64 {
        self.0 >> TIME_BITS
    }

    /// The pool's clock when the mapping was made.
    #[must_use]
    pub fn time(self) -> u32 {
        u32::try_from(self.0 & ((1 << TIME_BITS) - 1)).unwrap_or_default()
    }
}

/// One virtual block's mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Where it lies, in data blocks.
    pub data_block: u64,
    /// The pool's clock when it was mapped.
    pub time: u32,
    /// Whether a snapshot may share it, by the time rule: never false for a
    /// shared block, true for one whose other owner is gone.
    pub shared: bool,
}

/// Mapped blocks that follow each other in the volume and in the data, of one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// First virtual block.
    pub virtual_begin: u64,
    /// First data block.
    pub data_begin: u64,
    /// Blocks.
    pub length_blocks: u64,
    /// The pool's clock when they were mapped.
    pub time: u32,
}

impl Run {
    /// One block.
    #[must_use]
    pub fn single(virtual_block: u64, value: u64) -> Self {
        let value = MappingValue(value);
        Self {
            virtual_begin: virtual_block,
            data_begin: value.data_block(),
            length_blocks: 1,
            time: value.time(),
        }
    }

    /// Takes in the run that follows, if it does.
    #[must_use]
    pub fn join(&mut self, next: &Self) -> bool {
        let follows = self.virtual_begin.checked_add(self.length_blocks)
            == Some(next.virtual_begin)
            && self.data_begin.checked_add(self.length_blocks) == Some(next.data_begin)
            && self.time == next.time;
        if follows {
            self.length_blocks += next.length_blocks;
        }
        follows
    }
}

/// What every mapping of a pool has to keep to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MappingLimits {
    /// Data blocks of the pool.
    pub data_blocks: u64,
}

impl MappingLimits {
    /// Refuses a mapping that points past the data device.
    pub fn check(&self, at: BlockNr, virtual_block: u64, value: u64) -> Result<(), Damage> {
        let data_block = MappingValue(value).data_block();
        if data_block < self.data_blocks {
            return Ok(());
        }
        let expected = format!(
            "below {} for virtual block {virtual_block}",
            self.data_blocks
        );
        Err(Damage::new(
            at,
            "mapping",
            "data block",
            data_block,
            expected,
        ))
    }
}

/// Runs of a device's tree, in order.
pub struct RunCursor {
    leaves: Cursor,
    leaf: Option<LeafSlice>,
    next: usize,
    limits: MappingLimits,
}

impl RunCursor {
    pub(crate) fn new(leaves: Cursor, limits: MappingLimits) -> Self {
        Self {
            leaves,
            leaf: None,
            next: 0,
            limits,
        }
    }

    /// Appends runs to `out` until it holds `most` or the end is reached;
    /// `false` at the end. The last run may go on in the next call's first.
    pub fn fill(&mut self, out: &mut Vec<Run>, most: usize) -> Result<bool> {
        while out.len() < most {
            if self.leaf.is_none() {
                self.leaf = self.leaves.next_leaf()?;
                self.next = 0;
            }
            let Some(leaf) = &self.leaf else {
                return Ok(false);
            };
            let (keys, values) = leaf.entries::<U64>()?;
            while let (Some(key), Some(value)) = (keys.get(self.next), values.get(self.next)) {
                self.limits.check(leaf.location(), key.get(), value.get())?;
                let single = Run::single(key.get(), value.get());
                if !out.last_mut().is_some_and(|last| last.join(&single)) {
                    if out.len() == most {
                        return Ok(true);
                    }
                    out.push(single);
                }
                self.next += 1;
            }
            self.leaf = None;
        }
        Ok(true)
    }

    /// The next leaf whole, every mapping of it checked.
    pub fn next_leaf(&mut self) -> Result<Option<LeafSlice>> {
        let Some(leaf) = self.leaves.next_leaf()? else {
            return Ok(None);
        };
        let (keys, values) = leaf.entries::<U64>()?;
        for (key, value) in keys.iter().zip(values) {
            self.limits.check(leaf.location(), key.get(), value.get())?;
        }
        Ok(Some(leaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_joins_only_what_follows_in_both_spaces_and_time() {
        let value = |data: u64, time: u64| data << TIME_BITS | time;
        let mut run = Run::single(5, value(9, 1));
        assert!(run.join(&Run::single(6, value(10, 1))));
        for (key, data, time) in [(8, 11, 1), (7, 12, 1), (7, 11, 2)] {
            assert!(!run.join(&Run::single(key, value(data, time))));
        }
        assert_eq!(run.length_blocks, 2);
    }
}
