//! Test support: a judge of whole trees, and values that are counted in a ledger.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{NODE_VALIDATOR, Node, ValueType, max_entries};
use crate::block::BlockManager;
use crate::device::MemoryDevice;
use crate::error::Result;
use crate::testing::Random;
use crate::transaction::Transaction;
use crate::units::{BLOCK_BYTES, BlockNr};

/// What a tree should hold.
pub type Model = BTreeMap<u64, Vec<u8>>;

/// An empty device of so many blocks, and a transaction on it.
pub fn transaction(blocks: usize) -> Transaction {
    let device = MemoryDevice::writable(vec![0; blocks * BLOCK_BYTES]);
    let manager = BlockManager::new(Arc::new(device), 64 << 20);
    Transaction::in_memory(&manager).unwrap()
}

/// References to values, by their bytes.
#[derive(Default)]
pub struct Ledger(pub BTreeMap<Vec<u8>, i64>);

impl Ledger {
    pub fn add(&mut self, value: &[u8], references: i64) {
        let count = self.0.entry(value.to_vec()).or_default();
        *count += references;
        if *count == 0 {
            self.0.remove(value);
        }
    }
}

/// Counts values of so many bytes in a ledger.
pub struct Counted<'l>(pub &'l mut Ledger, pub usize);

impl ValueType for Counted<'_> {
    fn inc(&mut self, _txn: &mut Transaction, values: &[u8]) -> Result<()> {
        assert!(!values.is_empty() && values.len().is_multiple_of(self.1));
        values.chunks(self.1).for_each(|value| self.0.add(value, 1));
        Ok(())
    }

    fn dec(&mut self, _txn: &mut Transaction, values: &[u8]) -> Result<()> {
        assert!(!values.is_empty() && values.len().is_multiple_of(self.1));
        values
            .chunks(self.1)
            .for_each(|value| self.0.add(value, -1));
        Ok(())
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        assert_eq!((old.len(), new.len()), (self.1, self.1));
        old == new
    }
}

/// Walks trees node by node, not by the code under test; each distinct node once for its
/// pointers.
pub struct Judge<'t> {
    txn: &'t Transaction,
    value_bytes: usize,
    pub pointers: BTreeMap<u64, u32>,
    pub values: Ledger,
}

impl<'t> Judge<'t> {
    pub fn new(txn: &'t Transaction, value_bytes: usize) -> Self {
        Self {
            txn,
            value_bytes,
            pointers: BTreeMap::new(),
            values: Ledger::default(),
        }
    }

    /// Holds a tree to the invariants of the format, all of them; what it has.
    pub fn tree(&mut self, root: BlockNr) -> Model {
        let mut found = Model::new();
        let mut depths = Vec::new();
        self.node(root, None, None, 0, &mut depths, &mut found);
        depths.dedup();
        assert_eq!(depths.len(), 1, "leaves at depths {depths:?}");
        found
    }

    fn node(
        &mut self,
        at: BlockNr,
        low: Option<u64>,
        high: Option<u64>,
        depth: usize,
        depths: &mut Vec<usize>,
        found: &mut Model,
    ) {
        let pointers = self.pointers.entry(at.0).or_default();
        *pointers += 1;
        let is_new = *pointers == 1;
        let block = self.txn.read(at, &NODE_VALIDATOR).unwrap();
        let node = Node::parse(at, &block).unwrap();
        let keys: Vec<u64> = node.keys().iter().map(|key| key.get()).collect();
        assert!(keys.is_sorted_by(|one, next| one < next));
        if let (Some(low), Some(first)) = (low, keys.first()) {
            assert!(low <= *first, "block {at}: {first} below {low}");
        }
        if let (Some(high), Some(last)) = (high, keys.last()) {
            assert!(last < &high, "block {at}: {last} not below {high}");
        }
        let width = if node.is_leaf() { self.value_bytes } else { 8 };
        let capacity = max_entries(width);
        let header = node.header();
        assert_eq!(header.max_entries.get() as usize, capacity);
        assert_eq!(header.value_size.get() as usize, width);
        let fewest = if depth > 0 { capacity / 3 } else { 0 };
        assert!(keys.len() >= fewest, "block {at}: {} entries", keys.len());
        if node.is_leaf() {
            depths.push(depth);
            let values = node.packed_values(width).unwrap().chunks(width);
            for (key, value) in keys.iter().zip(values) {
                assert_eq!(found.insert(*key, value.to_vec()), None);
                if is_new {
                    self.values.add(value, 1);
                }
            }
            return;
        }
        assert!(keys.len() > 1, "a root with a single child");
        for (index, child) in node.children().unwrap().iter().enumerate() {
            let above = keys.get(index + 1).copied().or(high);
            let child = BlockNr(child.get());
            let before = self.pointers.clone();
            self.node(child, Some(keys[index]), above, depth + 1, depths, found);
            if !is_new {
                // Seen through another parent's own pointer already.
                self.pointers = before;
            }
        }
    }

    /// Whether every block has the references that were met, and block 0 its own.
    pub fn check_counts(&self) {
        for block in 1..self.txn.blocks().nr_blocks() {
            let met = self.pointers.get(&block).copied().unwrap_or(0);
            let count = self.txn.ref_count(BlockNr(block)).unwrap();
            assert_eq!(count, met, "references of block {block}");
        }
    }
}

/// A value of so many bytes.
pub fn value(random: &mut Random, value_bytes: usize, kinds: u64) -> Vec<u8> {
    let kind = random.below(kinds).to_le_bytes();
    kind.iter().cycle().take(value_bytes).copied().collect()
}
