//! Not a test: what arrays cost. `cargo test --release --test core array::timing -- --ignored --nocapture`

use std::sync::Arc;
use std::time::Instant;

use thinmeta::array::{self, Array, ArrayType};
use thinmeta::bitset::Bitset;
use thinmeta::block::BlockManager;
use thinmeta::btree::{Plain, Wait};
use thinmeta::device::MemoryDevice;
use thinmeta::transaction::Transaction;

use crate::support::chance::Chance;

const LEN: u64 = 4 << 20;

fn transaction(blocks: usize) -> Transaction {
    let device = MemoryDevice::writable(vec![0; blocks << 12]);
    let manager = BlockManager::new(Arc::new(device), (blocks as u64) << 13);
    Transaction::in_memory(&manager).unwrap()
}

fn timed<T>(what: &str, elements: u64, work: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let answer = work();
    let each = begun.elapsed().as_secs_f64() * 1e9 / elements as f64;
    println!("{what:<44} {each:8.2} ns each {:8.0} MB/s", 8e3 / each);
    answer
}

#[test]
#[ignore = "not a test"]
fn what_arrays_cost() {
    let mut txn = transaction(20_000);
    let mut plain = Plain;
    let mut array = ArrayType {
        value_bytes: 8,
        values: &mut plain,
    };
    let bytes: Vec<u8> = (0..LEN).flat_map(u64::to_le_bytes).collect();
    let mut root = timed("from_slice", LEN, || {
        array::from_slice(&mut txn, &mut array, &bytes).unwrap()
    });
    let mut out = vec![0; bytes.len()];
    let view = Array::new(txn.blocks(), root, 8, LEN).unwrap();
    timed("read", LEN, || view.read(0, &mut out).unwrap());
    assert!(out == bytes);
    timed("set_range in place", LEN, || {
        root = array::set_range(&mut txn, &mut array, root, LEN, 0, &bytes).unwrap();
    });
    let mut chance = Chance::Seed(1);
    let mut word = [0; 8];
    for wait in [Wait::Yes, Wait::No] {
        timed(&format!("get, random, wait {wait:?}"), 1 << 20, || {
            for _ in 0..1 << 20 {
                view.get(chance.below(LEN), &mut word, wait).unwrap();
            }
        });
    }
    timed("set, random, in place", 1 << 20, || {
        for _ in 0..1 << 20 {
            let index = chance.below(LEN);
            root = array::set(&mut txn, &mut array, root, LEN, index, &word).unwrap();
        }
    });
    timed("cursor", LEN, || {
        let mut cursor = view.cursor().unwrap();
        while cursor.next_element().unwrap() {
            word.copy_from_slice(cursor.get().unwrap());
        }
    });
    let mut bits = Bitset::open(root, LEN * 64).unwrap();
    timed("bitset: set, one after the other", 1 << 24, || {
        (0..1 << 24).for_each(|bit| bits.set(&mut txn, bit).unwrap());
    });
    timed("bitset: test, random", 1 << 20, || {
        for _ in 0..1 << 20 {
            let bit = chance.below(LEN * 64);
            bits.test(&mut txn, bit).unwrap();
        }
    });
    let view = bits.view(&mut txn).unwrap();
    timed("bitset: count_ones, by words", LEN, || {
        view.count_ones(0..LEN * 64).unwrap()
    });
}
