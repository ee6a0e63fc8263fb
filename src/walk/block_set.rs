//! A set of metadata blocks.

/// A set of metadata blocks.
#[derive(Debug)]
pub struct BlockSet(Vec<u64>);

impl BlockSet {
    /// Empty, for blocks below `nr_blocks`.
    #[must_use]
    pub fn new(nr_blocks: u64) -> Self {
        Self(vec![
            0;
            usize::try_from(nr_blocks.div_ceil(64)).unwrap_or(0)
        ])
    }

    /// Puts a block in; `true` when it was not in before.
    pub fn insert(&mut self, block: u64) -> bool {
        let word = usize::try_from(block / 64)
            .ok()
            .and_then(|word| self.0.get_mut(word));
        word.is_some_and(|word| {
            let new = *word & (1 << (block % 64)) == 0;
            *word |= 1 << (block % 64);
            new
        })
    }

    /// Whether a block is in.
    #[must_use]
    pub fn contains(&self, block: u64) -> bool {
        let word = usize::try_from(block / 64)
            .ok()
            .and_then(|word| self.0.get(word));
        word.is_some_and(|word| word & (1 << (block % 64)) != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_new_once_and_past_the_end_never() {
        let mut set = BlockSet::new(100);
        assert!(set.insert(70) && !set.insert(70) && set.contains(70));
        assert!(!set.contains(6) && !set.insert(1 << 40));
    }
}
