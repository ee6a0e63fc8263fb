//! The laws of a space map, held against plain counts at every call.

use std::ops::Range;

use rustc_hash::FxHashMap;

use super::{SpaceMap, SpaceMapMut, check_range};
use crate::error::{Error, Result};

/// Plain counts that mirror a map: what it was at the last commit and what it
/// is now. Each method is told what the real map was asked and what it
/// answered, and says what law that breaks. Free blocks take no memory, so that
/// a map of 2^40 blocks can be checked.
#[derive(Clone, Debug, Default)]
pub struct Checker {
    nr_blocks: u64,
    committed: FxHashMap<u64, u32>,
    current: FxHashMap<u64, u32>,
    /// Blocks that a reader of an older commit still needs.
    withheld: FxHashMap<u64, ()>,
    /// Blocks with no count in either table.
    used: u64,
}

/// A law that was broken: our own mistake, never the disk's.
fn broken(text: impl FnOnce() -> String) -> Error {
    Error::Usage(format!("a law of the space map is broken: {}", text()))
}

impl Checker {
    /// Mirrors a new map of so many free blocks.
    #[must_use]
    pub fn fresh(nr_blocks: u64) -> Self {
        Self {
            nr_blocks,
            ..Self::default()
        }
    }

    /// Mirrors a map that is there already.
    ///
    /// # Errors
    /// What the map says.
    pub fn over(map: &impl SpaceMap) -> Result<Self> {
        Self::over_counts(map.nr_blocks(), |block| map.get_count(block))
    }

    /// As [`Self::over`], of counts that are asked for one by one.
    ///
    /// # Errors
    /// What `count` says.
    pub fn over_counts(nr_blocks: u64, mut count: impl FnMut(u64) -> Result<u32>) -> Result<Self> {
        let mut checker = Self::fresh(nr_blocks);
        for block in 0..nr_blocks {
            let count = count(block)?;
            if count > 0 {
                checker.current.insert(block, count);
            }
        }
        checker.committed.clone_from(&checker.current);
        checker.used = checker.current.len() as u64;
        Ok(checker)
    }

    /// The count as mirrored.
    #[must_use]
    pub fn count(&self, block: u64) -> u32 {
        self.current.get(&block).copied().unwrap_or(0)
    }

    /// The map handed out `block`.
    ///
    /// # Errors
    /// It lies past the end, or was not free in both states.
    pub fn allocated(&mut self, block: u64) -> Result<()> {
        let committed = self.committed.get(&block).copied().unwrap_or(0);
        if block >= self.nr_blocks {
            return Err(broken(|| {
                format!("block {block} of {} was handed out", self.nr_blocks)
            }));
        }
        if self.count(block) != 0 || committed != 0 || self.withheld.contains_key(&block) {
            return Err(broken(|| {
                let now = self.count(block);
                format!("block {block} was handed out with count {now}, {committed} committed")
            }));
        }
        self.set(block, 1);
        Ok(())
    }

    /// The map was asked to add a reference to each block, and `answered`.
    ///
    /// # Errors
    /// It should have answered otherwise.
    pub fn incremented(&mut self, blocks: Range<u64>, answered: bool) -> Result<()> {
        let legal = blocks.end <= self.nr_blocks
            && blocks.clone().all(|block| self.count(block) < u32::MAX);
        self.agree("inc", &blocks, legal, answered)?;
        if answered {
            blocks.for_each(|block| self.set(block, self.count(block) + 1));
        }
        Ok(())
    }

    /// The map was asked to drop a reference of each block, and `answered`.
    ///
    /// # Errors
    /// It should have answered otherwise.
    pub fn decremented(&mut self, blocks: Range<u64>, answered: bool) -> Result<()> {
        let legal =
            blocks.end <= self.nr_blocks && blocks.clone().all(|block| self.count(block) > 0);
        self.agree("dec", &blocks, legal, answered)?;
        if answered {
            blocks.for_each(|block| self.set(block, self.count(block) - 1));
        }
        Ok(())
    }

    fn agree(&self, what: &str, blocks: &Range<u64>, legal: bool, answered: bool) -> Result<()> {
        if legal == answered {
            return Ok(());
        }
        Err(broken(|| {
            let verb = if answered {
                "was allowed"
            } else {
                "was refused"
            };
            format!("{what} of {blocks:?} {verb}")
        }))
    }

    /// The map set a count.
    pub fn was_set(&mut self, block: u64, count: u32) {
        self.set(block, count);
    }

    /// The map answered that `block` has `count` references.
    ///
    /// # Errors
    /// It has another number.
    pub fn counted(&self, block: u64, count: u32) -> Result<()> {
        let own = self.count(block);
        if own == count {
            return Ok(());
        }
        Err(broken(|| {
            format!("block {block} has count {count} and should have {own}")
        }))
    }

    /// The map answered whether `block` has several references.
    ///
    /// # Errors
    /// It has, and the answer was no.
    pub fn judged_shared(&self, block: u64, answer: bool) -> Result<()> {
        if answer || self.count(block) <= 1 {
            return Ok(());
        }
        Err(broken(|| {
            let own = self.count(block);
            format!("block {block} with count {own} was said not to be shared")
        }))
    }

    /// The map answered how many blocks can be allocated.
    ///
    /// # Errors
    /// It is another number.
    pub fn counted_free(&self, nr_free: u64) -> Result<()> {
        let own = self.nr_blocks - self.used;
        if own == nr_free {
            return Ok(());
        }
        Err(broken(|| {
            format!("{nr_free} blocks are said to be free, {own} are")
        }))
    }

    /// The map was extended.
    pub fn extended(&mut self, blocks: u64) {
        self.nr_blocks += blocks;
    }

    /// The map was committed; it goes on withholding these blocks.
    pub fn committed(&mut self, withheld: impl Iterator<Item = u64>) {
        self.committed.clone_from(&self.current);
        self.withheld = withheld.map(|block| (block, ())).collect();
        self.count_used();
    }

    /// The map withholds only these blocks from now on.
    pub fn withholds(&mut self, withheld: impl Iterator<Item = u64>) {
        self.withheld = withheld.map(|block| (block, ())).collect();
        self.count_used();
    }

    fn count_used(&mut self) {
        let only_committed = self
            .committed
            .keys()
            .filter(|block| !self.current.contains_key(block));
        let only_withheld = self.withheld.keys().filter(|block| {
            !self.current.contains_key(block) && !self.committed.contains_key(block)
        });
        let others = only_committed.count() + only_withheld.count();
        self.used = (self.current.len() + others) as u64;
    }

    fn set(&mut self, block: u64, count: u32) {
        let elsewhere = self.committed.contains_key(&block) || self.withheld.contains_key(&block);
        let before = if count == 0 {
            self.current.remove(&block)
        } else {
            self.current.insert(block, count)
        };
        match (before.is_some(), count > 0) {
            (false, true) if !elsewhere => self.used += 1,
            (true, false) if !elsewhere => self.used -= 1,
            _ => {}
        }
    }
}

/// A map whose every call is held against plain counts.
pub struct CheckingSpaceMap<S> {
    map: S,
    checker: Checker,
}

impl<S: SpaceMapMut> CheckingSpaceMap<S> {
    /// Checks `map` from now on.
    ///
    /// # Errors
    /// What the map says when its counts are read.
    pub fn new(map: S) -> Result<Self> {
        let checker = Checker::over(&map)?;
        Ok(Self { map, checker })
    }

    /// The map itself.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.map
    }

    /// Holds every count and the number of free blocks against the plain ones.
    ///
    /// # Errors
    /// The first that differs.
    pub fn check_all(&self) -> Result<()> {
        self.checker.counted_free(self.map.nr_free())?;
        (0..self.map.nr_blocks())
            .try_for_each(|block| self.checker.counted(block, self.map.get_count(block)?))
    }
}

impl<S: SpaceMapMut> SpaceMap for CheckingSpaceMap<S> {
    fn nr_blocks(&self) -> u64 {
        self.map.nr_blocks()
    }

    fn nr_free(&self) -> u64 {
        self.map.nr_free()
    }

    fn get_count(&self, block: u64) -> Result<u32> {
        let count = self.map.get_count(block)?;
        self.checker.counted(block, count)?;
        Ok(count)
    }
}

impl<S: SpaceMapMut> SpaceMapMut for CheckingSpaceMap<S> {
    fn count_is_more_than_one(&self, block: u64) -> Result<bool> {
        let answer = self.map.count_is_more_than_one(block)?;
        self.checker.judged_shared(block, answer)?;
        Ok(answer)
    }

    fn set_count(&mut self, block: u64, count: u32) -> Result<()> {
        self.map.set_count(block, count)?;
        self.checker.was_set(block, count);
        Ok(())
    }

    fn inc(&mut self, blocks: Range<u64>) -> Result<()> {
        check_range(&blocks, self.map.nr_blocks())?;
        let answer = self.map.inc(blocks.clone());
        self.checker.incremented(blocks, answer.is_ok())?;
        answer
    }

    fn dec(&mut self, blocks: Range<u64>) -> Result<()> {
        check_range(&blocks, self.map.nr_blocks())?;
        let answer = self.map.dec(blocks.clone());
        self.checker.decremented(blocks, answer.is_ok())?;
        answer
    }

    fn new_block(&mut self) -> Result<u64> {
        let block = self.map.new_block()?;
        self.checker.allocated(block)?;
        self.checker.counted_free(self.map.nr_free())?;
        Ok(block)
    }

    fn extend(&mut self, blocks: u64) -> Result<()> {
        self.map.extend(blocks)?;
        self.checker.extended(blocks);
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        self.map.commit()?;
        self.checker.committed(std::iter::empty());
        self.checker.counted_free(self.map.nr_free())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::space::MemorySpaceMap;

    #[test]
    fn a_map_that_keeps_the_laws_passes() {
        let mut map = CheckingSpaceMap::new(MemorySpaceMap::new(8).unwrap()).unwrap();
        let block = map.new_block().unwrap();
        map.inc(block..block + 3).unwrap();
        assert!(map.dec(block..block + 4).is_err());
        map.dec(block..block + 2).unwrap();
        map.commit().unwrap();
        map.extend(4).unwrap();
        map.dec(block..block + 1).unwrap();
        map.new_block().unwrap();
        map.check_all().unwrap();
    }

    #[test]
    fn each_broken_law_is_told() {
        let mut checker = Checker::fresh(4);
        assert!(checker.allocated(4).is_err());
        checker.allocated(1).unwrap();
        assert!(checker.allocated(1).is_err());
        assert!(checker.decremented(0..1, true).is_err());
        assert!(checker.incremented(0..1, false).is_err());
        assert!(checker.counted(1, 2).is_err());
        assert!(checker.counted_free(4).is_err());
        checker.incremented(1..2, true).unwrap();
        assert!(checker.judged_shared(1, false).is_err());
        checker.judged_shared(0, true).unwrap();
        checker.committed(std::iter::empty());
        checker.was_set(1, 0);
        assert!(checker.allocated(1).is_err(), "freed since the commit");
        checker.counted_free(3).unwrap();
    }
}
