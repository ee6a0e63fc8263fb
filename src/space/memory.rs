//! Counts in memory: for tests, for models, and for what needs no disk.

use std::ops::Range;

use super::{SpaceMap, SpaceMapMut, above_limit, below_zero, check_range};
use crate::error::{Error, Result};

/// Plain counts.
#[derive(Clone, Debug, Default)]
pub struct MemorySpaceMap {
    counts: Vec<u32>,
    /// As of the last commit.
    committed: Vec<u32>,
    /// Where the search begins.
    cursor: u64,
}

impl MemorySpaceMap {
    /// So many free blocks.
    ///
    /// # Errors
    /// [`Error::Usage`] for more than 2^32 blocks: they would not fit memory.
    pub fn new(blocks: u64) -> Result<Self> {
        let mut map = Self::default();
        map.extend(blocks)?;
        map.commit()?;
        Ok(map)
    }

    /// Blocks that have these counts, and had them at the last commit.
    pub(crate) fn of_counts(counts: Vec<u32>) -> Self {
        Self {
            committed: counts.clone(),
            counts,
            cursor: 0,
        }
    }

    fn index(block: u64) -> usize {
        usize::try_from(block).unwrap_or(usize::MAX)
    }

    /// A block past the committed size counts as free there.
    fn is_available(&self, block: u64) -> bool {
        let at = Self::index(block);
        self.counts.get(at) == Some(&0) && self.committed.get(at).is_none_or(|count| *count == 0)
    }

    fn span(&mut self, blocks: Range<u64>) -> &mut [u32] {
        &mut self.counts[Self::index(blocks.start)..Self::index(blocks.end)]
    }
}

impl SpaceMap for MemorySpaceMap {
    fn nr_blocks(&self) -> u64 {
        self.counts.len() as u64
    }

    fn nr_free(&self) -> u64 {
        let free = |block: &u64| self.is_available(*block);
        (0..self.nr_blocks()).filter(free).count() as u64
    }

    fn get_count(&self, block: u64) -> Result<u32> {
        let count = self.counts.get(Self::index(block)).copied();
        count.map_or_else(
            || {
                check_range(&(block..block.saturating_add(1)), self.nr_blocks())?;
                Ok(0)
            },
            Ok,
        )
    }
}

impl SpaceMapMut for MemorySpaceMap {
    fn set_count(&mut self, block: u64, count: u32) -> Result<()> {
        check_range(&(block..block.saturating_add(1)), self.nr_blocks())?;
        self.counts[Self::index(block)] = count;
        Ok(())
    }

    fn inc(&mut self, blocks: Range<u64>) -> Result<()> {
        check_range(&blocks, self.nr_blocks())?;
        let begin = blocks.start;
        let counts = self.span(blocks);
        if let Some(full) = counts.iter().position(|count| *count == u32::MAX) {
            return Err(above_limit(begin + full as u64));
        }
        counts.iter_mut().for_each(|count| *count += 1);
        Ok(())
    }

    fn dec(&mut self, blocks: Range<u64>) -> Result<()> {
        check_range(&blocks, self.nr_blocks())?;
        let begin = blocks.start;
        let counts = self.span(blocks);
        if let Some(free) = counts.iter().position(|count| *count == 0) {
            return Err(below_zero(begin + free as u64));
        }
        counts.iter_mut().for_each(|count| *count -= 1);
        Ok(())
    }

    fn new_block(&mut self) -> Result<u64> {
        let (begin, end) = (self.cursor, self.nr_blocks());
        let found = (begin..end)
            .chain(0..begin.min(end))
            .find(|block| self.is_available(*block));
        let block = found.ok_or_else(|| Error::NoSpace {
            space: "in-memory",
            reason: format!("all {end} blocks are in use, or were at the last commit"),
        })?;
        self.counts[Self::index(block)] = 1;
        self.cursor = block + 1;
        Ok(block)
    }

    fn extend(&mut self, blocks: u64) -> Result<()> {
        let size = self.nr_blocks().checked_add(blocks);
        let size = size
            .filter(|size| *size <= 1 << 32)
            .ok_or_else(|| Error::usage("a space map in memory counts no more than 2^32 blocks"))?;
        self.counts.resize(Self::index(size), 0);
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.committed.clone_from(&self.counts);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_block_is_not_handed_out_before_the_commit() {
        let mut map = MemorySpaceMap::new(2).unwrap();
        assert_eq!((map.new_block().unwrap(), map.new_block().unwrap()), (0, 1));
        map.commit().unwrap();
        map.dec(0..1).unwrap();
        assert_eq!(map.nr_free(), 0);
        assert!(matches!(map.new_block(), Err(Error::NoSpace { .. })));
        map.commit().unwrap();
        assert_eq!(map.nr_free(), 1);
        assert_eq!(map.new_block().unwrap(), 0);
    }

    #[test]
    fn a_range_that_fails_changes_nothing() {
        let mut map = MemorySpaceMap::new(4).unwrap();
        map.inc(0..3).unwrap();
        assert!(map.dec(0..4).is_err());
        assert!(map.inc(2..5).is_err());
        map.set_count(1, u32::MAX).unwrap();
        assert!(map.inc(0..2).is_err());
        let counts: Vec<u32> = (0..4).map(|block| map.get_count(block).unwrap()).collect();
        assert_eq!(counts, [1, u32::MAX, 1, 0]);
    }
}
