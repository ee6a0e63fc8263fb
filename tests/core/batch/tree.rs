//! Trees on devices in memory, built in one call.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::block::BlockManager;
use thinmeta::btree::{Builder, Plain, TreeType, insert_batch};
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::transaction::Transaction;

use crate::support::chance::Chance;

/// A transaction on a device of so many blocks, and the device.
pub fn transaction(blocks: usize) -> (Transaction, Arc<MemoryDevice>) {
    let device = Arc::new(MemoryDevice::writable(vec![0; blocks << 12]));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 8 << 20);
    (Transaction::in_memory(&manager).unwrap(), device)
}

/// A tree and what is in it.
pub struct Filled {
    pub txn: Transaction,
    pub device: Arc<MemoryDevice>,
    pub root: BlockNr,
    pub model: BTreeMap<u64, Vec<u8>>,
}

/// A tree with so many keys below `end`, its values of so many bytes.
pub fn filled(chance: &mut Chance<'_>, count: u64, end: u64, value_bytes: usize) -> Filled {
    let (mut txn, device) = transaction(4000);
    let root = Builder::new(value_bytes).unwrap().finish(&mut txn).unwrap();
    let keys: Vec<u64> = (0..count).map(|_| chance.below(end)).collect();
    let mut values = vec![0; keys.len() * value_bytes];
    values
        .iter_mut()
        .for_each(|byte| *byte = chance.word() as u8);
    let mut plain = Plain;
    let mut tree = TreeType {
        levels: 1,
        value_bytes,
        values: &mut plain,
    };
    let root = insert_batch(&mut txn, &mut tree, root, &keys, &values)
        .unwrap()
        .root;
    let entries = keys.iter().copied();
    let model = entries
        .zip(values.chunks(value_bytes).map(<[u8]>::to_vec))
        .collect();
    Filled {
        txn,
        device,
        root,
        model,
    }
}
