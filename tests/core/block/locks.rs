//! The rules of locks, each by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Barrier};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use thinmeta::block::{BlockManager, Checks, ReadGuard, WriteGuard};
use thinmeta::error::{Error, Result};
use thinmeta::{BlockNr, device::Device, device::MemoryDevice};

use super::{KIND, OTHER_KIND, change, image, set_word, small, word};

/// Long enough for a thread to have come to its wait.
const A_WHILE: Duration = Duration::from_millis(30);

const SLOTS: u64 = 64;

fn read(manager: &Arc<BlockManager>, at: u64) -> ReadGuard {
    manager.read_lock(BlockNr(at), &KIND).unwrap()
}

fn write(manager: &Arc<BlockManager>, at: u64) -> WriteGuard {
    manager.write_lock(BlockNr(at), &KIND).unwrap()
}

fn waits<T>(thread: &ScopedJoinHandle<'_, T>) -> bool {
    thread::sleep(A_WHILE);
    !thread.is_finished()
}

fn is_usage<T>(answer: Result<T>) -> bool {
    matches!(answer, Err(Error::Usage(_)))
}

#[test]
fn readers_share_and_a_writer_is_alone() {
    let (_, manager) = small(8);
    let own = read(&manager, 1);
    thread::scope(|scope| {
        scope.spawn(|| read(&manager, 1)).join().unwrap();
        let writer = scope.spawn(|| change(&manager, 1, 5).unwrap());
        assert!(waits(&writer));
        drop(own);
        writer.join().unwrap();
        let own = write(&manager, 1);
        assert_eq!(word(&own), 5);
        let others = [
            scope.spawn(|| word(&read(&manager, 1))),
            scope.spawn(|| word(&manager.read(BlockNr(1), &KIND).unwrap())),
        ];
        assert!(others.iter().all(waits));
        let tried = scope.spawn(|| manager.read_try_lock(BlockNr(1), &KIND).map(drop));
        assert!(matches!(tried.join().unwrap(), Err(Error::WouldBlock)));
        drop(own);
        assert!(others.into_iter().all(|other| other.join().unwrap() == 5));
    });
}

#[test]
fn a_block_that_this_thread_holds_is_refused_and_not_waited_for() {
    let (_, manager) = small(8);
    let reading = read(&manager, 1);
    assert!(is_usage(manager.read_lock(BlockNr(1), &KIND)));
    assert!(is_usage(manager.write_lock(BlockNr(1), &KIND)));
    assert!(is_usage(manager.write_lock_zero(BlockNr(1), &KIND)));
    assert!(is_usage(manager.read_try_lock(BlockNr(1), &KIND)));
    // A glance holds nothing.
    assert_eq!(word(&manager.read(BlockNr(1), &KIND).unwrap()), 1001);
    drop(reading);
    let writing = write(&manager, 1);
    assert!(is_usage(manager.read_lock(BlockNr(1), &KIND)));
    assert!(is_usage(manager.write_lock(BlockNr(1), &KIND)));
    assert!(is_usage(manager.read(BlockNr(1), &KIND)));
    drop(writing);
    change(&manager, 1, 3).unwrap();
}

#[test]
fn readers_that_come_later_let_a_waiting_writer_go_first_but_a_glance_does_not() {
    let (_, manager) = small(8);
    let own = read(&manager, 1);
    let order = AtomicU64::new(0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let guard = write(&manager, 1);
            (guard, order.fetch_add(1, Ordering::SeqCst)).1
        });
        assert!(waits(&writer));
        let reader = scope.spawn(|| {
            let guard = read(&manager, 1);
            (guard, order.fetch_add(1, Ordering::SeqCst)).1
        });
        assert!(waits(&reader));
        let tried = scope.spawn(|| manager.read_try_lock(BlockNr(1), &KIND).map(drop));
        assert!(matches!(tried.join().unwrap(), Err(Error::WouldBlock)));
        assert_eq!(word(&manager.read(BlockNr(1), &KIND).unwrap()), 1001);
        drop(own);
        assert_eq!((writer.join().unwrap(), reader.join().unwrap()), (0, 1));
    });
}

#[test]
fn a_writer_that_gives_up_lets_the_readers_behind_it_in() {
    let (_, manager) = small(8);
    let own = read(&manager, 1);
    let give_up = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let patience = || match give_up.load(Ordering::SeqCst) {
                true => Err(Error::Interrupted),
                false => Ok(()),
            };
            let checks = Checks::from(&KIND);
            let lock = manager.write_lock_patiently(BlockNr(1), &checks, false, Some(&patience));
            lock.map(drop)
        });
        assert!(waits(&writer));
        let reader = scope.spawn(|| word(&read(&manager, 1)));
        assert!(waits(&reader));
        give_up.store(true, Ordering::SeqCst);
        assert!(matches!(writer.join().unwrap(), Err(Error::Interrupted)));
        // The lock that the writer waited for is still held.
        assert_eq!(reader.join().unwrap(), 1001);
        drop(own);
    });
}

#[test]
fn a_writer_whose_check_fails_in_the_end_lets_the_readers_behind_it_in() {
    let (_, manager) = small(8);
    let own = read(&manager, 1);
    thread::scope(|scope| {
        let wrong = scope.spawn(|| manager.write_lock(BlockNr(1), &OTHER_KIND).map(drop));
        assert!(waits(&wrong));
        let reader = scope.spawn(|| word(&read(&manager, 1)));
        assert!(waits(&reader));
        drop(own);
        assert!(matches!(wrong.join().unwrap(), Err(Error::Damaged(_))));
        assert_eq!(reader.join().unwrap(), 1001);
    });
}

#[test]
fn a_writer_that_waits_when_changes_become_refused_is_told() {
    let (_, manager) = small(8);
    let own = read(&manager, 1);
    thread::scope(|scope| {
        let writer = scope.spawn(|| change(&manager, 1, 7));
        assert!(waits(&writer));
        manager.set_read_only(true).unwrap();
        drop(own);
        assert!(matches!(writer.join().unwrap(), Err(Error::ReadOnly(_))));
    });
    assert_eq!(word(&read(&manager, 1)), 1001);
}

#[test]
fn a_guard_may_be_released_by_any_thread() {
    let (_, manager) = small(8);
    let guards = (read(&manager, 1), write(&manager, 2));
    thread::scope(|scope| scope.spawn(move || drop(guards)).join().unwrap());
    change(&manager, 1, 1).unwrap();
    change(&manager, 2, 2).unwrap();
}

#[test]
fn a_pin_never_changes_and_a_writer_copies_only_what_is_pinned() {
    let (_, manager) = small(8);
    let pins = [
        read(&manager, 1).pin(),
        manager.read(BlockNr(1), &KIND).unwrap(),
    ];
    change(&manager, 1, 5).unwrap();
    assert!(pins.iter().all(|pin| word(pin) == 1001));
    let mut guard = write(&manager, 1);
    let before = std::ptr::from_ref(&*guard);
    assert_eq!(before, std::ptr::from_ref(guard.make_unique()));
    set_word(&mut guard, 6);
    let orphan = guard.orphan();
    assert_eq!(before, Arc::as_ptr(&orphan));
    let cached = manager.read(BlockNr(1), &KIND).unwrap();
    assert_eq!((word(&cached), word(&orphan)), (6, 6));
    assert_ne!(Arc::as_ptr(&cached), Arc::as_ptr(&orphan));
}

#[test]
fn a_fresh_block_is_zero_and_of_the_new_kind_and_is_not_read() {
    let (_, manager) = small(8);
    assert_eq!(word(&read(&manager, 1)), 1001);
    {
        let fresh = manager.write_lock_zero(BlockNr(1), &OTHER_KIND).unwrap();
        assert!(fresh.is_zero());
    }
    assert!(matches!(
        manager.read(BlockNr(1), &KIND),
        Err(Error::Damaged(_))
    ));
    manager.flush().unwrap();
    let copy = manager.read(BlockNr(2), &KIND).unwrap();
    drop(
        manager
            .write_lock_copy(BlockNr(3), &Checks::from(&OTHER_KIND), &copy)
            .unwrap(),
    );
    assert_eq!(word(&manager.read(BlockNr(3), &OTHER_KIND).unwrap()), 1002);
}

#[test]
fn no_validator_sees_a_block_raw_and_the_first_one_is_attached() {
    let (_, manager) = small(8);
    let raw = |manager: &Arc<BlockManager>| {
        manager
            .read_lock_patiently(BlockNr(1), None, None)
            .unwrap()
            .bytes()
            .to_vec()
    };
    let bytes = raw(&manager);
    for _ in 0..2 {
        let wrong = manager.read_lock(BlockNr(1), &OTHER_KIND);
        assert!(
            matches!(wrong, Err(Error::Damaged(_))),
            "and it is not attached"
        );
    }
    drop(read(&manager, 1));
    assert!(manager.read_lock(BlockNr(1), &OTHER_KIND).is_err());
    assert_eq!(raw(&manager), bytes);
}

#[test]
fn a_change_that_was_discarded_never_was() {
    let (device, manager) = small(8);
    // Not touched: as it was, clean or dirty.
    write(&manager, 1).discard();
    change(&manager, 2, 5).unwrap();
    write(&manager, 2).discard();
    // Touched: the device's again.
    let mut guard = write(&manager, 3);
    set_word(&mut guard, 9);
    guard.discard();
    assert_eq!(word(&read(&manager, 3)), 1003);
    manager
        .write_lock_zero(BlockNr(4), &KIND)
        .unwrap()
        .discard();
    assert_eq!(word(&read(&manager, 4)), 1004);
    manager.flush().unwrap();
    assert_eq!(device.log().epochs()[0], [(2 * 4096, 4096)]);
}

#[test]
fn an_abort_forgets_changes_and_guards_that_outlive_it_touch_nothing() {
    let (device, manager) = small(8);
    change(&manager, 1, 5).unwrap();
    change(&manager, 2, 6).unwrap();
    let reading = read(&manager, 1);
    let mut writing = write(&manager, 3);
    set_word(&mut writing, 7);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| word(&manager.read(BlockNr(3), &KIND).unwrap()));
        assert!(waits(&waiting));
        manager.discard_dirty(|at| at == BlockNr(4));
        assert_eq!(waiting.join().unwrap(), 1003);
    });
    assert_eq!(word(&reading), 5, "what a reader sees does not change");
    for at in 1..4 {
        assert_eq!(word(&manager.read(BlockNr(at), &KIND).unwrap()), 1000 + at);
    }
    // Others lock what the dead guards once held, and are not disturbed by them.
    let other = write(&manager, 3);
    drop(writing);
    drop(reading);
    assert!(is_usage(manager.read_lock(BlockNr(3), &KIND)));
    drop(other);
    manager.flush().unwrap();
    assert_eq!(device.log().epochs()[0], [(3 * 4096, 4096)]);
    assert_eq!(word(&read(&manager, 3)), 1003);
}

#[test]
fn a_block_past_the_end_is_an_error_and_takes_no_slot() {
    let (device, manager) = small(8);
    for at in [8, 9, 1 << 40, u64::MAX] {
        assert!(matches!(
            manager.read_lock(BlockNr(at), &KIND),
            Err(Error::Io { .. })
        ));
        assert!(matches!(
            manager.write_lock_zero(BlockNr(at), &KIND),
            Err(Error::Io { .. })
        ));
    }
    device.grow(9 * 4096);
    assert!(manager.write_lock_zero(BlockNr(8), &KIND).is_err());
    assert_eq!(manager.refresh_size().unwrap(), 9);
    drop(manager.write_lock_zero(BlockNr(8), &KIND).unwrap());
}

#[test]
fn a_thread_that_holds_all_slots_is_refused_another() {
    let (_, manager) = small(SLOTS + 8);
    let held: Vec<ReadGuard> = (0..SLOTS).map(|at| read(&manager, at)).collect();
    assert!(is_usage(manager.read_lock(BlockNr(SLOTS), &KIND)));
    assert!(is_usage(manager.write_lock_zero(BlockNr(SLOTS), &KIND)));
    drop(held);
    read(&manager, SLOTS);
}

#[test]
fn threads_that_hold_all_slots_and_all_want_more_do_not_wait_for_ever() {
    let (_, manager) = small(SLOTS + 8);
    let (half, all_hold) = (SLOTS / 2, Barrier::new(2));
    let work = |mine: u64| {
        let held: Vec<WriteGuard> = (mine * half..(mine + 1) * half)
            .map(|at| write(&manager, at))
            .collect();
        all_hold.wait();
        let answer = manager.write_lock(BlockNr(SLOTS + mine), &KIND).map(drop);
        drop(held);
        answer
    };
    let answers = thread::scope(|scope| {
        let threads = [0, 1].map(|mine| scope.spawn(move || work(mine)));
        threads.map(|thread| thread.join().unwrap())
    });
    // The second to come is refused; what it lets go of serves the first.
    let refused = answers
        .iter()
        .filter(|answer| is_usage(Ok(())) || answer.is_err());
    assert_eq!(refused.count(), 1, "{answers:?}");
    assert!(answers.into_iter().any(is_usage));
}

#[test]
fn a_cache_full_of_locks_and_changes_waits_without_spinning() {
    let (_, manager) = small(SLOTS + 8);
    for at in 0..SLOTS {
        change(&manager, at, at).unwrap();
    }
    let asked = AtomicU64::new(0);
    let held: Vec<WriteGuard> = (0..SLOTS).map(|at| write(&manager, at)).collect();
    let patience = || {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok(())
    };
    thread::scope(|scope| {
        let (manager, patience) = (&manager, &patience);
        let waiting = scope.spawn(move || {
            let checks = Checks::from(&KIND);
            let lock = manager.read_lock_patiently(BlockNr(SLOTS), Some(&checks), Some(patience));
            lock.map(|guard| word(&guard))
        });
        thread::sleep(Duration::from_millis(300));
        assert!(!waiting.is_finished());
        drop(held);
        assert_eq!(waiting.join().unwrap().unwrap(), 1000 + SLOTS);
    });
    let asked = asked.load(Ordering::SeqCst);
    assert!((2..=12).contains(&asked), "asked {asked} times in 300 ms");
}

/// A device whose reads wait until they are let go.
#[derive(Debug)]
struct SlowDevice(MemoryDevice, std::sync::Mutex<Receiver<()>>, AtomicU64);

impl Device for SlowDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.2.fetch_add(1, Ordering::SeqCst);
        self.1.lock().unwrap().recv().unwrap();
        self.0.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn path(&self) -> &std::path::Path {
        self.0.path()
    }
}

#[test]
fn who_reads_a_block_locks_it_first_and_one_read_serves_all() {
    let (go, gate) = channel();
    let slow = SlowDevice(MemoryDevice::new(image(8)), gate.into(), AtomicU64::new(0));
    let device = Arc::new(slow);
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    thread::scope(|scope| {
        let reader = scope.spawn(|| read(&manager, 1));
        assert!(waits(&reader));
        let writer = scope.spawn(|| drop(write(&manager, 1)));
        assert!(waits(&writer));
        go.send(()).unwrap();
        // The writer waited first, but for bytes that the reader brought.
        let guard = reader.join().unwrap();
        assert!(waits(&writer));
        drop(guard);
        writer.join().unwrap();
    });
    assert_eq!(device.2.load(Ordering::SeqCst), 1);
}

#[test]
fn an_abort_while_a_block_is_read_leaves_nothing_of_it() {
    let (go, gate) = channel();
    let slow = SlowDevice(MemoryDevice::new(image(8)), gate.into(), AtomicU64::new(0));
    let device = Arc::new(slow);
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    thread::scope(|scope| {
        let writer = scope.spawn(|| write(&manager, 1));
        assert!(waits(&writer));
        manager.discard_dirty(|at| at == BlockNr(1));
        go.send(()).unwrap();
        let mut orphan = writer.join().unwrap();
        set_word(&mut orphan, 5);
        go.send(()).unwrap();
        drop(orphan);
        assert_eq!(word(&manager.read(BlockNr(1), &KIND).unwrap()), 1001);
    });
}

#[test]
fn prefetching_is_bounded_repeats_nothing_and_keeps_no_manager_alive() {
    let (go, gate) = channel();
    let slow = SlowDevice(
        MemoryDevice::new(image(400)),
        gate.into(),
        AtomicU64::new(0),
    );
    let device = Arc::new(slow);
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 4 << 20);
    let wanted: Vec<BlockNr> = (0..400).flat_map(|at| [BlockNr(at); 2]).collect();
    let reads = || device.2.load(Ordering::SeqCst);
    manager.prefetch(wanted.clone());
    manager.prefetch(wanted);
    for _ in 0..400 {
        go.send(()).unwrap();
    }
    while reads() < 128 {
        thread::sleep(Duration::from_millis(1));
    }
    manager.stop_prefetching();
    // One more may have found room while the thread was at the first.
    let done = reads();
    assert!((128..=130).contains(&done), "{done}");
    for at in 0..128 {
        manager.read_try_lock(BlockNr(at), &KIND).unwrap();
    }
    manager.prefetch((0..128).map(BlockNr).collect());
    manager.prefetch(vec![BlockNr(400), BlockNr(u64::MAX)]);
    manager.stop_prefetching();
    assert_eq!(reads(), done);

    let gone = Arc::downgrade(&manager);
    manager.prefetch((200..400).map(BlockNr).collect());
    drop(manager);
    while gone.upgrade().is_some() {
        thread::sleep(Duration::from_millis(1));
    }
    assert!(reads() <= done + 128);
}
