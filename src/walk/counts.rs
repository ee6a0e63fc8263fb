//! Reference counts found by a walk: small, and counted from many threads.
//!
//! A count is a byte until it passes 255; then its region of 65536 widens. A
//! region that nobody counted in takes no memory. How threads count together is
//! in [`super::scatter`].

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Blocks of one region; an offset in it is a `u16`.
const REGION_BLOCKS: usize = 1 << 16;

#[derive(Debug)]
enum Region {
    Empty,
    Bytes(Box<[u8; REGION_BLOCKS]>),
    Halves(Box<[u16; REGION_BLOCKS]>),
    Words(Box<[u32; REGION_BLOCKS]>),
}

impl Region {
    fn get(&self, offset: usize) -> u32 {
        match self {
            Self::Empty => 0,
            Self::Bytes(counts) => counts[offset].into(),
            Self::Halves(counts) => counts[offset].into(),
            Self::Words(counts) => counts[offset],
        }
    }

    fn add(&mut self, offsets: &[u16]) {
        let mut rest = offsets;
        while !rest.is_empty() {
            let added = match self {
                Self::Empty => 0,
                Self::Bytes(counts) => add_until_full(counts, rest, u8::MAX, |count| *count += 1),
                Self::Halves(counts) => add_until_full(counts, rest, u16::MAX, |count| *count += 1),
                Self::Words(counts) => {
                    let saturate = |count: &mut u32| *count = count.saturating_add(1);
                    rest.iter()
                        .for_each(|offset| saturate(&mut counts[usize::from(*offset)]));
                    rest.len()
                }
            };
            rest = &rest[added..];
            if !rest.is_empty() {
                self.widen();
            }
        }
    }

    fn add_times(&mut self, offset: u16, times: u32) {
        let count = self.get(offset.into()).saturating_add(times);
        let at = usize::from(offset);
        loop {
            match self {
                Self::Bytes(counts) if count <= u8::MAX.into() => {
                    counts[at] = u8::try_from(count).unwrap_or(u8::MAX);
                    return;
                }
                Self::Halves(counts) if count <= u16::MAX.into() => {
                    counts[at] = u16::try_from(count).unwrap_or(u16::MAX);
                    return;
                }
                Self::Words(counts) => {
                    counts[at] = count;
                    return;
                }
                _ => self.widen(),
            }
        }
    }

    fn widen(&mut self) {
        let wide = match self {
            Self::Empty => Self::Bytes(boxed(std::iter::repeat_n(0, REGION_BLOCKS))),
            Self::Bytes(counts) => Self::Halves(boxed(counts.iter().map(|&count| count.into()))),
            Self::Halves(counts) => Self::Words(boxed(counts.iter().map(|&count| count.into()))),
            // Words saturate and are never asked for more.
            Self::Words(_) => return,
        };
        *self = wide;
    }
}

/// A region's counters; `counts` gives as many as it has blocks.
fn boxed<T>(counts: impl Iterator<Item = T>) -> Box<[T; REGION_BLOCKS]> {
    let counts: Box<[T]> = counts.collect();
    match counts.try_into() {
        Ok(region) => region,
        Err(_) => unreachable!("regions are of one size"),
    }
}

/// Counts until one is full; returns how many offsets were taken.
fn add_until_full<T: PartialEq + Copy>(
    counts: &mut [T; REGION_BLOCKS],
    offsets: &[u16],
    full: T,
    add: impl Fn(&mut T),
) -> usize {
    for (index, offset) in offsets.iter().enumerate() {
        let count = &mut counts[usize::from(*offset)];
        if *count == full {
            return index;
        }
        add(count);
    }
    offsets.len()
}

/// How many references each block has.
#[derive(Debug)]
pub struct Counts {
    nr_blocks: u64,
    regions: Vec<Mutex<Region>>,
}

impl Counts {
    /// All zero, for blocks below `nr_blocks`.
    #[must_use]
    pub fn new(nr_blocks: u64) -> Self {
        let regions = usize::try_from(nr_blocks.div_ceil(REGION_BLOCKS as u64)).unwrap_or(0);
        Self {
            nr_blocks,
            regions: (0..regions).map(|_| Mutex::new(Region::Empty)).collect(),
        }
    }

    /// Blocks that are counted.
    #[must_use]
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// One more reference to `block`, which has to be below `nr_blocks`.
    pub fn add(&mut self, block: u64) {
        let (region, offset) = place(block);
        if let Some(region) = self.regions.get_mut(region) {
            region
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner)
                .add(&[offset]);
        }
    }

    /// So many more references to each of `blocks`, which have to be below `nr_blocks`.
    pub fn add_times(&self, blocks: impl Iterator<Item = u64>, times: u32) {
        let mut held = None;
        for block in blocks {
            let (number, offset) = place(block);
            if held.as_ref().is_none_or(|(here, _)| *here != number) {
                // First the old one is let go of, as its turn might be before the new one's.
                held = None;
                let Some(region) = self.regions.get(number) else {
                    continue;
                };
                held = Some((
                    number,
                    region.lock().unwrap_or_else(PoisonError::into_inner),
                ));
            }
            if let Some((_, region)) = &mut held {
                region.add_times(offset, times);
            }
        }
    }

    /// The count of `block`; zero past the end.
    #[must_use]
    pub fn get(&self, block: u64) -> u32 {
        let (region, offset) = place(block);
        self.regions.get(region).map_or(0, |region| {
            region
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(offset.into())
        })
    }

    /// Whether any of the 65536 blocks around `block` that are kept together may have a
    /// count: where not, asking for each is in vain.
    #[must_use]
    pub fn has_any_near(&self, block: u64) -> bool {
        self.regions.get(place(block).0).is_some_and(|region| {
            let region = region.lock().unwrap_or_else(PoisonError::into_inner);
            !matches!(*region, Region::Empty)
        })
    }

    /// Counts from `begin` on, those above 255 as 255.
    pub fn copy_saturated(&self, begin: u64, out: &mut [u8]) {
        let (mut done, mut at) = (0, begin);
        while done < out.len() {
            let (region, offset) = place(at);
            let offset = usize::from(offset);
            let part = (out.len() - done).min(REGION_BLOCKS - offset);
            let target = &mut out[done..done + part];
            match self.regions.get(region) {
                None => target.fill(0),
                Some(region) => {
                    let region = region.lock().unwrap_or_else(PoisonError::into_inner);
                    match &*region {
                        Region::Empty => target.fill(0),
                        Region::Bytes(counts) => {
                            target.copy_from_slice(&counts[offset..offset + part]);
                        }
                        wide => {
                            for (index, count) in target.iter_mut().enumerate() {
                                *count = u8::try_from(wide.get(offset + index)).unwrap_or(u8::MAX);
                            }
                        }
                    }
                }
            }
            done += part;
            at += part as u64;
        }
    }

    /// The counts for good, to be read without locks.
    #[must_use]
    pub fn freeze(self) -> FrozenCounts {
        let regions = self.regions.into_iter();
        let inner =
            |region: Mutex<Region>| region.into_inner().unwrap_or_else(PoisonError::into_inner);
        FrozenCounts {
            nr_blocks: self.nr_blocks,
            regions: regions.map(inner).collect(),
        }
    }

    /// Regions there are.
    pub(super) fn nr_regions(&self) -> usize {
        self.regions.len()
    }

    /// One more reference to each of the blocks at `offsets` of a region.
    pub(super) fn add_to_region(&self, region: usize, offsets: &[u16]) {
        if let Some(region) = self.regions.get(region) {
            region
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .add(offsets);
        }
    }
}

/// Counts that change no more.
#[derive(Debug)]
pub struct FrozenCounts {
    nr_blocks: u64,
    regions: Vec<Region>,
}

impl FrozenCounts {
    /// Blocks that are counted.
    #[must_use]
    pub fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Whether no block has more than one reference.
    #[must_use]
    pub fn at_most_one(&self) -> bool {
        // No early exit within a region, so that it runs at the speed of memory.
        self.regions.iter().all(|region| match region {
            Region::Empty => true,
            Region::Bytes(counts) => counts.iter().fold(true, |one, count| one & (*count <= 1)),
            // Only what passed 255 is wide.
            Region::Halves(_) | Region::Words(_) => false,
        })
    }

    /// The count of `block`; zero past the end.
    #[must_use]
    pub fn get(&self, block: u64) -> u32 {
        let (region, offset) = place(block);
        self.regions
            .get(region)
            .map_or(0, |region| region.get(offset.into()))
    }

    /// Calls `each` with counts and with how many blocks have them, zero left out; for one
    /// count more than once.
    pub fn tally(&self, mut each: impl FnMut(u32, u64)) {
        for region in &self.regions {
            match region {
                Region::Empty => {}
                Region::Bytes(counts) => {
                    let mut blocks = [0_u64; 256];
                    counts
                        .iter()
                        .for_each(|count| blocks[usize::from(*count)] += 1);
                    let found = (1..).zip(&blocks[1..]).filter(|(_, blocks)| **blocks > 0);
                    found.for_each(|(count, blocks)| each(count, *blocks));
                }
                Region::Halves(counts) => counts
                    .iter()
                    .filter(|count| **count > 0)
                    .for_each(|count| each((*count).into(), 1)),
                Region::Words(counts) => counts
                    .iter()
                    .filter(|count| **count > 0)
                    .for_each(|count| each(*count, 1)),
            }
        }
    }

    /// Blocks that have a reference, those of `within` alone, as ranges that do not
    /// touch. A region without any costs nothing.
    pub fn used(&self, within: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let mut at = within.start;
        std::iter::from_fn(move || {
            let begin = self.find(at..within.end, true)?;
            at = self.find(begin..within.end, false).unwrap_or(within.end);
            Some(begin..at)
        })
    }

    /// The first block of a range that is used, or that is not.
    fn find(&self, within: Range<u64>, used: bool) -> Option<u64> {
        let mut at = within.start;
        while at < within.end {
            let (region, offset) = place(at);
            let end = within.end.min((at | (REGION_BLOCKS as u64 - 1)) + 1);
            match self.regions.get(region) {
                None | Some(Region::Empty) if used => at = end,
                None | Some(Region::Empty) => return Some(at),
                Some(region) => {
                    let mut offset = usize::from(offset);
                    while at < end && (region.get(offset) != 0) != used {
                        (at, offset) = (at + 1, offset + 1);
                    }
                    if at < end {
                        return Some(at);
                    }
                }
            }
            if used && region >= self.regions.len() {
                return None;
            }
        }
        None
    }
}

/// Region and offset of a block.
pub(super) fn place(block: u64) -> (usize, u16) {
    let region = usize::try_from(block >> 16).unwrap_or(usize::MAX);
    (region, (block & 0xffff) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walk::Crew;

    #[test]
    fn used_blocks_are_found_as_ranges_across_regions() {
        let mut counts = Counts::new(400_000);
        let ranges = [0..3, 65_530..65_545, 131_071..131_072, 262_144..262_146];
        for block in ranges.iter().cloned().flatten() {
            counts.add(block);
        }
        (0..300).for_each(|_| counts.add(1)); // a wide region
        let counts = counts.freeze();
        assert!(counts.used(0..400_000).eq(ranges.clone()));
        assert!(counts.used(0..u64::MAX).eq(ranges));
        let part: Vec<_> = counts.used(2..65_540).collect();
        assert_eq!(part, [2..3, 65_530..65_540]);
        assert_eq!(counts.used(3..65_530).count(), 0);
        assert!(Counts::new(0).freeze().used(0..9).next().is_none());
    }

    #[test]
    fn counts_widen_where_they_have_to_and_are_exact() {
        let mut counts = Counts::new(200_000);
        {
            let crew = Crew::new(&counts, 1);
            let mut scatter = crew.join();
            (0..70_000).for_each(|_| scatter.add(5));
            (0..300).for_each(|_| scatter.add(65_536));
            (0..3).for_each(|_| scatter.add(131_075));
        }
        counts.add(131_075);
        let found = [5, 6, 65_536, 131_075, 199_999, 1 << 40].map(|block| counts.get(block));
        assert_eq!(found, [70_000, 0, 300, 4, 0, 0]);
        // As many at once, where a count is a byte, two or four, or passes to the next.
        counts.add_times([5, 131_075, 6, 65_536, 6].into_iter(), 70_000);
        counts.add_times([131_076].into_iter(), 255);
        counts.add_times([131_077, 131_077].into_iter(), u32::MAX);
        counts.add_times([1 << 40].into_iter(), 7);
        let found = [5, 6, 65_536, 131_075, 131_076].map(|block| counts.get(block));
        assert_eq!(found, [140_000, 140_000, 70_300, 70_004, 255]);
        assert_eq!(counts.get(131_077), u32::MAX);
        let near = [0, 65_535, 65_536, 131_072, 199_999, 1 << 40];
        let near = near.map(|block| counts.has_any_near(block));
        assert_eq!(near, [true, true, true, true, false, false]);
        let mut bytes = [9; 4];
        counts.copy_saturated(131_073, &mut bytes);
        assert_eq!(bytes, [0, 0, 255, 255]);
        counts.copy_saturated(65_534, &mut bytes);
        assert_eq!(bytes, [0, 0, 255, 0]);
        let mut tallied = std::collections::BTreeMap::new();
        counts
            .freeze()
            .tally(|count, blocks| *tallied.entry(count).or_insert(0) += blocks);
        let expected = [
            (255, 1),
            (70_004, 1),
            (70_300, 1),
            (140_000, 2),
            (u32::MAX, 1),
        ];
        assert!(tallied.into_iter().eq(expected));
    }
}
