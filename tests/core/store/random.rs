//! Random histories against plain maps, with every count checked by a walk.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::btree::{self, NODE_VALIDATOR, Node};
use thinmeta::disk_space::SpaceMapRoot;
use thinmeta::store::{STORE_VALIDATOR, Store, StoreSuperblock};

use super::smoke::{checked, memory};

type Trees = BTreeMap<String, BTreeMap<u64, u64>>;

fn content(store: &Arc<Store>) -> Trees {
    let view = store.view().unwrap();
    let names = view.names().unwrap();
    let read = |name: String| {
        let tree = view.tree(&name).unwrap();
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let all = (0, None);
        btree::scan(view.blocks(), tree.root, 8, all, &mut keys, &mut values).unwrap();
        let values = values
            .as_chunks::<8>()
            .0
            .iter()
            .map(|bytes| u64::from_le_bytes(*bytes));
        (name, keys.into_iter().zip(values).collect())
    };
    names.into_iter().map(read).collect()
}

/// Every reference that the committed state has, found by walking it.
fn references(store: &Arc<Store>) -> BTreeMap<u64, u32> {
    let blocks = store.manager().blocks();
    let mut counts = BTreeMap::from([(0, 1)]);
    let block = blocks.read(BlockNr(0), &STORE_VALIDATOR).unwrap();
    let superblock: &StoreSuperblock = block.view();
    let space = SpaceMapRoot::from_area(&superblock.metadata_space_map_root).unwrap();
    let map = thinmeta::disk_space::DiskSpaceMap::metadata(blocks, space);
    *counts.entry(space.bitmap_root.get()).or_default() += 1;
    for bitmap in 0..space.nr_blocks.get().div_ceil(16320) {
        let at = map.index_entry(bitmap).unwrap().blocknr.get();
        *counts.entry(at).or_default() += 1;
    }
    let mut visit = |root: u64| {
        let mut stack = vec![root];
        while let Some(at) = stack.pop() {
            let count = counts.entry(at).or_default();
            *count += 1;
            if *count > 1 {
                continue;
            }
            let block = blocks.read(BlockNr(at), &NODE_VALIDATOR).unwrap();
            let node = Node::parse(BlockNr(at), &block).unwrap();
            if !node.is_leaf() {
                stack.extend(node.children().unwrap().iter().map(|child| child.get()));
            }
        }
    };
    visit(space.ref_count_root.get());
    visit(superblock.catalogue_root.get());
    let view = store.view().unwrap();
    for name in view.names().unwrap() {
        visit(view.tree(&name).unwrap().root.0);
    }
    counts
}

pub fn check(store: &Arc<Store>) {
    let found = references(store);
    store
        .manager()
        .look(|txn| {
            for block in 0..txn.nr_blocks() {
                let expected = found.get(&block).copied().unwrap_or(0);
                assert_eq!(txn.ref_count(BlockNr(block))?, expected, "block {block}");
            }
            Ok(())
        })
        .unwrap();
}

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

fn change(random: &mut Random, store: &Arc<Store>, committed: &mut Trees) {
    let txn = store.transaction(None).unwrap();
    let mut trees = committed.clone();
    for _ in 0..1 + random.next(12) {
        let name = format!("t{}", random.next(4));
        let other = format!("t{}", random.next(4));
        match random.next(10) {
            0 if trees.contains_key(&name) && !trees.contains_key(&other) => {
                txn.snapshot(&name, &other).unwrap();
                trees.insert(other, trees[&name].clone());
            }
            1 if trees.contains_key(&name) => {
                txn.delete(&name).unwrap();
                trees.remove(&name);
            }
            2 | 3 => {
                let tree = txn.tree_or_new(&name, 8).unwrap();
                let model = trees.entry(name).or_default();
                let count = random.next(2000);
                let keys: Vec<u64> = (0..count).map(|_| random.next(20_000)).collect();
                let values: Vec<u64> = keys.iter().map(|_| random.next(u64::MAX)).collect();
                let bytes: Vec<u8> = values
                    .iter()
                    .flat_map(|value| value.to_le_bytes())
                    .collect();
                txn.insert_many(tree, &keys, &bytes).unwrap();
                model.extend(keys.into_iter().zip(values));
            }
            4 => {
                let tree = txn.tree_or_new(&name, 8).unwrap();
                let model = trees.entry(name).or_default();
                let begin = random.next(20_000);
                let end = begin + random.next(3000);
                let gone = txn.remove_range(tree, begin..end).unwrap();
                let before = model.len();
                model.retain(|key, _| !(begin..end).contains(key));
                assert_eq!(gone, (before - model.len()) as u64);
            }
            _ => {
                let tree = txn.tree_or_new(&name, 8).unwrap();
                let model = trees.entry(name).or_default();
                for _ in 0..random.next(60) {
                    let (key, value) = (random.next(20_000), random.next(u64::MAX));
                    if random.next(3) == 0 {
                        let gone = txn.remove(tree, key).unwrap();
                        assert_eq!(gone, model.remove(&key).is_some());
                    } else {
                        let added = txn.insert(tree, key, &value.to_le_bytes()).unwrap();
                        assert_eq!(added, model.insert(key, value).is_none());
                    }
                }
            }
        }
    }
    if random.next(4) == 0 {
        txn.abort().unwrap();
    } else {
        txn.commit().unwrap();
        *committed = trees;
    }
}

#[test]
fn random_histories_keep_content_and_counts() {
    for seed in 1..=6 {
        let mut random = Random(seed << 32 | 0x9E37_79B9);
        let device = memory(3000);
        let mut store = Store::create_on(device.clone(), &checked()).unwrap();
        let mut model = Trees::new();
        for round in 0..25 {
            change(&mut random, &store, &mut model);
            assert_eq!(content(&store), model, "seed {seed}, round {round}");
            check(&store);
            if random.next(5) == 0 {
                drop(store);
                store = Store::open_on(device.clone(), &checked()).unwrap();
            }
        }
    }
}
