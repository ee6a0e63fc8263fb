//! What a store should hold.

use std::collections::BTreeMap;

/// A tree: for each key the number that its value is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    pub value_bytes: usize,
    pub entries: BTreeMap<u64, u64>,
}

pub type Trees = BTreeMap<String, Tree>;

/// The bytes of a value.
pub fn value(seed: u64, bytes: usize) -> impl Iterator<Item = u8> {
    seed.to_le_bytes().into_iter().cycle().take(bytes)
}

/// A tree as a scan reads it.
#[derive(Debug, PartialEq, Eq)]
pub struct Columns {
    pub value_bytes: usize,
    pub keys: Vec<u64>,
    pub values: Vec<u8>,
}

/// All that is committed.
#[derive(Debug)]
pub struct Content {
    pub generation: u64,
    pub trees: Trees,
    pub columns: BTreeMap<String, Columns>,
}

impl Content {
    pub fn new(generation: u64, trees: &Trees) -> Self {
        let columns = trees.iter().map(|(name, tree)| {
            let columns = Columns {
                value_bytes: tree.value_bytes,
                keys: tree.entries.keys().copied().collect(),
                values: tree
                    .entries
                    .values()
                    .flat_map(|seed| value(*seed, tree.value_bytes))
                    .collect(),
            };
            (name.clone(), columns)
        });
        Self {
            generation,
            trees: trees.clone(),
            columns: columns.collect(),
        }
    }
}

/// What opening finds.
#[derive(Debug)]
pub enum State {
    /// No store.
    Nothing,
    Store(Content),
}
