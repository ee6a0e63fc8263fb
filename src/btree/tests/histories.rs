//! Random histories against a map, with snapshots, commits and values that are counted.

use super::forest::Forest;
use crate::btree::{NODE_VALIDATOR, Node};
use crate::testing::Random;
use crate::units::BlockNr;

/// What a history is made of.
struct Plan {
    levels: usize,
    value_bytes: usize,
    /// Keys of the last level are below it.
    span: u64,
    steps: u64,
    /// A full check after so many steps.
    check_every: u64,
}

fn keys(random: &mut Random, plan: &Plan) -> Vec<u64> {
    let above = (1..plan.levels).map(|_| random.below(3) << 60);
    let mut keys: Vec<u64> = above.collect();
    keys.push(random.below(plan.span));
    keys
}

/// Any node of the tree in use, with its level.
fn some_node(forest: &Forest, random: &mut Random) -> (BlockNr, usize) {
    let (mut at, mut level) = (forest.root, 0);
    loop {
        let block = forest.txn.read(at, &NODE_VALIDATOR).unwrap();
        let node = Node::parse(at, &block).unwrap();
        let is_end = node.is_leaf() && level + 1 == forest.levels;
        if is_end || node.keys().is_empty() || random.chance(30) {
            return (at, level);
        }
        let index = usize::try_from(random.below(node.keys().len() as u64)).unwrap();
        let values = if node.is_leaf() {
            node.values::<zerocopy::little_endian::U64>().unwrap()
        } else {
            node.children().unwrap()
        };
        level += usize::from(node.is_leaf());
        at = BlockNr(values[index].get());
    }
}

fn step(forest: &mut Forest, random: &mut Random, plan: &Plan, growing: bool) {
    let keys = keys(random, plan);
    let (last, prefix) = keys.split_last().unwrap();
    let wide = plan.span / 16 + 1;
    match random.below(100) {
        0 => {
            let (at, level) = some_node(forest, random);
            if forest.held.len() < 4 {
                forest.hold(at, level);
            } else {
                let index = random.below(4);
                forest.release(usize::try_from(index).unwrap());
            }
        }
        1 => forest.commit(),
        2 if !growing => {
            let range = *last..last + random.below(wide);
            match random.below(3) {
                0 => forest.remove_range(prefix, range),
                1 => forest.cut(prefix, range),
                // Most of the tree.
                _ => forest.cut(prefix, *last..plan.span - random.below(wide)),
            }
        }
        3..10 => {
            let mut later = forest.model.range(keys.clone()..);
            let first = later.next().map(|entry| entry.0.clone());
            if let Some(first) = first {
                let end = first[first.len() - 1] + 1 + random.below(6);
                assert!(forest.remove_leaves(&first, end) > 0);
            }
        }
        10..30 => forest.remove(&keys),
        number => {
            if growing || number < 45 {
                forest.insert(&keys, random.below(5));
            } else {
                let near = forest.model.range(keys.clone()..).next();
                let keys = near.map_or(keys, |entry| entry.0.clone());
                forest.remove(&keys);
            }
        }
    }
}

fn play(seed: u64, plan: &Plan) {
    let mut random = Random::new(seed);
    let mut forest = Forest::new(6000, plan.levels, plan.value_bytes);
    let phase = plan.steps / 4 + 1;
    for number in 0..plan.steps {
        step(
            &mut forest,
            &mut random,
            plan,
            (number / phase).is_multiple_of(2),
        );
        if number % 500 == 499 {
            // Freed blocks are not used again before a commit.
            forest.commit();
        }
        if number % plan.check_every == 0 {
            forest.check();
        }
    }
    forest.check();
    while !forest.held.is_empty() {
        forest.release(0);
    }
    forest.delete();
    forest.check();
}

#[test]
fn every_step_of_small_trees_keeps_content_counts_and_what_others_own() {
    for (levels, value_bytes) in [(1, 1346), (1, 669), (2, 669), (1, 161), (3, 1346), (2, 24)] {
        for seed in 0..6 {
            let plan = Plan {
                levels,
                value_bytes,
                span: 60,
                steps: 600,
                check_every: 1,
            };
            play(seed, &plan);
        }
    }
}

#[test]
fn trees_of_three_depths_keep_content_counts_and_what_others_own() {
    for (levels, value_bytes, span) in [(1, 1346, 3000), (2, 669, 2000), (1, 161, 30_000)] {
        let plan = Plan {
            levels,
            value_bytes,
            span,
            steps: 16_000,
            check_every: 200,
        };
        play(levels as u64, &plan);
    }
}

#[test]
fn ordinary_value_sizes_keep_content_counts_and_what_others_own() {
    for (levels, value_bytes) in [(1, 1), (1, 4), (1, 8), (2, 8), (3, 24), (1, 200)] {
        let plan = Plan {
            levels,
            value_bytes,
            span: 6000,
            steps: 12_000,
            check_every: 400,
        };
        play(value_bytes as u64, &plan);
    }
}

#[test]
fn the_largest_and_smallest_keys_come_and_go() {
    let mut forest = Forest::new(64, 1, 8);
    for key in [u64::MAX, 0, u64::MAX - 1, 1] {
        forest.insert(&[key], key);
    }
    forest.check();
    assert_eq!(forest.remove_leaves(&[u64::MAX - 1], u64::MAX), 1);
    forest.remove_range(&[], 0..u64::MAX);
    assert_eq!(forest.model.len(), 1);
    forest.remove(&[u64::MAX]);
    forest.check();
}
