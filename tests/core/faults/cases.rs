//! Transactions of which every request fails once.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::store::{Store, StoreOptions, StoreTransaction, TreeNr};

use crate::crash::script::{Op, scattered};
use crate::crash::state::{Content, Trees};

/// What is there, and what is done to it.
pub struct Case {
    pub name: &'static str,
    /// A store, as bytes.
    pub image: Vec<u8>,
    pub before: Content,
    /// One call each, so that one that failed can be repeated.
    pub ops: Vec<Op>,
    pub after: Content,
}

/// A tree that every case has and none changes.
pub const UNTOUCHED: &str = "e";

/// Every step a single call.
fn single_calls(ops: Vec<Op>) -> Vec<Op> {
    let split = |op| match op {
        Op::Put(name, bytes, keys, seed) => {
            let each = keys
                .into_iter()
                .map(|key| Op::Put(name, bytes, vec![key], seed));
            each.collect()
        }
        Op::Remove(name, keys) => {
            let each = keys.into_iter().map(|key| Op::Remove(name, vec![key]));
            each.collect()
        }
        other => vec![other],
    };
    ops.into_iter().flat_map(split).collect::<Vec<Op>>()
}

pub fn options() -> StoreOptions {
    StoreOptions {
        cache_bytes: 0,
        ..StoreOptions::default()
    }
}

/// Does all of it, and commits.
pub fn transact(store: &Arc<Store>, ops: &[Op], trees: &mut Trees) -> thinmeta::Result<()> {
    let txn = store.transaction(None)?;
    ops.iter().try_for_each(|op| op.apply(&txn, trees))?;
    txn.commit()
}

fn case(name: &'static str, blocks: usize, before: Vec<Vec<Op>>, ops: Vec<Op>) -> Case {
    let device = Arc::new(MemoryDevice::writable(vec![0; blocks * 4096]));
    let store = Store::create_on(Arc::clone(&device) as Arc<dyn Device>, &options()).unwrap();
    let mut trees = BTreeMap::new();
    for ops in &before {
        transact(&store, ops, &mut trees).unwrap();
    }
    let image = device.contents();
    let generation = 1 + before.len() as u64;
    let committed = Content::new(generation, &trees);
    let ops = single_calls(ops);
    transact(&store, &ops, &mut trees).unwrap();
    Case {
        name,
        image,
        before: committed,
        ops,
        after: Content::new(generation + 1, &trees),
    }
}

/// All kinds of changes, of trees that are shared and of trees that are not.
pub fn cases() -> Vec<Case> {
    let trees = || {
        vec![
            vec![
                Op::PutMany("a", 8, scattered(2500), 1),
                Op::PutMany("b", 100, scattered(300), 2),
            ],
            vec![Op::Snapshot("a", "c")],
            vec![
                Op::Snapshot("a", "d"),
                Op::Snapshot("a", "e"),
                Op::Put("a", 8, vec![9], 3),
            ],
        ]
    };
    vec![
        case(
            "inserts",
            150,
            trees(),
            vec![
                Op::Put("a", 8, scattered(12), 7),
                Op::Put("new", 8, vec![1], 8),
                Op::Put("b", 100, (0..8).collect(), 9),
            ],
        ),
        case(
            "a batch",
            200,
            trees(),
            vec![Op::PutMany(
                "c",
                8,
                (0..1500).map(|key| key * 31).collect(),
                7,
            )],
        ),
        case(
            "removal",
            150,
            trees(),
            vec![
                Op::Remove("b", scattered(12)),
                Op::RemoveRange("c", 20_000..70_000),
                Op::RemoveRange("b", 0..50_000),
            ],
        ),
        case(
            "sharing",
            150,
            trees(),
            vec![
                Op::Snapshot("b", "x"),
                Op::Put("b", 100, vec![1], 7),
                Op::Snapshot("c", "y"),
                Op::Put("y", 8, vec![1, 50_000], 8),
                Op::Put("c", 8, vec![70_000], 9),
            ],
        ),
        case(
            "deletion",
            150,
            trees(),
            vec![
                Op::Delete("b"),
                Op::Delete("c"),
                Op::Delete("a"),
                Op::Put("d", 8, vec![1], 7),
            ],
        ),
        case(
            "early writes",
            400,
            trees(),
            vec![
                Op::PutMany("big", 1000, scattered(150), 7),
                Op::Put("big", 1000, (0..60).map(|key| key * 1003).collect(), 8),
            ],
        ),
    ]
}

/// Asserts that everything but views answers in one way.
pub fn all_answer(
    store: &Arc<Store>,
    txn: &StoreTransaction,
    tree: TreeNr,
    name: &str,
    is_right: impl Fn(&Error) -> bool,
) {
    let check = |call: &str, answer: thinmeta::Result<()>| match answer {
        Err(error) if is_right(&error) => {}
        other => panic!("{call} answered {other:?}"),
    };
    let wait = thinmeta::btree::Wait::Yes;
    check("tree", txn.tree(name).map(drop));
    check("tree_or_new", txn.tree_or_new("another", 8).map(drop));
    check("get", txn.get(tree, 1, &mut [0; 8], wait).map(drop));
    check("insert", txn.insert(tree, 1, &[0; 8]).map(drop));
    check(
        "insert_many",
        txn.insert_many(tree, &[1], &[0; 8]).map(drop),
    );
    check("remove", txn.remove(tree, 1).map(drop));
    check("remove_range", txn.remove_range(tree, 0..9).map(drop));
    check("snapshot", txn.snapshot(name, "another"));
    check("delete", txn.delete(name));
    check("names", txn.names().map(drop));
    check("known_tree", txn.known_tree(tree).map(drop));
    check("commit", txn.commit());
    check("space", store.space().map(drop));
}
