//! Not a test: what batches cost. `cargo test --release --test core batch::timing -- --ignored --nocapture`

use std::sync::Arc;
use std::time::Instant;

use thinmeta::BlockNr;
use thinmeta::block::BlockManager;
use thinmeta::btree::{
    Builder, Plain, TreeType, Wait, get, get_many, insert_batch, insert_sorted, scan,
};
use thinmeta::device::MemoryDevice;
use thinmeta::task::Task;
use thinmeta::transaction::Transaction;

use crate::support::chance::Chance;

const MILLION: u64 = 1 << 20;

fn transaction(blocks: usize) -> Transaction {
    let device = MemoryDevice::writable(vec![0; blocks << 12]);
    let manager = BlockManager::new(Arc::new(device), (blocks as u64) << 13);
    Transaction::in_memory(&manager).unwrap()
}

fn plain(plain: &mut Plain) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes: 8,
        values: plain,
    }
}

fn timed<T>(what: &str, entries: u64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = work();
    let took = begun.elapsed();
    let each = took.as_secs_f64() * 1e9 / entries as f64;
    println!(
        "{what:<58} {:7.2} ms {each:7.1} ns each",
        took.as_secs_f64() * 1e3
    );
    answer
}

fn random_keys(chance: &mut Chance<'_>, count: u64) -> Vec<u64> {
    (0..count).map(|_| chance.word()).collect()
}

fn bytes(keys: &[u64]) -> Vec<u8> {
    keys.iter().flat_map(|key| key.to_le_bytes()).collect()
}

fn empty(txn: &mut Transaction) -> BlockNr {
    Builder::new(8).unwrap().finish(txn).unwrap()
}

#[test]
#[ignore = "a measurement"]
fn inserting() {
    let mut chance = Chance::Seed(1);
    let mut txn = transaction(100_000);
    let mut root = empty(&mut txn);
    for round in 0..6 {
        let keys = random_keys(&mut chance, MILLION);
        let values = bytes(&keys);
        let what = format!("random batch into {round}M");
        root = timed(&what, MILLION, || {
            insert_batch(&mut txn, &mut plain(&mut Plain), root, &keys, &values).unwrap()
        })
        .root;
    }
    for size in [1000, 10_000, 100_000] {
        let keys = random_keys(&mut chance, size);
        let values = bytes(&keys);
        let what = format!("random batch of {size} into 6M");
        root = timed(&what, size, || {
            insert_batch(&mut txn, &mut plain(&mut Plain), root, &keys, &values).unwrap()
        })
        .root;
    }
    let mut txn = transaction(40_000);
    let mut root = empty(&mut txn);
    for round in 0..3 {
        let keys: Vec<u64> = (round * MILLION..(round + 1) * MILLION).collect();
        let values = bytes(&keys);
        let what = format!("ascending behind {round}M");
        root = timed(&what, MILLION, || {
            insert_sorted(&mut txn, &mut plain(&mut Plain), root, &keys, &values).unwrap()
        })
        .root;
    }
    let keys: Vec<u64> = (0..MILLION).collect();
    let values = bytes(&keys);
    for _ in 0..2 {
        timed("builder, pushed in columns", MILLION, || {
            let mut builder = Builder::new(8).unwrap();
            builder.push_many(&mut txn, &keys, &values).unwrap();
            builder.finish(&mut txn).unwrap()
        });
    }
    timed("builder, pushed one by one", MILLION, || {
        let mut builder = Builder::new(8).unwrap();
        for key in 0..MILLION {
            builder.push(&mut txn, key, &key.to_le_bytes()).unwrap();
        }
        builder.finish(&mut txn).unwrap()
    });
}

#[test]
#[ignore = "a measurement"]
fn reading() {
    let mut chance = Chance::Seed(2);
    let mut txn = transaction(30_000);
    let root = empty(&mut txn);
    let keys = random_keys(&mut chance, MILLION);
    let values = bytes(&keys);
    let done = insert_batch(&mut txn, &mut plain(&mut Plain), root, &keys, &values).unwrap();
    let (blocks, root) = (txn.blocks(), done.root);
    let (mut values_out, mut found_out) = (vec![0; values.len()], vec![0; keys.len()]);
    for threads in [1, 1, 2, 2] {
        let task = Task::new(None, Some(threads));
        let what = format!("get_many, {threads} threads");
        let found = timed(&what, MILLION, || {
            get_many(
                blocks,
                root,
                8,
                &keys,
                &mut values_out,
                &mut found_out,
                &task,
            )
            .unwrap()
        });
        assert_eq!(found, MILLION);
        assert!(values_out == values);
    }
    for wait in [Wait::Yes, Wait::No] {
        timed(&format!("get, {wait:?}"), MILLION, || {
            let mut out = [0; 8];
            for key in &keys {
                assert!(get(blocks, root, 8, *key, &mut out, wait).unwrap());
            }
        });
    }
    let mut dense = transaction(20_000);
    let root_dense = {
        let keys: Vec<u64> = (0..4 * MILLION).collect();
        let mut builder = Builder::new(8).unwrap();
        builder.push_many(&mut dense, &keys, &bytes(&keys)).unwrap();
        builder.finish(&mut dense).unwrap()
    };
    let (mut keys_out, mut values_out) = (Vec::new(), Vec::new());
    for (name, blocks, root, entries) in [
        ("random", txn.blocks(), root, MILLION),
        ("full leaves", dense.blocks(), root_dense, 4 * MILLION),
    ] {
        for round in ["new columns", "warm", "warm"] {
            keys_out.clear();
            values_out.clear();
            timed(&format!("scan, {name}, {round}"), entries, || {
                scan(blocks, root, 8, (0, None), &mut keys_out, &mut values_out).unwrap();
            });
            assert_eq!(keys_out.len() as u64, entries);
        }
    }
}
