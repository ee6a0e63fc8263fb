//! What a failed read, write or flush leaves behind.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use thinmeta::BlockNr;
use thinmeta::block::BlockManager;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::error::{Error, Result};

use super::{KIND, change, image, set_word, word, word_in};

const BLOCKS: u64 = 300;

struct Setup {
    memory: Arc<MemoryDevice>,
    device: Arc<FaultyDevice>,
    manager: Arc<BlockManager>,
}

fn setup() -> Setup {
    let memory = Arc::new(MemoryDevice::writable(image(BLOCKS)));
    let device = Arc::new(FaultyDevice::new(Arc::clone(&memory) as Arc<dyn Device>));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    manager.guard_superblock(BlockNr(0));
    Setup {
        memory,
        device,
        manager,
    }
}

/// Early write-back, a flush, and a commit of both.
fn history(manager: &Arc<BlockManager>) -> Result<()> {
    for at in (1..BLOCKS).step_by(2) {
        change(manager, at, at)?;
    }
    manager.flush()?;
    change(manager, 2, 2)?;
    let mut superblock = manager.write_lock(BlockNr(0), &KIND)?;
    set_word(&mut superblock, 1);
    manager.flush_and_unlock(superblock)
}

fn is_poisoned<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::Poisoned(_)))
}

fn nothing_but_reading_is_answered(setup: &Setup) {
    let Setup {
        memory,
        device,
        manager,
    } = setup;
    device.heal();
    let before = (memory.contents(), device.count(Request::Flush));
    assert!(manager.is_poisoned() && device.was_poisoned());
    assert!(is_poisoned(manager.flush()));
    assert!(is_poisoned(change(manager, 5, 5)));
    assert!(is_poisoned(manager.write_lock_zero(BlockNr(5), &KIND)));
    assert!(is_poisoned(manager.wipe(BlockNr(0))));
    assert!(is_poisoned(history(manager)));
    // More blocks than there are slots, whatever those hold.
    for at in 0..BLOCKS {
        match manager.read(BlockNr(at), &KIND) {
            Ok(block) => assert!([at, 1000 + at, 1].contains(&word(&block)), "{at}"),
            Err(error) => panic!("{at}: {error}"),
        }
    }
    let after = (memory.contents(), device.count(Request::Flush));
    assert!(before == after, "something was written after the failure");
}

#[test]
fn any_failed_write_or_flush_poisons_all_but_reading_and_nothing_is_written_after() {
    for request in [Request::Write, Request::Flush] {
        let good = setup();
        history(&good.manager).unwrap();
        let count = good.device.count(request);
        assert!(count >= 3);
        for nth in 0..count {
            for lasting in [false, true] {
                let faulty = setup();
                faulty.device.set_fault(Fault {
                    lasting,
                    ..Fault::once(request, nth)
                });
                assert!(is_poisoned(history(&faulty.manager)), "{request:?} {nth}");
                assert_eq!(faulty.device.failed(), 1, "it is not tried again");
                let last = nth + 1 == count;
                let superblock = word_in(&faulty.memory.contents(), 0).unwrap();
                let written = last && request == Request::Flush;
                assert_eq!(
                    superblock,
                    if written { 1 } else { 1000 },
                    "{request:?} {nth}"
                );
                nothing_but_reading_is_answered(&faulty);
            }
        }
    }
}

#[test]
fn a_torn_write_poisons_like_a_lost_one() {
    for torn_bytes in [512, 2048, 3584, 4096] {
        let faulty = setup();
        change(&faulty.manager, 7, 7).unwrap();
        faulty.device.set_fault(Fault {
            torn_bytes,
            ..Fault::once(Request::Write, 0)
        });
        assert!(is_poisoned(faulty.manager.flush()));
        assert_eq!(
            word_in(&faulty.memory.contents(), 7).is_ok(),
            torn_bytes == 4096
        );
        // It stayed dirty, and so in the cache.
        assert_eq!(word(&faulty.manager.read(BlockNr(7), &KIND).unwrap()), 7);
    }
}

#[test]
fn a_failed_read_is_reported_once_and_poisons_nothing() {
    let Setup {
        memory,
        device,
        manager,
    } = setup();
    device.set_fault(Fault::once(Request::Read, 1));
    change(&manager, 1, 1).unwrap();
    for lock in [false, true] {
        device.set_fault(Fault::once(Request::Read, 0));
        let answer = match lock {
            true => change(&manager, 2, 2),
            false => manager.read(BlockNr(2), &KIND).map(drop),
        };
        assert!(matches!(
            answer,
            Err(Error::Io {
                offset_bytes: Some(8192),
                ..
            })
        ));
    }
    assert!(!manager.is_poisoned() && !device.was_poisoned());
    change(&manager, 2, 2).unwrap();
    manager.flush().unwrap();
    assert_eq!(word_in(&memory.contents(), 2).unwrap(), 2);
}

#[test]
fn who_waits_to_write_when_a_write_fails_is_told() {
    let Setup {
        device, manager, ..
    } = setup();
    change(&manager, 3, 3).unwrap();
    let held = manager.read_lock(BlockNr(5), &KIND).unwrap();
    device.set_fault(Fault::from(Request::Write, 0));
    thread::scope(|scope| {
        let waiting = scope.spawn(|| change(&manager, 5, 5));
        thread::sleep(Duration::from_millis(30));
        assert!(!waiting.is_finished());
        assert!(is_poisoned(manager.flush()));
        // Though the lock that it waits for is still held.
        assert!(is_poisoned(waiting.join().unwrap()));
    });
    drop(held);
}
