//! Pools made by hand, each for one claim; `random` has those made by chance.

mod against;
mod random;
mod written;

use std::sync::Arc;

use super::*;
use crate::error::Damage;
use crate::task::Monitor;
use crate::testing::{PoolBuilder, mapping};
use crate::thin::Pool;
use crate::units::BlockNr;

const DATA_BLOCKS: u64 = 1 << 20;

/// The delta of devices 1 and 2.
fn delta_of(pool: &Arc<Pool>, same: bool) -> Result<Delta> {
    let (left, right) = (pool.device_by_id(1)?, pool.device_by_id(2)?);
    delta(&left, &right, same, &Task::default())
}

/// As [`delta_of`] without the rows of kind same, and how many blocks it read.
fn counted(builder: &PoolBuilder) -> (Result<Delta>, u64) {
    let (pool, device) = builder.open_counted();
    let (left, right) = (pool.device_by_id(1).unwrap(), pool.device_by_id(2).unwrap());
    device.take_blocks_read();
    let answer = delta(&left, &right, false, &Task::default());
    (answer, device.take_blocks_read())
}

fn pair(builder: &mut PoolBuilder, left: BlockNr, right: BlockNr) -> Arc<Pool> {
    builder.device(1, left);
    builder.device(2, right);
    builder.open()
}

/// Blocks `keys` mapped at `key + shift`.
fn run(keys: std::ops::Range<u64>, shift: u64) -> Vec<(u64, u64)> {
    keys.map(|key| (key, mapping(key + shift, 0))).collect()
}

/// Two devices without shared nodes.
fn apart(left: &[(u64, u64)], right: &[(u64, u64)]) -> Arc<Pool> {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let (left, right) = (builder.tree(left, 4), builder.tree(right, 3));
    pair(&mut builder, left, right)
}

fn damage(answer: Result<Delta>) -> Damage {
    match answer {
        Err(Error::Damaged(damage)) => damage,
        other => panic!("{other:?}"),
    }
}

/// Kind, begin, length and the data blocks of both sides.
type Plain = (Kind, u64, u64, Option<u64>, Option<u64>);

fn plain(delta: &Delta) -> Vec<Plain> {
    let rows = delta.rows();
    rows.map(|row| {
        (
            row.kind,
            row.begin,
            row.length,
            row.left_data,
            row.right_data,
        )
    })
    .collect()
}

#[test]
fn rows_are_of_one_kind_and_contiguous_in_the_data_of_every_mapped_side() {
    let left = [run(0..10, 100), run(20..24, 0)].concat();
    let right = [run(2..6, 100), run(6..8, 200), run(8..14, 300)].concat();
    let pool = apart(&left, &right);
    let all = delta_of(&pool, true).unwrap();
    let expected = [
        (Kind::LeftOnly, 0, 2, Some(100), None),
        (Kind::Same, 2, 4, Some(102), Some(102)),
        (Kind::Changed, 6, 2, Some(106), Some(206)),
        (Kind::Changed, 8, 2, Some(108), Some(308)),
        (Kind::RightOnly, 10, 4, None, Some(310)),
        (Kind::LeftOnly, 20, 4, Some(20), None),
    ];
    assert_eq!(plain(&all), expected);
    assert_eq!(all.changed_blocks(), 14);
    assert_eq!(all.block_bytes(), 65536);
    assert_eq!((all.len(), all.is_empty(), all.row(6)), (6, false, None));
    let merged = [
        (Kind::LeftOnly, 0, 2),
        (Kind::Same, 2, 4),
        (Kind::Changed, 6, 4),
        (Kind::RightOnly, 10, 4),
        (Kind::LeftOnly, 20, 4),
    ];
    assert_eq!(all.merged(), merged);
    let different = delta_of(&pool, false).unwrap();
    let without_same = expected.iter().filter(|row| row.0 != Kind::Same);
    assert_eq!(plain(&different), without_same.copied().collect::<Vec<_>>());
    assert_eq!(different.changed_blocks(), 14);
}

#[test]
fn what_is_not_mapped_or_left_out_joins_no_ranges() {
    let left = run(0..9, 0);
    let mut right = run(0..9, 10);
    right[4].1 = mapping(4, 0);
    let delta = delta_of(&apart(&left, &right), false).unwrap();
    let expected = vec![(Kind::Changed, 0, 4), (Kind::Changed, 5, 4)];
    assert_eq!(delta.merged(), expected);
    let delta = delta_of(&apart(&[run(0..2, 0), run(3..5, 1)].concat(), &[]), true).unwrap();
    let expected = vec![(Kind::LeftOnly, 0, 2), (Kind::LeftOnly, 3, 2)];
    assert_eq!(delta.merged(), expected);
}

#[test]
fn a_later_time_alone_is_no_difference() {
    let right: Vec<_> = (0..9).map(|key| (key, mapping(key, 7))).collect();
    let pool = apart(&run(0..9, 0), &right);
    assert!(delta_of(&pool, false).unwrap().is_empty());
    let all = delta_of(&pool, true).unwrap();
    assert_eq!(plain(&all), [(Kind::Same, 0, 9, Some(0), Some(0))]);
    assert_eq!(all.changed_blocks(), 0);
}

#[test]
fn an_empty_device_differs_by_all_that_the_other_has() {
    let (some, none) = (run(0..9, 0), []);
    let delta = |left: &[_], right: &[_]| plain(&delta_of(&apart(left, right), true).unwrap());
    assert_eq!(delta(&some, &none), [(Kind::LeftOnly, 0, 9, Some(0), None)]);
    assert_eq!(
        delta(&none, &some),
        [(Kind::RightOnly, 0, 9, None, Some(0))]
    );
    assert_eq!(delta(&none, &none), []);
}

#[test]
fn devices_of_different_pools_are_refused() {
    let (one, other) = (apart(&[], &[]), apart(&[], &[]));
    let (left, right) = (one.device_by_id(1).unwrap(), other.device_by_id(2).unwrap());
    let answer = delta(&left, &right, false, &Task::default());
    assert!(matches!(answer, Err(Error::Usage(_))));
}

#[test]
fn equal_roots_are_not_even_read() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let root = builder.tree(&run(0..1000, 0), 10);
    builder.device(1, root);
    builder.device(2, root);
    let (answer, reads) = counted(&builder);
    assert_eq!((answer.unwrap().len(), reads), (0, 0));
    let all = delta_of(&builder.open(), true).unwrap();
    assert_eq!(plain(&all), [(Kind::Same, 0, 1000, Some(0), Some(0))]);
}

/// Leaves of ten blocks, under their own first keys.
fn leaves_of_ten(builder: &mut PoolBuilder, keys: std::ops::Range<u64>) -> Vec<(u64, BlockNr)> {
    let begins = keys.step_by(10);
    begins
        .map(|begin| (begin, builder.leaf(&run(begin..begin + 10, 0))))
        .collect()
}

#[test]
fn shared_leaves_are_not_read_unless_same_is_asked_for() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let left = leaves_of_ten(&mut builder, 0..10_000);
    let mut right = left.clone();
    right[500].1 = builder.leaf(&run(5000..5010, 1000));
    for (index, (_, leaf)) in left.iter().enumerate() {
        if index != 500 {
            builder.ruin(*leaf);
        }
    }
    let (left, right) = (builder.tree_over(left, 40), builder.tree_over(right, 40));
    let pool = pair(&mut builder, left, right);
    let different = delta_of(&pool, false).unwrap();
    let expected = (Kind::Changed, 5000, 10, Some(5000), Some(6000));
    assert_eq!(plain(&different), [expected]);
    // Every internal node, as none is shared, and one leaf of each.
    assert_eq!(counted(&builder).1, 2 * (1 + 25 + 1));
    assert_eq!(damage(delta_of(&pool, true)).check, "checksum");
}

#[test]
fn a_shared_subtree_under_other_keys_is_left_out_wherever_the_sides_meet_it() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let leaves = leaves_of_ten(&mut builder, 1000..2000);
    let shared = builder.tree_over(leaves, 10);
    let before = builder.tree(&run(0..900, 0), 10);
    let changed = builder.tree(&run(0..900, 5000), 10);
    let extra = builder.tree(&run(903..913, 0), 10);
    let extra = builder.internal(&[(903, extra)]);
    // On the right it stands under a key so low that it is opened early, and
    // waits while the left side goes through what it has before.
    let left = builder.internal(&[(0, before), (903, extra), (1000, shared)]);
    let right = builder.internal(&[(0, changed), (901, shared)]);
    builder.device(1, left);
    builder.device(2, right);
    let (answer, reads) = counted(&builder);
    let expected = [
        (Kind::Changed, 0, 900, Some(0), Some(5000)),
        (Kind::LeftOnly, 903, 10, Some(903), None),
    ];
    assert_eq!(plain(&answer.unwrap()), expected);
    // The roots and, of either side, one internal node and ninety leaves; what
    // only the left has; and the shared tree's root, but nothing below it.
    assert_eq!(reads, 2 * (1 + 1 + 90) + 2 + 1);

    let alone = builder.internal(&[(5, shared)]);
    builder.device(3, alone);
    let pool = builder.open();
    let (left, right) = (pool.device_by_id(1).unwrap(), pool.device_by_id(3).unwrap());
    let all = delta(&left, &right, true, &Task::default()).unwrap();
    let expected = [
        (Kind::LeftOnly, 0, 900, Some(0), None),
        (Kind::LeftOnly, 903, 10, Some(903), None),
        (Kind::Same, 1000, 1000, Some(1000), Some(1000)),
    ];
    assert_eq!(plain(&all), expected);
}

#[test]
fn trees_of_different_height_are_walked_level_with_each_other() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let leaves = leaves_of_ten(&mut builder, 0..10_000);
    let low = builder.tree_over(leaves[1..].to_vec(), 100);
    let high = builder.tree_over(leaves, 4);
    builder.device(1, high);
    builder.device(2, low);
    let (answer, reads) = counted(&builder);
    let row = (Kind::LeftOnly, 0, 10, Some(0), None);
    assert_eq!(plain(&answer.unwrap()), [row]);
    // All internal nodes (the shared leaves hang under others), the leaf that
    // only one has, and one that the other had to open to see that.
    assert_eq!(reads, (250 + 63 + 16 + 4 + 1) + (10 + 1) + 2);
}

#[test]
fn a_mapping_past_the_data_device_or_past_all_bytes_is_damage() {
    let past = damage(delta_of(
        &apart(&[(3, mapping(DATA_BLOCKS, 0))], &[]),
        false,
    ));
    assert_eq!((past.check, past.found), ("data block", DATA_BLOCKS.into()));
    let last = u64::MAX / 65536 - 1;
    let end = (Kind::RightOnly, last, 1, None, Some(5));
    let delta = delta_of(&apart(&[], &[(last, mapping(5, 0))]), false);
    assert_eq!(plain(&delta.unwrap()), [end]);
    let past = damage(delta_of(&apart(&[(last + 1, mapping(5, 0))], &[]), false));
    assert_eq!(past.check, "virtual block");
}

#[test]
fn trees_that_lead_back_to_themselves_are_damage() {
    for same in [false, true] {
        // Every level of the loop is within its parent's bounds: depth stops it.
        let mut builder = PoolBuilder::new(DATA_BLOCKS);
        let own = BlockNr(builder.nr_blocks());
        let looped = builder.internal(&[(5, own)]);
        assert_eq!(looped, own);
        let leaf = builder.leaf(&run(0..10, 0));
        let pool = pair(&mut builder, looped, leaf);
        assert_eq!(damage(delta_of(&pool, same)).check, "depth");

        // A node that is its own second child: its first key is too low for that.
        let mut builder = PoolBuilder::new(DATA_BLOCKS);
        let leaf = builder.leaf(&run(0..10, 0));
        let own = BlockNr(builder.nr_blocks());
        let looped = builder.internal(&[(0, leaf), (50, own)]);
        let pool = pair(&mut builder, leaf, looped);
        assert_eq!(damage(delta_of(&pool, same)).check, "key bounds");
    }
}

#[test]
fn a_shared_node_has_to_keep_to_the_bounds_of_both_sides() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let (one, other) = (builder.leaf(&run(0..2, 0)), builder.leaf(&run(0..2, 9)));
    let shared = builder.leaf(&run(10..20, 0));
    let end = builder.leaf(&run(30..40, 0));
    let left = builder.internal(&[(0, one), (10, shared), (30, end)]);
    let right = builder.internal(&[(0, other), (10, shared), (15, end)]);
    let pool = pair(&mut builder, left, right);
    assert_eq!(damage(delta_of(&pool, true)).block, shared);
}

#[test]
fn the_monitor_stops_the_walk() {
    struct Stop;
    impl Monitor for Stop {
        fn poll(&self, _done: u64, _total: u64) -> Result<()> {
            Err(Error::Interrupted)
        }
    }
    let pool = apart(&run(0..100, 0), &run(0..100, 1));
    let (left, right) = (pool.device_by_id(1).unwrap(), pool.device_by_id(2).unwrap());
    let task = Task::new(Some(&Stop), None);
    // It is asked a few times a second, and this takes no time.
    let error = loop {
        match delta(&left, &right, false, &task) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::Interrupted), "{error}");
}
