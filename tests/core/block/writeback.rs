//! What is written, when, and in which order.

use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::block::{BlockData, BlockManager, Validator};
use thinmeta::device::{Device, Operation, RecordingDevice};
use thinmeta::error::Error;

use super::{KIND, change, image, set_word, small, word, word_in};
use crate::support::allocator;

const BLOCK: u64 = 4096;

fn places(device: &RecordingDevice) -> Vec<Vec<(u64, usize)>> {
    let epochs = device.log().epochs();
    let in_blocks = |epoch: &Vec<(u64, usize)>| {
        epoch
            .iter()
            .map(|(offset, bytes)| (offset / BLOCK, bytes / 4096))
            .collect()
    };
    epochs.iter().map(in_blocks).collect()
}

#[test]
fn a_flush_writes_sorted_joined_and_sealed_blocks_once() {
    let (device, manager) = small(40);
    for at in [30, 7, 5, 6, 31, 2, 5, 20] {
        change(&manager, at, at).unwrap();
    }
    assert_eq!(device.log().operations(), []);
    manager.flush().unwrap();
    let wanted = vec![(2, 1), (5, 3), (20, 1), (30, 2)];
    assert_eq!(places(&device), [wanted, Vec::new()]);
    for at in [2, 5, 6, 7, 20, 30, 31] {
        assert_eq!(word_in(&device.contents(), at).unwrap(), at);
    }
    device.start_over();
    manager.flush().unwrap();
    assert_eq!(device.log().operations(), [Operation::Flush]);
}

#[test]
fn a_locked_block_is_not_written_and_an_unchanged_one_is() {
    let (device, manager) = small(8);
    drop(manager.write_lock(BlockNr(1), &KIND).unwrap());
    change(&manager, 2, 2).unwrap();
    let held = manager.write_lock(BlockNr(2), &KIND).unwrap();
    let read = manager.read_lock(BlockNr(1), &KIND).unwrap();
    manager.flush().unwrap();
    assert_eq!(places(&device)[0], [(1, 1)], "a reader does not keep it");
    drop((held, read));
    manager.flush().unwrap();
    assert_eq!(places(&device)[1], [(2, 1)]);
}

#[test]
fn sealing_changes_a_copy_and_never_bytes_that_somebody_holds() {
    let (device, manager) = small(8);
    change(&manager, 1, 5).unwrap();
    let pin = manager.read(BlockNr(1), &KIND).unwrap();
    let before = pin.bytes().to_vec();
    manager.flush().unwrap();
    assert!(pin.bytes()[..] == before[..]);
    assert!(
        KIND.check(BlockNr(1), &pin).is_err(),
        "its checksum is the old one"
    );
    assert_eq!(word_in(&device.contents(), 1).unwrap(), 5);
}

#[test]
fn the_superblock_is_written_by_a_commit_alone_and_last() {
    let (device, manager) = small(200);
    manager.guard_superblock(BlockNr(0));
    change(&manager, 0, 7).unwrap();
    for at in 1..180 {
        change(&manager, at, at).unwrap();
    }
    manager.flush().unwrap();
    let early = places(&device);
    assert!(early.iter().flatten().all(|write| write.0 > 0), "{early:?}");
    assert_eq!(word_in(&device.contents(), 0).unwrap(), 1000);
    device.start_over();

    change(&manager, 9, 10).unwrap();
    let mut superblock = manager.write_lock(BlockNr(0), &KIND).unwrap();
    assert_eq!(word(&superblock), 7, "it stayed in the cache");
    set_word(&mut superblock, 8);
    manager.flush_and_unlock(superblock).unwrap();
    assert_eq!(places(&device), [vec![(9, 1)], vec![(0, 1)], Vec::new()]);
    assert_eq!(word_in(&device.contents(), 0).unwrap(), 8);

    // The same in two halves.
    device.start_over();
    change(&manager, 9, 11).unwrap();
    manager.flush().unwrap();
    let superblock = manager.write_lock(BlockNr(0), &KIND).unwrap();
    manager.write_superblock(superblock).unwrap();
    assert_eq!(places(&device), [vec![(9, 1)], vec![(0, 1)], Vec::new()]);
}

#[test]
fn changes_beyond_the_bound_are_written_early_and_read_back() {
    let (device, manager) = small(1000);
    manager.guard_superblock(BlockNr(0));
    change(&manager, 0, 1).unwrap();
    for turn in 0..3 {
        for at in 1..1000 {
            let mut guard = manager.write_lock(BlockNr(at), &KIND).unwrap();
            let expected = if turn == 0 {
                1000 + at
            } else {
                at * 10 + turn - 1
            };
            assert_eq!(word(&guard), expected);
            set_word(&mut guard, at * 10 + turn);
        }
    }
    let log = device.log();
    assert!(!log.operations().contains(&Operation::Flush));
    // Many at a time: a write for every change would be slow.
    assert!(
        log.operations().len() < 3 * 1000 / 6,
        "{}",
        log.operations().len()
    );
    manager.flush().unwrap();
    let contents = device.contents();
    for at in 1..1000 {
        assert_eq!(word_in(&contents, at).unwrap(), at * 10 + 2);
    }
    assert_eq!(word_in(&contents, 0).unwrap(), 1000);
}

#[test]
fn a_manager_that_goes_away_writes_nothing() {
    let (device, manager) = small(8);
    change(&manager, 0, 1).unwrap();
    change(&manager, 1, 1).unwrap();
    drop(manager);
    assert_eq!(device.log().operations(), []);
}

#[test]
fn nothing_is_written_while_changes_are_refused() {
    let (device, manager) = small(200);
    for at in 0..40 {
        change(&manager, at, at).unwrap();
    }
    let superblock = manager.write_lock(BlockNr(0), &KIND).unwrap();
    manager.set_read_only(true).unwrap();
    assert!(matches!(manager.flush(), Err(Error::ReadOnly(_))));
    assert!(matches!(change(&manager, 1, 1), Err(Error::ReadOnly(_))));
    assert!(matches!(
        manager.flush_and_unlock(superblock),
        Err(Error::ReadOnly(_))
    ));
    assert!(matches!(manager.wipe(BlockNr(0)), Err(Error::ReadOnly(_))));
    // Readers make do with the clean slots.
    for at in 0..200 {
        let expected = if at < 40 { at } else { 1000 + at };
        assert_eq!(word(&manager.read(BlockNr(at), &KIND).unwrap()), expected);
    }
    assert_eq!(device.log().operations(), []);
    manager.set_read_only(false).unwrap();
    manager.flush().unwrap();
    assert_eq!(
        places(&device)[0]
            .iter()
            .map(|write| write.1)
            .sum::<usize>(),
        40
    );
}

#[test]
fn a_manager_of_a_device_for_reading_stays_read_only() {
    let device = thinmeta::device::MemoryDevice::new(image(8));
    let manager = BlockManager::new(Arc::new(device) as Arc<dyn Device>, 0);
    assert!(manager.is_read_only());
    assert!(matches!(
        manager.set_read_only(false),
        Err(Error::ReadOnly(_))
    ));
    assert!(matches!(change(&manager, 1, 1), Err(Error::ReadOnly(_))));
}

#[test]
fn a_large_flush_by_two_threads_writes_every_block_once() {
    let blocks = 6000;
    let device = Arc::new(RecordingDevice::new(image(blocks)));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 32 << 20);
    let changed: Vec<u64> = (0..blocks).filter(|at| at % 7 != 3).collect();
    for at in changed.iter().rev() {
        change(&manager, *at, at * 2).unwrap();
    }
    assert_eq!(device.log().operations(), []);
    manager.flush().unwrap();
    let mut written: Vec<u64> = places(&device)[0]
        .iter()
        .flat_map(|(at, count)| *at..*at + *count as u64)
        .collect();
    written.sort_unstable();
    assert_eq!(written, changed);
    let contents = device.contents();
    assert!(
        changed
            .iter()
            .all(|at| word_in(&contents, *at).unwrap() == at * 2)
    );
}

#[test]
fn memory_stays_within_the_bound_with_everything_dirty() {
    #[derive(Debug)]
    struct Nothing;
    impl Device for Nothing {
        fn read_exact_at(&self, buffer: &mut [u8], _: u64) -> thinmeta::Result<()> {
            buffer.fill(0);
            Ok(())
        }
        fn size_bytes(&self) -> u64 {
            1 << 40
        }
        fn is_writable(&self) -> bool {
            true
        }
        fn write_all_at(&self, _: &[u8], _: u64) -> thinmeta::Result<()> {
            Ok(())
        }
        fn flush(&self) -> thinmeta::Result<()> {
            Ok(())
        }
        fn path(&self) -> &std::path::Path {
            std::path::Path::new("<nothing>")
        }
    }
    for cache_bytes in [1 << 20, 16 << 20] {
        let before = allocator::start();
        let manager = BlockManager::new(Arc::new(Nothing) as Arc<dyn Device>, cache_bytes);
        for at in 0..20_000 {
            drop(manager.write_lock_zero(BlockNr(at), &KIND).unwrap());
        }
        manager.flush().unwrap();
        drop(manager);
        let taken = allocator::end(before);
        let bound = usize::try_from(cache_bytes).unwrap();
        assert!(taken.peak <= bound, "{cache_bytes}: {taken:?}");
        assert!(taken.peak >= bound * 8 / 10, "{cache_bytes}: {taken:?}");
    }
}

#[test]
fn a_wiped_block_is_zero_on_the_device_and_in_the_cache() {
    let (device, manager) = small(8);
    change(&manager, 1, 5).unwrap();
    manager.wipe(BlockNr(1)).unwrap();
    manager.flush().unwrap();
    assert_eq!(places(&device), [vec![(1, 1)], Vec::new(), Vec::new()]);
    assert!(device.contents()[4096..8192].iter().all(|byte| *byte == 0));
    let raw = manager.read_lock_patiently(BlockNr(1), None, None).unwrap();
    assert!(BlockData::is_zero(&raw));
}
