//! Dumps of pools put together by hand, with what is shared and wrong in them.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use super::{DumpFormat, DumpOptions, dump};
use crate::error::{Error, Result};
use crate::task::{Monitor, Task};
use crate::testing::{PoolBuilder, mapping};
use crate::thin::{Pool, Run};
use crate::units::BlockNr;

const DATA_BLOCKS: u64 = 1 << 20;

/// Each device's mappings: virtual block, data block, time.
type Mappings = BTreeMap<u64, Vec<(u64, u64, u64)>>;

fn xml(pool: &Arc<Pool>, shared: bool, threads: usize) -> Result<String> {
    let options = DumpOptions {
        shared,
        ..DumpOptions::default()
    };
    let mut out = Vec::new();
    dump(pool, &options, &mut out, &Task::new(None, Some(threads)))?;
    Ok(String::from_utf8(out).unwrap())
}

/// The numbers in a line's attributes.
fn numbers(line: &str) -> Vec<u64> {
    let quoted = line.split('"').skip(1).step_by(2);
    quoted.filter_map(|text| text.parse().ok()).collect()
}

/// Every device's mappings, with all references followed.
fn meaning(xml: &str) -> Mappings {
    let (mut defs, mut devices) = (BTreeMap::new(), BTreeMap::new());
    let (mut owner, mut mappings) = (0, Vec::new());
    for line in xml.lines() {
        let found = numbers(line);
        match line.trim_start().split([' ', '>']).next().unwrap() {
            "<device" | "<def" => owner = found[0],
            "<single_mapping" => mappings.push((found[0], found[1], found[2])),
            "<range_mapping" => {
                let each = |index| (found[0] + index, found[1] + index, found[3]);
                mappings.extend((0..found[2]).map(each));
            }
            "<ref" => mappings.extend(&defs[&found[0]]),
            "</def" => assert!(defs.insert(owner, std::mem::take(&mut mappings)).is_none()),
            "</device" => {
                devices.insert(owner, std::mem::take(&mut mappings));
            }
            "<superblock" | "</superblock" => {}
            other => panic!("{other}"),
        }
    }
    devices
}

fn count(xml: &str, word: &str) -> usize {
    xml.matches(word).count()
}

/// The end of `pool`'s dumps, and that all its dumps mean the same.
fn dumped(pool: &Arc<Pool>) -> (String, String) {
    let (flat, shared) = (xml(pool, false, 1).unwrap(), xml(pool, true, 1).unwrap());
    assert_eq!(xml(pool, false, 3).unwrap(), flat);
    assert_eq!(xml(pool, true, 3).unwrap(), shared);
    assert_eq!(meaning(&shared), meaning(&flat));
    (flat, shared)
}

fn scattered(range: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    range
        .map(|key| (2 * key, mapping(key * 7919 % DATA_BLOCKS, 1)))
        .collect()
}

#[test]
fn runs_go_on_from_leaf_to_leaf_and_from_job_to_job() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    // Leaves of 3: a job's worth is far less than any of these runs.
    let in_order = |begin: u64, end: u64, shift: u64, time: u64| {
        (begin..end).map(move |key| (key, mapping(key + shift, time)))
    };
    let parts = [
        in_order(0, 1000, 5, 0),
        in_order(1000, 1001, 5, 1),
        in_order(1001, 1600, 5, 0),
        in_order(1600, 1700, 6, 0),
        in_order(1701, 9000, 6, 0),
    ];
    let entries: Vec<_> = parts.into_iter().flatten().collect();
    let root = pool.tree(&entries, 3);
    pool.device(4, root);
    let (flat, _) = dumped(&pool.open());
    let runs: Vec<_> = flat
        .lines()
        .filter(|line| line.contains("_mapping "))
        .map(numbers)
        .collect();
    let expected: [&[u64]; 5] = [
        &[0, 5, 1000, 0],
        &[1000, 1005, 1],
        &[1001, 1006, 599, 0],
        &[1600, 1606, 100, 0],
        &[1701, 1707, 7299, 0],
    ];
    assert_eq!(runs, expected);
}

#[test]
fn devices_of_all_sizes_come_in_order_and_in_full() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let mut expected = BTreeMap::new();
    for id in 0..120 {
        let entries = scattered(id..id + id % 7 * id);
        let root = pool.tree(&entries, 5);
        pool.device(id * id, root);
        let listed = entries.iter().map(|(key, value)| (*key, value >> 24, 1));
        expected.insert(id * id, listed.collect::<Vec<_>>());
    }
    let (flat, shared) = dumped(&pool.open());
    assert_eq!(meaning(&flat), expected);
    assert_eq!(flat, shared, "nothing is shared");
}

#[test]
fn only_the_wanted_devices_are_told_and_unknown_ids_are_passed_over() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let root = pool.tree(&scattered(0..10), 5);
    (1..6).for_each(|id| pool.device(id, root));
    let options = DumpOptions {
        device_ids: Some(vec![4, 2, 99, 4]),
        shared: true,
        ..DumpOptions::default()
    };
    let mut out = Vec::new();
    dump(&pool.open(), &options, &mut out, &Task::default()).unwrap();
    let devices = meaning(&String::from_utf8(out).unwrap());
    assert_eq!(devices.into_keys().collect::<Vec<_>>(), [2, 4]);
}

#[test]
fn a_tree_of_several_devices_is_told_once() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let root = pool.tree(&scattered(0..2000), 5);
    let alone = pool.tree(&scattered(0..20), 5);
    (0..5).for_each(|id| pool.device(id, root));
    pool.device(7, alone);
    let (_, shared) = dumped(&pool.open());
    assert_eq!((count(&shared, "<def"), count(&shared, "<ref")), (1, 5));
    assert_eq!(count(&shared, "<single"), 2020);
}

#[test]
fn an_empty_tree_of_several_devices_is_one_too() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let root = pool.leaf::<u64>(&[]);
    (0..3).for_each(|id| pool.device(id, root));
    let (_, shared) = dumped(&pool.open());
    assert_eq!((count(&shared, "<def"), count(&shared, "<ref")), (1, 3));
}

/// Three devices over 100 leaves: two with one root, a third that has changed
/// leaf 50, so that of the common upper nodes one was copied.
fn parted() -> (PoolBuilder, Vec<(u64, BlockNr)>) {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let entries = scattered(0..500);
    let mut leaves: Vec<_> = entries
        .chunks(5)
        .map(|leaf| (leaf[0].0, pool.leaf(leaf)))
        .collect();
    let root = pool.tree_over(leaves.clone(), 10);
    pool.device(1, root);
    pool.device(2, root);
    let changed = pool.leaf(&[(500, mapping(3, 2)), (509, mapping(4, 2))]);
    let old = std::mem::replace(&mut leaves[50], (500, changed));
    let parents: Vec<_> = leaves
        .chunks(10)
        .map(|parent| (parent[0].0, pool.internal(parent)))
        .collect();
    let root = pool.tree_over(parents, 10);
    pool.device(3, root);
    leaves[50] = old;
    (pool, leaves)
}

#[test]
fn what_is_shared_inside_a_shared_tree_is_told_apart() {
    let (pool, leaves) = parted();
    let (_, shared) = dumped(&pool.open());
    // Two have leaf 50 in common, all three have the others.
    assert_eq!(count(&shared, "<def"), leaves.len());
    assert_eq!(count(&shared, "<ref"), 3 * leaves.len() - 1);
    assert_eq!(count(&shared, "<single"), 502);
}

#[test]
fn whole_branches_are_told_as_one_below_different_roots() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let common = pool.tree(&scattered(0..40), 5);
    for id in 0..3 {
        let own = pool.leaf(&[(80 + id, mapping(id, 3))]);
        let own = pool.internal(&[(80, own)]);
        let root = pool.internal(&[(0, common), (80, own)]);
        pool.device(id, root);
    }
    let (_, shared) = dumped(&pool.open());
    assert_eq!((count(&shared, "<def"), count(&shared, "<ref")), (1, 3));
    assert_eq!(count(&shared, "<single"), 43);
}

#[test]
fn a_shared_node_keeps_to_the_bounds_of_all_its_parents() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let common = pool.leaf(&[(5, mapping(1, 1)), (90, mapping(2, 1))]);
    let next = pool.leaf(&[(100, mapping(3, 1))]);
    let early = pool.leaf(&[(80, mapping(3, 1))]);
    for (id, children) in [
        (1, [(5, common), (100, next)]),
        (2, [(0, common), (80, early)]),
    ] {
        let root = pool.internal(&children);
        pool.device(id, root);
    }
    let pool = pool.open();
    for shared in [false, true] {
        let answer = xml(&pool, shared, 1);
        assert!(
            matches!(&answer, Err(Error::Damaged(damage)) if damage.check == "key bounds"),
            "{answer:?}"
        );
    }
}

fn check_of(pool: &PoolBuilder) -> [&'static str; 4] {
    let pool = pool.open();
    [(false, 1), (false, 3), (true, 1), (true, 3)].map(|(shared, threads)| {
        match xml(&pool, shared, threads) {
            Err(Error::Damaged(damage)) => damage.check,
            Err(_) => "another error",
            Ok(_) => "none",
        }
    })
}

#[test]
fn damage_is_an_error() {
    let whole = || {
        let mut pool = PoolBuilder::new(DATA_BLOCKS);
        let entries = scattered(0..300);
        let leaves: Vec<_> = entries
            .chunks(3)
            .map(|leaf| (leaf[0].0, pool.leaf(leaf)))
            .collect();
        (pool, leaves)
    };
    let finish = |mut pool: PoolBuilder, leaves: Vec<(u64, BlockNr)>| {
        let root = pool.tree_over(leaves, 10);
        pool.device(1, root);
        check_of(&pool)
    };
    let (mut pool, leaves) = whole();
    pool.ruin(leaves[77].1);
    assert_eq!(finish(pool, leaves), ["checksum"; 4]);

    let (pool, mut leaves) = whole();
    leaves[77].1 = BlockNr(1 << 40);
    assert_eq!(finish(pool, leaves), ["pointer"; 4]);

    let (mut pool, mut leaves) = whole();
    leaves[99].1 = pool.leaf(&[(594, mapping(DATA_BLOCKS, 1))]);
    assert_eq!(finish(pool, leaves), ["data block"; 4]);

    let (mut pool, mut leaves) = whole();
    leaves[50].1 = pool.leaf::<u64>(&[]);
    assert_eq!(finish(pool, leaves), ["entries"; 4]);

    let (pool, mut leaves) = whole();
    leaves[50].1 = leaves[49].1;
    assert_eq!(finish(pool, leaves), ["key bounds"; 4]);

    // An upper node where its neighbours are leaves.
    let (mut pool, mut leaves) = whole();
    leaves[50].1 = pool.internal(&[leaves[50]]);
    assert_eq!(finish(pool, leaves), ["flags"; 4]);
}

#[test]
fn a_tree_that_leads_back_to_itself_ends() {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let own_number = BlockNr(pool.nr_blocks());
    let root = pool.internal(&[(0, own_number), (5, own_number)]);
    assert_eq!(root, own_number);
    pool.device(1, root);
    assert!(!check_of(&pool).contains(&"none"));
}

/// Takes so many bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let taken = bytes.len().min(self.0);
        self.0 -= taken;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn large() -> Arc<Pool> {
    let mut pool = PoolBuilder::new(DATA_BLOCKS);
    let root = pool.tree(&scattered(0..60_000), 252);
    pool.device(1, root);
    pool.open()
}

#[test]
fn what_the_output_reports_is_kept() {
    let pool = large();
    for (room, threads) in [(0, 1), (10_000, 2), (2_000_000, 3)] {
        let task = Task::new(None, Some(threads));
        let answer = dump(&pool, &DumpOptions::default(), &mut Full(room), &task);
        let Err(Error::Io { path, source, .. }) = answer else {
            panic!("{answer:?}");
        };
        assert_eq!(path.to_str(), Some("<output>"));
        assert_eq!(source.kind(), io::ErrorKind::BrokenPipe);
    }
}

#[test]
fn the_monitor_can_stop_it() {
    struct Stop;
    impl Monitor for Stop {
        fn poll(&self, _done: u64, _total: u64) -> Result<()> {
            Err(Error::Interrupted)
        }
    }
    let pool = large();
    for threads in [1, 3] {
        let task = Task::new(Some(&Stop), Some(threads));
        let mut polled = 0;
        // The monitor is asked a few times a second: a dump or two are faster.
        while dump(&pool, &DumpOptions::default(), &mut io::sink(), &task).is_ok() {
            polled += 1;
            assert!(polled < 10_000);
        }
    }
}

#[test]
fn progress_ends_at_what_was_expected() {
    struct Last(Mutex<(u64, u64)>);
    impl Monitor for Last {
        fn poll(&self, done: u64, total: u64) -> Result<()> {
            *self.0.lock().unwrap() = (done, total);
            Ok(())
        }
    }
    let (pool, leaves) = parted();
    let pool = pool.open();
    let last = Last(Mutex::new((0, 0)));
    let task = Task::new(Some(&last), Some(2));
    let options = DumpOptions {
        shared: true,
        ..DumpOptions::default()
    };
    dump(&pool, &options, &mut io::sink(), &task).unwrap();
    while *last.0.lock().unwrap() == (0, 0) {
        task.step(0, 0).unwrap();
    }
    let distinct = leaves.len() as u64 + 1;
    assert_eq!(*last.0.lock().unwrap(), (distinct, distinct));
}

#[test]
fn every_format_tells_the_same_number_of_runs() {
    let pool = large();
    for format in [DumpFormat::Xml, DumpFormat::Human, DumpFormat::JsonLines] {
        let options = DumpOptions {
            format,
            ..DumpOptions::default()
        };
        let mut out = Vec::new();
        dump(&pool, &options, &mut out, &Task::new(None, Some(2))).unwrap();
        let runs = out
            .split(|byte| *byte == b'\n')
            .filter(|line| line.starts_with(b"    ") || line.starts_with(br#"{"type":"run""#));
        assert_eq!(runs.count(), 60_000);
    }
}

/// What the trees say when they are walked by a cursor.
fn by_cursor(pool: &Arc<Pool>) -> Result<Mappings> {
    let mut devices = BTreeMap::new();
    for info in pool.devices()? {
        let mut runs: Vec<Run> = Vec::new();
        pool.device_by_id(info.id)?
            .runs(0, None)
            .fill(&mut runs, usize::MAX)?;
        let mappings = runs.iter().flat_map(|run| {
            (0..run.length_blocks).map(|index| {
                (
                    run.virtual_begin + index,
                    run.data_begin + index,
                    run.time.into(),
                )
            })
        });
        devices.insert(info.id, mappings.collect());
    }
    Ok(devices)
}

#[test]
fn whatever_is_changed_the_answer_is_an_error_or_what_the_trees_say() {
    let (original, _) = parted();
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % below
    };
    let mut good = 0;
    for _ in 0..400 {
        let mut pool = original.clone();
        for _ in 0..=random(2) {
            let at = BlockNr(1 + random(pool.nr_blocks() - 1));
            // Header, keys, and values of nodes with 252 of each.
            let place = [4, 16, 32, 2048][usize::try_from(random(4)).unwrap()] + 8 * random(11);
            let place = usize::try_from(place).unwrap();
            let value = [0, u64::MAX, random(300), random(300), mapping(random(9), 1)]
                [usize::try_from(random(5)).unwrap()];
            pool.change(at, |bytes| {
                bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
            });
        }
        let pool = pool.open();
        let (flat, shared) = (xml(&pool, false, 1), xml(&pool, true, 1));
        for answer in [&flat, &shared] {
            let Ok(text) = answer else { continue };
            good += 1;
            assert_eq!(Some(meaning(text)), by_cursor(&pool).ok());
        }
        assert_eq!(flat.is_ok(), shared.is_ok(), "{flat:?} {shared:?}");
    }
    assert!(good > 20, "{good}");
}
