//! The engine with no Python in the way, as one of the sessions that `benches/run engine` drives.
//!
//! `cargo bench --bench engine` alone prints what the shadow table takes. With a folder after it
//! (`-- FOLDER`) it answers requests on stdin; `benches/README.md` has them.

mod session;

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use session::{Engine, Outcome};
use thinmeta::btree::{Cursor, Wait};
use thinmeta::store::{Store, StoreOptions};
use thinmeta::transaction::ShadowTable;

const FILE: &str = "store.img";
const SIZE_BYTES: u64 = 1 << 30;
const TREE: &str = "m";
const VALUE_BYTES: usize = 8;

/// Blocks of the largest metadata device.
const DEVICE_BLOCKS: u64 = 4_161_600;
const SHADOW_LOOKUPS: usize = 1 << 20;

#[derive(Default)]
struct Thinmeta {
    store: Option<Arc<Store>>,
}

impl Thinmeta {
    fn store(&self) -> Outcome<&Arc<Store>> {
        Ok(self.store.as_ref().ok_or("nothing is open")?)
    }
}

impl Engine for Thinmeta {
    fn fresh(&mut self) -> Outcome<()> {
        self.store = None;
        let path = Path::new(FILE);
        if path.exists() {
            std::fs::remove_file(path)?;
        }
        let store = Store::create(path, Some(SIZE_BYTES), &StoreOptions::default())?;
        let transaction = store.transaction(None)?;
        transaction.tree_or_new(TREE, VALUE_BYTES)?;
        transaction.commit()?;
        self.store = Some(store);
        Ok(())
    }

    fn reopen(&mut self) -> Outcome<()> {
        self.store = None;
        self.store = Some(Store::open(Path::new(FILE), &StoreOptions::default())?);
        Ok(())
    }

    fn insert(&mut self, keys: &[u64], per_commit: usize) -> Outcome<()> {
        let store = self.store()?;
        let mut values = Vec::new();
        for batch in keys.chunks(per_commit) {
            let transaction = store.transaction(None)?;
            let tree = transaction.tree(TREE)?;
            values.clear();
            values.extend(
                batch
                    .iter()
                    .flat_map(|key| key.wrapping_mul(3).to_le_bytes()),
            );
            if let [key] = batch {
                transaction.insert(tree, *key, &values)?;
            } else {
                transaction.insert_many(tree, batch, &values)?;
            }
            transaction.commit()?;
        }
        Ok(())
    }

    fn lookup(&mut self, keys: &[u64]) -> Outcome<u64> {
        let view = self.store()?.view()?;
        let tree = view.tree(TREE)?;
        let (mut sum, mut value) = (0_u64, [0; VALUE_BYTES]);
        for &key in keys {
            if !view.get(tree, key, &mut value, Wait::Yes)? {
                return Err("a key is missing".into());
            }
            sum = sum.wrapping_add(u64::from_le_bytes(value));
        }
        Ok(sum)
    }

    fn scan(&mut self, visit: &mut dyn FnMut(u64, u64)) -> Outcome<()> {
        let view = self.store()?.view()?;
        let tree = view.tree(TREE)?;
        let mut cursor = Cursor::new(view.blocks(), tree.root, tree.value_bytes, 0, None);
        while let Some(leaf) = cursor.next_leaf()? {
            let (keys, values) = leaf.packed_entries(tree.value_bytes)?;
            let (values, _) = values.as_chunks();
            for (key, value) in keys.iter().zip(values) {
                visit(key.get(), u64::from_le_bytes(*value));
            }
        }
        Ok(())
    }

    fn other(&mut self, words: &[&str]) -> Outcome<String> {
        match *words {
            ["shadows", count] => {
                let nanoseconds = shadow_lookup(count.parse()?);
                Ok(format!("{{\"ns\": {nanoseconds:.3}}}"))
            }
            _ => Err(format!("cannot {}", words.join(" ")).into()),
        }
    }
}

/// Nanoseconds of one look-up among so many shadows, scattered over the largest device. Half of
/// what is asked for is there, in no order, so that nothing near it was just read.
fn shadow_lookup(count: usize) -> f64 {
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
    let blocks: Vec<u64> = (0..count).map(|_| noise.below(DEVICE_BLOCKS)).collect();
    let mut table = ShadowTable::new();
    blocks.iter().for_each(|block| table.insert(*block));
    let asked: Vec<u64> = (0..SHADOW_LOOKUPS)
        .map(|at| match at % 2 {
            0 => blocks[noise.below(count as u64) as usize],
            _ => noise.below(DEVICE_BLOCKS),
        })
        .collect();
    let start = Instant::now();
    let found = asked
        .iter()
        .filter(|block| black_box(&table).contains(**block))
        .count();
    let nanoseconds = start.elapsed().as_secs_f64() * 1e9 / asked.len() as f64;
    assert!(found >= asked.len() / 2, "what was put in is found");
    table.clear();
    assert!(
        !blocks.iter().any(|block| table.contains(*block)),
        "nothing is left"
    );
    nanoseconds
}

/// Numbers without a pattern, the same in every run (xorshift64).
struct Noise(u64);

impl Noise {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn main() -> Outcome<()> {
    if session::folder().is_none() {
        println!("shadows  ns a look-up");
        for count in [100, 1000, 10_000, 100_000, 1_000_000] {
            println!("{count:>7}  {:>5.2}", shadow_lookup(count));
        }
        return Ok(());
    }
    session::serve(&mut Thinmeta::default(), env!("CARGO_PKG_VERSION"))
}
