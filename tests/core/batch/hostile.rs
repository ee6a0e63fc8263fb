//! Nodes that lie give errors: no panic, no endless call, no batch half-told as whole.

use std::sync::Arc;

use thinmeta::block::{BlockData, BlockManager, Validator};
use thinmeta::btree::{
    NODE_VALIDATOR, Plain, TreeType, Wait, get, get_many, insert_batch, last, next, scan,
};
use thinmeta::device::MemoryDevice;
use thinmeta::task::Task;
use thinmeta::transaction::Transaction;
use thinmeta::{BlockNr, Damage, Error, Result};

use super::tree::filled;
use crate::support::chance::Chance;

/// Changes one field of one node and makes its checksum right again; what was done.
fn bend(chance: &mut Chance<'_>, image: &mut [u8], used: u64) -> String {
    let at = 1 + chance.below(used);
    let block = &mut image[(at as usize) << 12..][..4096];
    let mut data = BlockData::zeroed();
    data.bytes_mut().copy_from_slice(block);
    let numbers = [0, 1, 2, 3, 83, 252, 253, 255, 4096, u64::MAX, chance.word()];
    let number = numbers[chance.index(numbers.len())];
    let (offset, number, size) = match chance.below(8) {
        0 => (4, number, 4),
        1 => (16, number, 4),
        2 => (20, number, 4),
        3 => (24, number, 4),
        4 => (32 + 8 * chance.index(252), number, 8),
        // Another node, itself perhaps.
        5 | 6 => (2048 + 8 * chance.index(252), 1 + chance.below(used), 8),
        _ => (2048 + 8 * chance.index(5), 1 + chance.below(used), 8),
    };
    let number = number.to_le_bytes();
    data.bytes_mut()[offset..offset + size].copy_from_slice(&number[..size]);
    NODE_VALIDATOR.seal(BlockNr(at), &mut data);
    block.copy_from_slice(data.bytes());
    format!("block {at}: {number:?} at {offset}")
}

/// Counts may not fit a tree that lies: a reference too few is misuse of the
/// space map, found before anything is changed wrongly.
fn judge<T>(answer: Result<T>, what: &str) -> bool {
    match answer {
        Ok(_) => false,
        Err(Error::Damaged(Damage { .. }) | Error::Io { .. }) => true,
        Err(Error::Usage(text)) => {
            let known = ["reference", "past the", "holds a lock", "past any device"];
            assert!(
                known.iter().any(|known| text.contains(known)),
                "{what}: {text}"
            );
            true
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

#[test]
fn nodes_that_lie_give_errors() {
    let mut chance = Chance::Seed(5);
    let filled = filled(&mut chance, 120_000, 1 << 30, 8);
    filled.txn.blocks().flush().unwrap();
    let sound = filled.device.contents();
    let used = (1..4000)
        .filter(|block| filled.txn.ref_count(BlockNr(*block)).unwrap() > 0)
        .count() as u64;
    assert!(used > 470, "three levels: {used} nodes");
    let keys: Vec<u64> = (0..2000).map(|_| chance.below(1 << 30)).collect();
    let (mut errors, mut sound_answers) = (0, 0);
    for _ in 0..1500 {
        let mut image = sound.clone();
        let mut what = String::new();
        for _ in 0..=chance.below(3) {
            // The root and its like are few: half the changes go there.
            what += &bend(&mut chance, &mut image, used);
        }
        let device = Arc::new(MemoryDevice::writable(image));
        let blocks = BlockManager::new(device, 2 << 20);
        let (mut values, mut found) = (vec![0; 8 * keys.len()], vec![0; keys.len()]);
        let task = Task::new(None, Some(1));
        let root = filled.root;
        let (mut scanned, mut bytes) = (Vec::new(), Vec::new());
        let answer = scan(&blocks, root, 8, (0, None), &mut scanned, &mut bytes);
        let whole = !judge(answer, &what);
        assert!(scanned.is_sorted_by(|one, other| one < other), "{what}");
        assert_eq!(bytes.len(), 8 * scanned.len());
        let answer = get_many(&blocks, root, 8, &keys, &mut values, &mut found, &task);
        assert!(judge(answer, &what) <= !whole, "{what}");
        judge(last(&blocks, root, 8), &what);
        judge(next(&blocks, root, 8, chance.below(1 << 30)), &what);
        let mut out = [0; 8];
        judge(get(&blocks, root, 8, keys[0], &mut out, Wait::Yes), &what);

        let mut txn = Transaction::in_memory(&blocks).unwrap();
        let references = 1 + chance.below(3);
        for _ in 0..references {
            txn.inc_range(1..used + 1).unwrap();
        }
        let mut plain = Plain;
        let mut tree = TreeType {
            levels: 1,
            value_bytes: 8,
            values: &mut plain,
        };
        let answer = insert_batch(&mut txn, &mut tree, root, &keys, &values);
        match judge(answer, &what) {
            true => errors += 1,
            false => sound_answers += 1,
        }
    }
    assert!(
        errors > 200 && sound_answers > 200,
        "{errors} {sound_answers}"
    );
}
