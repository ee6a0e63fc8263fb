//! Long ranges: every one of small trees, many of tall ones, with parts owned by others.

use super::forest::Forest;
use crate::btree::remove_range::{remove_or_cut, remove_range};
use crate::btree::{Builder, NODE_VALIDATOR, Node, TreeType, ValueType, delete, max_entries};
use crate::error::{Error, Result};
use crate::testing::Random;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Keys are so far apart, and leaves' keys in their parents may be as far below the first.
const STEP: u64 = 4;

/// Leaves of these sizes under so many depths of internal nodes; the key that a
/// parent has for a child is its first, or `below` it. `fan`: children of a node, at least.
fn plant(forest: &mut Forest, prefix: &[u64], sizes: &[u64], fan: usize, below: u64) -> BlockNr {
    let mut next = 10 * STEP;
    let mut row = Vec::new();
    for size in sizes {
        let keys = (0..*size).map(|index| next + STEP * index);
        row.push((next - below, forest.leaf(prefix, keys)));
        next += STEP * size;
    }
    while row.len() > 1 {
        let nodes = (row.len() / fan).max(1);
        let mut above = Vec::new();
        let mut rest = &row[..];
        for node in 0..nodes {
            let (own, later) = rest.split_at(rest.len() / (nodes - node));
            above.push((own[0].0, forest.pointers(false, own)));
            rest = later;
        }
        row = above;
    }
    row[0].1
}

/// Takes a range out of a copy of the tree in use, whose other owner sees nothing of it.
fn cut_a_copy(forest: &mut Forest, begin: u64, end: u64) {
    let (root, model) = (forest.root, forest.model.clone());
    forest.hold(root, 0);
    forest.cut(&[], begin..end);
    forest.check();
    let cut = forest.root;
    forest.with(|txn, tree| delete(txn, tree, cut).unwrap());
    // What the other owner has is the tree in use again.
    forest.held.clear();
    (forest.root, forest.model) = (root, model);
    // Freed blocks are not used again before a commit.
    forest.commit();
}

/// The same of a tree too large to be looked at as closely so often: keys and nodes
/// are, and that every count is what it was once the copy is deleted.
fn cut_a_large_copy(forest: &mut Forest, begin: u64, end: u64, keys: &[u64]) {
    let counts = |forest: &Forest| -> Vec<u32> {
        let blocks = 1..forest.txn.blocks().nr_blocks();
        let count = |at| forest.txn.ref_count(BlockNr(at)).unwrap();
        blocks.map(count).collect()
    };
    let (root, before) = (forest.root, counts(forest));
    let range = || begin..end;
    forest.txn.inc(root).unwrap();
    let cut = |txn: &mut Transaction, tree: &mut TreeType<'_>| {
        remove_or_cut(txn, tree, root, &[], range(), 0).unwrap()
    };
    let (cut, removed) = forest.with(cut);
    let mut found = Vec::new();
    sound(forest, cut, None, None, true, &mut found);
    let left = keys.iter().filter(|key| !range().contains(key));
    assert!(left.eq(&found), "another content without {begin}..{end}");
    assert_eq!(removed as usize, keys.len() - found.len());
    forest.with(|txn, tree| delete(txn, tree, cut).unwrap());
    assert!(
        counts(forest) == before,
        "other counts after {begin}..{end}"
    );
    forest.commit();
}

/// Holds the nodes of a tree to the invariants and lists its keys; how deep it is.
fn sound(
    forest: &Forest,
    at: BlockNr,
    low: Option<u64>,
    high: Option<u64>,
    top: bool,
    found: &mut Vec<u64>,
) -> usize {
    let block = forest.txn.read(at, &NODE_VALIDATOR).unwrap();
    let node = Node::parse(at, &block).unwrap();
    let keys: Vec<u64> = node.keys().iter().map(|key| key.get()).collect();
    assert!(keys.is_sorted_by(|one, next| one < next));
    assert!(low.is_none_or(|low| keys[0] >= low), "bounds of {at}");
    assert!(
        high.is_none_or(|high| keys[keys.len() - 1] < high),
        "bounds of {at}"
    );
    let least = node.header().max_entries.get() as usize / 3;
    assert!(top || keys.len() >= least, "{} entries in {at}", keys.len());
    if node.is_leaf() {
        found.extend(keys);
        return 0;
    }
    assert!(keys.len() > 1, "a single child");
    let children = node.children().unwrap().iter().enumerate();
    let mut depths = children.map(|(index, child)| {
        let next = keys.get(index + 1).copied().or(high);
        sound(
            forest,
            BlockNr(child.get()),
            Some(keys[index]),
            next,
            false,
            found,
        )
    });
    let depth = depths.next().unwrap();
    assert!(depths.all(|other| other == depth), "depths under {at}");
    depth + 1
}

fn sizes(random: &mut Random, capacity: u64, leaves: usize) -> Vec<u64> {
    let least = capacity / 3;
    let mut size = || match random.below(3) {
        0 => least,
        1 => capacity,
        _ => least + random.below(capacity - least + 1),
    };
    (0..leaves).map(|_| size()).collect()
}

#[test]
fn every_range_of_small_trees_leaves_what_is_outside_it_and_sound_nodes() {
    let mut cases = 0;
    for (value_bytes, leaves) in [(1346, 9), (669, 6), (443, 4), (161, 2), (1346, 1)] {
        for below in [0, STEP - 1] {
            let mut random = Random::new(leaves as u64 + below);
            let capacity = max_entries(value_bytes) as u64;
            let mut forest = Forest::new(200, 1, value_bytes);
            let sizes = sizes(&mut random, capacity, leaves);
            let root = plant(&mut forest, &[], &sizes, 252, below);
            forest.plant(root);
            forest.commit();
            let mut edges = vec![0, 1, u64::MAX - 1, u64::MAX];
            edges.extend(
                forest
                    .model
                    .keys()
                    .flat_map(|keys| [keys[0] - STEP + 1, keys[0] - 1, keys[0], keys[0] + 1]),
            );
            edges.sort_unstable();
            for (index, begin) in edges.iter().enumerate() {
                for end in &edges[index..] {
                    cut_a_copy(&mut forest, *begin, *end);
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 10_000, "{cases} cases");
}

/// First keys of all nodes of a depth, as their parents have them.
fn separators(forest: &Forest, depth: usize) -> Vec<u64> {
    let mut row = vec![(0, forest.root)];
    for _ in 0..depth {
        let mut below = Vec::new();
        for (_, at) in row {
            let block = forest.txn.read(at, &NODE_VALIDATOR).unwrap();
            let node = Node::parse(at, &block).unwrap();
            let children = node.children().unwrap().iter();
            let keys = node.keys().iter().map(|key| key.get());
            below.extend(keys.zip(children.map(|child| BlockNr(child.get()))));
        }
        row = below;
    }
    row.into_iter().map(|entry| entry.0).collect()
}

#[test]
fn ranges_of_tall_trees_that_begin_and_end_at_any_depth_leave_sound_nodes() {
    // Where trees are as thin as can be, little is left to merge with, and every merge
    // leaves the node above too small.
    for (seed, value_bytes, leaves, thin, depths) in [
        (1, 1346, 84 * 84 * 2, true, 1..4),
        (2, 669, 84 * 84 * 2, true, 1..4),
        (3, 669, 84 * 84 * 2, false, 1..4),
        (4, 8, 200, false, 1..2),
    ] {
        let mut random = Random::new(seed);
        let capacity = max_entries(value_bytes) as u64;
        let mut forest = Forest::new(leaves * 5 / 4 + 500, 1, value_bytes);
        let sizes = match thin {
            true => vec![capacity / 3; leaves],
            false => sizes(&mut random, capacity, leaves),
        };
        let root = plant(&mut forest, &[], &sizes, 84, random.below(STEP));
        forest.plant(root);
        forest.commit();
        let mut edges: Vec<Vec<u64>> = depths.map(|depth| separators(&forest, depth)).collect();
        let keys: Vec<u64> = forest.model.keys().map(|keys| keys[0]).collect();
        edges.push(keys.clone());
        edges.push(vec![0, u64::MAX]);
        let edge = |random: &mut Random| {
            let row = &edges[random.below(edges.len() as u64) as usize];
            // Near the ends of the tree only few nodes are left on one side.
            let place = match random.below(4) {
                0 => random.below(3.min(row.len() as u64)),
                1 => row.len() as u64 - 1 - random.below(3.min(row.len() as u64)),
                _ => random.below(row.len() as u64),
            };
            let near = random.below(3);
            (row[place as usize].saturating_add(near)).saturating_sub(1)
        };
        for _ in 0..40 {
            let one = edge(&mut random);
            let other = match random.below(4) {
                0 => one.saturating_add(random.below(3 * STEP)),
                _ => edge(&mut random),
            };
            cut_a_large_copy(&mut forest, one.min(other), one.max(other), &keys);
        }
        // And what it was cut from is what it was, bytes of values included.
        forest.check();
    }
}

#[test]
fn a_tree_that_loses_range_after_range_stays_sound_whoever_owns_parts_of_it() {
    for seed in 0..12 {
        let mut random = Random::new(seed);
        let value_bytes = [1346, 669, 161, 8][seed as usize % 4];
        let capacity = max_entries(value_bytes) as u64;
        let levels = 1 + random.below(2) as usize;
        let prefix = &[7][..levels - 1];
        let mut forest = Forest::new(4000, levels, value_bytes);
        let sizes = sizes(&mut random, capacity, 400);
        let mut root = plant(&mut forest, prefix, &sizes, 84, random.below(STEP));
        if levels == 2 {
            let other = forest.leaf(&[9], [1, 2, 3]);
            root = forest.pointers(true, &[(7, root), (9, other)]);
        }
        forest.plant(root);
        let end = 20 * STEP + STEP * sizes.iter().sum::<u64>();
        for _ in 0..12 {
            // Owners of any node, this transaction's or an earlier one's.
            for _ in 0..random.below(4) {
                let key = [prefix, &[random.below(end)]].concat();
                let places = forest.around(&key);
                let (at, level) = places[random.below(places.len() as u64) as usize];
                forest.hold(at, level);
            }
            if random.chance(40) {
                forest.commit();
            }
            let begin = random.below(end);
            let most = [end / 100, end / 4, end][random.below(3) as usize];
            forest.cut(prefix, begin..begin + random.below(most));
            forest.check();
            // And on, in what came of it.
            let keys = [prefix, &[random.below(end)]].concat();
            forest.insert(&keys, 5);
            forest.remove(&keys);
            while forest.held.len() > 3 {
                forest.release(0);
            }
            forest.check();
        }
        while !forest.held.is_empty() {
            forest.release(0);
        }
        forest.cut(prefix, 0..u64::MAX);
        forest.check();
        forest.insert(&[prefix, &[3]].concat(), 3);
        forest.check();
    }
}

#[test]
fn what_reaches_few_leaves_leaves_the_nodes_of_single_removals() {
    for begin in [44, 300, 1004, 2000] {
        for length in [1, 10, 84, 100] {
            let mut pair = [(), ()].map(|()| {
                let mut forest = Forest::new(200, 1, 8);
                let root = plant(&mut forest, &[], &[84, 100, 84, 252, 90], 252, 0);
                forest.plant(root);
                forest
            });
            let end = begin + STEP * length;
            pair[0].remove_range(&[], begin..end);
            for key in (begin..end).step_by(STEP as usize) {
                assert_eq!(pair[1].remove_leaves(&[key], end.min(key + STEP)), 1);
            }
            let [found, expected] = pair.each_ref().map(|forest| separators(forest, 1));
            assert_eq!(found, expected, "{length} from {begin}");
            pair[0].check();
        }
    }
}

/// Counts the calls, and what they were for.
#[derive(Default)]
struct Calls {
    incs: usize,
    decs: usize,
    values: usize,
}

impl ValueType for Calls {
    fn inc(&mut self, _txn: &mut Transaction, _values: &[u8]) -> Result<()> {
        self.incs += 1;
        Ok(())
    }

    fn dec(&mut self, _txn: &mut Transaction, values: &[u8]) -> Result<()> {
        self.decs += 1;
        self.values += values.len() / 8;
        Ok(())
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        old == new
    }
}

/// A thousand full leaves in order; somebody else owns the whole or nothing of it.
fn thousand(shared: bool) -> (Forest, u64) {
    let mut forest = Forest::new(1200, 1, 8);
    let count = 1000 * 252;
    let mut builder = Builder::new(8).unwrap();
    for key in 0..count {
        builder
            .push(&mut forest.txn, key, &key.to_le_bytes())
            .unwrap();
    }
    let root = builder.finish(&mut forest.txn).unwrap();
    forest.plant(root);
    if shared {
        forest.txn.inc(root).unwrap();
    }
    forest.commit();
    (forest, count)
}

#[test]
fn a_long_range_is_told_leaf_by_leaf_and_copies_a_few_nodes() {
    for shared in [false, true] {
        let (mut forest, count) = thousand(shared);
        let mut calls = Calls::default();
        let mut tree = TreeType {
            levels: 1,
            value_bytes: 8,
            values: &mut calls,
        };
        let (root, range) = (forest.root, 100..count - 100);
        let (_, removed) = remove_range(&mut forest.txn, &mut tree, root, &[], range).unwrap();
        assert_eq!(removed, count - 200);
        let shadows = (1..1200).filter(|at| forest.txn.is_shadow(BlockNr(*at)));
        assert!(shadows.count() <= 12, "copies of a few nodes");
        if shared {
            // A leaf on each side was copied; all others stay whose they are.
            assert!(calls.incs <= 4 && calls.decs <= 4, "{} incs", calls.incs);
        } else {
            assert_eq!((calls.incs, calls.values as u64), (0, removed));
            assert!((998..=1002).contains(&calls.decs), "{} calls", calls.decs);
        }
    }
}

/// Overwrites a child of a node.
fn lead(forest: &mut Forest, at: BlockNr, index: usize, child: BlockNr) {
    let mut node = forest.txn.blocks().write_lock(at, &NODE_VALIDATOR).unwrap();
    let place = 32 + 8 * (252 + index);
    node.bytes_mut()[place..place + 8].copy_from_slice(&child.0.to_le_bytes());
}

#[test]
fn a_leaf_that_is_met_twice_is_damage_whether_it_is_shared_or_not() {
    for references in [1, 2, 90] {
        for (index, other) in [(2, 3), (2, 4), (1, 2), (2, 1), (4, 3)] {
            let mut forest = Forest::new(200, 1, 161);
            let root = plant(&mut forest, &[], &[24; 6], 252, 0);
            forest.plant(root);
            let block = forest.txn.read(root, &NODE_VALIDATOR).unwrap();
            let node = Node::parse(root, &block).unwrap();
            let child = BlockNr(node.children().unwrap()[other].get());
            drop(block);
            lead(&mut forest, root, index, child);
            (1..references).for_each(|_| forest.txn.inc(child).unwrap());
            // From the midst of the second leaf to that of the fifth.
            let range = 40 + STEP * 30..40 + STEP * 110;
            let answer = forest.with(|txn, tree| remove_or_cut(txn, tree, root, &[], range, 0));
            assert!(
                matches!(answer, Err(Error::Damaged(_))),
                "{references} references: {answer:?}"
            );
        }
    }
}

#[test]
fn a_few_nodes_that_pose_as_a_tree_without_end_are_damage_at_once() {
    for shared in [false, true] {
        let mut forest = Forest::new(64, 1, 8);
        let mut below = forest.leaf(&[], 100..200);
        for _ in 0..14 {
            let children: Vec<(u64, BlockNr)> = (0..252).map(|key| (100 + key, below)).collect();
            if shared {
                (0..251).for_each(|_| forest.txn.inc(below).unwrap());
            }
            below = forest.pointers(false, &children);
        }
        forest.plant(below);
        let root = forest.root;
        for range in [0..u64::MAX, 150..u64::MAX, 0..150, 120..180] {
            let answer = forest.with(|txn, tree| remove_range(txn, tree, root, &[], range));
            assert!(matches!(answer, Err(Error::Damaged(_))), "{answer:?}");
        }
    }
}
