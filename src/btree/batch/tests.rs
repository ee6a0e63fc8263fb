use super::*;
use crate::btree::testing::{Counted, Judge, Ledger, Model, transaction, value};
use crate::btree::{Plain, max_entries};
use crate::testing::Random;

/// A tree under test, one that shares nodes with it, and what each should hold.
struct Trees {
    txn: Transaction,
    value_bytes: usize,
    ledger: Ledger,
    trees: Vec<(BlockNr, Model)>,
}

impl Trees {
    fn new(blocks: usize, value_bytes: usize) -> Self {
        let mut txn = transaction(blocks);
        let root = crate::btree::Builder::new(value_bytes).unwrap();
        let root = root.finish(&mut txn).unwrap();
        Self {
            txn,
            value_bytes,
            ledger: Ledger::default(),
            trees: vec![(root, Model::new())],
        }
    }

    /// Another owner of a tree's root.
    fn share(&mut self, which: usize) {
        let (root, model) = self.trees[which].clone();
        self.txn.inc(root).unwrap();
        self.trees.push((root, model));
    }

    /// Nothing of now may be changed in place any more.
    fn commit(&mut self) {
        self.txn.shadows.clear();
    }

    fn insert(&mut self, which: usize, keys: &[u64], values: &[u8], sorted: bool) {
        let (root, model) = &mut self.trees[which];
        let before = model.len();
        for (key, value) in keys.iter().zip(values.chunks(self.value_bytes)) {
            let old = model.insert(*key, value.to_vec());
            // The reference that goes with a value, unless it finds its like.
            if old.as_deref() != Some(value) {
                self.ledger.add(value, 1);
            }
        }
        let mut counted = Counted(&mut self.ledger, self.value_bytes);
        let mut tree = TreeType {
            levels: 1,
            value_bytes: self.value_bytes,
            values: &mut counted,
        };
        let done = if sorted {
            insert_sorted(&mut self.txn, &mut tree, *root, keys, values)
        } else {
            insert_batch(&mut self.txn, &mut tree, *root, keys, values)
        };
        let done = done.unwrap();
        *root = done.root;
        assert_eq!(done.added as usize, model.len() - before);
    }

    fn judge(&self) {
        let mut judge = Judge::new(&self.txn, self.value_bytes);
        for (root, model) in &self.trees {
            assert!(judge.tree(*root) == *model, "another content");
        }
        judge.check_counts();
        assert_eq!(judge.values.0, self.ledger.0);
    }
}

/// Keys of one batch.
fn keys(random: &mut Random, model: &Model, most: u64) -> Vec<u64> {
    let count = random.below(most) + 1;
    let highest = model.keys().last().copied().unwrap_or(0);
    let begin = random.below(1 << 20);
    let known: Vec<u64> = model.keys().copied().collect();
    let shape = random.below(6);
    let mut keys: Vec<u64> = (0..count)
        .map(|index| match shape {
            0 => begin + random.below(2 * count),
            1 => random.next(),
            2 => highest.saturating_add(1 + index),
            3 => random.below(1 << 16),
            4 if !known.is_empty() => known[random.below(known.len() as u64) as usize],
            4 => index,
            _ => u64::MAX - random.below(3 * count),
        })
        .collect();
    if random.chance(3) {
        keys.push(0);
        keys.push(u64::MAX);
    }
    keys
}

#[test]
fn batches_leave_what_single_insertions_would_and_every_count_right() {
    for (value_bytes, most, seeds) in [
        (8, 3000, 12),
        (1, 3000, 4),
        (24, 1000, 6),
        (400, 200, 8),
        (1000, 120, 20),
        (1346, 120, 8),
    ] {
        for seed in 0..seeds {
            let mut random = Random::new(seed * 31 + value_bytes as u64);
            let mut trees = Trees::new(6000, value_bytes);
            for _ in 0..10 {
                let which = random.below(trees.trees.len() as u64) as usize;
                let most = if random.chance(30) { 5 } else { most };
                let mut keys = keys(&mut random, &trees.trees[which].1, most);
                let sorted = random.chance(40);
                if sorted {
                    keys.sort_unstable();
                    keys.dedup();
                }
                let kinds = [2, 1 << 7][random.below(2) as usize];
                let values: Vec<u8> = keys
                    .iter()
                    .flat_map(|_| value(&mut random, value_bytes, kinds))
                    .collect();
                trees.insert(which, &keys, &values, sorted);
                if random.chance(30) && trees.trees.len() < 4 {
                    trees.share(which);
                }
                if random.chance(40) {
                    trees.commit();
                }
                trees.judge();
            }
        }
    }
}

#[test]
fn of_equal_keys_the_last_wins_and_the_others_lose_their_references() {
    let mut trees = Trees::new(100, 8);
    let column = |values: &[u64]| -> Vec<u8> {
        values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect()
    };
    trees.insert(0, &[1, 2, 3], &column(&[7, 7, 7]), true);
    trees.insert(
        0,
        &[3, 1, 2, 1, 3, 2, 9, 9],
        &column(&[8, 7, 8, 8, 7, 8, 1, 1]),
        false,
    );
    trees.judge();
    assert_eq!(trees.ledger.0.len(), 3);
}

#[test]
fn what_is_appended_fills_leaves() {
    let mut txn = transaction(3000);
    let mut root = crate::btree::Builder::new(8)
        .unwrap()
        .finish(&mut txn)
        .unwrap();
    let mut tree = TreeType {
        levels: 1,
        value_bytes: 8,
        values: &mut Plain,
    };
    for begin in (0..200_000).step_by(1000) {
        let keys: Vec<u64> = (begin..begin + 1000).collect();
        let values: Vec<u8> = keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        root = insert_sorted(&mut txn, &mut tree, root, &keys, &values)
            .unwrap()
            .root;
    }
    let mut judge = Judge::new(&txn, 8);
    assert_eq!(judge.tree(root).len(), 200_000);
    judge.check_counts();
    // 794 full leaves, and no more than one in five batches leaves one short.
    let nodes = judge.pointers.len();
    assert!(nodes <= 860, "{nodes} nodes");
}

#[test]
fn each_node_is_shadowed_once_and_new_ones_lie_side_by_side() {
    let mut trees = Trees::new(2000, 8);
    let mut random = Random::new(3);
    let many: Vec<u64> = (0..100_000).map(|_| random.next()).collect();
    let values = vec![0; 800_000];
    trees.insert(0, &many, &values, false);
    trees.commit();
    let effects = trees.txn.side_effects();
    let some: Vec<u64> = (0..5000).map(|_| random.next()).collect();
    trees.insert(0, &some, &vec![0; 40_000], false);
    let mut judge = Judge::new(&trees.txn, 8);
    judge.tree(trees.trees[0].0);
    let new: Vec<u64> = judge
        .pointers
        .keys()
        .copied()
        .filter(|block| trees.txn.is_shadow(BlockNr(*block)))
        .collect();
    let spread = new.last().unwrap() - new[0] + 1;
    assert_eq!(spread, new.len() as u64, "one run");
    // An allocation for each, and a reference less on what it replaced.
    assert!(trees.txn.side_effects() - effects <= 2 * new.len() as u64);
}

#[test]
fn calls_that_make_no_sense_leave_no_trace() {
    let mut txn = transaction(50);
    let root = crate::btree::Builder::new(8)
        .unwrap()
        .finish(&mut txn)
        .unwrap();
    let effects = txn.side_effects();
    let mut plain = Plain;
    let mut refused = |levels, value_bytes, keys: &[u64], values: &[u8], sorted: bool| {
        let mut tree = TreeType {
            levels,
            value_bytes,
            values: &mut plain,
        };
        let answer = if sorted {
            insert_sorted(&mut txn, &mut tree, root, keys, values)
        } else {
            insert_batch(&mut txn, &mut tree, root, keys, values)
        };
        assert!(matches!(answer, Err(Error::Usage(_))), "{answer:?}");
        assert_eq!(txn.side_effects(), effects);
    };
    refused(1, 8, &[1, 1], &[0; 16], true);
    refused(1, 8, &[2, 1], &[0; 16], true);
    for sorted in [true, false] {
        refused(2, 8, &[1, 2], &[0; 16], sorted);
        refused(0, 8, &[1, 2], &[0; 16], sorted);
        refused(1, 8, &[1, 2], &[0; 15], sorted);
        refused(1, 0, &[1, 2], &[], sorted);
        refused(1, 1347, &[1], &[0; 1347], sorted);
        refused(1, usize::MAX, &[1, 2], &[], sorted);
    }
    let long: Vec<u64> = (0..5000)
        .map(|key| if key == 2048 { 0 } else { key })
        .collect();
    refused(1, 8, &long, &vec![0; 40_000], true);
}

#[test]
fn a_full_device_is_no_space_and_nothing_else() {
    let value_bytes = 8;
    let entries = 40 * max_entries(value_bytes);
    let keys: Vec<u64> = (0..entries as u64).collect();
    let values = vec![0; 8 * entries];
    for blocks in 2..44 {
        let mut txn = transaction(blocks);
        let root = crate::btree::Builder::new(8)
            .unwrap()
            .finish(&mut txn)
            .unwrap();
        let mut tree = TreeType {
            levels: 1,
            value_bytes,
            values: &mut Plain,
        };
        let answer = insert_sorted(&mut txn, &mut tree, root, &keys, &values);
        // The first root is this transaction's own, so that it is not copied.
        assert_eq!(answer.is_ok(), blocks >= 42, "{blocks} blocks");
        assert!(matches!(answer, Ok(_) | Err(Error::NoSpace { .. })));
    }
}
