//! Every way to read a tree gives what was put into it.

use thinmeta::btree::{Cursor, Wait, first, get, get_many, last, next, scan};
use thinmeta::task::{Monitor, Task};
use thinmeta::{Error, Result};

use super::tree::{Filled, filled};
use crate::support::chance::Chance;

/// Keys in and around a tree, its ends included.
fn asked(chance: &mut Chance<'_>, filled: &Filled, count: usize, end: u64) -> Vec<u64> {
    let known: Vec<u64> = filled.model.keys().copied().collect();
    let mut keys: Vec<u64> = (0..count)
        .map(|_| match chance.one_in(2) && !known.is_empty() {
            true => known[chance.index(known.len())],
            false => chance.below(end),
        })
        .collect();
    keys.extend([0, u64::MAX]);
    keys.extend(known.first().map(|key| key.saturating_sub(1)));
    keys.extend(known.last().map(|key| key.saturating_add(1)));
    keys
}

#[test]
fn each_key_is_found_alone_and_in_crowds() {
    let mut chance = Chance::Seed(1);
    for (count, end, value_bytes) in [
        (0, 1, 8),
        (1, 9, 8),
        (70_000, 1 << 40, 8),
        (70_000, 90_000, 8),
        (5000, 1 << 60, 3),
        (900, 1 << 60, 1000),
    ] {
        let filled = filled(&mut chance, count, end, value_bytes);
        let (blocks, root) = (filled.txn.blocks(), filled.root);
        let mut keys = asked(&mut chance, &filled, 40_000, 2 * end);
        for threads in [1, 2, 2] {
            let mut values = vec![7; keys.len() * value_bytes];
            let mut found = vec![7; keys.len()];
            let task = Task::new(None, Some(threads));
            let hits = get_many(
                blocks,
                root,
                value_bytes,
                &keys,
                &mut values,
                &mut found,
                &task,
            );
            let known = |key: &&u64| filled.model.contains_key(key);
            assert_eq!(hits.unwrap(), keys.iter().filter(known).count() as u64);
            let rows = keys.iter().zip(values.chunks(value_bytes)).zip(&found);
            for ((key, value), found) in rows {
                let expected = filled.model.get(key);
                assert_eq!(*found == 1, expected.is_some(), "{key}");
                let zeros = vec![0; value_bytes];
                assert_eq!(value, expected.unwrap_or(&zeros).as_slice());
            }
            keys.sort_unstable();
        }
        for key in keys.iter().step_by(37) {
            for wait in [Wait::Yes, Wait::No] {
                let mut value = vec![0; value_bytes];
                let found = get(blocks, root, value_bytes, *key, &mut value, wait).unwrap();
                let expected = filled.model.get(key);
                assert_eq!(found.then_some(&value), expected, "{key}");
            }
            let expected = filled.model.range(key..).next();
            let expected = expected.map(|(key, value)| (*key, value.clone()));
            assert_eq!(next(blocks, root, value_bytes, *key).unwrap(), expected);
        }
        let ends = [
            filled.model.first_key_value(),
            filled.model.last_key_value(),
        ];
        let ends = ends.map(|end| end.map(|(key, value)| (*key, value.clone())));
        assert_eq!(first(blocks, root, value_bytes).unwrap(), ends[0]);
        assert_eq!(last(blocks, root, value_bytes).unwrap(), ends[1]);
    }
}

#[test]
fn ranges_and_skips_leave_out_what_they_say() {
    let mut chance = Chance::Seed(2);
    for value_bytes in [8, 12] {
        let filled = filled(&mut chance, 20_000, 1 << 20, value_bytes);
        let (blocks, root) = (filled.txn.blocks(), filled.root);
        for _ in 0..200 {
            let begin = chance.below(1 << 20);
            let end = match chance.one_in(3) {
                true => None,
                false => Some(chance.below(1 << 20)),
            };
            let (mut keys, mut values) = (vec![5], vec![6]);
            scan(
                blocks,
                root,
                value_bytes,
                (begin, end),
                &mut keys,
                &mut values,
            )
            .unwrap();
            let range = begin..end.unwrap_or(u64::MAX).max(begin);
            let expected: Vec<_> = filled.model.range(range).collect();
            assert!(keys[0] == 5 && keys[1..].iter().eq(expected.iter().map(|entry| entry.0)));
            let all: Vec<u8> = expected.iter().flat_map(|entry| entry.1.clone()).collect();
            assert!(values[0] == 6 && values[1..] == all);

            let skip = chance.below(2 * expected.len() as u64 + 2);
            let mut cursor = Cursor::new(blocks, root, value_bytes, begin, end);
            cursor.skip(skip / 2);
            cursor.skip(skip - skip / 2);
            let mut rest = Vec::new();
            while let Some(leaf) = cursor.next_leaf().unwrap() {
                let (keys, values) = leaf.packed_entries(value_bytes).unwrap();
                assert_eq!(values.len(), keys.len() * value_bytes);
                rest.extend(keys.iter().map(|key| key.get()));
            }
            assert!(
                rest.iter()
                    .eq(expected.iter().skip(skip as usize).map(|entry| entry.0))
            );
        }
    }
}

#[test]
fn calls_that_do_not_fit_the_tree_are_refused() {
    let filled = filled(&mut Chance::Seed(3), 1000, 1 << 20, 8);
    let (blocks, root) = (filled.txn.blocks(), filled.root);
    let task = Task::default();
    let mut small = [0; 7];
    let answer = get(blocks, root, 8, 1, &mut small, Wait::Yes);
    assert!(matches!(answer, Err(Error::Usage(_))));
    for (values, found) in [(15, 2), (16, 1), (16, 3), (0, 2)] {
        let (mut values, mut found) = (vec![0; values], vec![0; found]);
        let answer = get_many(blocks, root, 8, &[1, 2], &mut values, &mut found, &task);
        assert!(matches!(answer, Err(Error::Usage(_))));
    }
    // Values of another size are another tree's.
    let mut value = [0; 4];
    let answer = get(blocks, root, 4, 1 << 19, &mut value, Wait::No);
    assert!(matches!(answer, Err(Error::Damaged(damage)) if damage.check == "value size"));
    let answer = get_many(blocks, root, 4, &[1 << 19], &mut value, &mut [0], &task);
    assert!(matches!(answer, Err(Error::Damaged(damage)) if damage.check == "value size"));
}

#[test]
fn a_monitor_can_stop_a_crowd() {
    struct Stop;
    impl Monitor for Stop {
        fn poll(&self, _done: u64, _total: u64) -> Result<()> {
            Err(Error::Interrupted)
        }
    }
    let filled = filled(&mut Chance::Seed(4), 1000, 1 << 20, 8);
    let task = Task::new(Some(&Stop), None);
    assert!(task.ask().is_err());
    let (mut values, mut found) = (vec![0; 80], vec![0; 10]);
    let keys: Vec<u64> = (0..10).collect();
    let answer = get_many(
        filled.txn.blocks(),
        filled.root,
        8,
        &keys,
        &mut values,
        &mut found,
        &task,
    );
    assert!(matches!(answer, Err(Error::Interrupted)));
}
