//! One bitmap against the references found, a word of 32 blocks at a time.

use crate::disk_space::{Bitmap, ENTRIES_PER_BITMAP, ENTRIES_PER_WORD, IndexEntry, MANY};
use crate::walk::Counts;

/// A block whose stored count is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wrong {
    /// The stored count differs from the references found.
    Count { block: u64, stored: u32, found: u32 },
    /// The bitmap says three or more and the overflow tree has no entry.
    NoOverflow { block: u64 },
    /// An overflow entry whose bitmap entry does not say three or more, or that
    /// holds less than three.
    StrayOverflow { block: u64, count: u32 },
}

/// What a bitmap holds in sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Summed {
    /// Zero entries, those past the end of the map included.
    pub free: u32,
    /// Zero entries of real blocks.
    pub free_real: u32,
    /// Index of the first zero entry.
    pub first_free: u32,
}

impl Summed {
    /// Whether an index entry says so. Old tools count only the real blocks of the last
    /// bitmap; a hint may be too low.
    pub fn are_those_of(&self, entry: &IndexEntry) -> bool {
        let (free, hint) = (entry.nr_free.get(), entry.none_free_before.get());
        (free == self.free || free == self.free_real) && hint <= self.first_free
    }
}

/// A bit for each entry that is not zero: the lower of its two.
pub(super) const LOW_BITS: u64 = 0x5555_5555_5555_5555;

/// Sums up a bitmap of which the first `real` entries are blocks.
pub(super) fn sum_up(bitmap: &Bitmap, real: usize) -> Summed {
    let mut summed = Summed {
        first_free: ENTRIES_PER_BITMAP as u32,
        ..Summed::default()
    };
    for (index, word) in bitmap.words.iter().enumerate() {
        let used = (word.get() | word.get() >> 1) & LOW_BITS;
        let free = used.count_zeros() - 32;
        if free == 0 {
            continue;
        }
        let begin = index * ENTRIES_PER_WORD;
        if summed.free == 0 {
            summed.first_free = begin as u32 + (!used & LOW_BITS).trailing_zeros() / 2;
        }
        summed.free += free;
        let real_here = real.saturating_sub(begin).min(ENTRIES_PER_WORD);
        let mask = if real_here == ENTRIES_PER_WORD {
            LOW_BITS
        } else {
            LOW_BITS & ((1 << (2 * real_here)) - 1)
        };
        summed.free_real += (!used & mask).count_ones();
    }
    summed
}

/// Compares a bitmap with `counts`. `first` is the block of its first entry,
/// `overflow` the overflow entries of its range; `wrong` learns what differs.
pub(super) fn compare(
    bitmap: &Bitmap,
    first: u64,
    real: usize,
    counts: Option<&Counts>,
    overflow: &[(u64, u32)],
    scratch: &mut [u8; ENTRIES_PER_BITMAP],
    mut wrong: impl FnMut(Wrong),
) {
    if let Some(counts) = counts {
        counts.copy_saturated(first, scratch);
        scratch[real..].fill(0);
    }
    let mut overflow = overflow.iter().peekable();
    for (index, word) in bitmap.words.iter().enumerate() {
        let stored = word.get();
        let begin = index * ENTRIES_PER_WORD;
        if begin >= real {
            break;
        }
        let many = stored & (stored >> 1) & LOW_BITS;
        let found: &[u8; ENTRIES_PER_WORD] = scratch[begin..]
            .first_chunk()
            .unwrap_or(&[0; ENTRIES_PER_WORD]);
        let end = first + (begin + ENTRIES_PER_WORD) as u64;
        let strays = overflow.peek().is_some_and(|entry| entry.0 < end);
        let same = counts.is_none() || pack(found) == stored;
        if same && many == 0 && !strays {
            continue;
        }
        for offset in 0..ENTRIES_PER_WORD.min(real - begin) {
            let block = first + (begin + offset) as u64;
            let entry = bitmap.entry(begin + offset);
            let above = overflow
                .next_if(|entry| entry.0 <= block)
                .filter(|entry| entry.0 == block);
            let exact = match (entry, above) {
                (MANY, Some((_, count))) if *count >= MANY => *count,
                (MANY, None) => {
                    wrong(Wrong::NoOverflow { block });
                    continue;
                }
                (_, Some((_, count))) => {
                    wrong(Wrong::StrayOverflow {
                        block,
                        count: *count,
                    });
                    continue;
                }
                (entry, None) => entry,
            };
            let Some(counts) = counts else { continue };
            let found = match found[offset] {
                u8::MAX => counts.get(block),
                small => small.into(),
            };
            if exact != found {
                wrong(Wrong::Count {
                    block,
                    stored: exact,
                    found,
                });
            }
        }
    }
    for (block, count) in overflow {
        wrong(Wrong::StrayOverflow {
            block: *block,
            count: *count,
        });
    }
}

/// 32 counts as the bitmap stores them: two bits each, the wrong way round.
pub(super) fn pack(counts: &[u8; ENTRIES_PER_WORD]) -> u64 {
    let mut fields = [0_u8; ENTRIES_PER_WORD];
    for (field, count) in fields.iter_mut().zip(counts) {
        let count = (*count).min(MANY as u8);
        *field = (count & 1) << 1 | count >> 1;
    }
    fields
        .chunks_exact(8)
        .enumerate()
        .fold(0, |word, (part, eight)| {
            let eight = <[u8; 8]>::try_from(eight).map_or(0, u64::from_le_bytes);
            let pairs = (eight | eight >> 6) & 0x000f_000f_000f_000f;
            let fours = (pairs | pairs >> 12) & 0x0000_00ff_0000_00ff;
            word | ((fours | fours >> 24) & 0xffff) << (16 * part)
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockData;

    /// A bitmap whose entries are `counts`, from the first on.
    fn bitmap(counts: &[u8]) -> BlockData {
        let mut block = BlockData::zeroed();
        for (index, count) in counts.iter().enumerate() {
            let field = (count & 1) << 1 | count >> 1;
            block.bytes_mut()[16 + index / 4] |= field << (2 * (index % 4));
        }
        block
    }

    fn differences(stored: &[u8], found: &[u64], overflow: &[(u64, u32)]) -> Vec<Wrong> {
        let mut counts = Counts::new(100);
        found.iter().for_each(|block| counts.add(*block));
        let mut wrong = Vec::new();
        let mut scratch = [0; ENTRIES_PER_BITMAP];
        let block = bitmap(stored);
        compare(
            block.view(),
            0,
            100,
            Some(&counts),
            overflow,
            &mut scratch,
            |bad| wrong.push(bad),
        );
        wrong
    }

    #[test]
    fn equal_counts_are_equal_whatever_their_size() {
        let found = [1, 2, 2, 3, 3, 3, 40, 40, 40, 40];
        let mut stored = [0; 41];
        (stored[1], stored[2], stored[3], stored[40]) = (1, 2, 3, 3);
        assert_eq!(differences(&stored, &found, &[(3, 3), (40, 4)]), []);
    }

    #[test]
    fn each_difference_is_named() {
        let stored = [1, 0, 3, 3, 2];
        let found = [1, 3, 3, 3, 3];
        let overflow = [(3, 5), (4, 3), (99, 3)];
        let expected = [
            Wrong::Count {
                block: 0,
                stored: 1,
                found: 0,
            },
            Wrong::Count {
                block: 1,
                stored: 0,
                found: 1,
            },
            Wrong::NoOverflow { block: 2 },
            Wrong::Count {
                block: 3,
                stored: 5,
                found: 4,
            },
            Wrong::StrayOverflow { block: 4, count: 3 },
            Wrong::StrayOverflow {
                block: 99,
                count: 3,
            },
        ];
        assert_eq!(differences(&stored, &found, &overflow), expected);
    }

    #[test]
    fn sums_count_what_lies_past_the_end_apart() {
        let block = bitmap(&[1, 2, 0, 3]);
        let summed = sum_up(block.view(), 33);
        let all = ENTRIES_PER_BITMAP as u32;
        assert_eq!(
            summed,
            Summed {
                free: all - 3,
                free_real: 30,
                first_free: 2
            }
        );
    }
}
