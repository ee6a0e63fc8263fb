//! What a kernel made of the same operations, leaf by leaf.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::block::BlockManager;
use thinmeta::btree::{NODE_VALIDATOR, Node, Plain, TreeType, empty, insert, remove_leaves};
use thinmeta::device::MemoryDevice;
use thinmeta::transaction::Transaction;

use super::json::Json;
use crate::support::fixtures;

/// More than the largest history needs.
const BLOCKS: usize = 2048;

/// Entries of each leaf, left to right, and all keys.
fn leaves(txn: &Transaction, at: BlockNr, sizes: &mut Vec<u64>, keys: &mut Vec<u64>) {
    let block = txn.read(at, &NODE_VALIDATOR).unwrap();
    let node = Node::parse(at, &block).unwrap();
    if node.is_leaf() {
        sizes.push(node.keys().len() as u64);
        keys.extend(node.keys().iter().map(|key| key.get()));
        return;
    }
    for child in node.children().unwrap() {
        leaves(txn, BlockNr(child.get()), sizes, keys);
    }
}

/// Plays a history; answers how many stages were compared.
fn replay(history: &Json) -> usize {
    let name = history.field("name").text();
    let device = MemoryDevice::writable(vec![0; BLOCKS << 12]);
    let blocks = BlockManager::new(Arc::new(device), 32 << 20);
    let mut txn = Transaction::in_memory(&blocks).unwrap();
    let mut tree = TreeType {
        levels: 1,
        value_bytes: 8,
        values: &mut Plain,
    };
    let mut root = empty(&mut txn, 8).unwrap();
    let mut model = BTreeMap::new();
    let mut stages = history.field("stages").list().iter().peekable();
    let mut compared = 0;
    for (done, op) in (1_u64..).zip(history.field("ops").list()) {
        let op = op.list();
        let number = |index: usize| op[index].number();
        match op[0].text() {
            "insert" => {
                let (key, value) = (number(1), done.to_le_bytes());
                let inserted = insert(&mut txn, &mut tree, root, &[key], &value).unwrap();
                assert_eq!(inserted.added, model.insert(key, done).is_none());
                root = inserted.root;
            }
            "remove_leaves" => {
                let (first, end) = (number(1), number(2));
                let keys = [first];
                let (new, count) = remove_leaves(&mut txn, &mut tree, root, &keys, end).unwrap();
                let before = model.len() as u64;
                model.retain(|key, _| *key < first || *key >= end);
                assert_eq!(
                    count,
                    before - model.len() as u64,
                    "{name}, operation {done}"
                );
                root = new;
            }
            "share" => txn.inc(root).unwrap(),
            other => panic!("operation {other}"),
        }
        if let Some(stage) = stages.next_if(|stage| stage.field("after_ops").number() == done) {
            let wanted = stage.field("leaf_entries").list().iter();
            let wanted: Vec<u64> = wanted.map(Json::number).collect();
            let (mut sizes, mut keys) = (Vec::new(), Vec::new());
            leaves(&txn, root, &mut sizes, &mut keys);
            assert_eq!(sizes, wanted, "{name}, after {done} operations");
            assert!(
                keys.iter().eq(model.keys()),
                "{name}, after {done} operations"
            );
            compared += 1;
        }
    }
    assert!(stages.next().is_none(), "{name}: a stage was not reached");
    compared
}

#[test]
fn every_recorded_history_gives_the_kernels_leaves_at_every_stage() {
    let text = String::from_utf8(fixtures::unpacked("tree-shapes.json")).unwrap();
    let recorded = Json::parse(&text);
    assert_eq!(recorded.field("value_size").number(), 8);
    let compared = recorded.field("histories").list().iter().map(replay);
    assert_eq!(compared.collect::<Vec<_>>(), [3, 8, 1]);
}
