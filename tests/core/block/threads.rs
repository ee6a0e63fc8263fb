//! Readers, pins and a writer hammer a cache that is too small.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use thinmeta::BlockNr;
use thinmeta::block::{BlockData, BlockManager};
use thinmeta::device::{Device, RecordingDevice};
use thinmeta::error::Error;

use super::{KIND, image, set_word, word, word_in};
use crate::support::chance::Chance;

const BLOCKS: u64 = 200;

/// Seconds; more when `THINMETA_HAMMER_SECONDS` says so.
fn seconds() -> u64 {
    let told = std::env::var("THINMETA_HAMMER_SECONDS").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Both ends of the block say the same: no half-made change is ever seen.
fn whole_word(block: &BlockData) -> u64 {
    assert_eq!(block.bytes()[16..24], block.bytes()[4088..]);
    word(block)
}

#[test]
fn readers_pins_a_writer_and_flushes_see_whole_blocks_that_only_grow() {
    let device = Arc::new(RecordingDevice::new(image(BLOCKS)));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    manager.guard_superblock(BlockNr(0));
    let stop = AtomicBool::new(false);
    let written: Vec<AtomicU64> = (0..BLOCKS).map(|at| AtomicU64::new(1000 + at)).collect();
    let changes = AtomicU64::new(0);
    let deadline = Instant::now() + Duration::from_secs(seconds());
    thread::scope(|scope| {
        let (manager, stop, written, changes, device) =
            (&manager, &stop, &written, &changes, &device);
        for number in 0..4 {
            scope.spawn(move || {
                let mut chance = Chance::of_case(7, "hammer", number);
                let mut pins: Vec<(Arc<BlockData>, u64)> = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let at = chance.index(200) as u64;
                    let least = written[at as usize].load(Ordering::SeqCst);
                    let seen = match chance.index(4) {
                        0 => manager
                            .read_lock(BlockNr(at), &KIND)
                            .map(|guard| guard.pin()),
                        1 => manager
                            .read_try_lock(BlockNr(at), &KIND)
                            .map(|guard| guard.pin()),
                        2 => manager.peek(|peek| {
                            peek.block(BlockNr(at), &KIND)
                                .map(|block| Arc::new(block.clone()))
                        }),
                        _ => manager.read(BlockNr(at), &KIND),
                    };
                    match seen {
                        Ok(block) => {
                            let now = whole_word(&block);
                            assert!(now >= least, "{at}: {now} after {least}");
                            pins.push((block, now));
                        }
                        Err(Error::WouldBlock) => {}
                        Err(error) => panic!("{at}: {error}"),
                    }
                    while pins.len() > 8 {
                        let (pin, then) = pins.swap_remove(chance.index(pins.len()));
                        assert_eq!(whole_word(&pin), then);
                    }
                }
            });
        }
        scope.spawn(move || {
            let mut chance = Chance::of_case(7, "hammer", 99);
            while !stop.load(Ordering::Relaxed) {
                let at = chance.index(200) as u64;
                let mut guard = manager.write_lock(BlockNr(at), &KIND).unwrap();
                let next = whole_word(&guard) + 1;
                set_word(&mut guard, next);
                drop(guard);
                written[at as usize].store(next, Ordering::SeqCst);
                if changes.fetch_add(1, Ordering::Relaxed) % 500 == 0 {
                    manager.flush().unwrap();
                    device.start_over();
                }
            }
        });
        while Instant::now() < deadline {
            thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(changes.load(Ordering::Relaxed) > 1000, "the writer starved");
    manager.flush().unwrap();
    let contents = device.contents();
    for at in 1..BLOCKS {
        let expected = written[at as usize].load(Ordering::SeqCst);
        assert_eq!(word_in(&contents, at).unwrap(), expected);
    }
}

/// Random locks by several threads that never hold two blocks against the
/// order of their numbers: nobody may hang, and no two writers may meet.
#[test]
fn random_locks_in_order_never_hang_and_never_overlap() {
    let device = Arc::new(RecordingDevice::new(image(BLOCKS)));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    // Writers count 1000, readers 1.
    let inside: Vec<AtomicU64> = (0..BLOCKS).map(|_| AtomicU64::new(0)).collect();
    thread::scope(|scope| {
        for number in 0..6 {
            let (manager, inside) = (&manager, &inside);
            scope.spawn(move || {
                let mut chance = Chance::of_case(8, "order", number);
                for _ in 0..1500 {
                    let mut wanted: Vec<u64> = (0..=chance.index(5))
                        .map(|_| chance.index(30) as u64)
                        .collect();
                    wanted.sort_unstable();
                    wanted.dedup();
                    let mut readers = Vec::new();
                    let mut writers = Vec::new();
                    for at in wanted {
                        let count = &inside[at as usize];
                        if chance.one_in(3) {
                            let guard = manager.write_lock(BlockNr(at), &KIND).unwrap();
                            assert_eq!(count.fetch_add(1000, Ordering::SeqCst), 0);
                            writers.push(guard);
                        } else {
                            let guard = manager.read_lock(BlockNr(at), &KIND).unwrap();
                            assert!(count.fetch_add(1, Ordering::SeqCst) < 1000);
                            readers.push(guard);
                        }
                    }
                    for guard in &readers {
                        inside[guard.location().0 as usize].fetch_sub(1, Ordering::SeqCst);
                    }
                    for guard in &writers {
                        inside[guard.location().0 as usize].fetch_sub(1000, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    assert!(inside.iter().all(|count| count.load(Ordering::SeqCst) == 0));
}
