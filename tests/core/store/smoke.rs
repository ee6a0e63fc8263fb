//! The five lines that a user writes first, and what must not go wrong in them.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::btree::Wait;
use thinmeta::device::MemoryDevice;
use thinmeta::store::{Store, StoreOptions};

pub fn checked() -> StoreOptions {
    StoreOptions {
        checked: true,
        ..StoreOptions::default()
    }
}

pub fn memory(blocks: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::writable(vec![0; blocks * 4096]))
}

fn value(store: &Arc<Store>, tree: &str, key: u64) -> Option<u64> {
    let view = store.view().unwrap();
    let tree = view.tree(tree).unwrap();
    let mut out = [0; 8];
    let found = view.get(tree, key, &mut out, Wait::Yes).unwrap();
    found.then(|| u64::from_le_bytes(out))
}

#[test]
fn what_was_committed_is_there_when_it_is_opened_again() {
    let device = memory(64);
    let store = Store::create_on(device.clone(), &checked()).unwrap();
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("inodes", 8).unwrap();
    assert!(txn.insert(tree, 7, &42_u64.to_le_bytes()).unwrap());
    txn.snapshot("inodes", "inodes@monday").unwrap();
    assert!(!txn.insert(tree, 7, &43_u64.to_le_bytes()).unwrap());
    txn.commit().unwrap();
    drop((txn, store));
    let store = Store::open_on(device, &checked()).unwrap();
    assert_eq!(value(&store, "inodes", 7), Some(43));
    assert_eq!(value(&store, "inodes@monday", 7), Some(42));
}

#[test]
fn a_transaction_that_is_dropped_leaves_nothing() {
    let store = Store::create_on(memory(64), &checked()).unwrap();
    let free = store.space().unwrap();
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("a", 8).unwrap();
    txn.insert(tree, 1, &[0; 8]).unwrap();
    drop(txn);
    assert_eq!(store.view().unwrap().names().unwrap(), [""; 0]);
    assert_eq!(store.space().unwrap(), free);
}

#[test]
fn a_view_reads_one_commit_while_others_are_made() {
    let store = Store::create_on(memory(64), &checked()).unwrap();
    let change = |value: u64| {
        let txn = store.transaction(None).unwrap();
        let tree = txn.tree_or_new("a", 8).unwrap();
        txn.insert(tree, 1, &value.to_le_bytes()).unwrap();
        txn.commit().unwrap();
    };
    change(0);
    let view = store.view().unwrap();
    let tree = view.tree("a").unwrap();
    let free = store.space().unwrap().1;
    for round in 1..=5 {
        change(round);
        let mut out = [9; 8];
        assert!(view.get(tree, 1, &mut out, Wait::Yes).unwrap());
        assert_eq!(out, [0; 8]);
    }
    assert!(store.space().unwrap().1 < free);
    drop(view);
    assert_eq!(store.space().unwrap().1, free);
    assert_eq!(value(&store, "a", 1), Some(5));
}

#[test]
fn a_store_that_is_full_says_so_and_goes_on() {
    let store = Store::create_on(memory(16), &checked()).unwrap();
    let fill = || -> thinmeta::Result<()> {
        let txn = store.transaction(None)?;
        let tree = txn.tree_or_new("a", 8)?;
        let keys: Vec<u64> = (0..100_000).collect();
        txn.insert_many(tree, &keys, &vec![0; 800_000])?;
        txn.commit()
    };
    assert!(matches!(fill(), Err(Error::NoSpace { .. })));
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("a", 8).unwrap();
    txn.insert(tree, 1, &[1; 8]).unwrap();
    txn.commit().unwrap();
}

#[test]
fn bad_calls_are_usage_errors_and_change_nothing() {
    let store = Store::create_on(memory(64), &checked()).unwrap();
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("a", 8).unwrap();
    let usage = |answer: thinmeta::Result<()>| assert!(matches!(answer, Err(Error::Usage(_))));
    usage(txn.insert(tree, 1, &[0; 7]).map(drop));
    usage(txn.tree_or_new("a", 9).map(drop));
    usage(txn.tree_or_new("", 8).map(drop));
    usage(txn.tree_or_new(&"x".repeat(233), 8).map(drop));
    usage(txn.tree_or_new("b", 0).map(drop));
    usage(txn.tree_or_new("b", 5000).map(drop));
    usage(txn.snapshot("a", "a"));
    usage(store.transaction(None).map(drop));
    assert!(matches!(txn.snapshot("c", "d"), Err(Error::NoSuchTree(_))));
    assert!(matches!(txn.delete("c"), Err(Error::NoSuchTree(_))));
    txn.insert(tree, 1, &[0; 8]).unwrap();
    txn.commit().unwrap();
    usage(txn.insert(tree, 1, &[0; 8]).map(drop));
    usage(txn.commit());
}

#[test]
fn nothing_is_made_over_something() {
    let device = memory(64);
    drop(Store::create_on(device.clone(), &checked()).unwrap());
    let again = Store::create_on(device.clone(), &checked());
    assert!(matches!(again, Err(Error::AlreadyFormatted { .. })));
    let options = StoreOptions {
        overwrite: true,
        ..checked()
    };
    Store::create_on(device, &options).unwrap();
    assert!(matches!(
        Store::open_on(memory(64), &checked()),
        Err(Error::NotFormatted(_))
    ));
}

#[test]
fn a_full_store_is_made_larger_and_goes_on() {
    let device = memory(16);
    let store = Store::create_on(device.clone(), &checked()).unwrap();
    let keys: Vec<u64> = (0..10_000).collect();
    let fill = |grow: Option<u64>| -> thinmeta::Result<()> {
        let txn = store.transaction(None)?;
        if let Some(bytes) = grow {
            txn.grow(bytes)?;
        }
        let tree = txn.tree_or_new("a", 8)?;
        txn.insert_many(tree, &keys, &vec![7; 80_000])?;
        txn.commit()
    };
    assert!(matches!(fill(None), Err(Error::NoSpace { .. })));
    assert!(matches!(fill(Some(4096)), Err(Error::Usage(_))));
    assert!(matches!(fill(Some(1 << 50)), Err(Error::Usage(_))));
    fill(Some(128 * 4096)).unwrap();
    assert_eq!(store.space().unwrap().0, 128);
    super::random::check(&store);
    drop(store);
    let store = Store::open_on(device, &checked()).unwrap();
    assert_eq!(store.space().unwrap().0, 128);
    assert_eq!(value(&store, "a", 9_999), Some(0x0707_0707_0707_0707));
    let txn = store.transaction(None).unwrap();
    txn.grow(130 * 4096).unwrap();
    txn.commit().unwrap();
    assert_eq!(store.space().unwrap().0, 130);
}
