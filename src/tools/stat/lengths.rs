//! Lengths of runs, and runs of what comes in pieces that are joined afterwards.

/// Powers of two: no run has 2^40 blocks, as neither device can have.
pub const BINS: usize = 40;

/// How many runs there are of each length, in powers of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lengths {
    /// Runs of 2^n to 2^(n+1) - 1 blocks.
    pub runs: [u64; BINS],
    /// Their blocks.
    pub blocks: [u64; BINS],
}

impl Default for Lengths {
    fn default() -> Self {
        Self {
            runs: [0; BINS],
            blocks: [0; BINS],
        }
    }
}

impl Lengths {
    /// One more run; of none it is none.
    pub fn add(&mut self, length: u64) {
        if let Some(power) = length.checked_ilog2() {
            let bin = (power as usize).min(BINS - 1);
            self.runs[bin] += 1;
            self.blocks[bin] += length;
        }
    }

    /// All of another's.
    pub fn add_all(&mut self, other: &Self) {
        for bin in 0..BINS {
            self.runs[bin] += other.runs[bin];
            self.blocks[bin] += other.blocks[bin];
        }
    }
}

/// A stretch of something with runs in it, of which the first and the last may go on in
/// its neighbours.
#[derive(Clone, Debug, Default)]
pub(super) struct Stretch {
    /// Runs in it.
    pub runs: u64,
    /// The first run.
    pub head: u64,
    /// The last; the same one, if there is no other.
    pub tail: u64,
    /// Those between.
    pub inner: Lengths,
}

impl Stretch {
    /// One more run at the end.
    pub fn push(&mut self, length: u64) {
        match self.runs {
            0 => self.head = length,
            1 => {}
            _ => self.inner.add(self.tail),
        }
        self.tail = length;
        self.runs += 1;
    }

    /// What comes next; `goes_on` if its first run is the rest of the last one here.
    pub fn join(&mut self, next: &Self, goes_on: bool) {
        if next.runs == 0 {
            return;
        }
        if goes_on && self.runs > 0 {
            self.tail += next.head;
            if self.runs == 1 {
                self.head = self.tail;
            }
        } else {
            self.push(next.head);
        }
        if next.runs > 1 {
            if self.runs > 1 {
                self.inner.add(self.tail);
            }
            self.inner.add_all(&next.inner);
            self.tail = next.tail;
            self.runs += next.runs - 1;
        }
    }

    /// All runs.
    pub fn lengths(&self) -> Lengths {
        let mut all = self.inner.clone();
        if self.runs > 0 {
            all.add(self.head);
        }
        if self.runs > 1 {
            all.add(self.tail);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_joined_anywhere_have_the_runs_of_the_whole() {
        let mut random = 7_u64;
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (random >> 33) % below
        };
        for _ in 0..500 {
            let whole: Vec<u64> = (0..draw(12)).map(|_| 1 + draw(9)).collect();
            let mut expected = Lengths::default();
            whole.iter().for_each(|length| expected.add(*length));
            // Each run in parts, and the parts in stretches.
            let mut parts: Vec<(u64, bool)> = Vec::new();
            for length in whole {
                let first = 1 + draw(length);
                parts.push((first, false));
                if first < length {
                    parts.push((length - first, true));
                }
            }
            let mut stretches: Vec<(Stretch, bool)> = vec![(Stretch::default(), false)];
            for (length, goes_on) in parts {
                if goes_on || draw(3) == 0 {
                    stretches.push((Stretch::default(), goes_on));
                }
                let last = stretches.len() - 1;
                stretches[last].0.push(length);
            }
            let mut joined = Stretch::default();
            for (next, goes_on) in &stretches {
                joined.join(next, *goes_on);
            }
            assert_eq!(joined.lengths(), expected);
            assert_eq!(joined.runs, expected.runs.iter().sum::<u64>());
        }
    }

    #[test]
    fn a_length_is_in_the_bin_of_its_power_of_two() {
        let mut lengths = Lengths::default();
        for length in [0, 1, 2, 3, 4, 1 << 39, 1 << 50] {
            lengths.add(length);
        }
        assert_eq!(lengths.runs[..3], [1, 2, 1]);
        assert_eq!((lengths.runs[39], lengths.blocks[1]), (2, 5));
    }
}
