//! Counts of three and more, in the order of their blocks.

use zerocopy::little_endian::U32;

use crate::error::{Damage, Result};
use crate::walk::{Reader, each_leaf_in_order};

/// Leaves read ahead together.
const LEAVES_AHEAD: usize = 64;

/// Streams the overflow tree beside the bitmaps, a few leaves at a time.
pub(super) struct Overflow<'m> {
    leaves: &'m [u32],
    ahead: Vec<(u64, u32)>,
    next: usize,
    /// Leaves that could be read when the tree was walked and not now.
    pub damages: Vec<Damage>,
}

impl<'m> Overflow<'m> {
    pub fn new(leaves: &'m [u32]) -> Self {
        Self {
            leaves,
            ahead: Vec::new(),
            next: 0,
            damages: Vec::new(),
        }
    }

    /// Entries for blocks below `end`, and not given out before.
    pub fn below(
        &mut self,
        reader: &Reader<'_>,
        end: u64,
        out: &mut Vec<(u64, u32)>,
    ) -> Result<()> {
        out.clear();
        loop {
            while let Some(entry) = self.ahead.get(self.next) {
                if entry.0 >= end {
                    return Ok(());
                }
                out.push(*entry);
                self.next += 1;
            }
            if !self.read_ahead(reader)? {
                return Ok(());
            }
        }
    }

    /// The next entries that were not given out, some at a time; `false` at the end.
    pub fn next_batch(&mut self, reader: &Reader<'_>, out: &mut Vec<(u64, u32)>) -> Result<bool> {
        out.clear();
        while out.is_empty() {
            out.extend(self.ahead.drain(..).skip(std::mem::take(&mut self.next)));
            if out.is_empty() && !self.read_ahead(reader)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a few more leaves; `false` when there are none.
    fn read_ahead(&mut self, reader: &Reader<'_>) -> Result<bool> {
        if self.leaves.is_empty() {
            return Ok(false);
        }
        let (now, later) = self.leaves.split_at(self.leaves.len().min(LEAVES_AHEAD));
        self.leaves = later;
        self.ahead.clear();
        self.next = 0;
        let (ahead, damages) = (&mut self.ahead, &mut self.damages);
        each_leaf_in_order(reader, now, |leaf| {
            let read = leaf.and_then(|node| {
                let entries = node.keys().iter().zip(node.values::<U32>()?);
                ahead.extend(entries.map(|(key, count)| (key.get(), count.get())));
                Ok(())
            });
            damages.extend(read.err());
            Ok(())
        })?;
        Ok(true)
    }
}
