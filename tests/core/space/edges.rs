//! Small devices, full devices, and sizes around a whole number of bitmaps.

use thinmeta::btree::NODE_VALIDATOR;
use thinmeta::{BlockNr, Error};

use super::{commit, create, memory, reopen};

/// Allocates all there is in one transaction, one block at a time, and commits
/// that: what remains to be copied for the commit itself must be found.
#[test]
fn every_small_device_is_filled_to_the_last_block_at_every_step() {
    for blocks in 8..=40 {
        // How many blocks can be had in one transaction and still be committed?
        let mut best = None;
        for wanted in 0..blocks {
            let device = memory(blocks);
            let manager = create(device.clone()).unwrap();
            let free = manager.look(|txn| Ok(txn.nr_free())).unwrap();
            let taken = (0..wanted)
                .try_for_each(|_| manager.change(|txn| txn.new_block(&NODE_VALIDATOR).map(drop)));
            let done = taken.and_then(|()| commit(&manager));
            match done {
                Ok(()) => {
                    let left = manager.look(|txn| Ok(txn.nr_free())).unwrap();
                    // The two blocks of the map that were copied are free again.
                    assert_eq!(free - wanted, left, "{blocks} blocks, {wanted} taken");
                    best = Some(wanted);
                    drop(manager);
                    let manager = reopen(device).unwrap();
                    let again = manager.look(|txn| Ok(txn.nr_free())).unwrap();
                    assert_eq!(again, left);
                }
                Err(Error::NoSpace { .. }) => {
                    // Nothing is lost, and a smaller change still works.
                    manager.abort().unwrap();
                    assert_eq!(manager.look(|txn| Ok(txn.nr_free())).unwrap(), free);
                    drop(manager);
                    reopen(device).unwrap();
                }
                Err(error) => panic!("{blocks} blocks, {wanted} taken: {error}"),
            }
        }
        // All but what a bitmap and the index are copied to: not one is lost.
        assert_eq!(best, Some(blocks - 4 - 2), "{blocks} blocks");
    }
}

/// The last bitmap of a device that is an exact number of them is searched too.
#[test]
fn sizes_around_a_whole_number_of_bitmaps_are_used_to_the_end() {
    for blocks in [16_319, 16_320, 16_321, 32_640] {
        let device = memory(blocks);
        let manager = create(device.clone()).unwrap();
        let free = manager.look(|txn| Ok(txn.nr_free())).unwrap();
        let bitmaps = blocks.div_ceil(16_320);
        assert_eq!(free, blocks - 3 - bitmaps);
        let mut last = 0;
        manager
            .change(|txn| {
                // Each bitmap and the index are copied once.
                for _ in 0..free - bitmaps - 1 {
                    last = last.max(txn.new_block(&NODE_VALIDATOR)?.location().0);
                }
                Ok(())
            })
            .unwrap();
        commit(&manager).unwrap();
        let root = manager.space_root();
        assert_eq!(
            root.nr_allocated.get(),
            blocks - bitmaps - 1,
            "{blocks} blocks"
        );
        let top = (blocks - bitmaps - 4..blocks)
            .any(|block| manager.look(|txn| txn.ref_count(BlockNr(block))).unwrap() > 0);
        assert!(
            top && last >= blocks - bitmaps - 2,
            "{blocks} blocks, last {last}"
        );
        assert!(manager.look(|txn| txn.ref_count(BlockNr(blocks))).is_err());
        drop(manager);
        let manager = reopen(device).unwrap();
        assert_eq!(manager.look(|txn| Ok(txn.nr_free())).unwrap(), bitmaps + 1);
    }
}

#[test]
fn a_device_too_small_for_its_own_map_is_refused_by_step() {
    for blocks in 1..4 {
        let Err(error) = create(memory(blocks)) else {
            panic!("{blocks} blocks were enough");
        };
        let text = error.to_string();
        assert!(
            text.starts_with("space map create: no metadata space left"),
            "{text}"
        );
    }
}

/// What is still locked would not be written: the commit would point to nothing.
#[test]
fn nothing_is_committed_while_a_block_is_locked_for_writing() {
    let manager = create(memory(64)).unwrap();
    let free = manager.look(|txn| Ok(txn.nr_free())).unwrap();
    let guard = manager
        .change(|txn| txn.new_block(&NODE_VALIDATOR))
        .unwrap();
    let at = guard.location();
    let refused = commit(&manager);
    assert!(
        matches!(&refused, Err(Error::Usage(text)) if text.contains(&at.to_string())),
        "{refused:?}"
    );
    drop(guard);
    commit(&manager).unwrap();
    assert_eq!(manager.look(|txn| Ok(txn.nr_free())).unwrap(), free - 1);
    // A guard that an abort has taken the block from keeps nobody.
    let orphan = manager
        .change(|txn| txn.new_block(&NODE_VALIDATOR))
        .unwrap();
    manager.abort().unwrap();
    manager
        .change(|txn| txn.new_block(&NODE_VALIDATOR).map(drop))
        .unwrap();
    commit(&manager).unwrap();
    drop(orphan);
}

/// A map in crumbs is not searched from end to end for each of them.
#[test]
fn a_transaction_of_many_crumbs_searches_them_a_few_times() {
    let blocks = 120_000;
    let device = memory(blocks);
    let manager = create(device).unwrap();
    // Every second block is in use, and a run that makes the next one want many.
    let crumbs = (1000..blocks - 1000).step_by(2);
    crumbs.for_each(|block| manager.change(|txn| txn.inc(BlockNr(block))).unwrap());
    commit(&manager).unwrap();
    let started = std::time::Instant::now();
    for _ in 0..3 {
        manager
            .change(|txn| (0..9000).try_for_each(|_| txn.new_block(&NODE_VALIDATOR).map(drop)))
            .unwrap();
        commit(&manager).unwrap();
    }
    // A search of it all for each block takes minutes here.
    assert!(started.elapsed().as_secs() < 60, "{:?}", started.elapsed());
}

/// A device that was never committed goes back to its beginning.
#[test]
fn a_new_device_can_be_aborted_before_its_first_commit() {
    let device = memory(64);
    let blocks = thinmeta::block::BlockManager::new(device.clone(), 1 << 20);
    let made = thinmeta::transaction::TransactionManager::create(&blocks, BlockNr(0), true);
    let manager = made.unwrap();
    let free = manager.look(|txn| Ok(txn.nr_free())).unwrap();
    for _ in 0..3 {
        manager
            .change(|txn| txn.new_block(&NODE_VALIDATOR).map(drop))
            .unwrap();
        manager.abort().unwrap();
        assert_eq!(manager.look(|txn| Ok(txn.nr_free())).unwrap(), free);
    }
    assert!(!manager.has_committed());
    super::first_commit(&manager).unwrap();
    assert!(manager.has_committed());
    drop(manager);
    reopen(device).unwrap();
}
