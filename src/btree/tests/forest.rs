//! A tree, others who own parts of it, and the judge of both.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::block::BlockData;
use crate::btree::node_mut::{Form, NodeMut};
use crate::btree::remove_range::remove_or_cut;
use crate::btree::testing::{Counted, Ledger, transaction};
use crate::btree::{
    NODE_VALIDATOR, Node, TreeType, delete, empty, insert, max_entries, remove, remove_leaves,
    remove_range,
};
use crate::error::Result;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Keys of all levels, and the value.
pub type Model = BTreeMap<Vec<u64>, Vec<u8>>;

/// A node that somebody else owns too, with all under it as it was then.
pub struct Held {
    pub at: BlockNr,
    level: usize,
    blocks: BTreeMap<u64, Arc<BlockData>>,
}

/// A nested tree on its own device.
pub struct Forest {
    pub txn: Transaction,
    pub levels: usize,
    pub value_bytes: usize,
    pub root: BlockNr,
    pub model: Model,
    pub held: Vec<Held>,
    /// What the values were counted by.
    ledger: Ledger,
}

/// The value that stands for a number.
pub fn value(number: u64, value_bytes: usize) -> Vec<u8> {
    let word = number.to_le_bytes();
    word.iter().cycle().take(value_bytes).copied().collect()
}

impl Forest {
    pub fn new(blocks: usize, levels: usize, value_bytes: usize) -> Self {
        let mut txn = transaction(blocks);
        let width = if levels > 1 { 8 } else { value_bytes };
        let root = empty(&mut txn, width).unwrap();
        Self {
            txn,
            levels,
            value_bytes,
            root,
            model: Model::new(),
            held: Vec::new(),
            ledger: Ledger::default(),
        }
    }

    /// A leaf of the last level, put together by hand; its keys come after `prefix`.
    pub fn leaf(&mut self, prefix: &[u64], keys: impl IntoIterator<Item = u64>) -> BlockNr {
        let mut node = NodeMut::new(&mut self.txn, Form::leaf(self.value_bytes)).unwrap();
        for key in keys {
            let value = value(key, self.value_bytes);
            node.insert(node.len(), key, &value).unwrap();
            self.ledger.add(&value, 1);
            self.model.insert([prefix, &[key]].concat(), value);
        }
        node.location()
    }

    /// An internal node, or a leaf of an upper level.
    pub fn pointers(&mut self, leaf: bool, entries: &[(u64, BlockNr)]) -> BlockNr {
        let form = if leaf {
            Form::leaf(8)
        } else {
            Form::internal()
        };
        let mut node = NodeMut::new(&mut self.txn, form).unwrap();
        for (key, child) in entries {
            let child = child.0.to_le_bytes();
            node.insert(node.len(), *key, &child).unwrap();
        }
        node.location()
    }

    /// Makes a tree put together by hand the one in use.
    pub fn plant(&mut self, root: BlockNr) {
        self.txn.dec(self.root).unwrap();
        self.root = root;
    }

    pub fn insert(&mut self, keys: &[u64], number: u64) {
        let value = value(number, self.value_bytes);
        let old = self.model.insert(keys.to_vec(), value.clone());
        if old.as_ref() != Some(&value) {
            self.ledger.add(&value, 1);
        }
        let root = self.root;
        let inserted = self.with(|txn, tree| insert(txn, tree, root, keys, &value).unwrap());
        assert_eq!(inserted.added, old.is_none());
        self.root = inserted.root;
    }

    pub fn remove(&mut self, keys: &[u64]) {
        let expected = self.model.remove(keys).is_some();
        let (root, before) = (self.root, self.txn.side_effects());
        let removed = self.with(|txn, tree| remove(txn, tree, root, keys).unwrap());
        assert_eq!(removed.is_some(), expected);
        if let Some(root) = removed {
            self.root = root;
        } else {
            assert_eq!(self.txn.side_effects(), before, "absence leaves a trace");
        }
    }

    /// Removes a run; the first key is there. Gives how many went.
    pub fn remove_leaves(&mut self, keys: &[u64], end: u64) -> u64 {
        let root = self.root;
        let answer = self.with(|txn, tree| remove_leaves(txn, tree, root, keys, end).unwrap());
        self.root = answer.0;
        let (first, prefix) = keys.split_last().unwrap();
        // It may go on behind a hole, where a leaf begins: the first so many, at any rate.
        let range = [prefix, &[*first]].concat()..[prefix, &[end]].concat();
        let count = usize::try_from(answer.1).unwrap();
        let gone: Vec<Vec<u64>> = self.model.range(range).take(count).map(own_key).collect();
        assert_eq!(gone.len(), count, "more went than there were");
        let run = (*first..end)
            .zip(&gone)
            .take_while(|(key, keys)| keys.ends_with(&[*key]));
        let run_len = run.count();
        let next = first.saturating_add(run_len as u64);
        let at_hole = [prefix, &[next]].concat();
        assert!(
            next >= end || count > run_len || !self.model.contains_key(&at_hole),
            "the run ended early"
        );
        gone.iter().for_each(|keys| drop(self.model.remove(keys)));
        answer.1
    }

    pub fn remove_range(&mut self, prefix: &[u64], range: Range<u64>) {
        self.take_range(prefix, range, remove_range);
    }

    /// The way of long ranges, however short this one is.
    pub fn cut(&mut self, prefix: &[u64], range: Range<u64>) {
        self.take_range(prefix, range, |txn, tree, root, prefix, range| {
            remove_or_cut(txn, tree, root, prefix, range, 0)
        });
    }

    fn take_range(
        &mut self,
        prefix: &[u64],
        range: Range<u64>,
        take: impl FnOnce(
            &mut Transaction,
            &mut TreeType<'_>,
            BlockNr,
            &[u64],
            Range<u64>,
        ) -> Result<(BlockNr, u64)>,
    ) {
        let (root, effects) = (self.root, self.txn.side_effects());
        let answer = self.with(|txn, tree| take(txn, tree, root, prefix, range.clone()).unwrap());
        self.root = answer.0;
        if answer.1 == 0 {
            assert_eq!(answer.0, root);
            assert_eq!(self.txn.side_effects(), effects, "nothing leaves a trace");
        }
        let before = self.model.len();
        let end = prefix.len();
        self.model
            .retain(|keys, _| keys[..end] != *prefix || !range.contains(&keys[end]));
        assert_eq!(answer.1, (before - self.model.len()) as u64);
    }

    /// Drops the tree and starts an empty one.
    pub fn delete(&mut self) {
        let root = self.root;
        self.with(|txn, tree| delete(txn, tree, root).unwrap());
        let width = if self.levels > 1 { 8 } else { self.value_bytes };
        self.root = empty(&mut self.txn, width).unwrap();
        self.model.clear();
    }

    /// Somebody else comes to own a node of some level.
    pub fn hold(&mut self, at: BlockNr, level: usize) {
        self.txn.inc(at).unwrap();
        let mut walk = Walk::new(self);
        walk.tree(at, level, &[]);
        let seen = walk.seen.into_keys();
        let blocks = seen.map(|at| (at, self.txn.read(BlockNr(at), &NODE_VALIDATOR).unwrap()));
        let blocks = blocks.collect();
        self.held.push(Held { at, level, blocks });
    }

    /// Somebody else lets go.
    pub fn release(&mut self, index: usize) {
        let held = self.held.swap_remove(index);
        let levels = self.levels;
        self.levels -= held.level;
        self.with(|txn, tree| delete(txn, tree, held.at).unwrap());
        self.levels = levels;
    }

    pub fn commit(&mut self) {
        self.txn.committed(0, None).unwrap();
    }

    pub fn with<T>(&mut self, act: impl FnOnce(&mut Transaction, &mut TreeType<'_>) -> T) -> T {
        let mut tree = TreeType {
            levels: self.levels,
            value_bytes: self.value_bytes,
            values: &mut Counted(&mut self.ledger, self.value_bytes),
        };
        act(&mut self.txn, &mut tree)
    }

    /// The tree holds what the model holds; every count is the number of references;
    /// what others own has not changed by a bit.
    pub fn check(&self) {
        let mut walk = Walk::new(self);
        walk.tree(self.root, 0, &[]);
        assert!(walk.found == self.model, "another content");
        for held in &self.held {
            walk.tree(held.at, held.level, &[]);
            for (at, block) in &held.blocks {
                let now = self.txn.read(BlockNr(*at), &NODE_VALIDATOR).unwrap();
                assert!(now.bytes() == block.bytes(), "block {at} belongs to others");
            }
        }
        for block in 1..self.txn.blocks().nr_blocks() {
            let met = walk.seen.get(&block).copied().unwrap_or(0);
            let count = self.txn.ref_count(BlockNr(block)).unwrap();
            assert_eq!(count, met, "references of block {block}");
        }
        assert_eq!(walk.values.0, self.ledger.0, "references of values");
    }

    /// The nodes on the way to some keys and their siblings, with their levels.
    pub fn around(&self, keys: &[u64]) -> Vec<(BlockNr, usize)> {
        let (mut at, mut level, mut all) = (self.root, 0, vec![(self.root, 0)]);
        loop {
            let block = self.txn.read(at, &NODE_VALIDATOR).unwrap();
            let node = Node::parse(at, &block).unwrap();
            let Some(index) = node.search(keys[level]) else {
                return all;
            };
            if node.is_leaf() && level + 1 == self.levels {
                return all;
            }
            let child = |index: usize| {
                let word = *block.bytes()[32 + 8 * (max_entries(8) + index)..]
                    .first_chunk()
                    .unwrap();
                BlockNr(u64::from_le_bytes(word))
            };
            level += usize::from(node.is_leaf());
            let near = index.saturating_sub(1)..=(index + 1).min(node.keys().len() - 1);
            all.extend(near.map(|index| (child(index), level)));
            at = child(index);
        }
    }
}

fn own_key((keys, _): (&Vec<u64>, &Vec<u8>)) -> Vec<u64> {
    keys.clone()
}

/// A visit of every node, which counts each distinct node's pointers once.
struct Walk<'f> {
    forest: &'f Forest,
    seen: BTreeMap<u64, u32>,
    values: Ledger,
    found: Model,
    /// Of the leaves of the sub-tree that is being visited.
    leaf_depth: Option<usize>,
}

/// What the parents say of a node.
#[derive(Clone, Copy)]
struct Way<'k> {
    level: usize,
    depth: usize,
    low: Option<u64>,
    high: Option<u64>,
    prefix: &'k [u64],
    /// Whether its parent is visited for the first time.
    counts: bool,
}

impl<'f> Walk<'f> {
    fn new(forest: &'f Forest) -> Self {
        Self {
            forest,
            seen: BTreeMap::new(),
            values: Ledger::default(),
            found: Model::new(),
            leaf_depth: None,
        }
    }

    fn tree(&mut self, root: BlockNr, level: usize, prefix: &[u64]) {
        self.subtree(root, level, prefix, true);
    }

    fn subtree(&mut self, root: BlockNr, level: usize, prefix: &[u64], counts: bool) {
        let outer = self.leaf_depth.take();
        let way = Way {
            level,
            depth: 0,
            low: None,
            high: None,
            prefix,
            counts,
        };
        self.node(root, way);
        self.leaf_depth = outer;
    }

    fn node(&mut self, at: BlockNr, way: Way<'_>) {
        let pointers = self.seen.entry(at.0).or_default();
        *pointers += u32::from(way.counts);
        let counts = way.counts && *pointers == 1;
        let block = self.forest.txn.read(at, &NODE_VALIDATOR).unwrap();
        let node = Node::parse(at, &block).unwrap();
        let keys: Vec<u64> = node.keys().iter().map(|key| key.get()).collect();
        self.check_node(&node, &keys, way);
        let last_level = way.level + 1 == self.forest.levels;
        if node.is_leaf() {
            let depth = *self.leaf_depth.get_or_insert(way.depth);
            assert_eq!(depth, way.depth, "leaves at different depths");
            let width = self.width(way.level);
            let values = node.packed_values(width).unwrap().chunks(width);
            for (key, value) in keys.iter().zip(values) {
                let keys = [way.prefix, &[*key]].concat();
                if last_level {
                    self.values.add(value, i64::from(counts));
                    self.found.insert(keys, value.to_vec());
                } else {
                    let root = BlockNr(u64::from_le_bytes(value.try_into().unwrap()));
                    self.subtree(root, way.level + 1, &keys, counts);
                }
            }
            return;
        }
        for (index, child) in node.children().unwrap().iter().enumerate() {
            let below = Way {
                depth: way.depth + 1,
                low: Some(keys[index]),
                high: keys.get(index + 1).copied().or(way.high),
                counts,
                ..way
            };
            self.node(BlockNr(child.get()), below);
        }
    }

    fn width(&self, level: usize) -> usize {
        if level + 1 == self.forest.levels {
            self.forest.value_bytes
        } else {
            8
        }
    }

    /// The invariants of the format.
    fn check_node(&self, node: &Node<'_>, keys: &[u64], way: Way<'_>) {
        let at = node.location();
        assert!(keys.is_sorted_by(|one, next| one < next), "order in {at}");
        if let (Some(first), Some(last)) = (keys.first(), keys.last()) {
            assert!(way.low.is_none_or(|low| low <= *first), "bounds of {at}");
            assert!(way.high.is_none_or(|high| *last < high), "bounds of {at}");
        }
        let width = if node.is_leaf() {
            self.width(way.level)
        } else {
            8
        };
        let (header, capacity) = (node.header(), max_entries(width));
        assert_eq!(header.max_entries.get() as usize, capacity);
        assert_eq!(header.value_size.get() as usize, width);
        let fewest = if way.depth > 0 { capacity / 3 } else { 0 };
        assert!(keys.len() >= fewest, "{} entries in {at}", keys.len());
    }
}
