//! Histories of pools on a device that records: scripted ones for what is known to
//! be hard, random ones for the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use thinmeta::device::{Device, Operation, RecordingDevice};
use thinmeta::thin::{CreateOptions, Pool, PoolWriter};

use super::script::{Op, Txn, abort, commit, scattered, transact};
use super::world::{Model, cached, listing, options, same, sound, text, verdict};
use crate::crash::history::{Milestone, Recorded};
use crate::crash::judge::Verdict;
use crate::support::chance::Chance;

/// What opening finds.
#[derive(Debug)]
pub enum State {
    /// No pool.
    Nothing,
    Pool(Model),
}

/// Transactions on a device of so many blocks.
pub struct History {
    pub name: String,
    pub blocks: usize,
    pub data_blocks: u64,
    /// What the device holds at first, in every byte.
    pub before: u8,
    pub txns: Vec<Txn>,
    /// Commits that a reader keeps the pool for.
    pub readers: usize,
    /// Make a new pool over the first one, before the transaction of this number.
    pub again: Option<usize>,
}

struct Run {
    device: Arc<RecordingDevice>,
    writer: Arc<PoolWriter>,
    model: Model,
    milestones: Vec<Milestone>,
    states: Vec<State>,
    readers: VecDeque<(Arc<Pool>, Model)>,
}

/// As small as it gets, so that blocks are written early.
const CACHE_BYTES: u64 = 0;

fn operations(device: &RecordingDevice) -> usize {
    device.log().operations().len()
}

/// Makes a pool; what was there before goes first, as a change of its own.
fn make(
    device: &Arc<RecordingDevice>,
    data_blocks: u64,
    milestones: &mut Vec<Milestone>,
    states: &mut Vec<State>,
) -> Verdict<Arc<PoolWriter>> {
    let begin = operations(device);
    let options = CreateOptions {
        overwrite: true,
        open: cached(CACHE_BYTES),
        ..options(data_blocks)
    };
    let writer = PoolWriter::create_on(Arc::clone(device) as Arc<dyn Device>, None, &options);
    let writer = writer.map_err(text)?;
    let log = device.log();
    let wiped = matches!(
        log.operations().get(begin),
        Some(Operation::Write { offset_bytes: 0, bytes }) if bytes.iter().all(|byte| *byte == 0)
    );
    let middle = begin + if wiped { 2 } else { 0 };
    if wiped {
        milestones.push(Milestone { begin, end: middle });
        states.push(State::Nothing);
    }
    let (begin, end) = (middle, log.operations().len());
    milestones.push(Milestone { begin, end });
    let model = Model {
        data_blocks,
        ..Model::default()
    };
    states.push(State::Pool(model));
    Ok(writer)
}

impl History {
    fn new(name: &str, blocks: usize, txns: Vec<Txn>) -> Self {
        Self {
            name: name.to_owned(),
            blocks,
            data_blocks: 5000,
            before: 0,
            txns,
            readers: 0,
            again: None,
        }
    }

    /// Runs it, and holds the pool against the model after each transaction.
    pub fn run(&self) -> Verdict<Recorded<State>> {
        let device = Arc::new(RecordingDevice::new(vec![self.before; self.blocks * 4096]));
        let (mut milestones, mut states) = (Vec::new(), vec![State::Nothing]);
        let writer = make(&device, self.data_blocks, &mut milestones, &mut states)?;
        let mut run = Run {
            device,
            writer,
            model: Model {
                data_blocks: self.data_blocks,
                ..Model::default()
            },
            milestones,
            states,
            readers: VecDeque::new(),
        };
        for (number, txn) in self.txns.iter().enumerate() {
            if self.again == Some(number) {
                run.start_over(self.data_blocks)?;
            }
            let at = |problem| format!("{}, transaction {number}: {problem}", self.name);
            run.transaction(txn, self.readers).map_err(at)?;
        }
        Ok(Recorded {
            name: self.name.clone(),
            log: run.device.log(),
            milestones: run.milestones,
            states: run.states,
        })
    }
}

impl Run {
    fn start_over(&mut self, data_blocks: u64) -> Verdict {
        self.readers.clear();
        let (milestones, states) = (&mut self.milestones, &mut self.states);
        self.writer = make(&self.device, data_blocks, milestones, states)?;
        self.model = Model {
            data_blocks,
            ..Model::default()
        };
        Ok(())
    }

    fn transaction(&mut self, script: &Txn, readers: usize) -> Verdict {
        if readers > 0 {
            let pool = self.writer.current().map_err(text)?;
            self.readers.push_back((pool, self.model.clone()));
        }
        let begin = operations(&self.device);
        let txn = self.writer.transaction().map_err(text)?;
        let committed = transact(&txn, script, &mut self.model).map_err(text)?;
        drop(txn);
        let log = self.device.log();
        // A commit of nothing is none.
        if committed && log.operations()[begin..].contains(&Operation::Flush) {
            let end = log.operations().len();
            self.milestones.push(Milestone { begin, end });
            self.states.push(State::Pool(self.model.clone()));
        }
        if self.readers.len() > readers
            && let Some((pool, model)) = self.readers.pop_front()
        {
            // All that it reaches; the metadata snapshot may have been let go of.
            sound(&pool, &model)
                .and_then(|()| same("the listing", &listing(&pool), &model.devices))
                .map_err(|problem| format!("a reader: {problem}"))?;
        }
        verdict(&self.writer.current().map_err(text)?, &self.model)
    }
}

fn keys(range: std::ops::Range<u64>) -> Vec<u64> {
    range.collect()
}

fn first_steps() -> History {
    let txns = vec![
        commit(vec![]),
        commit(vec![Op::Create(1..2)]),
        commit(vec![Op::Map(1, vec![7])]),
        commit(vec![Op::Snapshot(2, 1), Op::TransactionId(1)]),
        commit(vec![Op::Map(1, vec![7, 8]), Op::Remove(2, vec![7])]),
        abort(vec![Op::Delete(1..3), Op::Create(3..9)]),
        commit(vec![Op::RemoveRange(1, 0..100)]),
        commit(vec![Op::Delete(1..2), Op::MapToOne(2, 0..9)]),
        commit(vec![Op::Delete(2..3)]),
    ];
    History::new("first steps", 60, txns)
}

fn batches() -> History {
    let txns = vec![
        commit(vec![Op::Create(1..2), Op::MapMany(1, scattered(2500))]),
        commit(vec![Op::MapMany(1, keys(0..900))]),
        // Whole sub-trees of it.
        commit(vec![Op::RemoveRange(1, 500..80_000)]),
        abort(vec![Op::MapMany(1, scattered(2000))]),
        commit(vec![Op::Create(2..3), Op::MapMany(2, scattered(700))]),
        commit(vec![Op::RemoveRange(2, 0..1 << 40), Op::Map(2, vec![5])]),
        commit(vec![Op::RemoveRange(1, 0..1 << 40)]),
    ];
    History::new("batches and ranges", 150, txns)
}

fn snapshots() -> Vec<Txn> {
    vec![
        commit(vec![Op::Create(1..2), Op::MapMany(1, scattered(1500))]),
        commit(vec![Op::Snapshot(2, 1)]),
        commit(vec![Op::Map(1, vec![1, 2])]),
        commit(vec![Op::Snapshot(3, 2), Op::Map(2, scattered(20))]),
        commit(vec![
            Op::Snapshot(4, 3),
            Op::Snapshot(5, 3),
            Op::Delete(3..4),
        ]),
        commit(vec![Op::RemoveRange(4, 100..60_000), Op::Delete(1..2)]),
        abort(vec![Op::Delete(4..6), Op::MapMany(2, scattered(300))]),
        commit(vec![
            Op::Delete(5..6),
            Op::Snapshot(1, 2),
            Op::RemoveRange(1, 0..1 << 40),
        ]),
        commit(vec![Op::Delete(4..5), Op::Delete(1..2)]),
    ]
}

fn metadata_snapshot() -> History {
    let txns = vec![
        commit(vec![Op::Create(1..3), Op::MapMany(1, scattered(900))]),
        commit(vec![Op::Reserve, Op::Map(1, vec![3])]),
        commit(vec![Op::Map(1, scattered(9)), Op::Snapshot(4, 1)]),
        commit(vec![Op::Delete(1..3)]),
        abort(vec![Op::Release, Op::Reserve]),
        commit(vec![Op::Release, Op::Reserve, Op::Create(9..30)]),
        commit(vec![Op::RemoveRange(4, 0..1 << 30)]),
        commit(vec![Op::Release]),
        commit(vec![Op::Reserve, Op::Release, Op::Create(1..2)]),
        commit(vec![Op::Reserve]),
        commit(vec![Op::Release, Op::Delete(4..5)]),
    ];
    History::new("metadata snapshot", 120, txns)
}

fn growth() -> History {
    let txns = vec![
        commit(vec![Op::Create(1..2), Op::MapMany(1, scattered(700))]),
        abort(vec![Op::GrowMetadata(30), Op::MapMany(1, scattered(2000))]),
        commit(vec![Op::GrowMetadata(30)]),
        commit(vec![Op::MapMany(1, scattered(1500)), Op::GrowMetadata(1)]),
        commit(vec![Op::GrowData(17_000)]),
        abort(vec![Op::GrowData(90_000)]),
        commit(vec![
            Op::GrowData(34_000),
            Op::GrowMetadata(100),
            Op::Map(1, keys(0..40)),
        ]),
        commit(vec![Op::Snapshot(2, 1), Op::MapMany(2, scattered(1500))]),
    ];
    History::new("growth", 24, txns)
}

fn nearly_full() -> History {
    let txns = vec![
        commit(vec![Op::Create(1..2), Op::MapMany(1, scattered(1200))]),
        commit(vec![Op::Snapshot(2, 1), Op::MapMany(2, scattered(700))]),
        commit(vec![Op::RemoveRange(1, 0..50_000)]),
        commit(vec![Op::Map(1, scattered(30))]),
        commit(vec![Op::Snapshot(3, 2), Op::MapMany(3, scattered(900))]),
        commit(vec![Op::Delete(1..2)]),
        commit(vec![Op::MapMany(2, scattered(300))]),
        commit(vec![Op::RemoveRange(2, 0..99_000)]),
        commit(vec![Op::Create(5..300)]),
        commit(vec![Op::Map(2, keys(0..9))]),
    ];
    History::new("nearly full", 44, txns)
}

fn many_devices() -> History {
    let txns = vec![
        commit(vec![Op::Create(0..260), Op::Map(7, keys(0..3))]),
        commit(vec![Op::MapToOne(100, 0..50), Op::Snapshot(1000, 7)]),
        commit(vec![Op::Delete(30..200), Op::Reserve]),
        commit(vec![Op::Delete(200..260), Op::Snapshot(2000, 1000)]),
        commit(vec![Op::Release, Op::Delete(0..30)]),
    ];
    History::new("many devices", 600, txns)
}

/// More blocks in a transaction than the cache has.
fn early_writes() -> History {
    let txns = vec![
        commit(vec![Op::Create(1..2), Op::MapMany(1, scattered(11_000))]),
        abort(vec![Op::Create(2..3), Op::MapMany(2, scattered(12_000))]),
        commit(vec![Op::Snapshot(2, 1), Op::Map(2, scattered(150))]),
        abort(vec![Op::Delete(1..3), Op::Create(1..300)]),
        commit(vec![Op::Reserve, Op::RemoveRange(2, 0..50_000)]),
        commit(vec![Op::MapMany(2, scattered(9000)), Op::Delete(1..2)]),
    ];
    History {
        data_blocks: 40_000,
        ..History::new("early writes", 600, txns)
    }
}

/// What is known to be hard.
pub fn scripted() -> Vec<History> {
    vec![
        first_steps(),
        batches(),
        History::new("snapshots", 120, snapshots()),
        metadata_snapshot(),
        growth(),
        nearly_full(),
        many_devices(),
        early_writes(),
        History {
            before: 0xA5,
            ..History::new("over something else", 60, first_steps().txns)
        },
        History {
            again: Some(3),
            txns: [snapshots()[..3].to_vec(), metadata_snapshot().txns].concat(),
            ..History::new("over another pool", 120, Vec::new())
        },
        History {
            readers: 3,
            ..History::new("readers", 160, snapshots())
        },
    ]
}

/// A history that nobody thought of.
pub fn random(seed: u64) -> History {
    let mut chance = Chance::of_case(seed, "pool history", 0);
    let txn = |chance: &mut Chance<'_>| {
        let ops = vec![Op::Any(chance.word(), 1 + chance.below(8))];
        match chance.one_in(5) {
            true => abort(ops),
            false => commit(ops),
        }
    };
    let txns = (0..4 + chance.below(6)).map(|_| txn(&mut chance)).collect();
    History {
        data_blocks: 300 + chance.below(20_000),
        before: chance.pick(&[0, 0, 0x5A]),
        readers: chance.index(3),
        ..History::new(
            &format!("random pool {seed}"),
            chance.pick(&[50, 80, 200, 400]),
            txns,
        )
    }
}
