//! The main way through: make, change, commit, look.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, FaultyDevice, Request};
use thinmeta::thin::{PoolState, PoolWriter};

use super::world::{checked, create, judge, judge_device, memory, options};

#[test]
fn what_is_committed_is_there_and_what_is_not_is_not() {
    let device = memory(200);
    let (writer, mut model) = create(device.clone(), 1000);
    let txn = writer.transaction().unwrap();
    txn.create_thin(1).unwrap();
    let block = txn.allocate_data().unwrap();
    assert!(txn.insert(1, 7, block).unwrap());
    txn.create_snapshot(2, 1).unwrap();
    assert_eq!(txn.device_ids().unwrap(), [1, 2]);
    assert!(txn.is_changed(1).unwrap());
    assert!(writer.current().unwrap().devices().unwrap().is_empty());
    txn.commit().unwrap();
    assert!(txn.has_ended());

    let txn = writer.transaction().unwrap();
    assert!(!txn.is_changed(1).unwrap());
    txn.delete(1).unwrap();
    txn.remove(2, 7).unwrap();
    txn.abort().unwrap();
    let pool = writer.current().unwrap();
    let ids: Vec<u64> = pool.devices().unwrap().iter().map(|info| info.id).collect();
    assert_eq!(ids, [1, 2]);
    let found = pool.device_by_id(2).unwrap();
    let found = found.find(7, thinmeta::btree::Wait::Yes).unwrap().unwrap();
    assert_eq!((found.data_block, found.shared), (block, true));
    model.time = 1;
    model.devices = super::world::listing(&pool);
    judge(&pool, &model);
    judge_device(device, &model);
}

#[test]
fn opening_and_closing_writes_nothing() {
    let device = memory(64);
    let (writer, _) = create(device.clone(), 100);
    writer.close().unwrap();
    let before = device.contents();
    let writer = PoolWriter::from_devices(device.clone(), None, &checked()).unwrap();
    let txn = writer.transaction().unwrap();
    txn.allocate_data().unwrap();
    txn.commit().unwrap();
    let txn = writer.transaction().unwrap();
    txn.create_thin(5).unwrap();
    drop(txn);
    writer.close().unwrap();
    assert!(writer.transaction().is_err());
    assert!(device.contents() == before);
}

#[test]
fn one_transaction_at_a_time() {
    let (writer, _) = create(memory(64), 100);
    let txn = writer.transaction().unwrap();
    assert!(matches!(writer.transaction(), Err(Error::Usage(_))));
    txn.commit().unwrap();
    assert!(matches!(txn.commit(), Err(Error::Usage(_))));
    assert!(matches!(txn.create_thin(1), Err(Error::Usage(_))));
    assert_eq!(writer.state(), PoolState::Write);
    drop(writer.transaction().unwrap());
    writer.transaction().unwrap().commit().unwrap();
}

#[test]
fn a_data_block_comes_back_only_after_the_commit() {
    let (writer, _) = create(memory(64), 3);
    let txn = writer.transaction().unwrap();
    txn.create_thin(0).unwrap();
    let blocks: Vec<u64> = (0..3).map(|_| txn.allocate_data().unwrap()).collect();
    let full = txn.allocate_data();
    assert!(matches!(full, Err(Error::NoSpace { space: "data", .. })));
    assert_eq!(writer.state(), PoolState::OutOfDataSpace);
    for (at, block) in (0..).zip(&blocks) {
        txn.insert(0, at, *block).unwrap();
    }
    txn.commit().unwrap();
    let txn = writer.transaction().unwrap();
    txn.remove(0, 1).unwrap();
    assert!(matches!(txn.allocate_data(), Err(Error::NoSpace { .. })));
    let refused = txn.insert(0, 9, blocks[1]);
    assert!(matches!(&refused, Err(Error::Usage(text)) if text.contains("was freed")));
    assert_eq!(txn.data_count(blocks[1]).unwrap(), 0);
    txn.commit().unwrap();
    assert_eq!(writer.state(), PoolState::Write);
    let txn = writer.transaction().unwrap();
    assert_eq!(txn.allocate_data().unwrap(), blocks[1]);
    // A reservation ends with the transaction.
    txn.commit().unwrap();
    assert_eq!(writer.current().unwrap().free_blocks().0, 1);
}

#[test]
fn references_that_are_held_keep_a_block_from_being_used_again() {
    let (writer, _) = create(memory(64), 2);
    let txn = writer.transaction().unwrap();
    txn.create_thin(0).unwrap();
    let block = txn.allocate_data().unwrap();
    assert!(txn.inc_data(block..block + 1).is_err(), "a reservation");
    txn.insert(0, 0, block).unwrap();
    assert!(txn.dec_data(block..block + 1).is_err(), "the mapping's own");
    txn.inc_data(block..block + 1).unwrap();
    assert!(txn.block_is_shared(block).unwrap());
    txn.remove(0, 0).unwrap();
    txn.commit().unwrap();
    let txn = writer.transaction().unwrap();
    assert_eq!(
        (txn.data_count(block).unwrap(), txn.free_blocks().unwrap().0),
        (1, 1)
    );
    txn.dec_data(block..block + 1).unwrap();
    txn.abort().unwrap();
    let txn = writer.transaction().unwrap();
    txn.dec_data(block..block + 1).unwrap();
    assert!(txn.dec_data(block..block + 1).is_err());
    txn.commit().unwrap();
    assert_eq!(writer.current().unwrap().free_blocks().0, 2);
    super::world::assert_clean(&writer.current().unwrap());
}

#[test]
fn what_readers_have_stays_as_it_was() {
    let (writer, _) = create(memory(300), 1000);
    let fill = |id: u64, count: u64| {
        let txn = writer.transaction().unwrap();
        txn.create_thin(id).unwrap();
        for at in 0..count {
            let block = txn.allocate_data().unwrap();
            txn.insert(id, at, block).unwrap();
        }
        txn.commit().unwrap();
    };
    fill(1, 600);
    let old = writer.current().unwrap();
    let before = super::world::listing(&old);
    let now = || {
        writer
            .generation()
            .load(std::sync::atomic::Ordering::SeqCst)
    };
    let generation = now();
    for turn in 0..20 {
        let txn = writer.transaction().unwrap();
        txn.remove_range(1, turn * 20..turn * 20 + 30).unwrap();
        txn.commit().unwrap();
    }
    assert_eq!(now(), generation + 20);
    assert!(super::world::listing(&old) == before);
    assert!(Arc::strong_count(&old) == 1);
    drop(old);
    super::world::assert_clean(&writer.current().unwrap());
}

#[test]
fn data_that_somebody_reads_of_an_older_commit_is_not_used_again() {
    let (writer, _) = create(memory(64), 3);
    let txn = writer.transaction().unwrap();
    txn.create_thin(0).unwrap();
    let block = txn.allocate_data().unwrap();
    txn.insert(0, 0, block).unwrap();
    txn.commit().unwrap();
    let reader = writer.current().unwrap();
    let txn = writer.transaction().unwrap();
    txn.remove(0, 0).unwrap();
    txn.commit().unwrap();
    // The block is free on the disk, but its content is still looked at.
    assert_eq!(writer.current().unwrap().free_blocks().0, 3);
    let take_all = || {
        let txn = writer.transaction().unwrap();
        let taken: Vec<u64> = std::iter::from_fn(|| txn.allocate_data().ok()).collect();
        let refused = txn.insert(0, 9, block).is_err();
        txn.abort().unwrap();
        (taken.len(), taken.contains(&block), refused)
    };
    assert_eq!(take_all(), (2, false, true));
    // And after a roll-back, too.
    assert_eq!(take_all(), (2, false, true));
    drop(reader);
    assert_eq!(take_all(), (3, true, false));
}

#[test]
fn a_data_image_that_was_made_longer_is_durable_before_the_metadata_says_so() {
    let data = Arc::new(FaultyDevice::new(memory(1600)));
    let writer = PoolWriter::create_on(memory(64), Some(data.clone()), &options(100)).unwrap();
    let txn = writer.transaction().unwrap();
    txn.grow_data(200).unwrap();
    assert_eq!(data.current_size_bytes().unwrap(), 200 * 65536);
    assert_eq!(data.count(Request::Flush), 0);
    txn.commit().unwrap();
    assert_eq!(data.count(Request::Flush), 1);
    // What cannot be counted makes nothing longer.
    let txn = writer.transaction().unwrap();
    let refused = txn.grow_data(10_000_000);
    assert!(matches!(refused, Err(Error::NoSpace { .. })));
    assert_eq!(data.current_size_bytes().unwrap(), 200 * 65536);
}

#[test]
fn a_mapping_that_a_snapshot_has_too_is_not_made_anew() {
    let (writer, _) = create(memory(64), 100);
    let txn = writer.transaction().unwrap();
    txn.create_thin(1).unwrap();
    txn.insert(1, 0, 5).unwrap();
    txn.create_snapshot(2, 1).unwrap();
    assert!(!txn.insert(1, 0, 5).unwrap());
    assert!(txn.find(1, 0).unwrap().unwrap().shared);
    let rows = &mut |_, keys: &mut Vec<u64>, data: &mut Vec<u64>| {
        (*keys, *data) = (vec![1, 0], vec![6, 5]);
        Ok(())
    };
    assert_eq!(txn.insert_many(1, 2, rows).unwrap(), 1);
    let found = |block| txn.find(1, block).unwrap().unwrap();
    assert_eq!((found(0).time, found(0).shared), (0, true));
    assert_eq!((found(1).time, found(1).shared), (1, false));
    txn.commit().unwrap();
    super::world::assert_clean(&writer.current().unwrap());
}
