//! Pools made in one pass, held against what they were made of and against the check.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::{BuildOptions, Built, Output, PoolBuilder, publish, publish_image};
use crate::device::{Device, MemoryDevice, Operation, RecordingDevice, WriteLog};
use crate::error::Error;
use crate::task::Task;
use crate::testing::Random;
use crate::thin::{DeviceInfo, MappingValue, Pool, Run};
use crate::tools::check::{CheckOptions, check_pool};
use crate::units::BLOCK_BYTES;

const DATA_BLOCKS: u64 = 1 << 20;

/// A device's mappings: virtual block, and the value.
pub(super) type Mappings = BTreeMap<u64, u64>;

fn options() -> BuildOptions {
    BuildOptions {
        uuid: [0; 16],
        time: 9,
        transaction_id: 3,
        flags: 0,
        version: 2,
        data_block_size_sectors: 128,
        data_blocks: DATA_BLOCKS,
    }
}

pub(super) fn device(id: u64) -> DeviceInfo {
    DeviceInfo {
        id,
        mapped_blocks: 0,
        transaction_id: id + 1,
        creation_time: 4,
        snapshotted_time: 5,
    }
}

pub(super) fn memory(blocks: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::writable(vec![0xA5; blocks * BLOCK_BYTES]))
}

pub(super) fn builder(device: &Arc<MemoryDevice>) -> PoolBuilder {
    let output = Output::Fixed(Arc::clone(device) as Arc<dyn Device>);
    PoolBuilder::new(output, &options()).unwrap()
}

pub(super) fn runs(mappings: &Mappings) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for (key, value) in mappings {
        let next = Run::single(*key, *value);
        if !runs.last_mut().is_some_and(|run| run.join(&next)) {
            runs.push(next);
        }
    }
    runs
}

fn read_back(pool: &Arc<Pool>) -> BTreeMap<u64, Mappings> {
    let devices = pool.devices().unwrap().into_iter();
    let read = |info: DeviceInfo| {
        let thin = pool.device_by_id(info.id).unwrap();
        let (mut cursor, mut runs) = (thin.runs(0, None), Vec::new());
        while cursor.fill(&mut runs, 1000).unwrap() {}
        let mut mappings = Mappings::new();
        for run in runs {
            for at in 0..run.length_blocks {
                let value = MappingValue::new(run.data_begin + at, run.time);
                assert!(mappings.insert(run.virtual_begin + at, value.0).is_none());
            }
        }
        assert_eq!(mappings.len() as u64, info.mapped_blocks);
        assert_eq!((info.transaction_id, info.creation_time), (info.id + 1, 4));
        (info.id, mappings)
    };
    devices.map(read).collect()
}

/// Opens what was made; nothing may be wrong with it, and it must hold just that.
pub(super) fn judge(target: &Arc<MemoryDevice>, expected: &BTreeMap<u64, Mappings>, built: &Built) {
    let pool = Pool::from_devices(
        Arc::clone(target) as Arc<dyn Device>,
        None,
        &Default::default(),
    );
    let pool = Arc::new(pool.unwrap());
    let report = check_pool(&pool, &CheckOptions::default(), &Task::default()).unwrap();
    // What these pools hold is made up: only that may be wrong that a device has a block twice.
    let told: Vec<_> = report.findings.iter().map(|each| each.code).collect();
    let wrong = expected.values().filter(|device| has_a_block_twice(device));
    assert_eq!(
        told,
        vec!["mapping-doubled"; wrong.count()],
        "{:?}",
        report.findings
    );
    assert!(read_back(&pool) == *expected);
    let all: Vec<u64> = expected
        .values()
        .flat_map(|mappings| mappings.values().copied())
        .collect();
    let mut used: Vec<u64> = all.iter().map(|value| value >> 24).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(built.data_blocks_used, used.len() as u64);
    assert_eq!(built.mapped_blocks, all.len() as u64);
    assert_eq!(built.devices, expected.len() as u64);
    let space = pool.superblock().metadata_space_map_root.root;
    assert_eq!(space.nr_allocated.get(), built.metadata_blocks_used);
    assert_eq!(pool.free_blocks().0, DATA_BLOCKS - built.data_blocks_used);
}

fn has_a_block_twice(device: &Mappings) -> bool {
    let mut met = FxHashSet::default();
    device.values().any(|value| !met.insert(value >> 24))
}

/// Mappings in runs of random lengths with random gaps.
fn random_mappings(random: &mut Random, count: usize) -> Mappings {
    let mut mappings = Mappings::new();
    let mut key = random.below(1000);
    while mappings.len() < count {
        let (mut data, time) = (random.below(DATA_BLOCKS - 500), random.below(10));
        for _ in 0..random.within(1, 400).min((count - mappings.len()) as u64) {
            mappings.insert(key, data << 24 | time);
            key += 1;
            data += 1;
        }
        key += random.below(3) * random.below(50);
    }
    mappings
}

/// A snapshot of it with some changes.
fn change(random: &mut Random, mappings: &Mappings, changes: u64) -> Mappings {
    let mut changed = mappings.clone();
    let end = mappings.keys().next_back().map_or(1, |last| last + 100);
    for _ in 0..changes {
        let at = random.below(end);
        match random.below(3) {
            0 => drop(changed.remove(&at)),
            _ => drop(changed.insert(at, random.below(DATA_BLOCKS) << 24 | 9)),
        }
    }
    changed
}

pub(super) fn build(
    devices: &BTreeMap<u64, Mappings>,
    blocks: usize,
) -> (Arc<MemoryDevice>, Built) {
    let target = memory(blocks);
    let mut builder = builder(&target);
    for (id, mappings) in devices {
        builder.begin_device(&device(*id)).unwrap();
        for runs in runs(mappings).chunks(7) {
            builder.runs(runs).unwrap();
        }
        builder.end_device().unwrap();
    }
    let built = builder.finish(&Task::default()).unwrap();
    (target, built)
}

#[test]
fn every_size_of_a_device_gives_a_sound_pool() {
    let mut random = Random::new(1);
    let counts = [
        0, 1, 83, 84, 85, 251, 252, 253, 335, 336, 504, 4031, 4032, 4033, 4285, 63_504,
    ];
    for count in counts.into_iter().chain([63_505, 70_000]) {
        let devices = BTreeMap::from([(7, random_mappings(&mut random, count))]);
        let (target, built) = build(&devices, 1000);
        judge(&target, &devices, &built);
    }
}

#[test]
fn snapshots_share_what_they_have_in_common_and_stay_sound() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let sizes = [100, 300, 3000, 12_000, 70_000];
        let size = random.below(sizes[usize::try_from(seed % 5).unwrap()]) as usize;
        let mut devices = BTreeMap::from([(0, random_mappings(&mut random, size))]);
        for id in 1..random.within(2, 9) {
            let origin = random.below(id);
            let changes = [0, 1, 3, 20, 200][random.below(5) as usize];
            let snapshot = change(&mut random, &devices[&origin], changes);
            devices.insert(id, snapshot);
        }
        let (target, built) = build(&devices, 6000);
        judge(&target, &devices, &built);
    }
}

#[test]
fn a_change_of_one_block_costs_a_leaf_or_two_and_the_way_there() {
    let mut random = Random::new(5);
    let origin = random_mappings(&mut random, 70_000);
    let (_, alone) = build(&BTreeMap::from([(0, origin.clone())]), 1000);
    let mut devices = BTreeMap::from([(0, origin.clone()), (1, origin.clone())]);
    let (_, same) = build(&devices, 1000);
    assert_eq!(same.metadata_blocks_used, alone.metadata_blocks_used);
    for id in 2..40 {
        devices.insert(id, change(&mut random, &origin, 1));
    }
    let (target, built) = build(&devices, 2000);
    judge(&target, &devices, &built);
    // Two or three leaves, one or two nodes above them, and the root.
    let more = built.metadata_blocks_used - alone.metadata_blocks_used;
    assert!(more <= 38 * 6 + 8, "{more}");
}

#[test]
fn parts_are_shared_by_those_who_use_them() {
    for seed in 0..40 {
        let mut random = Random::new(seed);
        let target = memory(6000);
        let mut builder = builder(&target);
        let mut parts = Vec::new();
        let mut begin = 0;
        for _ in 0..random.within(1, 6) {
            let size = random.below(2000) as usize + 1;
            let mut part = Mappings::new();
            for (key, value) in random_mappings(&mut random, size) {
                part.insert(begin + key, value);
            }
            begin = part.keys().next_back().unwrap() + random.below(300) + 1;
            builder.begin_part().unwrap();
            builder.runs(&runs(&part)).unwrap();
            parts.push((builder.end_part().unwrap(), part));
        }
        let mut devices = BTreeMap::new();
        for id in 0..random.within(1, 6) {
            let mut own = Mappings::new();
            builder.begin_device(&device(id)).unwrap();
            for (at, (part, mappings)) in parts.iter().enumerate() {
                if random.chance(30) {
                    continue;
                }
                builder.use_part(*part).unwrap();
                own.extend(mappings);
                let first = own.keys().next_back().unwrap() + 1;
                let next = parts.get(at + 1).and_then(|next| next.1.keys().next());
                let end = next.map_or(first + 200, |next| *next);
                let between: Mappings = (first..end)
                    .filter(|_| random.chance(20))
                    .map(|key| (key, (key % 5000) << 24 | 1))
                    .collect();
                builder.runs(&runs(&between)).unwrap();
                own.extend(between);
            }
            builder.end_device().unwrap();
            devices.insert(id, own);
        }
        let built = builder.finish(&Task::default()).unwrap();
        judge(&target, &devices, &built);
    }
}

#[test]
fn a_part_within_a_part_and_one_that_nobody_uses() {
    let mut random = Random::new(3);
    let target = memory(200);
    let mut builder = builder(&target);
    let small: Mappings = (0..40).map(|key| (key, key << 24)).collect();
    let large: Mappings = random_mappings(&mut random, 3000);
    let large: Mappings = large
        .into_iter()
        .map(|(key, value)| (key + 100, value))
        .collect();
    builder.begin_part().unwrap();
    builder.runs(&runs(&small)).unwrap();
    let inner = builder.end_part().unwrap();
    builder.begin_part().unwrap();
    builder.use_part(inner).unwrap();
    builder.runs(&runs(&large)).unwrap();
    let outer = builder.end_part().unwrap();
    builder.begin_part().unwrap();
    let unused: Mappings = (0..500).map(|key| (key, 7777 << 24)).collect();
    builder.runs(&runs(&unused)).unwrap();
    builder.end_part().unwrap();
    let mut both = small.clone();
    both.extend(large);
    let mut devices = BTreeMap::new();
    for (id, part, mappings) in [(1, outer, &both), (2, inner, &small), (3, outer, &both)] {
        builder.begin_device(&device(id)).unwrap();
        builder.use_part(part).unwrap();
        builder.end_device().unwrap();
        devices.insert(id, mappings.clone());
    }
    let built = builder.finish(&Task::default()).unwrap();
    judge(&target, &devices, &built);
    assert!(built.metadata_blocks_used < 12 + 3000 / 252 + 2 + 65);
}

#[test]
fn what_cannot_be_is_refused() {
    let target = memory(100);
    let run = |virtual_begin, data_begin, length_blocks, time| Run {
        virtual_begin,
        data_begin,
        length_blocks,
        time,
    };
    let mut own = builder(&target);
    let usage = |answer: Result<(), Error>| assert!(matches!(answer, Err(Error::Usage(_))));
    usage(own.runs(&[run(0, 0, 1, 0)]));
    usage(own.end_device());
    usage(own.begin_device(&device(1 << 24)));
    own.begin_device(&device(1)).unwrap();
    usage(own.begin_device(&device(2)));
    own.runs(&[run(5, 0, 10, 0)]).unwrap();
    for wrong in [
        run(14, 0, 1, 0),
        run(20, 0, 0, 0),
        run(u64::MAX, 0, 1, 0),
        run(20, DATA_BLOCKS - 1, 2, 0),
        run(20, u64::MAX, 2, 0),
        run(20, 0, 1, 1 << 24),
    ] {
        usage(own.runs(&[wrong]));
    }
    own.end_device().unwrap();
    own.begin_device(&device(1)).unwrap();
    own.end_device().unwrap();
    assert!(matches!(own.finish(&Task::default()), Err(Error::Usage(_))));
    assert!(
        target.contents()[..BLOCK_BYTES]
            .iter()
            .all(|byte| *byte == 0)
    );
}

#[test]
fn too_little_room_is_no_pool() {
    let mut random = Random::new(8);
    let devices = BTreeMap::from([(1, random_mappings(&mut random, 9000))]);
    let (_, enough) = build(&devices, 1000);
    for blocks in 0..enough.metadata_blocks_used {
        let target = memory(usize::try_from(blocks).unwrap());
        let output = Output::Fixed(Arc::clone(&target) as Arc<dyn Device>);
        let made = PoolBuilder::new(output, &options()).and_then(|mut builder| {
            builder.begin_device(&device(1))?;
            builder.runs(&runs(&devices[&1]))?;
            builder.end_device()?;
            builder.finish(&Task::default())
        });
        assert!(
            matches!(made, Err(Error::NoSpace { .. })),
            "{blocks}: {made:?}"
        );
        let first = target.contents();
        assert!(
            first
                .iter()
                .take(BLOCK_BYTES)
                .all(|byte| matches!(byte, 0 | 0xA5))
        );
    }
    let exact = usize::try_from(enough.metadata_blocks_used).unwrap();
    let (target, built) = build(&devices, exact);
    judge(&target, &devices, &built);
}

#[test]
fn what_was_built_is_published_to_where_it_fits() {
    let mut random = Random::new(4);
    let devices = BTreeMap::from([(1, random_mappings(&mut random, 9000))]);
    let (from, built) = build(&devices, 400);
    let to = memory(401);
    publish(&*from, &*to, built.metadata_blocks_used, &Task::default()).unwrap();
    let pool = Pool::from_devices(
        Arc::clone(&to) as Arc<dyn Device>,
        None,
        &Default::default(),
    );
    assert!(read_back(&Arc::new(pool.unwrap())) == devices);
    let small = memory(399);
    let answer = publish(
        &*from,
        &*small,
        built.metadata_blocks_used,
        &Task::default(),
    );
    assert!(matches!(answer, Err(Error::NoSpace { .. })));
    assert!(small.contents().iter().all(|byte| *byte == 0xA5));
}

#[test]
fn an_image_is_published_as_it_is() {
    // Block 0 is no superblock, and block 2 a hole.
    let blocks = [1, 2, 0, 3].map(|byte: u8| vec![byte; BLOCK_BYTES]);
    let from = MemoryDevice::writable(blocks.concat());
    let to = memory(5);
    publish_image(&from, &*to, 4, &Task::default()).unwrap();
    let contents = to.contents();
    assert!(contents[..4 * BLOCK_BYTES] == blocks.concat());
    assert!(contents[4 * BLOCK_BYTES..].iter().all(|byte| *byte == 0xA5));
    let recorded = RecordingDevice::new(vec![0xA5; 5 * BLOCK_BYTES]);
    publish_image(&from, &recorded, 4, &Task::default()).unwrap();
    assert_block_0_frames_it(&recorded.log());
    let answer = publish_image(&from, &*memory(3), 4, &Task::default());
    assert!(matches!(answer, Err(Error::NoSpace { .. })));
}

/// Zero first, by itself; then everything else; then block 0, by itself.
fn assert_block_0_frames_it(log: &WriteLog) {
    let epochs: Vec<_> = log
        .epochs()
        .into_iter()
        .filter(|epoch| !epoch.is_empty())
        .collect();
    let (first, last) = (epochs.first().unwrap(), epochs.last().unwrap());
    assert_eq!(*first, [(0, BLOCK_BYTES)]);
    assert_eq!(*last, [(0, BLOCK_BYTES)]);
    let between = epochs[1..epochs.len() - 1].iter().flatten();
    assert!(between.clone().count() > 0);
    assert!(between.clone().all(|(offset, _)| *offset > 0));
    let Operation::Write { bytes, .. } = &log.operations()[0] else {
        panic!("it begins with a flush");
    };
    assert!(bytes.iter().all(|byte| *byte == 0));
    assert!(matches!(log.operations().last(), Some(Operation::Flush)));
}

#[test]
fn block_0_is_zero_until_all_else_is_durable() {
    let mut random = Random::new(6);
    let mappings = random_mappings(&mut random, 9000);
    let target = Arc::new(RecordingDevice::new(vec![0xA5; 400 * BLOCK_BYTES]));
    let output = Output::Fixed(Arc::clone(&target) as Arc<dyn Device>);
    let mut builder = PoolBuilder::new(output, &options()).unwrap();
    builder.begin_device(&device(1)).unwrap();
    builder.runs(&runs(&mappings)).unwrap();
    builder.end_device().unwrap();
    let built = builder.finish(&Task::default()).unwrap();
    assert_block_0_frames_it(&target.log());
    let from = MemoryDevice::new(target.contents());
    let to = RecordingDevice::new(vec![0xA5; 400 * BLOCK_BYTES]);
    publish(&from, &to, built.metadata_blocks_used, &Task::default()).unwrap();
    assert_block_0_frames_it(&to.log());
}
