//! Which blocks this transaction has made its own.

/// Bits in a word of the table.
const BITS: u64 = 64;

/// A set of block numbers: one bit per block of the device, so that a look-up
/// costs the same however many there are, and half a MiB is enough for the
/// largest metadata device. Clearing costs what was put in.
///
/// An entry too few makes a block be copied once more than it need be. An entry
/// too many would change a committed block in place.
#[derive(Debug, Default)]
pub struct ShadowTable {
    words: Vec<u64>,
    /// Words that are not zero.
    touched: Vec<u32>,
    len: usize,
}

impl ShadowTable {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a block.
    pub fn insert(&mut self, block: u64) {
        let (Ok(word), Ok(short)) = (usize::try_from(block / BITS), u32::try_from(block / BITS))
        else {
            // Past any device. To forget it is harmless.
            return;
        };
        if word >= self.words.len() {
            self.words.resize((word + 1).next_power_of_two(), 0);
        }
        let bits = &mut self.words[word];
        if *bits == 0 {
            self.touched.push(short);
        }
        let bit = 1 << (block % BITS);
        self.len += usize::from(*bits & bit == 0);
        *bits |= bit;
    }

    /// Whether a block was added.
    #[must_use]
    pub fn contains(&self, block: u64) -> bool {
        let word = usize::try_from(block / BITS).unwrap_or(usize::MAX);
        self.words
            .get(word)
            .is_some_and(|bits| bits >> (block % BITS) & 1 == 1)
    }

    /// Forgets a block: it will be copied before it is changed again.
    pub fn remove(&mut self, block: u64) {
        let word = usize::try_from(block / BITS).unwrap_or(usize::MAX);
        if let Some(bits) = self.words.get_mut(word) {
            let bit = 1 << (block % BITS);
            self.len -= usize::from(*bits & bit != 0);
            *bits &= !bit;
        }
    }

    /// Forgets what `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(u64) -> bool) {
        for word in &self.touched {
            for bit in 0..BITS {
                let block = u64::from(*word) * BITS + bit;
                let bits = &mut self.words[*word as usize];
                if *bits >> bit & 1 == 1 && !keep(block) {
                    *bits &= !(1 << bit);
                    self.len -= 1;
                }
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for word in self.touched.drain(..) {
            self.words[word as usize] = 0;
        }
        self.len = 0;
    }

    /// Blocks in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_what_was_put_in_and_nothing_after_it_was_cleared() {
        let mut table = ShadowTable::new();
        let blocks = [0, 1, 63, 64, 4_161_599, 1];
        blocks.iter().for_each(|block| table.insert(*block));
        assert_eq!(table.len(), 5);
        assert!(blocks.iter().all(|block| table.contains(*block)));
        assert!(!table.contains(2) && !table.contains(u64::MAX));
        table.remove(63);
        table.remove(63);
        assert!(!table.contains(63) && table.len() == 4);
        table.clear();
        assert!(table.is_empty() && blocks.iter().all(|block| !table.contains(*block)));
        table.insert(63);
        assert!(table.contains(63) && !table.contains(0));
    }
}
