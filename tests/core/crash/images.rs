//! The crashes that a log allows, and the verdict on each.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use thinmeta::device::{Crash, Device, MemoryDevice, Operation};
use thinmeta::store::{Store, StoreOptions};

use super::history::Recorded;
use super::judge::{Verdict, judge, judge_open};
use super::script::random_ops;
use super::state::{Content, State};
use crate::support::chance::Chance;

/// So few pieces, and all their subsets are tried.
const ALL_SUBSETS_OF: usize = 7;
/// Subsets drawn where there are more.
const DRAWN_SUBSETS: usize = 48;
/// One image in so many is worked with after it was judged.
pub const WORK_WITH_ONE_IN: u64 = 16;

/// Images of a history that nobody thought of: many histories find more than
/// many images of one.
pub const MOST_OF_ONE: usize = 2000;

/// Whether an operation writes the superblock.
pub fn is_superblock(operation: &Operation) -> bool {
    matches!(
        operation,
        Operation::Write {
            offset_bytes: 0,
            ..
        }
    )
}

impl<S> Recorded<S> {
    /// All crashes: every prefix, block by block; each with its last block torn
    /// at every sector; and of what is on its way when a flush or a caller
    /// waits, all subsets, or some.
    pub fn crashes(&self, chance: &mut Chance<'_>) -> Vec<Crash> {
        let operations = self.log.operations();
        let mut crashes = vec![Crash::default()];
        for at in 1..=operations.len() {
            let pieces = self.log.volatile(at);
            let last = pieces.iter().filter(|piece| piece.operation + 1 == at);
            let (last, all) = (last.count(), pieces.len());
            for arrived in all - last..all {
                let lost: Vec<usize> = (arrived + 1..all).collect();
                let prefix = |torn: Option<u8>| Crash {
                    operations: at,
                    lost: lost.clone(),
                    torn: torn.map(|sectors| (arrived, sectors)),
                };
                crashes.push(prefix(None));
                crashes.extend((1..8).map(|sectors| prefix(Some((1 << sectors) - 1))));
                if is_superblock(&operations[at - 1]) {
                    crashes.extend((1..8).map(|sectors| prefix(Some(u8::MAX << sectors))));
                }
            }
            let told = |milestone: &super::history::Milestone| {
                milestone.begin == at || milestone.end == at
            };
            if operations.get(at) == Some(&Operation::Flush)
                || is_superblock(&operations[at - 1])
                || self.milestones.iter().any(told)
            {
                self.subsets(at, all, chance, &mut crashes);
            }
        }
        crashes
    }

    fn subsets(&self, at: usize, pieces: usize, chance: &mut Chance<'_>, out: &mut Vec<Crash>) {
        if pieces <= ALL_SUBSETS_OF {
            out.extend((0..1_usize << pieces).map(|bits| Crash {
                operations: at,
                lost: (0..pieces).filter(|piece| bits >> piece & 1 == 1).collect(),
                torn: None,
            }));
        } else {
            // Each alone is lost, and then as it comes.
            out.extend((0..pieces).map(|piece| Crash {
                operations: at,
                lost: vec![piece],
                torn: None,
            }));
            let draw = || self.log.random_crash(at, || chance.word());
            out.extend(std::iter::repeat_with(draw).take(DRAWN_SUBSETS));
        }
    }

    /// The states that a crash lies between; where nothing was in progress, the same twice.
    pub fn around(&self, crash: &Crash) -> (&S, &S) {
        let at = crash.operations;
        let settled = self.milestones.iter().filter(|one| one.end <= at).count();
        let next = self.milestones.get(settled);
        let in_progress = next.is_some_and(|next| next.begin < at);
        let old = &self.states[settled];
        (
            old,
            if in_progress {
                &self.states[settled + 1]
            } else {
                old
            },
        )
    }

    /// What has to be there after a crash: the old state until the first sector of
    /// the superblock has arrived, the new one from then on.
    pub fn expected(&self, crash: &Crash) -> &S {
        let at = crash.operations;
        let settled = self.milestones.iter().filter(|one| one.end <= at).count();
        let old = &self.states[settled];
        let Some(next) = self.milestones.get(settled).filter(|next| next.begin < at) else {
            return old;
        };
        let written = &self.log.operations()[next.begin..at];
        let Some(write) = written.iter().rposition(is_superblock) else {
            return old;
        };
        let new = &self.states[settled + 1];
        let pieces = self.log.volatile(at);
        let place = |piece: &thinmeta::device::Piece| {
            piece.operation == next.begin + write && piece.skip_bytes == 0
        };
        let Some(piece) = pieces.iter().position(place) else {
            // A flush came after it.
            return new;
        };
        let torn_off = |(torn, sectors): (usize, u8)| torn == piece && sectors & 1 == 0;
        if crash.lost.contains(&piece) || crash.torn.is_some_and(torn_off) {
            return old;
        }
        new
    }
}

/// The image that many crashes start from.
#[derive(Default)]
struct Base {
    durable: Option<usize>,
    image: Vec<u8>,
}

/// Draws so many of a history's crashes and judges them.
pub fn judge_some<S: Sync>(
    recorded: &Recorded<S>,
    share: usize,
    seed: u64,
    judge: impl Fn(&Arc<dyn Device>, &S, &mut Chance<'_>) -> Verdict + Sync,
) -> Verdict<usize> {
    let mut chance = Chance::of_case(seed, &recorded.name, 0);
    let mut crashes = recorded.crashes(&mut chance);
    while crashes.len() > share {
        crashes.swap_remove(chance.index(crashes.len()));
    }
    judge_all(recorded, &mut crashes, seed, judge)
}

/// Judges the image of every crash by `judge`; how many there were.
fn judge_all<S: Sync>(
    recorded: &Recorded<S>,
    crashes: &mut [Crash],
    seed: u64,
    judge: impl Fn(&Arc<dyn Device>, &S, &mut Chance<'_>) -> Verdict + Sync,
) -> Verdict<usize> {
    crashes.sort_by_key(|crash| crash.operations);
    let crashes = &*crashes;
    let next = AtomicUsize::new(0);
    let failed: Mutex<Option<(usize, String)>> = Mutex::new(None);
    let worker = || {
        let mut base = Base::default();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(crash) = crashes.get(number) else {
                return;
            };
            let mut chance = Chance::of_case(seed, "after", number as u64);
            let device = base.image_of(recorded, crash);
            let verdict = judge(&device, recorded.expected(crash), &mut chance);
            if let Err(problem) = verdict {
                // The first one, however many threads look.
                next.store(crashes.len(), Ordering::Relaxed);
                let mut failed = failed.lock().unwrap();
                if failed.as_ref().is_none_or(|(other, _)| number < *other) {
                    *failed = Some((number, problem));
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(worker);
        worker();
    });
    match failed.into_inner().unwrap() {
        None => Ok(crashes.len()),
        Some((number, problem)) => {
            let crash = &crashes[number];
            let done = crash.operations;
            let last = &recorded.log.operations()[done.saturating_sub(1)..done];
            let last = last.first().map_or("nothing".to_owned(), describe);
            let log = recorded.log.operations().len();
            let pieces = recorded.log.volatile(done).len();
            let lost = match crash.lost.as_slice() {
                few @ ([] | [_] | [_, _] | [_, _, _]) => format!("{few:?}"),
                many => format!("{} blocks, the first of them {:?}", many.len(), &many[..3]),
            };
            let torn = crash.torn.map_or(String::new(), |(piece, sectors)| {
                format!(", block {piece} torn to sectors {sectors:#010b}")
            });
            Err(format!(
                "history {:?}, image {number}: power cut after operation {done} of {log} ({last}), \
                 of {pieces} blocks on their way lost {lost}{torn}: {problem}",
                recorded.name
            ))
        }
    }
}

fn describe(operation: &Operation) -> String {
    match operation {
        Operation::Flush => "a flush".to_owned(),
        Operation::Write {
            offset_bytes,
            bytes,
        } => {
            let blocks = bytes.len().div_ceil(4096);
            format!(
                "a write of {blocks} blocks at block {}",
                offset_bytes / 4096
            )
        }
    }
}

impl Base {
    fn image_of<S>(&mut self, recorded: &Recorded<S>, crash: &Crash) -> Arc<dyn Device> {
        let durable = recorded.log.durable(crash.operations);
        if self.durable != Some(durable) {
            self.image = recorded.log.prefix(durable);
            self.durable = Some(durable);
        }
        let mut image = self.image.clone();
        recorded.log.apply(&mut image, crash);
        Arc::new(MemoryDevice::writable(image))
    }
}

/// Judges a store, and sometimes works with it.
pub fn judge_store(device: &Arc<dyn Device>, state: &State, chance: &mut Chance<'_>) -> Verdict {
    judge(device, state)?;
    match state {
        State::Store(content) if chance.one_in(WORK_WITH_ONE_IN) => {
            work_with(device, content, chance)
                .map_err(|problem| format!("in a transaction after it: {problem}"))
        }
        _ => Ok(()),
    }
}

/// Makes a transaction on what a crash left, and holds that against the plain maps.
fn work_with(device: &Arc<dyn Device>, content: &Content, chance: &mut Chance<'_>) -> Verdict {
    let options = StoreOptions {
        cache_bytes: 0,
        checked: super::hold_to_laws(),
        overwrite: false,
    };
    let text = |error: thinmeta::Error| error.to_string();
    let store = Store::open_on(Arc::clone(device), &options).map_err(text)?;
    let mut trees = content.trees.clone();
    let ops = random_ops(chance, &trees);
    let txn = store.transaction(None).map_err(text)?;
    let done = ops.iter().try_for_each(|op| op.apply(&txn, &mut trees));
    let after = match done.and_then(|()| txn.commit()) {
        Ok(()) if trees == content.trees => return Ok(()),
        Ok(()) => Content::new(content.generation + 1, &trees),
        Err(thinmeta::Error::NoSpace { .. }) => {
            txn.abort().map_err(text)?;
            Content::new(content.generation, &content.trees)
        }
        Err(error) => return Err(text(error)),
    };
    judge_open(&store, &after)?;
    drop((txn, store));
    judge(device, &State::Store(after))
}
