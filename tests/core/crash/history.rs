//! Histories: scripted ones for what is known to be hard, random ones for the rest.

use std::collections::VecDeque;
use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, Operation, RecordingDevice, WriteLog};
use thinmeta::store::{Store, StoreOptions, StoreView};

use super::judge::{Verdict, judge_open, read_back};
use super::script::{End, Op, Txn, abort, commit, random_ops, scattered};
use super::state::{Content, State, Trees};
use crate::support::chance::Chance;

const BLOCK: usize = 4096;

/// Transactions on a device of so many blocks.
pub struct History {
    pub name: String,
    pub blocks: usize,
    /// What the device holds at first, in every byte.
    pub before: u8,
    pub txns: Vec<Txn>,
    /// Commits that a view stays open for.
    pub views: usize,
    /// Make a new store over the first one, so many transactions before the end.
    pub again: Option<usize>,
}

/// One change of what is durable, as the log saw it.
#[derive(Clone, Copy, Debug)]
pub struct Milestone {
    /// Operations in the log when it began.
    pub begin: usize,
    /// Operations in the log when its caller was told that it is done.
    pub end: usize,
}

/// A history that was run.
pub struct Recorded<S> {
    pub name: String,
    pub log: WriteLog,
    /// `states[i]` and `states[i + 1]` lie before and after `milestones[i]`.
    pub milestones: Vec<Milestone>,
    pub states: Vec<S>,
}

struct Run {
    device: Arc<RecordingDevice>,
    store: Arc<Store>,
    trees: Trees,
    generation: u64,
    milestones: Vec<Milestone>,
    states: Vec<State>,
    views: VecDeque<(StoreView, Content)>,
}

fn options(overwrite: bool) -> StoreOptions {
    StoreOptions {
        // As small as it gets, so that blocks are written early.
        cache_bytes: 0,
        checked: super::hold_to_laws(),
        overwrite,
    }
}

fn operations(device: &RecordingDevice) -> usize {
    device.log().operations().len()
}

/// Makes a store; what was there before goes first, as a change of its own.
fn make(
    device: &Arc<RecordingDevice>,
    milestones: &mut Vec<Milestone>,
    states: &mut Vec<State>,
) -> thinmeta::Result<Arc<Store>> {
    let begin = operations(device);
    let store = Store::create_on(Arc::clone(device) as Arc<dyn Device>, &options(true))?;
    let log = device.log();
    let after = &log.operations()[begin..];
    let wiped = after
        .first()
        .is_some_and(|first| matches!(first, Operation::Write { offset_bytes: 0, bytes } if bytes.iter().all(|byte| *byte == 0)));
    let middle = begin + if wiped { 2 } else { 0 };
    if wiped {
        let end = middle;
        milestones.push(Milestone { begin, end });
        states.push(State::Nothing);
    }
    let (begin, end) = (middle, log.operations().len());
    milestones.push(Milestone { begin, end });
    states.push(State::Store(Content::new(1, &Trees::new())));
    Ok(store)
}

impl History {
    fn new(name: &str, blocks: usize, txns: Vec<Txn>) -> Self {
        Self {
            name: name.to_owned(),
            blocks,
            before: 0,
            txns,
            views: 0,
            again: None,
        }
    }

    /// Runs it, and holds the store against the plain maps after each commit.
    pub fn run(&self) -> Verdict<Recorded<State>> {
        let device = Arc::new(RecordingDevice::new(vec![self.before; self.blocks * BLOCK]));
        let (mut milestones, mut states) = (Vec::new(), vec![State::Nothing]);
        let store = make(&device, &mut milestones, &mut states);
        let mut run = Run {
            device,
            store: store.map_err(|error| error.to_string())?,
            trees: Trees::new(),
            generation: 1,
            milestones,
            states,
            views: VecDeque::new(),
        };
        for (number, txn) in self.txns.iter().enumerate() {
            if self.again == Some(number) {
                run.start_over()?;
            }
            let at = |problem| format!("{}, transaction {number}: {problem}", self.name);
            run.transaction(txn, self.views).map_err(at)?;
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
    fn start_over(&mut self) -> Verdict {
        self.views.clear();
        let made = make(&self.device, &mut self.milestones, &mut self.states);
        self.store = made.map_err(|error| error.to_string())?;
        self.trees.clear();
        self.generation = 1;
        Ok(())
    }

    fn transaction(&mut self, script: &Txn, views: usize) -> Verdict {
        if views > 0 {
            let view = self.store.view().map_err(|error| error.to_string())?;
            self.views
                .push_back((view, Content::new(self.generation, &self.trees)));
        }
        for op in &script.ops {
            if let Op::Grow(blocks) = op {
                self.device.grow(usize::try_from(*blocks).unwrap() * BLOCK);
            }
        }
        let begin = operations(&self.device);
        let txn = self.store.transaction(None);
        let txn = txn.map_err(|error| error.to_string())?;
        let mut trees = self.trees.clone();
        let done = script
            .ops
            .iter()
            .try_for_each(|op| op.apply(&txn, &mut trees));
        let done = match script.end {
            End::Abort => done.and_then(|()| txn.abort()).map(|()| false),
            End::Commit => done.and_then(|()| txn.commit()).map(|()| true),
        };
        match done {
            Ok(false) => {}
            Ok(true) => {
                // A commit of nothing is none.
                let end = operations(&self.device);
                let flushes = self.device.log().operations()[begin..].to_vec();
                if flushes.contains(&Operation::Flush) {
                    self.generation += 1;
                    self.trees = trees;
                    self.milestones.push(Milestone { begin, end });
                    let content = Content::new(self.generation, &self.trees);
                    self.states.push(State::Store(content));
                }
            }
            Err(Error::NoSpace { .. }) => txn.abort().map_err(|error| error.to_string())?,
            Err(error) => return Err(error.to_string()),
        }
        drop(txn);
        if self.views.len() > views
            && let Some((view, content)) = self.views.pop_front()
        {
            read_back(&view, &content).map_err(|problem| format!("a view: {problem}"))?;
        }
        if self.views.is_empty()
            && let Some(State::Store(content)) = self.states.last()
        {
            judge_open(&self.store, content)?;
        }
        Ok(())
    }
}

/// What is known to be hard.
pub fn scripted() -> Vec<History> {
    let keys = |range: std::ops::Range<u64>| range.collect::<Vec<u64>>();
    let mut all = vec![
        History::new(
            "first steps",
            60,
            vec![
                commit(vec![]),
                commit(vec![Op::Put("a", 8, vec![1], 1)]),
                commit(vec![Op::Put("a", 8, vec![1], 2)]),
                commit(vec![
                    Op::Put("a", 8, vec![2, 3], 3),
                    Op::Put("b", 100, keys(0..50), 4),
                ]),
                abort(vec![Op::Put("a", 8, vec![4], 5), Op::Delete("b")]),
                commit(vec![Op::Remove("a", vec![1, 2])]),
                commit(vec![Op::Delete("a")]),
                commit(vec![Op::Put("a", 1000, vec![1], 6), Op::Delete("b")]),
            ],
        ),
        History::new(
            "batches and ranges",
            120,
            vec![
                commit(vec![Op::PutMany("a", 8, scattered(3000), 1)]),
                commit(vec![Op::PutMany("a", 8, keys(0..2000), 2)]),
                commit(vec![Op::RemoveRange("a", 500..60_000)]),
                abort(vec![Op::PutMany("a", 8, scattered(4000), 3)]),
                commit(vec![
                    Op::PutMany("b", 100, scattered(600), 4),
                    Op::RemoveRange("a", 0..9),
                ]),
                commit(vec![
                    Op::RemoveRange("b", 0..200_000),
                    Op::Put("b", 100, vec![5], 5),
                ]),
            ],
        ),
        History::new(
            "snapshots",
            160,
            vec![
                commit(vec![Op::PutMany("a", 8, scattered(2000), 1)]),
                commit(vec![Op::Snapshot("a", "b")]),
                commit(vec![Op::Put("a", 8, vec![1, 2], 2)]),
                commit(vec![
                    Op::Snapshot("b", "c"),
                    Op::Put("b", 8, scattered(20), 3),
                ]),
                commit(vec![
                    Op::Snapshot("c", "d"),
                    Op::Snapshot("c", "e"),
                    Op::Delete("c"),
                ]),
                commit(vec![Op::RemoveRange("d", 100..40_000), Op::Delete("a")]),
                abort(vec![
                    Op::Delete("e"),
                    Op::Delete("d"),
                    Op::Put("b", 8, scattered(300), 4),
                ]),
                commit(vec![
                    Op::Delete("e"),
                    Op::Snapshot("b", "a"),
                    Op::Delete("b"),
                ]),
                commit(vec![Op::Delete("d"), Op::Delete("a")]),
            ],
        ),
        History::new(
            "three levels",
            700,
            vec![
                commit(vec![Op::PutMany("a", 1000, keys(0..500), 1)]),
                commit(vec![Op::Put("a", 1000, keys(500..900), 2)]),
                commit(vec![
                    Op::Snapshot("a", "b"),
                    Op::Put("a", 1000, vec![450], 3),
                ]),
                commit(vec![Op::RemoveRange("a", 100..800)]),
                commit(vec![Op::Delete("b")]),
            ],
        ),
        History::new(
            "early writes",
            500,
            vec![
                commit(vec![Op::Put("a", 1000, scattered(200), 1)]),
                abort(vec![Op::Put("a", 1000, keys(0..200), 2)]),
                commit(vec![
                    Op::Put("a", 1000, scattered(250), 3),
                    Op::Remove("a", scattered(100)),
                ]),
                commit(vec![
                    Op::Snapshot("a", "b"),
                    Op::PutMany("b", 1000, scattered(220), 4),
                ]),
            ],
        ),
        History::new(
            "growth",
            30,
            vec![
                commit(vec![Op::PutMany("a", 1000, keys(0..30), 1)]),
                commit(vec![Op::PutMany("b", 1000, keys(0..60), 2)]),
                abort(vec![Op::Grow(60), Op::PutMany("b", 1000, keys(0..60), 3)]),
                commit(vec![Op::Grow(60)]),
                commit(vec![Op::PutMany("b", 1000, keys(0..60), 4), Op::Grow(61)]),
                commit(vec![
                    Op::Grow(200),
                    Op::Snapshot("b", "c"),
                    Op::Put("c", 1000, keys(0..50), 5),
                ]),
            ],
        ),
        // More counts above two than a node holds: the tree that keeps them splits
        // and shrinks while counts change.
        History::new(
            "many references",
            900,
            vec![
                commit(vec![Op::PutMany("a", 1000, keys(0..600), 1)]),
                commit(vec![Op::PutMany("b", 1000, keys(0..600), 2)]),
                commit(vec![
                    Op::Snapshot("a", "c"),
                    Op::Snapshot("a", "d"),
                    Op::Snapshot("b", "e"),
                ]),
                commit(vec![
                    Op::Put("c", 1000, vec![1], 3),
                    Op::Put("d", 1000, vec![300], 4),
                ]),
                commit(vec![Op::Put("e", 1000, vec![1], 5), Op::Snapshot("b", "f")]),
                commit(vec![Op::Put("f", 1000, vec![1, 599], 6)]),
                abort(vec![Op::Delete("c"), Op::Delete("f")]),
                commit(vec![Op::Delete("d"), Op::RemoveRange("e", 100..500)]),
                commit(vec![Op::Delete("a"), Op::Delete("b"), Op::Delete("c")]),
            ],
        ),
        History::new(
            "nearly full",
            40,
            vec![
                commit(vec![Op::PutMany("a", 100, keys(0..300), 1)]),
                commit(vec![Op::PutMany("b", 1000, keys(0..60), 2)]),
                commit(vec![Op::RemoveRange("a", 0..200)]),
                commit(vec![Op::Put("b", 1000, keys(0..9), 3)]),
                commit(vec![Op::PutMany("b", 1000, keys(0..90), 4)]),
                commit(vec![Op::Delete("a"), Op::Put("b", 1000, vec![99], 5)]),
                commit(vec![Op::Put("c", 100, keys(0..40), 6)]),
            ],
        ),
    ];
    let over = |name: &str, before, again| History {
        before,
        again,
        ..History::new(
            name,
            40,
            vec![
                commit(vec![Op::Put("a", 8, keys(0..300), 1)]),
                commit(vec![Op::Put("b", 8, keys(0..3), 2)]),
                commit(vec![Op::Put("b", 8, keys(0..3), 3)]),
            ],
        )
    };
    all.push(over("over something else", 0xA5, None));
    all.push(over("over another store", 0, Some(2)));
    let snapshots = |all: &[History]| all[2].txns.clone();
    all.push(History {
        views: 3,
        ..History::new("views", 200, snapshots(&all))
    });
    all
}

/// A history that nobody thought of.
pub fn random(seed: u64) -> History {
    let mut chance = Chance::of_case(seed, "history", 0);
    let mut txns = Vec::new();
    // Which trees there will be decides what can be done next: a dry run in plain maps.
    let device = Arc::new(thinmeta::device::MemoryDevice::writable(vec![
        0;
        3000 * BLOCK
    ]));
    let store = Store::create_on(device, &StoreOptions::default()).unwrap();
    let mut trees = Trees::new();
    let blocks = chance.pick(&[40, 80, 150, 300, 300]);
    for _ in 0..3 + chance.below(6) {
        let ops = random_ops(&mut chance, &trees);
        if chance.one_in(6) {
            txns.push(abort(ops));
            continue;
        }
        let txn = store.transaction(None).unwrap();
        for op in &ops {
            op.apply(&txn, &mut trees).unwrap();
        }
        txn.commit().unwrap();
        txns.push(commit(ops));
    }
    History {
        before: chance.pick(&[0, 0, 0x5A]),
        views: chance.pick(&[0, 0, 1, 2]),
        ..History::new(&format!("random {seed}"), blocks, txns)
    }
}
