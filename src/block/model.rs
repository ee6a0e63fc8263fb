//! The lock table under a scheduler that tries many interleavings:
//! `RUSTFLAGS="--cfg shuttle" cargo test --lib block::model`. A thread that
//! waits for ever is reported as a deadlock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shuttle::{check_pct, check_random, thread};

use super::{
    BlockData, BlockManager, Validator, check_location_and_checksum, seal_location_and_checksum,
};
use crate::BlockNr;
use crate::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use crate::error::{Damage, Error};

const RUNS: usize = 3000;

/// As many slots as a manager has at least.
const SLOTS: u64 = 64;

struct Kind;

static KIND: Kind = Kind;

impl Validator for Kind {
    fn name(&self) -> &str {
        "model"
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        check_location_and_checksum("model", 3, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(3, at, block);
    }
}

fn device(blocks: u64) -> Arc<FaultyDevice> {
    let mut bytes = Vec::new();
    for at in 0..blocks {
        let mut block = BlockData::zeroed();
        KIND.seal(BlockNr(at), &mut block);
        bytes.extend_from_slice(block.bytes());
    }
    let memory = Arc::new(MemoryDevice::writable(bytes));
    Arc::new(FaultyDevice::new(memory as Arc<dyn Device>))
}

fn manager(device: &Arc<FaultyDevice>) -> Arc<BlockManager> {
    BlockManager::new(Arc::clone(device) as Arc<dyn Device>, 0)
}

fn explore(model: impl Fn() + Send + Sync + Copy + 'static) {
    check_random(model, RUNS);
    check_pct(model, RUNS, 3);
}

fn add_one(manager: &Arc<BlockManager>, at: u64) -> Result<(), Error> {
    let mut guard = manager.write_lock(BlockNr(at), &KIND)?;
    // Two steps, so that a second writer or a reader in between would be seen.
    guard.bytes_mut()[100] += 1;
    thread::yield_now();
    guard.bytes_mut()[4000] += 1;
    Ok(())
}

fn look(manager: &Arc<BlockManager>, at: u64) {
    let guard = manager.read_lock(BlockNr(at), &KIND).unwrap();
    let seen = guard.bytes()[100];
    thread::yield_now();
    assert_eq!((guard.bytes()[100], guard.bytes()[4000]), (seen, seen));
}

#[test]
fn writers_are_alone_and_nobody_waits_for_ever() {
    explore(|| {
        let manager = manager(&device(4));
        let threads: Vec<_> = (0..4)
            .map(|number| {
                let manager = Arc::clone(&manager);
                thread::spawn(move || {
                    for at in [1, 2] {
                        match number {
                            0 | 1 => add_one(&manager, at).unwrap(),
                            2 => look(&manager, at),
                            _ => drop(manager.read(BlockNr(at), &KIND).unwrap()),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|one| one.join().unwrap());
        let last = manager.read(BlockNr(1), &KIND).unwrap();
        assert_eq!((last.bytes()[100], last.bytes()[4000]), (2, 2));
    });
}

#[test]
fn aborts_flushes_and_locks_leave_no_lock_behind() {
    explore(|| {
        let manager = manager(&device(4));
        let work: [fn(&Arc<BlockManager>); 4] = [
            |manager| {
                manager.discard_dirty(|at| at == BlockNr(1));
                manager.discard_dirty(|_| false);
            },
            |manager| {
                add_one(manager, 1).unwrap();
                manager.write_lock(BlockNr(1), &KIND).unwrap().discard();
            },
            |manager| {
                manager.flush().unwrap();
                drop(manager.write_lock_zero(BlockNr(1), &KIND).unwrap());
            },
            |manager| look(manager, 1),
        ];
        let threads = work.map(|work| {
            let manager = Arc::clone(&manager);
            thread::spawn(move || work(&manager))
        });
        threads.into_iter().for_each(|one| one.join().unwrap());
        // Whatever happened: a writer gets in.
        add_one(&manager, 1).unwrap();
        manager.flush().unwrap();
    });
}

#[test]
fn a_full_cache_serves_everybody_or_says_that_it_cannot() {
    explore(|| {
        let manager = manager(&device(SLOTS + 4));
        let held: Vec<_> = (0..SLOTS - 2)
            .map(|at| manager.read_lock(BlockNr(at), &KIND).unwrap())
            .collect();
        let refused = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..2)
            .map(|number| {
                let (manager, refused) = (Arc::clone(&manager), Arc::clone(&refused));
                thread::spawn(move || {
                    // Each holds one of the last two places and wants another.
                    let first = manager.write_lock(BlockNr(SLOTS - 2 + number), &KIND);
                    let second = manager.write_lock(BlockNr(SLOTS + number), &KIND);
                    match (first, second) {
                        (Ok(_), Ok(_)) => {}
                        (Ok(_), Err(Error::Usage(_))) => {
                            refused.fetch_add(1, Ordering::Relaxed);
                        }
                        (first, second) => {
                            panic!("{:?} {:?}", first.err(), second.err())
                        }
                    }
                })
            })
            .collect();
        // Who holds the rest wants nothing, but lets go only afterwards.
        let late = thread::spawn(move || drop(held));
        threads.into_iter().for_each(|one| one.join().unwrap());
        late.join().unwrap();
        assert!(refused.load(Ordering::Relaxed) <= 1);
    });
}

#[test]
fn a_failed_write_leaves_nobody_waiting() {
    explore(|| {
        let device = device(4);
        device.set_fault(Fault::from(Request::Write, 0));
        let manager = manager(&device);
        add_one(&manager, 0).unwrap();
        let flush = {
            let manager = Arc::clone(&manager);
            thread::spawn(move || assert!(matches!(manager.flush(), Err(Error::Poisoned(_)))))
        };
        let writers = [1, 1].map(|at| {
            let manager = Arc::clone(&manager);
            thread::spawn(move || match add_one(&manager, at) {
                Ok(()) | Err(Error::Poisoned(_)) => look(&manager, at),
                Err(error) => panic!("{error}"),
            })
        });
        writers.into_iter().for_each(|one| one.join().unwrap());
        flush.join().unwrap();
        assert!(matches!(add_one(&manager, 1), Err(Error::Poisoned(_))));
    });
}
