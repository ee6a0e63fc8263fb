//! What a copy of a volume needs to become a later state of it.
//!
//! In bytes, joined wherever the data lie, so that memory is 16 bytes for each stretch.

use std::ops::Range;

use super::delta::{Kind, Sided, each_run, joined_delta};
use crate::error::Result;
use crate::task::Task;

/// Stretches of a volume, `[begin, length]` in bytes, in ascending order and apart.
pub type Stretches = Vec<[u64; 2]>;

/// What is to be done to the copy, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Content that has to be read.
    pub data: Stretches,
    /// What shows zeros now.
    pub zero: Stretches,
}

/// From nothing to `now`, a volume of `size_bytes`.
///
/// # Errors
/// What reading the mappings reports.
pub fn whole(now: &Sided<'_>, size_bytes: u64, task: &Task<'_>) -> Result<Changes> {
    let block = block_bytes(now);
    let mut data = Joiner::new(size_bytes);
    each_run(now, task, |run| {
        let end = run.virtual_begin.saturating_add(run.length_blocks);
        data.push(run.virtual_begin.saturating_mul(block)..end.saturating_mul(block));
    })?;
    let zero = gaps(&data.stretches, 0..size_bytes);
    let data = data.stretches;
    Ok(Changes { data, zero })
}

/// From `base`, a copy of `base_bytes`, to `now`, a volume of `size_bytes`. What lies past
/// the end of the base may hold anything.
///
/// # Errors
/// As [`delta`](super::delta::delta) and [`delta_against`](super::delta::delta_against).
pub fn since(
    base: &Sided<'_>,
    base_bytes: u64,
    now: &Sided<'_>,
    size_bytes: u64,
    task: &Task<'_>,
) -> Result<Changes> {
    let block = block_bytes(now);
    // What both map beyond the end of the base is the same, and not in the copy.
    let shared_bytes = size_bytes.min(base_bytes);
    let (mut data, mut zero) = (Joiner::new(shared_bytes), Joiner::new(shared_bytes));
    for (kind, begin, length) in joined_delta(base, now, task)? {
        // The end of a row in bytes fits 64 bits.
        let bytes = begin * block..(begin + length) * block;
        match kind {
            Kind::LeftOnly => zero.push(bytes),
            Kind::Changed | Kind::RightOnly => data.push(bytes),
            Kind::Same => {}
        }
    }
    if shared_bytes < size_bytes {
        let mut beyond = Joiner::new(size_bytes);
        each_run(now, task, |run| {
            let end = run.virtual_begin.saturating_add(run.length_blocks);
            let (begin, end) = (
                run.virtual_begin.saturating_mul(block),
                end.saturating_mul(block),
            );
            beyond.push(begin.max(shared_bytes)..end);
        })?;
        for [begin, length] in gaps(&beyond.stretches, shared_bytes..size_bytes) {
            zero.extend(begin..begin + length, size_bytes);
        }
        for [begin, length] in beyond.stretches {
            data.extend(begin..begin + length, size_bytes);
        }
    }
    Ok(Changes {
        data: data.stretches,
        zero: zero.stretches,
    })
}

fn block_bytes(side: &Sided<'_>) -> u64 {
    match side {
        Sided::Device(device) => device.pool().superblock().data_block_bytes(),
        Sided::Saved(saved) => u64::from(saved.head().data_block_size_sectors) << 9,
    }
}

/// Joins ranges that touch, and cuts them at an end.
struct Joiner {
    stretches: Stretches,
    end: u64,
}

impl Joiner {
    fn new(end: u64) -> Self {
        Self {
            stretches: Vec::new(),
            end,
        }
    }

    fn push(&mut self, bytes: Range<u64>) {
        let (begin, end) = (bytes.start, bytes.end.min(self.end));
        if begin >= end {
            return;
        }
        match self.stretches.last_mut() {
            Some([last, length]) if *last + *length == begin => *length += end - begin,
            _ => self.stretches.push([begin, end - begin]),
        }
    }
}

impl Joiner {
    /// As [`Self::push`], up to an end that lies farther.
    fn extend(&mut self, bytes: Range<u64>, end: u64) {
        self.end = end;
        self.push(bytes);
    }
}

/// What of `within` none of the stretches covers.
fn gaps(stretches: &Stretches, within: Range<u64>) -> Stretches {
    let mut gaps = Vec::new();
    let mut at = within.start;
    for [begin, length] in stretches {
        if *begin > at {
            gaps.push([at, *begin - at]);
        }
        at = at.max(begin + length);
    }
    if at < within.end {
        gaps.push([at, within.end - at]);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PoolBuilder, mapping};

    const BLOCK: u64 = 64 << 10;

    fn of(left: &[(u64, u64)], right: &[(u64, u64)], sizes: [u64; 2]) -> Changes {
        let mut builder = PoolBuilder::new(1 << 20);
        let roots = [builder.tree(left, 3), builder.tree(right, 4)];
        builder.device(1, roots[0]);
        builder.device(2, roots[1]);
        let pool = builder.open();
        let devices = [1, 2].map(|id| pool.device_by_id(id).unwrap());
        let [base, now] = [0, 1].map(|side| Sided::Device(&devices[side]));
        since(&base, sizes[0], &now, sizes[1], &Task::default()).unwrap()
    }

    fn entries(blocks: &[(u64, u64)]) -> Vec<(u64, u64)> {
        blocks
            .iter()
            .map(|(block, data)| (*block, mapping(*data, 0)))
            .collect()
    }

    #[test]
    fn the_whole_is_what_is_mapped_and_zeros_for_the_rest() {
        let mut builder = PoolBuilder::new(1 << 20);
        let root = builder.tree(&entries(&[(1, 9), (2, 100), (4, 7), (5, 8)]), 3);
        builder.device(1, root);
        let device = builder.open().device_by_id(1).unwrap();
        let size = 5 * BLOCK + 1000;
        let changes = whole(&Sided::Device(&device), size, &Task::default()).unwrap();
        assert_eq!(
            changes.data,
            [[BLOCK, 2 * BLOCK], [4 * BLOCK, BLOCK + 1000]]
        );
        assert_eq!(changes.zero, [[0, BLOCK], [3 * BLOCK, BLOCK]]);
    }

    #[test]
    fn rows_of_any_place_are_joined_and_what_is_the_same_is_left_out() {
        let left = entries(&[(0, 1), (1, 2), (2, 3), (5, 4), (6, 40)]);
        let right = entries(&[(0, 1), (1, 50), (2, 20), (3, 90), (6, 40)]);
        let changes = of(&left, &right, [8 * BLOCK; 2]);
        assert_eq!(changes.data, [[BLOCK, 3 * BLOCK]]);
        assert_eq!(changes.zero, [[5 * BLOCK, BLOCK]]);
    }

    #[test]
    fn what_lies_past_the_end_of_the_base_is_told_whole() {
        let left = entries(&[(0, 1), (1, 2)]);
        let right = entries(&[(0, 1), (5, 2)]);
        let changes = of(&left, &right, [2 * BLOCK, 8 * BLOCK]);
        assert_eq!(changes.data, [[5 * BLOCK, BLOCK]]);
        assert_eq!(changes.zero, [[BLOCK, 4 * BLOCK], [6 * BLOCK, 2 * BLOCK]]);
        // A volume that was smaller meanwhile has more than its copy.
        let both = of(&right, &right, [2 * BLOCK, 8 * BLOCK]);
        assert_eq!(both.data, [[5 * BLOCK, BLOCK]]);
        assert_eq!(both.zero, [[2 * BLOCK, 3 * BLOCK], [6 * BLOCK, 2 * BLOCK]]);
        let inside = of(&right, &right, [5 * BLOCK + 100, 6 * BLOCK]);
        assert_eq!(inside.data, [[5 * BLOCK + 100, BLOCK - 100]]);
        let shrunk = of(&right, &left, [8 * BLOCK, BLOCK + 5]);
        assert_eq!(shrunk.data, [[BLOCK, 5]]);
        assert!(shrunk.zero.is_empty());
    }
}
