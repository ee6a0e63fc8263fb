//! Nodes that lie: every operation answers with an error or does something, ends,
//! and leaves no lock behind.

use super::forest::Forest;
use crate::btree::remove_range::remove_or_cut;
use crate::btree::{NODE_VALIDATOR, Node, delete, insert, remove, remove_leaves, remove_range};
use crate::error::{Error, Result};
use crate::testing::Random;
use crate::units::BlockNr;

const BLOCKS: usize = 700;

/// A tree whose nodes are all this transaction's own, so that no checksum protects them.
fn victim(levels: usize, value_bytes: usize, random: &mut Random) -> Forest {
    let mut forest = Forest::new(BLOCKS, levels, value_bytes);
    for _ in 0..300 {
        let mut keys: Vec<u64> = (1..levels).map(|_| random.below(2)).collect();
        keys.push(random.below(500));
        forest.insert(&keys, 1);
    }
    forest
}

/// Overwrites something in a node: a field of its header, a key, or a value.
fn spoil(forest: &mut Forest, at: BlockNr, used: u64, random: &mut Random) {
    let mut block = forest.txn.blocks().write_lock(at, &NODE_VALIDATOR).unwrap();
    let bytes = block.bytes_mut();
    let numbers = [
        0,
        1,
        2,
        3,
        8,
        83,
        84,
        251,
        252,
        253,
        1 << 31,
        u64::from(u32::MAX),
    ];
    let some = numbers[usize::try_from(random.below(12)).unwrap()];
    let word = match random.below(4) {
        0 => some,
        1 => u64::MAX - random.below(2),
        _ => random.below(used + 2),
    };
    match random.below(3) {
        0 => {
            let field = [4, 16, 20, 24][usize::try_from(random.below(4)).unwrap()];
            let some = u32::try_from(some).unwrap();
            bytes[field..field + 4].copy_from_slice(&some.to_le_bytes());
        }
        1 => {
            let place = 32 + 8 * usize::try_from(random.below(90)).unwrap();
            bytes[place..place + 8].copy_from_slice(&word.to_le_bytes());
        }
        // The first values of an internal node: its children.
        _ => {
            let place = 32 + 8 * (252 + usize::try_from(random.below(90)).unwrap());
            bytes[place..place + 8].copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn operate(forest: &mut Forest, random: &mut Random) -> Result<()> {
    let (root, levels) = (forest.root, forest.levels);
    let mut keys: Vec<u64> = (1..levels).map(|_| random.below(2)).collect();
    keys.push(random.below(500));
    let last = keys[levels - 1];
    let value = vec![7; forest.value_bytes];
    let choice = random.below(8);
    let far = last + random.below(500);
    let new: Result<BlockNr> = forest.with(|txn, tree| {
        Ok(match choice {
            0 | 1 => insert(txn, tree, root, &keys, &value)?.root,
            2 => remove(txn, tree, root, &keys)?.unwrap_or(root),
            3 => remove_leaves(txn, tree, root, &keys, last + 9)?.0,
            4 => remove_range(txn, tree, root, &keys[..levels - 1], 0..last)?.0,
            5 => remove_or_cut(txn, tree, root, &keys[..levels - 1], 0..last, 0)?.0,
            6 => remove_or_cut(txn, tree, root, &keys[..levels - 1], last..far, 0)?.0,
            _ => {
                delete(txn, tree, root)?;
                root
            }
        })
    });
    forest.root = new?;
    Ok(())
}

#[test]
fn spoilt_nodes_give_errors_or_other_trees_but_no_panic_no_loop_and_no_lock() {
    let mut failed = 0;
    for seed in 0..2500 {
        let mut random = Random::new(seed);
        let (levels, value_bytes) = [(1, 669), (2, 1346), (1, 1346)][seed as usize % 3];
        let mut forest = victim(levels, value_bytes, &mut random);
        let used = (1..BLOCKS as u64)
            .filter(|at| forest.txn.ref_count(BlockNr(*at)).unwrap() > 0)
            .collect::<Vec<_>>();
        for _ in 0..=random.below(3) {
            // The root is met by every operation.
            let pick = usize::try_from(random.below(used.len() as u64)).unwrap();
            let at = if random.chance(50) {
                forest.root
            } else {
                BlockNr(used[pick])
            };
            spoil(&mut forest, at, used.len() as u64, &mut random);
        }
        for _ in 0..8 {
            if operate(&mut forest, &mut random).is_err() {
                failed += 1;
                break;
            }
        }
        for at in used {
            // A lock that was left would be misuse by this very thread.
            let free = forest.txn.blocks().write_lock(BlockNr(at), &NODE_VALIDATOR);
            assert!(free.is_ok(), "seed {seed}: block {at} is locked");
        }
    }
    assert!(failed > 800, "only {failed} were noticed");
}

#[test]
fn a_full_device_is_no_space_and_leaves_no_lock_and_no_unfinished_node() {
    for blocks in 3..60 {
        for (levels, value_bytes) in [(1, 1346), (2, 669), (1, 8)] {
            let mut random = Random::new(blocks as u64);
            let mut forest = Forest::new(blocks, levels, value_bytes);
            let value = vec![7; value_bytes];
            let failure = loop {
                let mut keys: Vec<u64> = (1..levels).map(|_| random.below(3)).collect();
                keys.push(random.next());
                let root = forest.root;
                match forest.with(|txn, tree| insert(txn, tree, root, &keys, &value)) {
                    Ok(inserted) => forest.root = inserted.root,
                    Err(error) => break error,
                }
            };
            assert!(matches!(failure, Error::NoSpace { .. }), "{failure}");
            for at in (1..blocks as u64).map(BlockNr) {
                if forest.txn.ref_count(at).unwrap() > 0 {
                    let node = forest.txn.blocks().write_lock(at, &NODE_VALIDATOR).unwrap();
                    assert!(Node::parse(at, &node).is_ok(), "block {at}");
                }
            }
        }
    }
}

#[test]
fn a_chain_that_leads_back_to_its_beginning_is_an_error() {
    for operation in 0..7 {
        let mut forest = Forest::new(64, 1, 161);
        let leaf = forest.leaf(&[], 100..108);
        let mut nodes = Vec::new();
        for _ in 0..3 {
            nodes.push(forest.pointers(false, &[(100, leaf), (200, leaf), (300, leaf)]));
        }
        for index in 0..3 {
            let next = nodes[(index + 1) % 3].0.to_le_bytes();
            let mut node = forest
                .txn
                .blocks()
                .write_lock(nodes[index], &NODE_VALIDATOR)
                .unwrap();
            for child in 0..3 {
                let place = 32 + 8 * (252 + child);
                node.bytes_mut()[place..place + 8].copy_from_slice(&next);
            }
        }
        forest.plant(nodes[0]);
        let root = forest.root;
        let failed = forest.with(|txn, tree| match operation {
            0 => insert(txn, tree, root, &[105], &[0; 161]).is_err(),
            1 => remove(txn, tree, root, &[105]).is_err(),
            2 => remove_leaves(txn, tree, root, &[105], 400).is_err(),
            3 => remove_range(txn, tree, root, &[], 0..400).is_err(),
            4 => insert(txn, tree, root, &[1], &[0; 161]).is_err(),
            5 => remove_or_cut(txn, tree, root, &[], 0..400, 0).is_err(),
            _ => delete(txn, tree, root).is_err(),
        });
        assert!(failed, "operation {operation}");
    }
}

#[test]
fn wrong_arguments_leave_no_trace() {
    let mut forest = Forest::new(64, 2, 8);
    forest.insert(&[1, 2], 3);
    let (root, before) = (forest.root, forest.txn.side_effects());
    forest.with(|txn, tree| {
        assert!(insert(txn, tree, root, &[1], &[0; 8]).is_err());
        assert!(insert(txn, tree, root, &[1, 2], &[0; 7]).is_err());
        assert!(remove(txn, tree, root, &[1, 2, 3]).is_err());
        assert!(remove_leaves(txn, tree, root, &[], 3).is_err());
        assert!(remove_range(txn, tree, root, &[1, 2], 0..3).is_err());
        assert_eq!(
            remove_leaves(txn, tree, root, &[7, 2], 9).unwrap(),
            (root, 0)
        );
        assert_eq!(
            remove_range(txn, tree, root, &[7], 0..9).unwrap(),
            (root, 0)
        );
        assert_eq!(
            remove_range(txn, tree, root, &[1], 9..9).unwrap(),
            (root, 0)
        );
        // As it is meant to be called, and as nobody should.
        #[allow(clippy::reversed_empty_ranges)]
        for range in [3..9, 0..2, 9..9, 9..1] {
            let cut = remove_or_cut(txn, tree, root, &[1], range, 0).unwrap();
            assert_eq!(cut, (root, 0));
        }
        assert!(remove_or_cut(txn, tree, root, &[1, 2], 0..3, 0).is_err());
        tree.value_bytes = 1347;
        assert!(insert(txn, tree, root, &[1, 2], &[0; 1347]).is_err());
        assert!(delete(txn, tree, root).is_err());
        tree.levels = 0;
        assert!(insert(txn, tree, root, &[], &[0; 8]).is_err());
        assert!(delete(txn, tree, root).is_err());
    });
    assert_eq!(forest.txn.side_effects(), before);
    forest.check();
}
