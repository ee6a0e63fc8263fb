//! Reverse maps held against plain lists.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{RmapOptions, Row, rmap, write};
use crate::error::Error;
use crate::task::Task;
use crate::testing::{PoolBuilder, Random, mapping};
use crate::thin::Pool;

const DATA_BLOCKS: u64 = 1 << 20;

fn found(pool: &Arc<Pool>, options: &RmapOptions, threads: usize) -> Vec<(u64, u64, u64, u64)> {
    let map = rmap(pool, options, &Task::new(None, Some(threads))).unwrap();
    assert_eq!(map.len(), map.rows().count());
    let row = |row: &Row| {
        let (data, device) = (row.data_begin(), row.device_id());
        (data, row.length_blocks(), device, row.virtual_begin())
    };
    map.rows().map(row).collect()
}

/// Runs of devices' mappings, cut at the regions, in order.
fn plain(
    devices: &BTreeMap<u64, Vec<(u64, u64)>>,
    regions: &[std::ops::Range<u64>],
) -> Vec<(u64, u64, u64, u64)> {
    let mut rows: Vec<(u64, u64, u64, u64)> = Vec::new();
    for (device, mappings) in devices {
        let mut open: Option<(u64, u64, u64, u64)> = None;
        for (block, value) in mappings {
            let data = value >> 24;
            if !regions.is_empty() && !regions.iter().any(|region| region.contains(&data)) {
                continue;
            }
            match &mut open {
                Some(run) if run.0 + run.1 == data && run.3 + run.1 == *block => run.1 += 1,
                _ => rows.extend(open.replace((data, 1, *device, *block))),
            }
        }
        rows.extend(open);
    }
    rows.sort_unstable();
    rows
}

#[test]
fn rows_are_those_of_a_plain_list() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let mut builder = PoolBuilder::new(DATA_BLOCKS);
        let mut devices = BTreeMap::new();
        for device in 0..random.within(1, 5) {
            let mut entries = Vec::new();
            let mut key = random.below(100);
            while entries.len() < random.below(20_000) as usize {
                let data = random.below(DATA_BLOCKS - 400);
                for at in 0..random.within(1, 300) {
                    entries.push((key, mapping(data + at, random.below(4))));
                    key += 1;
                }
                key += random.below(3);
            }
            let values: Vec<_> = entries
                .iter()
                .map(|(key, value)| (*key, zerocopy::little_endian::U64::new(*value)))
                .collect();
            let root = builder.tree(&values, 120);
            builder.device(device, root);
            devices.insert(device, entries);
        }
        let pool = builder.open();
        let regions = match seed % 3 {
            0 => vec![],
            1 => vec![0..DATA_BLOCKS / 2, 0..7],
            _ => (0..random.within(1, 9))
                .map(|_| {
                    let begin = random.below(DATA_BLOCKS);
                    begin..begin + random.within(1, 200_000)
                })
                .collect(),
        };
        let expected = plain(&devices, &regions);
        let options = RmapOptions {
            regions,
            shared_once: false,
        };
        for threads in [1, 2, 5] {
            assert!(found(&pool, &options, threads) == expected, "{seed}");
        }
        let map = rmap(&pool, &options, &Task::default()).unwrap();
        let mut text = Vec::new();
        write(&map, &mut text, &Task::new(None, Some(3))).unwrap();
        let lines = expected.iter().map(|(data, length, device, block)| {
            let (end, last) = (data + length, block + length);
            format!("data {data}..{end} -> thin({device}) {block}..{last}\n")
        });
        assert!(text == lines.collect::<String>().into_bytes());
    }
}

#[test]
fn a_shared_leaf_is_told_for_each_or_for_the_first() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let leaf = builder.leaf(&[(5, zerocopy::little_endian::U64::new(mapping(9, 0)))]);
    for device in [3, 4, 8] {
        builder.device(device, leaf);
    }
    let pool = builder.open();
    let each = found(&pool, &RmapOptions::default(), 2);
    assert_eq!(each, [(9, 1, 3, 5), (9, 1, 4, 5), (9, 1, 8, 5)]);
    let options = RmapOptions {
        shared_once: true,
        ..RmapOptions::default()
    };
    assert_eq!(found(&pool, &options, 2), [(9, 1, 3, 5)]);
}

#[test]
fn damage_and_a_full_disk_end_it() {
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let entries: Vec<_> = (0..9000)
        .map(|key| (key, zerocopy::little_endian::U64::new(mapping(key * 7, 0))))
        .collect();
    let root = builder.tree(&entries, 252);
    builder.device(1, root);
    let pool = builder.open();
    let map = rmap(&pool, &RmapOptions::default(), &Task::default()).unwrap();
    struct Full;
    impl std::io::Write for Full {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let answer = write(&map, &mut Full, &Task::default());
    assert!(matches!(answer, Err(Error::Io { .. })));
    builder.ruin(root);
    let answer = rmap(&builder.open(), &RmapOptions::default(), &Task::default());
    assert!(matches!(answer, Err(Error::Damaged(_))));
}
