//! A sound device with something of everything on it, and inputs as patches to it.

use std::sync::{Arc, LazyLock};

use thinmeta::array::{self, ARRAY_VALIDATOR, ArrayType};
use thinmeta::block::{BlockData, BlockManager, Validator, kind_of};
use thinmeta::btree::{self, NODE_VALIDATOR, Plain, TreeType};
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::disk_space::{BITMAP_VALIDATOR, INDEX_VALIDATOR, SpaceMapRoot};
use thinmeta::store::{STORE_VALIDATOR, Store, StoreOptions, StoreSuperblock};
use thinmeta::transaction::{Transaction, TransactionManager};
use thinmeta::{BlockNr, Error, Result};

use super::Outcome;
use crate::support::chance::Chance;

/// Blocks of the device.
const BLOCKS: usize = 320;

/// Elements of the arrays: of 8 bytes, and of 1000.
pub const LENGTHS: [(usize, u64); 2] = [(8, 1300), (1000, 330)];

/// The sound device.
pub struct Base {
    image: Vec<u8>,
    /// Blocks in use, with what seals them.
    used: Vec<(u64, &'static dyn Validator)>,
    /// A tree of values of 8 bytes, and one that is nested.
    pub trees: [BlockNr; 2],
    /// Arrays of [`LENGTHS`].
    pub arrays: [BlockNr; 2],
}

pub static BASE: LazyLock<Base> = LazyLock::new(Base::new);

impl Base {
    fn new() -> Self {
        let device = Arc::new(MemoryDevice::writable(vec![0; BLOCKS << 12]));
        let store = Store::create_on(device.clone(), &StoreOptions::default()).unwrap();
        let (mut trees, mut arrays) = ([BlockNr(0); 2], [BlockNr(0); 2]);
        let txn = store.transaction(None).unwrap();
        let make = |txn: &mut Transaction| {
            trees = [tree(txn, 1, 700)?, tree(txn, 2, 500)?];
            for (root, (value_bytes, len)) in arrays.iter_mut().zip(LENGTHS) {
                let mut array = ArrayType {
                    value_bytes,
                    values: &mut Plain,
                };
                *root = array::generate(txn, &mut array, len, &mut |index, out| {
                    out.fill(index as u8);
                    Ok(())
                })?;
            }
            // Counts that take the overflow tree.
            for _ in 0..4 {
                [trees[0], trees[1], arrays[1]]
                    .into_iter()
                    .try_for_each(|at| txn.inc(at))?;
            }
            Ok(())
        };
        store.manager().change(make).unwrap();
        for name in ["a", "b"] {
            let tree = txn.tree_or_new(name, 8).unwrap();
            let keys: Vec<u64> = (0..600).map(|key| key * 3).collect();
            txn.insert_many(tree, &keys, &vec![7; 4800]).unwrap();
        }
        txn.snapshot("a", "c").unwrap();
        txn.commit().unwrap();
        drop((txn, store));
        let image = device.contents();
        let mut used = Vec::new();
        for (at, bytes) in (0..).zip(image.chunks(4096)) {
            let mut block = BlockData::zeroed();
            block.bytes_mut().copy_from_slice(bytes);
            let validator: &'static dyn Validator = match kind_of(&block) {
                Some(("btree node", _)) => &NODE_VALIDATOR,
                Some(("array block", _)) => &ARRAY_VALIDATOR,
                Some(("space map bitmap", _)) => &BITMAP_VALIDATOR,
                Some(("space map index", _)) => &INDEX_VALIDATOR,
                _ if at == 0 => &STORE_VALIDATOR,
                _ => continue,
            };
            used.push((at, validator));
        }
        Self {
            image,
            used,
            trees,
            arrays,
        }
    }

    /// The image with some blocks of some kinds patched, their checksums made right again.
    pub fn patched(&self, chance: &mut Chance<'_>, kinds: &[&str]) -> Vec<u8> {
        let mut image = self.image.clone();
        let victims: Vec<_> = self
            .used
            .iter()
            .filter(|(_, validator)| kinds.contains(&validator.name()))
            .collect();
        for _ in 0..1 + chance.below(4) {
            let (at, validator) = victims[chance.index(victims.len())];
            let begin = usize::try_from(*at).unwrap() << 12;
            let mut block = BlockData::zeroed();
            block
                .bytes_mut()
                .copy_from_slice(&image[begin..begin + 4096]);
            patch(block.bytes_mut(), chance, self.used.len() as u64);
            validator.seal(BlockNr(*at), &mut block);
            image[begin..begin + 4096].copy_from_slice(block.bytes());
        }
        image
    }

    /// No lock is left by this thread on any block.
    pub fn check_unlocked(&self, blocks: &Arc<BlockManager>) {
        for (at, validator) in &self.used {
            let glance = blocks.read(BlockNr(*at), *validator);
            let held = matches!(&glance, Err(Error::Usage(text)) if text.contains("holds a lock"));
            assert!(!held, "block {at} is locked");
        }
    }
}

fn tree(txn: &mut Transaction, levels: usize, entries: u64) -> Result<BlockNr> {
    let mut tree = TreeType {
        levels,
        value_bytes: 8,
        values: &mut Plain,
    };
    let mut root = btree::empty(txn, 8)?;
    for entry in 0..entries {
        let key = entry * 37 % entries * 2;
        let keys = [key % 5, key];
        let value = entry.to_le_bytes();
        root = btree::insert(txn, &mut tree, root, &keys[2 - levels..], &value)?.root;
    }
    Ok(root)
}

/// Numbers that mean something somewhere.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    3,
    4,
    8,
    84,
    252,
    253,
    255,
    509,
    510,
    1024,
    4096,
    1 << 31,
    u64::MAX,
];

/// Changes a few bytes of a block; often its header, or a pointer.
fn patch(bytes: &mut [u8; 4096], chance: &mut Chance<'_>, blocks: u64) {
    let what = chance.below(1 << 16);
    let place = chance.index(4096);
    let (offset, size) = match what & 7 {
        0..3 => (place % 10 * 4, 4),
        3 => (32 + place % 252 * 8, 8),
        4 => (2048 + place % 252 * 8, 8),
        5 => (24 + place % 508 * 8, 8),
        _ => (place, 1 << (what >> 3 & 3)),
    };
    let offset = offset.min(4096 - size);
    let number = match what >> 5 & 7 {
        0..3 => NUMBERS[(what >> 8 & 15) as usize],
        3..5 => chance.below(blocks),
        5 => chance.below(1 << 16),
        _ => chance.word(),
    };
    bytes[offset..offset + size].copy_from_slice(&number.to_le_bytes()[..size]);
}

/// A transaction on an image, as far as there is one.
pub fn open(image: Vec<u8>, outcome: &mut Outcome) -> Option<Arc<TransactionManager>> {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image));
    let blocks = BlockManager::new(device, 4 << 20);
    let opened = (|| {
        let block = blocks.read(BlockNr(0), &STORE_VALIDATOR)?;
        let superblock: &StoreSuperblock = block.view();
        let root: SpaceMapRoot = superblock.space_root()?;
        TransactionManager::open(&blocks, BlockNr(0), &root, false)
    })();
    note(opened, outcome)
}

/// Makes a change, and gets over its failure; whether the transaction can go on.
pub fn change<T>(
    manager: &Arc<TransactionManager>,
    outcome: &mut Outcome,
    work: impl FnOnce(&mut Transaction) -> Result<T>,
) -> bool {
    let before = manager.look(|txn| Ok(txn.side_effects()));
    let answer = note(manager.change(work), outcome);
    if manager.aborted().is_some() {
        assert!(answer.is_none(), "a change that was made asks for an abort");
        return note(manager.abort(), outcome).is_some();
    }
    if answer.is_none() {
        let after = manager.look(|txn| Ok(txn.side_effects()));
        assert_eq!(before.ok(), after.ok(), "a failure that left a trace");
    }
    true
}

/// Both halves of a commit; the superblock stays what it was but for the map's root.
pub fn commit(manager: &Arc<TransactionManager>, outcome: &mut Outcome) -> bool {
    let done = manager.commit_with(&STORE_VALIDATOR, 0, |guard, root| {
        let superblock: &mut StoreSuperblock = guard.view_mut();
        superblock.set_space_root(root);
        Ok(())
    });
    if note(done, outcome).is_some() {
        return true;
    }
    note(manager.abort(), outcome).is_some()
}

/// Notes what an answer complains of; it has to say what is wrong with the disk.
pub fn note<T>(answer: Result<T>, outcome: &mut Outcome) -> Option<T> {
    match answer {
        Ok(found) => Some(found),
        Err(error) => {
            outcome.push(complaint(&error));
            None
        }
    }
}

fn complaint(error: &Error) -> String {
    match error {
        Error::Damaged(damage) => format!("{}: {}", damage.validator, damage.check),
        Error::Usage(text) => {
            // Without what differs from block to block.
            let words = text.split(|letter: char| !letter.is_alphabetic());
            let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
            format!("usage: {}", words.join(" "))
        }
        Error::Io { .. } => "past the device".to_owned(),
        Error::NoSpace { .. } => "no space".to_owned(),
        Error::Unsupported { .. } => "unsupported".to_owned(),
        Error::NotFormatted(_) => "not formatted".to_owned(),
        Error::NoSuchTree(_) => "no such tree".to_owned(),
        Error::Aborted(_) => "aborted".to_owned(),
        Error::TakenBack(_) => "taken back".to_owned(),
        Error::NoSuchDevice(_) | Error::DeviceExists(_) => "no such device, or one".to_owned(),
        Error::NoMetadataSnapshot(_) | Error::MetadataSnapshotHeld(_) => {
            "no metadata snapshot, or one".to_owned()
        }
        Error::ReadOnly(_) => "read-only".to_owned(),
        Error::Step { source, .. } => complaint(source),
        Error::CommitFailed { source, .. } => format!("in a commit: {}", complaint(source)),
        other => panic!("{other} is nobody's fault"),
    }
}
