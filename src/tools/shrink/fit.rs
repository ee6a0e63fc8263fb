//! Where the blocks go that lie past the new end.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::thin::Run;

/// Data blocks that are side by side now, and will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The first of them, past the new end.
    pub from: u64,
    /// Where it goes, below the new end.
    pub to: u64,
    /// Blocks.
    pub length: u64,
}

/// Finds a place in `free` for every block of `used`. Both are ranges that ascend; there
/// has to be room. The largest ranges are placed first, each in the smallest hole that
/// takes it as a whole, the lowest of several, so that as few as can be are taken apart;
/// one that fits nowhere fills the largest that are left.
pub(super) fn fit(used: &[Range<u64>], free: impl Iterator<Item = Range<u64>>) -> Vec<Move> {
    // By size, and then by place.
    let mut holes: BTreeMap<(u64, u64), ()> = BTreeMap::new();
    for hole in free {
        holes.insert((hole.end - hole.start, hole.start), ());
    }
    let mut largest_first: Vec<&Range<u64>> = used.iter().collect();
    largest_first.sort_unstable_by_key(|range| (u64::MAX - (range.end - range.start), range.start));
    let mut moves = Vec::with_capacity(used.len());
    for range in largest_first {
        let mut from = range.start;
        while from < range.end {
            let wanted = range.end - from;
            let Some(largest) = holes.last_key_value().map(|((size, _), ())| *size) else {
                break;
            };
            let Some((&hole, ())) = holes.range((wanted.min(largest), 0)..).next() else {
                break;
            };
            holes.remove(&hole);
            let (size, to) = hole;
            let length = wanted.min(size);
            if size > length {
                holes.insert((size - length, to + length), ());
            }
            moves.push(Move { from, to, length });
            from += length;
        }
    }
    moves.sort_unstable_by_key(|each| each.from);
    moves
}

/// Appends what becomes of a run: `moves` ascend by where they begin.
pub(super) fn translate(moves: &[Move], run: &Run, out: &mut Vec<Run>) {
    let end = run.data_begin + run.length_blocks;
    let mut done = 0;
    let mut next = moves.partition_point(|each| each.from + each.length <= run.data_begin);
    while done < run.length_blocks {
        let at = run.data_begin + done;
        let (to, until) = match moves.get(next) {
            Some(each) if each.from <= at => {
                next += 1;
                (each.to + (at - each.from), each.from + each.length)
            }
            Some(each) => (at, each.from),
            None => (at, end),
        };
        let length_blocks = until.min(end) - at;
        let piece = Run {
            virtual_begin: run.virtual_begin + done,
            data_begin: to,
            length_blocks,
            time: run.time,
        };
        if !out.last_mut().is_some_and(|last| last.join(&piece)) {
            out.push(piece);
        }
        done += length_blocks;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(used: &[Range<u64>], free: &[Range<u64>]) -> Vec<(u64, u64, u64)> {
        let moves = fit(used, free.iter().cloned());
        moves
            .iter()
            .map(|each| (each.from, each.to, each.length))
            .collect()
    }

    #[test]
    fn a_range_goes_where_it_just_fits() {
        let used = [100..110, 120..123];
        let free = [0..50, 60..70, 80..83];
        assert_eq!(moved(&used, &free), [(100, 60, 10), (120, 80, 3)]);
        // The lowest of several.
        let same = moved(&[100..102, 200..202], &[10..12, 4..6, 30..32]);
        assert_eq!(same, [(100, 4, 2), (200, 10, 2)]);
    }

    #[test]
    fn what_fits_nowhere_is_taken_apart_as_little_as_can_be() {
        let whole = std::slice::from_ref(&(100..110));
        let taken_apart = moved(whole, &[0..3, 5..11, 20..24]);
        assert_eq!(taken_apart, [(100, 5, 6), (106, 20, 4)]);
        // The large one has the large hole to itself, though the small one comes first.
        let both = moved(&[100..102, 110..118], &[0..8, 20..21, 30..31]);
        assert_eq!(both, [(100, 20, 1), (101, 30, 1), (110, 0, 8)]);
    }

    #[test]
    fn every_block_has_a_place_of_its_own_until_there_is_no_room() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            let next = state.wrapping_mul(6_364_136_223_846_793_005);
            state = next.wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..300 {
            let (mut used, mut free) = (Vec::new(), Vec::new());
            let (mut wanted, mut at) = (0, 10_000);
            for _ in 0..random(20) {
                at += 1 + random(5);
                let length = 1 + random(30);
                used.push(at..at + length);
                (at, wanted) = (at + length, wanted + length);
            }
            let (mut room, mut at) = (0, 0);
            while room < wanted {
                at += 1 + random(4);
                let length = (1 + random(12)).min(wanted - room);
                free.push(at..at + length);
                (at, room) = (at + length, room + length);
            }
            let moves = fit(&used, free.iter().cloned());
            let from: Vec<u64> = moves
                .iter()
                .flat_map(|each| each.from..each.from + each.length)
                .collect();
            assert!(from.iter().copied().eq(used.iter().cloned().flatten()));
            let mut to: Vec<u64> = moves
                .iter()
                .flat_map(|each| each.to..each.to + each.length)
                .collect();
            to.sort_unstable();
            // There was just enough room.
            assert!(to.iter().copied().eq(free.iter().cloned().flatten()));
        }
    }

    #[test]
    fn runs_go_with_their_blocks_and_are_joined_again() {
        let moves = [(50, 10, 5), (55, 30, 5), (70, 15, 2)].map(|(from, to, length)| Move {
            from,
            to,
            length,
        });
        let run = |virtual_begin, data_begin, length_blocks| Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time: 3,
        };
        let changed = |given: Run| {
            let mut out = Vec::new();
            translate(&moves, &given, &mut out);
            out
        };
        assert_eq!(changed(run(7, 0, 40)), [run(7, 0, 40)]);
        assert_eq!(
            changed(run(0, 48, 14)),
            [run(0, 48, 2), run(2, 10, 5), run(7, 30, 5), run(12, 60, 2)]
        );
        assert_eq!(changed(run(9, 53, 3)), [run(9, 13, 2), run(11, 30, 1)]);
        let mut out = vec![run(0, 14, 1)];
        translate(&moves, &run(1, 70, 2), &mut out);
        assert_eq!(out, [run(0, 14, 3)]);
    }
}
