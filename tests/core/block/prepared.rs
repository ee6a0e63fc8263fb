//! Validators that must not run while anything is held, nor in other threads.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use thinmeta::block::{BlockData, BlockManager, Checks, Validator};
use thinmeta::device::RecordingDevice;
use thinmeta::error::Error;
use thinmeta::transaction::TransactionManager;
use thinmeta::{BlockNr, Damage};

use super::{KIND, set_word, small, word, word_in};

/// What somebody does while the validator runs.
type Deed = Box<dyn FnOnce() + Send>;

/// As [`KIND`], but asked as an interpreter would have to be.
#[derive(Default)]
struct Foreign {
    asked: AtomicU64,
    prepared: Mutex<Vec<(u64, ThreadId)>>,
    refuses: AtomicBool,
    meanwhile: Mutex<Option<Deed>>,
}

impl Foreign {
    fn prepared(&self) -> Vec<u64> {
        let mut prepared = self.prepared.lock().unwrap();
        let own = thread::current().id();
        prepared
            .drain(..)
            .map(|(at, thread)| {
                assert_eq!(thread, own, "on the thread that called");
                at
            })
            .collect()
    }

    fn meanwhile(&self, deed: impl FnOnce() + Send + 'static) {
        *self.meanwhile.lock().unwrap() = Some(Box::new(deed));
    }

    /// Another thread uses the block manager: it would wait for ever for
    /// whatever was held.
    fn let_others_work(&self) {
        let deed = self.meanwhile.lock().unwrap().take();
        if let Some(deed) = deed {
            thread::spawn(deed).join().unwrap();
        }
    }
}

impl Validator for Foreign {
    fn name(&self) -> &str {
        "foreign"
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        KIND.check(at, block)
    }

    fn seal(&self, _: BlockNr, _: &mut BlockData) {}

    fn accept(&self, at: BlockNr, block: &BlockData) -> thinmeta::Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.let_others_work();
        Ok(self.check(at, block)?)
    }

    fn needs_preparation(&self) -> bool {
        true
    }

    fn prepare(&self, at: BlockNr, block: &mut BlockData) -> thinmeta::Result<()> {
        self.let_others_work();
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Error::io("<foreign>", None, io::Error::other("no")));
        }
        let mut prepared = self.prepared.lock().unwrap();
        prepared.push((at.0, thread::current().id()));
        KIND.seal(at, block);
        Ok(())
    }
}

fn foreign(
    blocks: u64,
) -> (
    Arc<RecordingDevice>,
    Arc<BlockManager>,
    Arc<Foreign>,
    Checks,
) {
    let (device, manager) = small(blocks);
    let kind = Arc::new(Foreign::default());
    let checks = Checks::from(Arc::clone(&kind) as Arc<dyn Validator>);
    (device, manager, kind, checks)
}

fn put(manager: &Arc<BlockManager>, at: u64, checks: &Checks, to: u64) {
    let mut guard = manager.write_lock_zero(BlockNr(at), checks).unwrap();
    set_word(&mut guard, to);
}

#[test]
fn every_dirty_block_is_prepared_once_and_on_the_thread_that_flushes() {
    let (device, manager, kind, checks) = foreign(3000);
    // So many that a second thread helps with writing.
    let manager_of_many = BlockManager::new(Arc::clone(manager.device()), 16 << 20);
    for at in 0..2000 {
        put(&manager_of_many, at, &checks, at);
    }
    manager_of_many.flush().unwrap();
    assert_eq!(kind.prepared(), (0..2000).collect::<Vec<_>>());
    for at in 0..2000 {
        assert_eq!(word_in(&device.contents(), at).unwrap(), at);
    }
    manager_of_many.flush().unwrap();
    assert!(kind.prepared().is_empty(), "nothing was changed since");
    drop(manager_of_many.write_lock(BlockNr(7), &checks).unwrap());
    manager_of_many.flush().unwrap();
    assert_eq!(kind.prepared(), [7]);
    assert_eq!(kind.asked.load(Ordering::Relaxed), 0, "nothing was read");
}

#[test]
fn the_need_for_a_slot_prepares_what_it_writes() {
    let (device, manager, kind, checks) = foreign(400);
    for at in 0..400 {
        put(&manager, at, &checks, at);
    }
    assert!(!device.log().operations().is_empty());
    manager.flush().unwrap();
    assert_eq!(kind.prepared(), (0..400).collect::<Vec<_>>());
    for at in 0..400 {
        let guard = manager.read_lock(BlockNr(at), &checks).unwrap();
        assert_eq!(word(&guard), at);
    }
}

#[test]
fn what_cannot_be_prepared_is_not_written_and_nothing_is_poisoned() {
    let (device, manager, kind, checks) = foreign(400);
    kind.refuses.store(true, Ordering::Relaxed);
    super::change(&manager, 1, 1).unwrap();
    put(&manager, 2, &checks, 2);
    let before = device.contents();
    for _ in 0..2 {
        let refused = manager.flush().unwrap_err();
        assert!(matches!(refused, Error::Io { .. }), "{refused}");
    }
    let superblock = manager.write_lock(BlockNr(0), &KIND).unwrap();
    assert!(manager.flush_and_unlock(superblock).is_err());
    // A superblock of that kind is dropped, before anything is written.
    let mut superblock = manager.write_lock_zero(BlockNr(0), &checks).unwrap();
    set_word(&mut superblock, 5);
    assert!(manager.write_superblock(superblock).is_err());
    assert_eq!(
        manager.read_lock(BlockNr(0), &KIND).unwrap().bytes()[16],
        232
    );
    assert_eq!(device.log().operations(), []);
    assert!(device.contents() == before && !manager.is_poisoned());
    kind.refuses.store(false, Ordering::Relaxed);
    manager.flush().unwrap();
    assert_eq!(
        [1, 2].map(|at| word_in(&device.contents(), at).unwrap()),
        [1, 2]
    );
}

#[test]
fn a_cache_full_of_what_cannot_be_prepared_says_so_and_does_not_hang() {
    let (device, manager, kind, checks) = foreign(400);
    kind.refuses.store(true, Ordering::Relaxed);
    let filled = (0..400).try_for_each(|at| {
        set_word(&mut *manager.write_lock_zero(BlockNr(at), &checks)?, at);
        Ok::<_, Error>(())
    });
    assert!(matches!(filled, Err(Error::Io { .. })), "{filled:?}");
    let read = (200..400).try_for_each(|at| manager.read_lock(BlockNr(at), &KIND).map(drop));
    assert!(read.is_ok(), "readers still find slots: {read:?}");
    // Readers hold what is left.
    let held: Vec<_> = (200..400)
        .map_while(|at| manager.read_lock(BlockNr(at), &KIND).ok())
        .collect();
    assert!(held.len() < 64, "the cache has 64 slots");
    assert_eq!(device.log().operations(), []);
    drop(held);
    kind.refuses.store(false, Ordering::Relaxed);
    manager.flush().unwrap();
}

#[test]
fn a_change_while_it_is_prepared_is_prepared_again_and_not_lost() {
    let (device, manager, kind, checks) = foreign(8);
    put(&manager, 3, &checks, 30);
    let (other, same) = (Arc::clone(&manager), checks.clone());
    kind.meanwhile(move || put(&other, 3, &same, 31));
    manager.flush().unwrap();
    assert_eq!(kind.prepared(), [3, 3]);
    assert_eq!(word_in(&device.contents(), 3).unwrap(), 31);
}

#[test]
fn an_abort_while_it_is_prepared_leaves_nothing_to_write() {
    let (device, manager, kind, checks) = foreign(8);
    put(&manager, 3, &checks, 30);
    let other = Arc::clone(&manager);
    kind.meanwhile(move || other.discard_dirty(|_| false));
    manager.flush().unwrap();
    assert_eq!(word_in(&device.contents(), 3).unwrap(), 1003);
}

#[test]
fn it_is_asked_with_nothing_held_about_blocks_that_are_cached_raw() {
    let (_, manager, kind, checks) = foreign(8);
    for glance in [false, true] {
        let at = BlockNr(if glance { 4 } else { 5 });
        let raw = manager.read_lock_patiently(at, None, None).unwrap();
        // A look that must not ask it.
        let peeked = manager.peek(|cached| cached.block(at, &checks).map(word));
        assert!(matches!(peeked, Err(Error::WouldBlock)), "{peeked:?}");
        drop(raw);
        let other = Arc::clone(&manager);
        kind.meanwhile(move || {
            super::change(&other, 6, 6).unwrap();
            other.flush().unwrap();
        });
        let asked = kind.asked.load(Ordering::Relaxed);
        if glance {
            assert_eq!(word(&manager.read_try_lock(at, &checks).unwrap()), 1004);
        } else {
            assert_eq!(word(&manager.read_lock(at, &checks).unwrap()), 1005);
        }
        assert_eq!(kind.asked.load(Ordering::Relaxed), asked + 1);
        let peeked = manager.peek(|cached| cached.block(at, &checks).map(word));
        assert_eq!(peeked.unwrap(), 1000 + at.0);
        drop(manager.write_lock(at, &checks).unwrap());
        assert_eq!(kind.asked.load(Ordering::Relaxed), asked + 1, "once");
    }
}

#[test]
fn a_block_that_is_changed_while_it_is_asked_belongs_to_who_changed_it() {
    let (_, manager, kind, checks) = foreign(8);
    drop(manager.read_lock_patiently(BlockNr(4), None, None).unwrap());
    let other = Arc::clone(&manager);
    kind.meanwhile(move || super::change(&other, 4, 44).unwrap());
    let refused = manager.read_lock(BlockNr(4), &checks).map(drop);
    assert!(
        matches!(&refused, Err(Error::Damaged(damage)) if damage.check == "block kind"),
        "{refused:?}"
    );
    assert_eq!(word(&manager.read_lock(BlockNr(4), &KIND).unwrap()), 44);
}

#[test]
fn a_commit_that_cannot_be_prepared_is_aborted_and_the_next_one_goes_through() {
    let device = Arc::new(RecordingDevice::new(vec![0; 64 * 4096]));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<_>, 0);
    let kind = Arc::new(Foreign::default());
    let checks = Checks::from(Arc::clone(&kind) as Arc<dyn Validator>);
    let txns = TransactionManager::create(&manager, BlockNr(0), true).unwrap();
    let fill = |guard: &mut thinmeta::block::WriteGuard, to| {
        set_word(guard, to);
        Ok(())
    };
    txns.pre_commit().unwrap();
    let mut head = manager.write_lock_zero(BlockNr(0), &checks).unwrap();
    set_word(&mut head, 1);
    txns.commit(head).unwrap();
    for first_half in [true, false] {
        let before = device.contents();
        let (new_kind, head_kind) = if first_half {
            (checks.clone(), checks.clone())
        } else {
            (Checks::from(&KIND), checks.clone())
        };
        drop(txns.change(|txn| txn.new_block(&new_kind)).unwrap());
        kind.refuses.store(true, Ordering::Relaxed);
        let refused = txns.commit_with(&head_kind, 0, |guard, _| fill(guard, 2));
        assert!(matches!(refused, Err(Error::Io { .. })), "{refused:?}");
        if first_half {
            assert!(device.contents() == before, "nothing was written");
        }
        assert_eq!(word_in(&device.contents(), 0).unwrap(), 1);
        assert!(txns.aborted().is_some() && !manager.is_poisoned());
        let change = txns.change(|_| Ok(()));
        assert!(matches!(change, Err(Error::Aborted(_))), "{change:?}");
        txns.abort().unwrap();
        kind.refuses.store(false, Ordering::Relaxed);
    }
    drop(txns.change(|txn| txn.new_block(&checks)).unwrap());
    txns.commit_with(&checks, 0, |guard, _| fill(guard, 3))
        .unwrap();
    assert_eq!(word_in(&device.contents(), 0).unwrap(), 3);
}
