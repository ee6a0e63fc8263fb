//! Every operation, with each node that it touches owned by somebody else too.

use super::forest::Forest;
use crate::units::BlockNr;

/// Capacity of the leaves here: 24.
const VALUE_BYTES: usize = 161;

/// A tree put together by hand, and keys in its midst.
type Scene = fn(&mut Forest) -> Vec<u64>;

/// Leaves of these sizes; keys are even.
fn leaves(forest: &mut Forest, prefix: &[u64], sizes: &[u64]) -> Vec<(u64, BlockNr)> {
    let mut next = 100;
    let mut all = Vec::new();
    for size in sizes {
        let keys = (0..*size).map(|index| next + 2 * index);
        all.push((next, forest.leaf(prefix, keys)));
        next += 2 * size;
    }
    all
}

fn over_leaves(forest: &mut Forest, sizes: &[u64], middle: u64) -> Vec<u64> {
    let children = leaves(forest, &[], sizes);
    let root = forest.pointers(false, &children);
    forest.plant(root);
    vec![middle]
}

/// Three depths: internal nodes with so many leaves each.
fn over_internals(forest: &mut Forest, fans: &[usize], leaf_size: u64) -> Vec<u64> {
    let leaf_count = fans.iter().sum();
    let all = leaves(forest, &[], &vec![leaf_size; leaf_count]);
    let (mut rest, mut children) = (&all[..], Vec::new());
    for fan in fans {
        let (own, later) = rest.split_at(*fan);
        children.push((own[0].0, forest.pointers(false, own)));
        rest = later;
    }
    let root = forest.pointers(false, &children);
    forest.plant(root);
    let middle = &all[leaf_count / 2];
    vec![middle.0 + 4]
}

/// Two levels; the upper one two deep.
fn nested(forest: &mut Forest, sizes: &[usize]) -> Vec<u64> {
    let (mut children, mut device) = (Vec::new(), 0);
    for size in sizes {
        let mut entries = Vec::new();
        for _ in 0..*size {
            device += 3;
            let root = if device == 300 {
                let subtree = leaves(forest, &[device], &[9, 9, 8]);
                forest.pointers(false, &subtree)
            } else {
                forest.leaf(&[device], [7, 9])
            };
            entries.push((device, root));
        }
        children.push((entries[0].0, forest.pointers(true, &entries)));
    }
    let root = forest.pointers(false, &children);
    forest.plant(root);
    vec![300, 120]
}

/// Name, levels, and how it is made.
const SCENES: [(&str, usize, Scene); 14] = [
    ("a leaf", 1, |forest| {
        let root = forest.leaf(&[], (0..24).map(|index| 100 + 2 * index));
        forest.plant(root);
        vec![110]
    }),
    ("a single leaf under the root", 1, |forest| {
        over_leaves(forest, &[17], 110)
    }),
    ("a single node under the root", 1, |forest| {
        over_internals(forest, &[90], 8)
    }),
    ("a pair that merges", 1, |forest| {
        over_leaves(forest, &[8, 9], 110)
    }),
    ("a pair that evens out", 1, |forest| {
        over_leaves(forest, &[8, 20], 110)
    }),
    ("a centre that goes", 1, |forest| {
        over_leaves(forest, &[10, 11, 11], 124)
    }),
    ("three as small as can be", 1, |forest| {
        over_leaves(forest, &[8, 8, 8], 120)
    }),
    ("three that share out", 1, |forest| {
        over_leaves(forest, &[24, 9, 12], 150)
    }),
    ("three full ones", 1, |forest| {
        over_leaves(forest, &[24, 24, 24], 160)
    }),
    ("a full one with room on the left", 1, |forest| {
        over_leaves(forest, &[10, 24, 24], 140)
    }),
    ("a full one with room on the right", 1, |forest| {
        over_leaves(forest, &[24, 24, 16], 160)
    }),
    ("three depths, few leaves each", 1, |forest| {
        over_internals(forest, &[90, 91, 92], 8)
    }),
    ("three depths, all full", 1, |forest| {
        over_internals(forest, &[252, 252, 252], 8)
    }),
    ("two levels", 2, |forest| nested(forest, &[84, 90, 85])),
];

const OPERATIONS: [&str; 9] = [
    "insert",
    "overwrite",
    "overwrite by the same",
    "remove",
    "remove_leaves",
    "remove_range",
    "cut little",
    "cut much",
    "delete",
];

fn operate(forest: &mut Forest, operation: &str, keys: &[u64]) {
    let (last, prefix) = keys.split_last().unwrap();
    match operation {
        "insert" => forest.insert(&[prefix, &[last + 1]].concat(), 5),
        "overwrite" => forest.insert(keys, 5),
        "overwrite by the same" => forest.insert(keys, *last),
        "remove" => forest.remove(keys),
        "remove_leaves" => assert_eq!(forest.remove_leaves(keys, last + 1), 1),
        "remove_range" => forest.remove_range(prefix, last - 9..last + 29),
        "cut little" => forest.cut(prefix, *last..last + 1),
        "cut much" => forest.cut(prefix, last - 9..last + 1500),
        _ => forest.delete(),
    }
}

/// A scene anew; where one comes from an earlier transaction, it is committed.
fn set(scene: Scene, levels: usize, committed: bool) -> (Forest, Vec<u64>) {
    let mut forest = Forest::new(2000, levels, VALUE_BYTES);
    let keys = scene(&mut forest);
    assert!(forest.model.contains_key(&keys), "keys {keys:?}");
    if committed {
        forest.commit();
    }
    (forest, keys)
}

#[test]
fn every_operation_leaves_what_others_own_alone_whichever_node_that_is() {
    let mut cases = 0;
    for (name, levels, scene) in SCENES {
        for operation in OPERATIONS {
            for committed in [false, true] {
                let (forest, keys) = set(scene, levels, committed);
                let mut places = forest.around(&keys);
                places.dedup();
                for place in 0..=places.len() {
                    println!("{name}: {operation}, committed: {committed}, place {place}");
                    let (mut forest, keys) = set(scene, levels, committed);
                    if let Some((at, level)) = places.get(place) {
                        forest.hold(*at, *level);
                    }
                    operate(&mut forest, operation, &keys);
                    forest.check();
                    // And on, in what came of it.
                    forest.insert(&keys, 6);
                    forest.remove(&keys);
                    forest.check();
                    cases += 1;
                }
            }
        }
    }
    assert!(cases > 900, "{cases} cases");
}

#[test]
fn a_root_owned_twice_is_copied_once() {
    let (mut forest, keys) = set(SCENES[11].2, 1, true);
    forest.hold(forest.root, 0);
    forest.insert(&keys, 9);
    let root = forest.root;
    assert!(forest.held[0].at != root && forest.txn.is_shadow(root));
    forest.insert(&keys, 10);
    assert_eq!(
        forest.root, root,
        "a shadow that nobody shares is copied again"
    );
    forest.check();
}
