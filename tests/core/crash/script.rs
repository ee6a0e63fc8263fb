//! Transactions, written down: each step changes a store and the plain maps
//! that say what it should hold.

use std::ops::Range;

use thinmeta::Error;
use thinmeta::store::StoreTransaction;

use super::state::{Tree, Trees, value};
use crate::support::chance::Chance;

/// One step. Trees that a step fills are made where there are none.
#[derive(Clone, Debug)]
pub enum Op {
    /// One call for each key.
    Put(&'static str, usize, Vec<u64>, u64),
    /// One call for all keys.
    PutMany(&'static str, usize, Vec<u64>, u64),
    Remove(&'static str, Vec<u64>),
    RemoveRange(&'static str, Range<u64>),
    Snapshot(&'static str, &'static str),
    Delete(&'static str),
    /// To so many blocks, which the device has.
    Grow(u64),
}

/// How a transaction ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Commit,
    Abort,
}

/// A transaction.
#[derive(Clone, Debug)]
pub struct Txn {
    pub ops: Vec<Op>,
    pub end: End,
}

pub fn commit(ops: Vec<Op>) -> Txn {
    let end = End::Commit;
    Txn { ops, end }
}

pub fn abort(ops: Vec<Op>) -> Txn {
    let end = End::Abort;
    Txn { ops, end }
}

/// Keys all over the place, always the same.
pub fn scattered(count: u64) -> Vec<u64> {
    (0..count).map(|index| index * 7919 % 100_003).collect()
}

impl Op {
    /// Does it to both. After an error `trees` is as it was. What cannot be done,
    /// for want of a tree that was never made, is refused and changes nothing.
    pub fn apply(&self, txn: &StoreTransaction, trees: &mut Trees) -> thinmeta::Result<()> {
        match self {
            Self::Put(name, bytes, ..) | Self::PutMany(name, bytes, ..)
                if trees
                    .get(*name)
                    .is_some_and(|tree| tree.value_bytes != *bytes) =>
            {
                return refused(txn.tree_or_new(name, *bytes).map(drop));
            }
            Self::Remove(name, _) | Self::RemoveRange(name, _) if !trees.contains_key(*name) => {
                return refused(txn.tree(name).map(drop));
            }
            Self::Snapshot(from, to) if !trees.contains_key(*from) || trees.contains_key(*to) => {
                return refused(txn.snapshot(from, to));
            }
            Self::Delete(name) if !trees.contains_key(*name) => return refused(txn.delete(name)),
            Self::Put(name, value_bytes, keys, seed) => {
                let tree = txn.tree_or_new(name, *value_bytes)?;
                let mut model = model(trees, name, *value_bytes);
                for key in keys {
                    let bytes: Vec<u8> = value(seed ^ key, *value_bytes).collect();
                    let added = txn.insert(tree, *key, &bytes)?;
                    let before = model.entries.insert(*key, seed ^ key);
                    assert_eq!(added, before.is_none(), "{name}: insert {key}");
                }
                trees.insert((*name).to_owned(), model);
            }
            Self::PutMany(name, value_bytes, keys, seed) => {
                let tree = txn.tree_or_new(name, *value_bytes)?;
                let mut model = model(trees, name, *value_bytes);
                let values = keys.iter().flat_map(|key| value(seed ^ key, *value_bytes));
                let added = txn.insert_many(tree, keys, &values.collect::<Vec<u8>>())?;
                let before = model.entries.len() as u64;
                model
                    .entries
                    .extend(keys.iter().map(|key| (*key, seed ^ key)));
                assert_eq!(added, model.entries.len() as u64 - before, "{name}: added");
                trees.insert((*name).to_owned(), model);
            }
            Self::Remove(name, keys) => {
                let tree = txn.tree(name)?;
                let mut model = trees[*name].clone();
                for key in keys {
                    let gone = txn.remove(tree, *key)?;
                    let before = model.entries.remove(key);
                    assert_eq!(gone, before.is_some(), "{name}: remove {key}");
                }
                trees.insert((*name).to_owned(), model);
            }
            Self::RemoveRange(name, range) => {
                let tree = txn.tree(name)?;
                let gone = txn.remove_range(tree, range.clone())?;
                let entries = &mut trees.get_mut(*name).unwrap().entries;
                let before = entries.len();
                entries.retain(|key, _| !range.contains(key));
                assert_eq!(gone, (before - entries.len()) as u64, "{name}: removed");
            }
            Self::Snapshot(from, to) => {
                txn.snapshot(from, to)?;
                trees.insert((*to).to_owned(), trees[*from].clone());
            }
            Self::Grow(blocks) => txn.grow(blocks * 4096)?,
            Self::Delete(name) => {
                txn.delete(name)?;
                trees.remove(*name);
            }
        }
        Ok(())
    }
}

/// A call that makes no sense: told so, unless something worse comes first.
fn refused(answer: thinmeta::Result<()>) -> thinmeta::Result<()> {
    match answer {
        Err(Error::NoSuchTree(_) | Error::Usage(_)) => Ok(()),
        Err(other) => Err(other),
        Ok(()) => panic!("a call that makes no sense was answered"),
    }
}

fn model(trees: &Trees, name: &str, value_bytes: usize) -> Tree {
    trees.get(name).cloned().unwrap_or_else(|| Tree {
        value_bytes,
        entries: std::collections::BTreeMap::new(),
    })
}

const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];

/// A few steps that make sense after those before them.
pub fn random_ops(chance: &mut Chance<'_>, trees: &Trees) -> Vec<Op> {
    // What there is after the steps so far, with the sizes of values alone.
    let mut there: std::collections::BTreeMap<&str, usize> = NAMES
        .iter()
        .filter_map(|name| Some((*name, trees.get(*name)?.value_bytes)))
        .collect();
    let steps = 1 + chance.below(6);
    let mut ops = Vec::new();
    for _ in 0..steps {
        let (name, other) = (chance.pick(&NAMES), chance.pick(&NAMES));
        let bytes = there.get(name).copied();
        let new_bytes = bytes.unwrap_or_else(|| chance.pick(&[8, 8, 100, 1000]));
        let space = chance.pick(&[50, 400, 5000]);
        let keys = |chance: &mut Chance<'_>, count: u64| -> Vec<u64> {
            (0..count).map(|_| chance.below(space)).collect()
        };
        let op = match (chance.below(10), bytes) {
            (0 | 1, Some(bytes)) if !there.contains_key(other) => {
                there.insert(other, bytes);
                Op::Snapshot(name, other)
            }
            (2, Some(_)) => {
                there.remove(name);
                Op::Delete(name)
            }
            (3, Some(_)) => {
                let begin = chance.below(space);
                Op::RemoveRange(name, begin..begin + chance.below(space))
            }
            (4 | 5, Some(_)) => {
                let count = 1 + chance.below(30);
                Op::Remove(name, keys(chance, count))
            }
            (6 | 7, _) => {
                let count = chance.below(if new_bytes > 8 { 150 } else { 1500 });
                there.insert(name, new_bytes);
                Op::PutMany(name, new_bytes, keys(chance, count), chance.word())
            }
            _ => {
                let count = 1 + chance.below(30);
                there.insert(name, new_bytes);
                Op::Put(name, new_bytes, keys(chance, count), chance.word())
            }
        };
        ops.push(op);
    }
    ops
}
