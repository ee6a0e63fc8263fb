//! Which blocks may be handed out: in memory, one bit each.

use std::collections::VecDeque;
use std::ops::Range;

use rustc_hash::FxHashMap;

use super::bitmap::{Bitmap, ENTRIES_PER_BITMAP};
use super::search::Search;
use crate::sabotage::sabotaged;

/// Words of one bit per entry of a bitmap block.
const WORDS: usize = ENTRIES_PER_BITMAP / 64;
const _: () = assert!(WORDS * 64 == ENTRIES_PER_BITMAP);
const PER_BITMAP: u64 = ENTRIES_PER_BITMAP as u64;

/// The shortest run that is looked for: what one small change takes.
const MIN_RUN: u64 = 8;
/// The longest one.
const MAX_RUN: u64 = 1 << 14;

/// Commits before long runs are looked for again where there were none.
const PATIENCE: u32 = 64;

/// Bitmaps of which copies are kept, unless changes need more. The largest
/// metadata device has 255, and 4096 are 16 MiB.
const KEPT_BITMAPS: usize = if cfg!(test) { 4 } else { 4096 };

/// One bit per entry of a bitmap block.
type Bits = [u64; WORDS];

/// What is known of one bitmap block.
struct Known {
    /// In use now.
    now: Box<Bits>,
    /// In use at the last commit, or withheld.
    before: Box<Bits>,
    /// Changed since the last commit.
    touched: bool,
}

impl Known {
    fn change(&mut self, touched: &mut Vec<u64>, bitmap: u64) {
        if !std::mem::replace(&mut self.touched, true) {
            touched.push(bitmap);
        }
    }
}

/// Blocks that were freed by the commits up to one, and are still read by views
/// of older ones. There is one of these for each view, not for each commit.
struct Withheld {
    generation: u64,
    bits: FxHashMap<u64, Box<Bits>>,
}

/// The blocks that are free now and were free at the last commit, and where to
/// look for the next one. Bitmaps join when they are first looked at.
pub(super) struct FreeMap {
    known: FxHashMap<u64, Known>,
    /// Bitmaps changed since the last commit.
    touched: Vec<u64>,
    withheld: VecDeque<Withheld>,
    /// Blocks that can be handed out.
    available: u64,
    /// Blocks that only views keep from being handed out.
    withheld_blocks: u64,
    /// Where the next search begins.
    cursor: u64,
    /// One past the last block that was ever seen in use: what lies behind was
    /// perhaps never written. `None`: nobody has looked.
    top: Option<u64>,
    /// What is left of the run found last.
    run: Range<u64>,
    /// How long the next run should be.
    wanted: u64,
    /// No longer run is worth a search of everything, for some commits to come.
    longest: u64,
    patience: u32,
    /// Blocks handed out since the last commit.
    handed_out: u64,
    /// Whether any block that was in use at the last commit went out of it.
    freed: bool,
}

impl FreeMap {
    pub fn new(available: u64) -> Self {
        Self {
            known: FxHashMap::default(),
            touched: Vec::new(),
            withheld: VecDeque::new(),
            available,
            withheld_blocks: 0,
            cursor: 0,
            top: None,
            run: 0..0,
            wanted: MIN_RUN,
            longest: u64::MAX,
            patience: 0,
            handed_out: 0,
            freed: false,
        }
    }

    /// The same place to search and the same withheld blocks for a map that
    /// goes back to its last commit, and to the size that it had then.
    pub fn rolled_back(mut self, available: u64, nr_blocks: u64) -> Self {
        self.top = self.top.map(|top| top.min(nr_blocks));
        self.known.clear();
        self.touched.clear();
        self.run = 0..0;
        self.handed_out = 0;
        self.freed = false;
        self.available = available.saturating_sub(self.withheld_blocks);
        self
    }

    pub fn available(&self) -> u64 {
        self.available
    }

    /// Blocks that only views keep from being handed out.
    pub fn withheld_blocks(&self) -> u64 {
        self.withheld_blocks
    }

    pub fn withheld(&self) -> impl Iterator<Item = u64> + '_ {
        let all = self.withheld.iter().flat_map(|held| &held.bits);
        all.flat_map(|(bitmap, bits)| ones(bits).map(move |bit| bitmap * PER_BITMAP + bit))
    }

    pub fn knows(&self, bitmap: u64) -> bool {
        self.known.contains_key(&bitmap)
    }

    /// Takes note of a bitmap as it was at the last commit.
    pub fn learn(&mut self, bitmap: u64, block: &Bitmap) {
        if self.known.len() >= KEPT_BITMAPS {
            // Those without changes can be read again.
            self.known.retain(|_, known| known.touched);
        }
        let mut now = Box::new([0; WORDS]);
        for (word, pair) in now.iter_mut().zip(block.words.as_chunks::<2>().0) {
            *word = in_use(pair[0].get()) | in_use(pair[1].get()) << 32;
        }
        let mut before = now.clone();
        add(&mut before, &self.withheld_in(bitmap));
        let known = Known {
            now,
            before,
            touched: false,
        };
        self.known.insert(bitmap, known);
    }

    fn withheld_in(&self, bitmap: u64) -> Bits {
        let mut all = [0; WORDS];
        let held = self.withheld.iter();
        held.filter_map(|held| held.bits.get(&bitmap))
            .for_each(|bits| add(&mut all, bits));
        all
    }

    /// A block came into use.
    pub fn take(&mut self, block: u64) {
        let (word, bit) = place(block);
        let bitmap = block / PER_BITMAP;
        let Some(known) = self.known.get_mut(&bitmap) else {
            return;
        };
        if (known.now[word] | known.before[word]) & bit == 0 {
            self.available = self.available.saturating_sub(1);
        }
        known.now[word] |= bit;
        known.change(&mut self.touched, bitmap);
        self.top = self.top.map(|top| top.max(block + 1));
    }

    pub fn top(&self) -> Option<u64> {
        self.top
    }

    pub fn set_top(&mut self, top: u64) {
        self.top = Some(top);
    }

    /// One past the last block in use in a bitmap that is known.
    pub fn end_of_use(&self, bitmap: u64) -> Option<u64> {
        let known = self.known.get(&bitmap)?;
        let mut words = known.now.iter().zip(known.before.iter());
        let last = words.rposition(|(now, before)| now | before != 0)?;
        let bits = known.now[last] | known.before[last];
        let end = last as u64 * 64 + 64 - u64::from(bits.leading_zeros());
        Some(bitmap * PER_BITMAP + end)
    }

    /// A block went out of use. It can be handed out at once if it came into
    /// use since the last commit, otherwise once this is committed.
    pub fn release(&mut self, block: u64) {
        let (word, bit) = place(block);
        let bitmap = block / PER_BITMAP;
        let Some(known) = self.known.get_mut(&bitmap) else {
            return;
        };
        if sabotaged("reuse-freed") {
            known.before[word] &= !bit;
        }
        if known.now[word] & !known.before[word] & bit != 0 {
            self.available += 1;
        }
        self.freed |= known.before[word] & bit != 0;
        known.now[word] &= !bit;
        known.change(&mut self.touched, bitmap);
    }

    /// Whether a block went out of use that was in use at the last commit, or is read by
    /// a view.
    pub fn was_freed(&self, block: u64) -> bool {
        let (word, bit) = place(block);
        let bitmap = block / PER_BITMAP;
        match self.known.get(&bitmap) {
            Some(known) => known.before[word] & !known.now[word] & bit != 0,
            // Nothing of it has changed since the last commit.
            None => self.withheld_in(bitmap)[word] & bit != 0,
        }
    }

    /// Whether there is any such block.
    pub fn has_freed(&self) -> bool {
        self.freed || self.withheld_blocks > 0
    }

    /// Whether a block can be handed out, of a bitmap that is known.
    fn is_available(&self, block: u64) -> bool {
        let (word, bit) = place(block);
        let known = self.known.get(&(block / PER_BITMAP));
        known.is_some_and(|known| (known.now[word] | known.before[word]) & bit == 0)
    }

    /// Says that so many blocks will be needed soon.
    pub fn want(&mut self, blocks: u64) {
        let left = self.run.end - self.run.start;
        if left < blocks {
            self.wanted = self.wanted.max(blocks.min(MAX_RUN));
            // A longer run is looked for at once where this one is nearly over.
            if left < MIN_RUN || blocks > 2 * left {
                self.run = 0..0;
            }
        }
    }

    /// The bitmap of the next block of the run found last.
    pub fn next_bitmap(&self) -> Option<u64> {
        (!self.run.is_empty()).then_some(self.run.start / PER_BITMAP)
    }

    /// The next block of the run found last, of bitmaps that are known. `None`:
    /// [`Self::found`] a new one.
    pub fn next(&mut self) -> Option<u64> {
        while self.run.start < self.run.end {
            let block = self.run.start;
            if !self.knows(block / PER_BITMAP) {
                return None;
            }
            self.run.start += 1;
            self.cursor = self.run.start;
            if self.is_available(block) {
                self.take(block);
                self.handed_out += 1;
                return Some(block);
            }
        }
        None
    }

    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    pub fn wanted(&self) -> u64 {
        self.wanted.min(self.longest)
    }

    /// A search of everything found no run as long as wanted, but one of so many
    /// blocks. The next searches are content with half of that, so that a map in
    /// crumbs is searched a few times and not for each of them.
    pub fn found_only(&mut self, blocks: u64) {
        self.longest = (blocks / 2).max(1);
        self.patience = PATIENCE;
    }

    pub fn found(&mut self, run: Range<u64>) {
        self.run = run;
    }

    /// Joins the free blocks of a bitmap in `range` to `search`. `true`: enough.
    pub fn search_bitmap(&self, range: Range<u64>, search: &mut Search) -> bool {
        let Some(known) = self.known.get(&(range.start / PER_BITMAP)) else {
            search.gap();
            return false;
        };
        let base = range.start - range.start % PER_BITMAP;
        let mut at = range.start;
        while at < range.end {
            let offset = at - base;
            let word = index(offset / 64);
            let word = (known.now[word] | known.before[word]) >> (offset % 64);
            let left = (64 - offset % 64).min(range.end - at);
            if word & 1 == 1 {
                search.gap();
                at += u64::from((!word).trailing_zeros()).min(left);
            } else {
                let free = u64::from(word.trailing_zeros()).min(left);
                if search.free(at..at + free) {
                    return true;
                }
                at += free;
            }
        }
        false
    }

    /// More blocks, all free.
    pub fn extended(&mut self, blocks: u64) {
        self.available += blocks;
    }

    /// What was freed can be handed out from now on, unless views of commits
    /// before `generation` (the one that this ends in) are open; `newest` is the
    /// last commit of which there is one.
    pub fn committed(&mut self, generation: u64, newest: Option<u64>) {
        let mut freed = Withheld {
            generation,
            bits: FxHashMap::default(),
        };
        for bitmap in std::mem::take(&mut self.touched) {
            self.release_withheld_in_use(bitmap);
            let withheld = self.withheld_in(bitmap);
            let Some(known) = self.known.get_mut(&bitmap) else {
                continue;
            };
            known.touched = false;
            let mut bits = Box::new([0; WORDS]);
            for (word, freed) in bits.iter_mut().enumerate() {
                *freed = known.before[word] & !known.now[word] & !withheld[word];
                known.before[word] = known.now[word] | withheld[word] | *freed;
            }
            if bits.iter().any(|word| *word != 0) {
                freed.bits.insert(bitmap, bits);
            }
        }
        match newest {
            Some(newest) => {
                self.withheld_blocks += freed.blocks();
                self.withhold(freed, newest);
            }
            None => self.hand_back(&freed),
        }
        self.wanted = self.handed_out.clamp(MIN_RUN, MAX_RUN);
        self.handed_out = 0;
        self.freed = false;
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 {
            self.longest = u64::MAX;
        }
    }

    /// Joins the list before where no view was opened in between: then both can
    /// be handed back at the same time.
    fn withhold(&mut self, freed: Withheld, newest: u64) {
        match self.withheld.back_mut() {
            Some(last) if newest < last.generation => {
                last.generation = freed.generation;
                for (bitmap, bits) in freed.bits {
                    let all = last.bits.entry(bitmap);
                    add(all.or_insert_with(|| Box::new([0; WORDS])), &bits);
                }
            }
            _ => self.withheld.push_back(freed),
        }
    }

    /// What somebody counted again though it was withheld is in use, and not to
    /// be handed back when the views are closed.
    fn release_withheld_in_use(&mut self, bitmap: u64) {
        let Some(known) = self.known.get(&bitmap) else {
            return;
        };
        for held in &mut self.withheld {
            if let Some(bits) = held.bits.get_mut(&bitmap) {
                for (bits, now) in bits.iter_mut().zip(known.now.iter()) {
                    self.withheld_blocks -= u64::from((*bits & now).count_ones());
                    *bits &= !now;
                }
            }
        }
    }

    /// Views of commits before `oldest` are closed.
    pub fn views_closed(&mut self, oldest: Option<u64>) {
        let over = |held: &Withheld| oldest.is_none_or(|oldest| held.generation <= oldest);
        while self.withheld.front().is_some_and(over) {
            if let Some(held) = self.withheld.pop_front() {
                self.withheld_blocks -= held.blocks();
                self.hand_back(&held);
            }
        }
    }

    fn hand_back(&mut self, freed: &Withheld) {
        self.available += freed.blocks();
        for (bitmap, bits) in &freed.bits {
            if let Some(known) = self.known.get_mut(bitmap) {
                let words = known.before.iter_mut().zip(bits.iter());
                words.for_each(|(word, bits)| *word &= !bits);
            }
        }
    }
}

impl Withheld {
    fn blocks(&self) -> u64 {
        let words = self.bits.values().flat_map(|bits| bits.iter());
        words.map(|word| u64::from(word.count_ones())).sum()
    }
}

fn add(all: &mut Bits, bits: &Bits) {
    all.iter_mut()
        .zip(bits)
        .for_each(|(all, bits)| *all |= bits);
}

fn index(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn place(block: u64) -> (usize, u64) {
    let offset = block % PER_BITMAP;
    (index(offset / 64), 1 << (offset % 64))
}

fn ones(bits: &Bits) -> impl Iterator<Item = u64> + '_ {
    let numbered = (0_u64..).zip(bits.iter());
    numbered.flat_map(|(word, bits)| {
        (0..64)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| word * 64 + bit)
    })
}

/// One bit for each of the 32 entries of a bitmap's word: is its count not zero?
fn in_use(word: u64) -> u64 {
    // Either of the two bits, gathered from the even places.
    let mut bits = (word | word >> 1) & 0x5555_5555_5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0F0F_0F0F_0F0F_0F0F;
    bits = (bits | bits >> 4) & 0x00FF_00FF_00FF_00FF;
    bits = (bits | bits >> 8) & 0x0000_FFFF_0000_FFFF;
    (bits | bits >> 16) & 0xFFFF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::BlockData;

    fn map(blocks: u64) -> FreeMap {
        let mut map = FreeMap::new(blocks);
        map.learn(0, BlockData::zeroed().view());
        map
    }

    fn allocate(map: &mut FreeMap, blocks: u64) -> Option<u64> {
        if let Some(block) = map.next() {
            return Some(block);
        }
        let mut search = Search::new(map.wanted());
        let cursor = map.cursor().min(blocks);
        if !map.search_bitmap(cursor..blocks, &mut search) {
            search.gap();
            if cursor > 0 {
                map.search_bitmap(0..cursor, &mut search);
            }
        }
        map.found(search.longest());
        map.next()
    }

    #[test]
    fn every_word_of_entries_becomes_bits() {
        assert_eq!(in_use(0), 0);
        assert_eq!(in_use(u64::MAX), 0xFFFF_FFFF);
        assert_eq!(in_use(0b11_00_10_01), 0b1011);
        assert_eq!(in_use(0b10 << 62), 1 << 31);
    }

    #[test]
    fn every_block_is_handed_out_once_before_space_is_over() {
        let mut map = map(1000);
        (0..1000).step_by(3).for_each(|block| map.take(block));
        let mut got = Vec::new();
        while let Some(block) = allocate(&mut map, 1000) {
            got.push(block);
        }
        got.sort_unstable();
        let free: Vec<u64> = (0..1000).filter(|block| block % 3 != 0).collect();
        assert_eq!((got, map.available()), (free, 0));
    }

    #[test]
    fn a_run_of_the_size_wanted_is_preferred() {
        let mut map = map(1000);
        (0..1000)
            .filter(|block| block % 10 == 9 && *block != 509)
            .for_each(|block| map.take(block));
        map.want(15);
        let run: Vec<_> = (0..19).map(|_| allocate(&mut map, 1000).unwrap()).collect();
        assert_eq!(run, (500..519).collect::<Vec<_>>());
    }

    #[test]
    fn freed_blocks_wait_for_the_commit_and_for_older_views() {
        let mut map = map(4);
        (0..4).for_each(|block| map.take(block));
        map.committed(1, None);
        map.release(2);
        assert_eq!(allocate(&mut map, 4), None);
        map.committed(2, Some(1));
        assert_eq!(
            (map.available(), map.withheld().collect::<Vec<_>>()),
            (0, vec![2])
        );
        map.release(3);
        map.committed(3, Some(2));
        map.views_closed(Some(2));
        assert_eq!((map.available(), allocate(&mut map, 4)), (1, Some(2)));
        map.views_closed(None);
        assert_eq!((map.withheld_blocks(), allocate(&mut map, 4)), (0, Some(3)));
    }

    #[test]
    fn a_view_that_stays_open_costs_one_list_however_many_commits_are_made() {
        let mut map = map(16_000);
        (0..1000).for_each(|block| map.take(block));
        map.committed(1, None);
        for commit in 2..500 {
            map.release(commit);
            map.committed(commit, Some(1));
        }
        assert_eq!((map.withheld.len(), map.withheld_blocks()), (1, 498));
        // A view of a later commit parts what it does not need from what it does.
        map.release(700);
        map.committed(500, Some(499));
        assert_eq!((map.withheld.len(), map.withheld_blocks()), (2, 499));
        map.views_closed(Some(499));
        assert_eq!((map.withheld.len(), map.withheld_blocks()), (1, 1));
        map.views_closed(None);
        assert_eq!(
            (map.withheld.len(), map.available()),
            (0, 16_000 - 1000 + 499)
        );
    }

    #[test]
    fn a_withheld_block_that_is_counted_again_is_not_handed_back() {
        let mut map = map(4);
        (0..4).for_each(|block| map.take(block));
        map.committed(1, None);
        map.release(2);
        map.committed(2, Some(1));
        map.take(2);
        map.committed(3, Some(1));
        map.views_closed(None);
        map.release(2);
        assert_eq!((map.available(), allocate(&mut map, 4)), (0, None));
    }

    #[test]
    fn a_block_taken_and_released_between_commits_is_free_at_once() {
        let mut map = map(1);
        assert_eq!(allocate(&mut map, 1), Some(0));
        map.release(0);
        assert_eq!((map.available(), allocate(&mut map, 1)), (1, Some(0)));
        map.committed(1, None);
        map.release(0);
        assert_eq!((map.available(), allocate(&mut map, 1)), (0, None));
    }

    #[test]
    fn a_block_used_again_is_not_handed_out_after_the_commit() {
        let mut map = map(2);
        map.take(0);
        map.take(1);
        map.committed(1, None);
        map.release(0);
        map.take(0);
        map.committed(2, None);
        assert_eq!((map.available(), allocate(&mut map, 2)), (0, None));
    }
}
