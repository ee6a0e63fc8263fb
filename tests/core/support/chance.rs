//! Choices: from a seed, or from a fuzzer's bytes.

/// Where choices come from.
pub enum Chance<'b> {
    /// splitmix64: the same every time.
    Seed(u64),
    /// A fuzzer's input; zeros when it is used up.
    Bytes(&'b [u8]),
}

impl Chance<'_> {
    /// A source of its own for case `index` of a family.
    pub fn of_case(seed: u64, family: &str, index: u64) -> Self {
        let name = family.bytes().fold(seed, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        let mut mixed = Self::Seed(name ^ index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self::Seed(mixed.word())
    }

    /// Any number.
    pub fn word(&mut self) -> u64 {
        match self {
            Self::Seed(state) => {
                *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let mut mixed = *state;
                mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
                mixed ^ (mixed >> 31)
            }
            Self::Bytes(bytes) => {
                let (now, later) = bytes.split_at(bytes.len().min(8));
                *bytes = later;
                now.iter()
                    .rev()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
            }
        }
    }

    /// A number below `end`, which is not 0. A fuzzer pays two bytes for a small one.
    pub fn below(&mut self, end: u64) -> u64 {
        match self {
            Self::Bytes(bytes) if end <= 1 << 16 => {
                let (now, later) = bytes.split_at(bytes.len().min(2));
                *bytes = later;
                now.iter()
                    .rev()
                    .fold(0, |word, byte| word << 8 | u64::from(*byte))
                    % end
            }
            _ => self.word() % end,
        }
    }

    /// An index into something of this length, which is not 0.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap()
    }

    /// One of several.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// True once in so many.
    pub fn one_in(&mut self, many: u64) -> bool {
        self.below(many) == 0
    }

    /// Whether a fuzzer's input is used up.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Bytes([]))
    }
}
