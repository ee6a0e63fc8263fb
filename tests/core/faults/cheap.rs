//! What is called cheap is cheap: requests and blocks, counted.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use thinmeta::btree::{NODE_VALIDATOR, Wait};
use thinmeta::device::{Device, FileDevice, MemoryDevice};
use thinmeta::store::{STORE_VALIDATOR, Store, StoreOptions};
use thinmeta::{BlockNr, Error};

/// Reads, writes, blocks written, and flushes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Io {
    reads: u64,
    writes: u64,
    blocks: u64,
    flushes: u64,
}

/// A device that counts what it is asked for.
#[derive(Debug)]
struct CountingDevice {
    device: Arc<dyn Device>,
    io: Mutex<Io>,
}

impl CountingDevice {
    fn new(device: Arc<dyn Device>) -> Arc<Self> {
        let io = Mutex::default();
        Arc::new(Self { device, io })
    }

    /// What was asked for since the last call.
    fn take(&self) -> Io {
        std::mem::take(&mut self.io.lock().unwrap())
    }
}

impl Device for CountingDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        self.io.lock().unwrap().reads += 1;
        self.device.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> thinmeta::Result<()> {
        let mut io = self.io.lock().unwrap();
        io.writes += 1;
        io.blocks += bytes.len() as u64 / 4096;
        drop(io);
        self.device.write_all_at(bytes, offset_bytes)
    }

    fn flush(&self) -> thinmeta::Result<()> {
        self.io.lock().unwrap().flushes += 1;
        self.device.flush()
    }

    fn path(&self) -> &Path {
        self.device.path()
    }
}

/// A file that is gone afterwards.
struct Sparse(PathBuf);

impl Drop for Sparse {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn in_memory(blocks: usize) -> Arc<CountingDevice> {
    CountingDevice::new(Arc::new(MemoryDevice::writable(vec![0; blocks * 4096])))
}

fn create(device: &Arc<CountingDevice>) -> Arc<Store> {
    Store::create_on(
        Arc::clone(device) as Arc<dyn Device>,
        &StoreOptions::default(),
    )
    .unwrap()
}

fn reopen(device: &Arc<CountingDevice>) -> Arc<Store> {
    Store::open_on(
        Arc::clone(device) as Arc<dyn Device>,
        &StoreOptions::default(),
    )
    .unwrap()
}

fn insert(store: &Arc<Store>, key: u64) {
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("a", 8).unwrap();
    txn.insert(tree, key, &key.to_le_bytes()).unwrap();
    txn.commit().unwrap();
}

fn fill(store: &Arc<Store>, entries: u64) {
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("a", 8).unwrap();
    let keys: Vec<u64> = (0..entries).collect();
    let bytes = vec![0; keys.len() * 8];
    txn.insert_many(tree, &keys, &bytes).unwrap();
    txn.commit().unwrap();
}

#[test]
fn a_commit_of_one_insert_writes_a_dozen_blocks_at_most_on_the_largest_device() {
    let name = format!("thinmeta-largest-{}", std::process::id());
    let file = Sparse(std::env::temp_dir().join(name));
    let device = FileDevice::open_or_make(&file.0).unwrap();
    device.grow(4_161_600 * 4096).unwrap();
    let device = CountingDevice::new(Arc::new(device));
    let store = create(&device);
    assert_eq!(store.space().unwrap().0, 4_161_600);
    fill(&store, 100_000);
    device.take();
    for key in 0..20 {
        insert(&store, key * 5000);
        let io = device.take();
        assert!(
            io.blocks <= 12 && io.writes <= 6 && io.flushes == 2,
            "{io:?}"
        );
    }
    drop(store);
    let store = reopen(&device);
    device.take();
    insert(&store, 50_000);
    let io = device.take();
    assert!(io.blocks <= 12 && io.reads <= 20, "freshly opened: {io:?}");
}

#[test]
fn what_changes_nothing_writes_nothing() {
    let device = in_memory(200);
    let store = create(&device);
    fill(&store, 1000);
    drop(store);
    let writes = |io: Io| (io.writes, io.flushes);
    device.take();
    let store = reopen(&device);
    assert_eq!(writes(device.take()), (0, 0), "opening");
    store.transaction(None).unwrap().commit().unwrap();
    assert_eq!(device.take(), Io::default(), "an empty transaction");
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree("a").unwrap();
    assert!(txn.get(tree, 7, &mut [0; 8], Wait::Yes).unwrap());
    assert!(!txn.remove(tree, 1 << 40).unwrap());
    assert!(matches!(txn.insert(tree, 1, &[0; 7]), Err(Error::Usage(_))));
    txn.commit().unwrap();
    assert_eq!(
        writes(device.take()),
        (0, 0),
        "a transaction that only looks"
    );
    let txn = store.transaction(None).unwrap();
    let tree = txn.tree_or_new("b", 8).unwrap();
    txn.insert(tree, 1, &[0; 8]).unwrap();
    txn.delete("b").unwrap();
    txn.commit().unwrap();
    assert_eq!(writes(device.take()), (0, 0), "a tree that came and went");
    drop(store.view().unwrap());
    drop(store);
    assert_eq!(device.take(), Io::default(), "views, and closing");
}

#[test]
fn a_warm_look_up_and_a_clone_ask_the_device_for_nothing() {
    let device = in_memory(2000);
    let store = create(&device);
    fill(&store, 100_000);
    drop(store);
    let store = reopen(&device);
    let view = store.view().unwrap();
    let tree = view.tree("a").unwrap();
    device.take();
    assert!(view.get(tree, 77_777, &mut [0; 8], Wait::Yes).unwrap());
    assert_eq!(
        device.take().reads,
        3,
        "one for each level that is not known yet"
    );
    assert!(view.get(tree, 77_777, &mut [0; 8], Wait::No).unwrap());
    assert!(view.get(tree, 77_778, &mut [0; 8], Wait::No).unwrap());
    assert_eq!(device.take(), Io::default(), "warm");

    let clone = store.manager().nonblocking_clone();
    drop(clone.read_lock(BlockNr(0), &STORE_VALIDATOR).unwrap());
    let cold = view.get(tree, 10, &mut [0; 8], Wait::No);
    assert!(matches!(cold, Err(Error::WouldBlock)));
    let unknown = (1..2000).map(BlockNr);
    let missed = unknown.filter(|at| clone.read_lock(*at, &NODE_VALIDATOR).is_err());
    assert!(missed.count() > 1900);
    drop(clone);
    assert_eq!(device.take(), Io::default(), "a clone");
}

#[test]
fn a_snapshot_costs_the_same_whatever_it_is_of() {
    let snapshot = |entries: u64| {
        let device = in_memory(12_000);
        let store = create(&device);
        fill(&store, entries);
        insert(&store, 3);
        drop(store);
        let store = reopen(&device);
        device.take();
        let txn = store.transaction(None).unwrap();
        txn.snapshot("a", "b").unwrap();
        txn.commit().unwrap();
        device.take()
    };
    let (small, large) = (snapshot(10), snapshot(1_000_000));
    assert_eq!(
        (small.reads, small.blocks, small.flushes),
        (large.reads, large.blocks, large.flushes)
    );
    assert!(
        small.blocks <= 6 && large.writes <= 6,
        "{small:?}, {large:?}"
    );
}
