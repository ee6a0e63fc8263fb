//! Transactions of which every request fails once.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, FaultyDevice, MemoryDevice, Request};
use thinmeta::thin::{NEEDS_CHECK, OpenOptions, Pool, PoolState, PoolTransaction, PoolWriter};

use crate::pool::script::{Op, commit, scattered, transact};
use crate::pool::world::{Model, cached, create, memory, verdict};
use crate::support::image::{Image, Kind, read_u32, write_field};

/// What is there, and what is done to it.
pub struct Case {
    pub name: &'static str,
    /// A pool, as bytes.
    pub image: Vec<u8>,
    pub before: Model,
    pub ops: Vec<Op>,
}

/// A pool on a device that fails.
pub struct Opened {
    pub memory: Arc<MemoryDevice>,
    pub faulty: Arc<FaultyDevice>,
    pub writer: Arc<PoolWriter>,
}

impl Case {
    pub fn open(&self) -> Opened {
        let memory = Arc::new(MemoryDevice::writable(self.image.clone()));
        let faulty = Arc::new(FaultyDevice::new(Arc::clone(&memory) as Arc<dyn Device>));
        let device = Arc::clone(&faulty) as Arc<dyn Device>;
        let writer = PoolWriter::from_devices(device, None, &cached(0)).unwrap();
        Opened {
            memory,
            faulty,
            writer,
        }
    }

    /// Does what is to be done, call by call; the model has what was done.
    pub fn change(&self, txn: &PoolTransaction, model: &mut Model) -> thinmeta::Result<()> {
        self.ops.iter().try_for_each(|op| op.apply(txn, model))
    }

    /// Every k-th read of it is one of so many: they are much alike in a large case.
    pub fn stride(&self) -> usize {
        match self.image.len() >> 12 {
            ..200 => 1,
            _ => 7,
        }
    }

    /// What a plain run writes and flushes.
    pub fn counted(&self) -> [u64; 2] {
        let opened = self.open();
        let txn = opened.writer.transaction().unwrap();
        self.change(&txn, &mut self.before.clone()).unwrap();
        txn.commit().unwrap();
        [Request::Write, Request::Flush].map(|request| opened.faulty.count(request))
    }
}

fn case(name: &'static str, blocks: usize, before: Vec<Vec<Op>>, ops: Vec<Op>) -> Case {
    let device = memory(blocks);
    let (writer, mut model) = create(device.clone(), 18_000);
    for ops in before {
        transact(&writer.transaction().unwrap(), &commit(ops), &mut model).unwrap();
    }
    let image = device.contents();
    Case {
        name,
        image,
        before: model,
        ops,
    }
}

/// All kinds of changes, of trees that are shared and of trees that are not.
pub fn cases() -> Vec<Case> {
    let pool = || {
        vec![
            vec![Op::Create(1..4), Op::MapMany(1, scattered(900))],
            vec![Op::Snapshot(4, 1), Op::MapMany(2, scattered(300))],
            vec![Op::Snapshot(5, 1), Op::Map(1, vec![9]), Op::Reserve],
        ]
    };
    vec![
        case(
            "mappings",
            120,
            pool(),
            vec![
                Op::Map(1, scattered(8)),
                Op::MapToOne(3, 0..4),
                Op::Create(6..8),
                Op::Map(7, vec![1]),
                Op::TransactionId(7),
            ],
        ),
        case(
            "a batch",
            150,
            pool(),
            vec![Op::MapMany(4, (0..600).map(|key| key * 31).collect())],
        ),
        case(
            "removal",
            120,
            pool(),
            vec![
                Op::Remove(2, scattered(9)),
                Op::RemoveRange(4, 20_000..70_000),
                Op::RemoveRange(2, 0..50_000),
            ],
        ),
        case(
            "devices",
            120,
            pool(),
            vec![
                Op::Snapshot(8, 2),
                Op::Map(2, vec![1]),
                Op::Delete(1..2),
                Op::Delete(4..6),
            ],
        ),
        case(
            "metadata snapshot",
            120,
            pool(),
            vec![Op::Map(1, vec![3]), Op::Release, Op::Reserve],
        ),
        case(
            "growth",
            60,
            pool(),
            vec![
                Op::GrowData(40_000),
                Op::GrowMetadata(30),
                Op::Map(3, vec![2]),
            ],
        ),
        case(
            "early writes",
            260,
            pool(),
            vec![
                Op::MapMany(3, scattered(12_000)),
                Op::Map(3, (0..40).map(|key| key * 1003).collect()),
            ],
        ),
    ]
}

/// Whether the image asks for a check.
pub fn needs_check(memory: &MemoryDevice) -> bool {
    read_u32(&memory.contents(), 4) & NEEDS_CHECK != 0
}

/// Holds what is on a device against a model, but for the flag.
pub fn judge_image(memory: &MemoryDevice, model: &Model, at: &str) {
    let mut image = Image::new(memory.contents());
    assert_eq!(image.kind(0), Some(Kind::Superblock), "{at}");
    image.reseal(0, Kind::Superblock, |block| write_field(block, 4, 4, 0));
    let pool = Pool::from_devices(Arc::new(image), None, &OpenOptions::default());
    let judged = verdict(&Arc::new(pool.unwrap()), model);
    judged.unwrap_or_else(|problem| panic!("{at}: {problem}"));
}

/// Asserts that every method of a transaction answers in one way.
pub fn all_answer(txn: &PoolTransaction, at: &str, is_right: impl Fn(&Error) -> bool) {
    let check = |call: &str, answer: thinmeta::Result<()>| match answer {
        Err(error) if is_right(&error) => {}
        other => panic!("{at}: {call} answered {other:?}"),
    };
    let none = &mut |_: std::ops::Range<usize>, _: &mut Vec<u64>, _: &mut Vec<u64>| Ok(());
    check("create_thin", txn.create_thin(99));
    check("create_snapshot", txn.create_snapshot(99, 3));
    check("delete", txn.delete(3));
    check("insert", txn.insert(3, 1, 1).map(drop));
    check("insert_many", txn.insert_many(3, 0, none).map(drop));
    check("allocate_data", txn.allocate_data().map(drop));
    check("remove", txn.remove(3, 1).map(drop));
    check("remove_range", txn.remove_range(3, 0..9).map(drop));
    check("set_transaction_id", txn.set_transaction_id(0, 1));
    check("reserve", txn.reserve_metadata_snapshot().map(drop));
    check("release", txn.release_metadata_snapshot());
    check("grow_data", txn.grow_data(60_000));
    check("grow_metadata", txn.grow_metadata(3000));
    check("inc_data", txn.inc_data(0..1));
    check("dec_data", txn.dec_data(0..1));
    check("data_count", txn.data_count(0).map(drop));
    check("block_is_shared", txn.block_is_shared(0).map(drop));
    check("device_ids", txn.device_ids().map(drop));
    check("device", txn.device(3).map(drop));
    check("find", txn.find(3, 1).map(drop));
    check("is_changed", txn.is_changed(3).map(drop));
    check("changed", txn.changed().map(drop));
    check("numbers", txn.numbers().map(drop));
    check("free_blocks", txn.free_blocks().map(drop));
}

/// Asserts that a pool says that it can only be read.
pub fn assert_read_only(writer: &Arc<PoolWriter>, at: &str) {
    assert_eq!(writer.state(), PoolState::ReadOnly, "{at}");
    let refused = writer.transaction();
    assert!(matches!(refused, Err(Error::ReadOnly(_))), "{at}");
}
