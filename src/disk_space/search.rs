//! Looking for blocks that lie side by side.

use std::ops::Range;

/// The search for a run: the first that is long enough, else the longest.
pub(super) struct Search {
    wanted: u64,
    current: Range<u64>,
    longest: Range<u64>,
}

impl Search {
    pub fn new(wanted: u64) -> Self {
        Self {
            wanted,
            current: 0..0,
            longest: 0..0,
        }
    }

    /// Free blocks. `true`: enough.
    pub fn free(&mut self, blocks: Range<u64>) -> bool {
        if self.current.end == blocks.start && !self.current.is_empty() {
            self.current.end = blocks.end;
        } else {
            self.current = blocks;
        }
        if length(&self.current) > length(&self.longest) {
            self.longest = self.current.clone();
        }
        length(&self.longest) >= self.wanted
    }

    /// Something is in the way.
    pub fn gap(&mut self) {
        self.current = 0..0;
    }

    /// Whether it is over.
    pub fn is_satisfied(&self) -> bool {
        length(&self.longest) >= self.wanted
    }

    /// The best run; empty when there is no free block.
    pub fn longest(self) -> Range<u64> {
        self.longest
    }
}

fn length(blocks: &Range<u64>) -> u64 {
    blocks.end - blocks.start
}
