//! The view of those who must not wait: a look-up that misses costs nothing,
//! and finds everything once what it missed was brought in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use thinmeta::block::BlockManager;
use thinmeta::btree::{self, Plain, TreeType};
use thinmeta::device::{FaultyDevice, Request};
use thinmeta::transaction::TransactionManager;
use thinmeta::{BlockNr, Error};

use super::{PLAIN, ROOT, commit, create, memory};

/// How long a prefetch is waited for before it is asked for again.
const PATIENCE: Duration = Duration::from_millis(20);

#[test]
fn a_cold_look_up_does_no_io_and_succeeds_after_the_prefetch() {
    let device = memory(2048);
    let manager = create(device.clone()).unwrap();
    let keys: Vec<u64> = (0..100_000).collect();
    let values: Vec<u8> = keys
        .iter()
        .flat_map(|key| (key * 3).to_le_bytes())
        .collect();
    let mut plain = Plain;
    let mut kind = TreeType {
        levels: 1,
        value_bytes: 8,
        values: &mut plain,
    };
    let root = manager.change(|txn| {
        let root = btree::empty(txn, 8)?;
        Ok(btree::insert_batch(txn, &mut kind, root, &keys, &values)?.root)
    });
    let root = root.unwrap();
    commit(&manager).unwrap();
    drop(manager);

    let counting = Arc::new(FaultyDevice::new(device));
    let blocks = BlockManager::new(counting.clone(), 64 << 20);
    let superblock = BlockNr(0);
    let opened = TransactionManager::open_with_superblock(&blocks, superblock, &PLAIN, ROOT, false);
    let (manager, guard) = opened.unwrap();
    guard.discard();
    let clone = manager.nonblocking_clone();
    assert!(Arc::ptr_eq(clone.blocks(), manager.blocks()));
    let mut out = [0; 8];
    let started = Instant::now();
    let cold = counting.count(Request::Read);
    // Each round brings in one level of the tree.
    while started.elapsed() < Duration::from_secs(20) {
        let before = counting.count(Request::Read);
        let answer = btree::get_nonblocking(&clone, root, 8, 77_777, &mut out);
        assert_eq!(
            counting.count(Request::Read),
            before,
            "a look-up that must not wait has read"
        );
        match answer {
            Ok(found) => {
                let reads = counting.count(Request::Read) - cold;
                assert!(found && reads >= 3, "{reads} reads");
                assert_eq!(u64::from_le_bytes(out), 3 * 77_777);
                return;
            }
            Err(Error::WouldBlock) => {}
            Err(error) => panic!("{error}"),
        }
        manager.issue_prefetches();
        // What is on its way already is not read again: then nothing is to be seen.
        let asked = Instant::now();
        while counting.count(Request::Read) == before && asked.elapsed() < PATIENCE {
            std::thread::yield_now();
        }
    }
    panic!("it never succeeded");
}

#[test]
fn a_clone_refuses_whatever_changes_something() {
    let manager = create(memory(64)).unwrap();
    let clone = manager.nonblocking_clone();
    assert!(matches!(clone.refuse::<()>(), Err(Error::WouldBlock)));
    assert!(matches!(
        clone.refuse_counting::<()>(),
        Err(Error::Usage(_))
    ));
    drop(clone);
    commit(&manager).unwrap();
}
