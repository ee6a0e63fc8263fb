//! Every field that a strict reader checks, and what it says. Source: docs/format.md,
//! "Arrays and bitsets".

use std::sync::Arc;

use thinmeta::array::{self, ARRAY_VALIDATOR, Array, ArrayType};
use thinmeta::block::{BlockData, BlockManager, Validator};
use thinmeta::btree::{NODE_VALIDATOR, Plain, Wait};
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::transaction::Transaction;
use thinmeta::{BlockNr, Error};

use super::world::World;
use crate::support::image::{read_u64, write_field};

/// Three array blocks: two full ones and a third of 100.
const LEN: u64 = 2 * 509 + 100;
const BLOCKS: usize = 64;

struct Victim {
    image: Vec<u8>,
    root: BlockNr,
    blocks: [u64; 3],
}

/// Which block a fault is in.
#[derive(Clone, Copy, Debug)]
enum Where {
    Tree,
    Block(usize),
}

impl Victim {
    fn new() -> Self {
        let world = World::new(BLOCKS);
        let mut plain = Plain;
        let mut array = words(&mut plain);
        let bytes: Vec<u8> = (0..LEN).flat_map(u64::to_le_bytes).collect();
        let root = world.change(|txn| array::from_slice(txn, &mut array, &bytes));
        world.commit();
        let mut image = vec![0; BLOCKS << 12];
        world.device.read_exact_at(&mut image, 0).unwrap();
        let leaf = &image[root.0 as usize * 4096..];
        let blocks = [0, 1, 2].map(|index| read_u64(leaf, 32 + 8 * 252 + 8 * index));
        Self {
            image,
            root,
            blocks,
        }
    }

    /// The image with a field of a block set; sealed again unless `raw`.
    fn spoilt(
        &self,
        place: Where,
        (offset, size): (usize, usize),
        value: u64,
        raw: bool,
    ) -> Vec<u8> {
        let mut image = self.image.clone();
        let at = match place {
            Where::Tree => self.root.0,
            Where::Block(index) => self.blocks[index],
        };
        let bytes = &mut image[at as usize * 4096..][..4096];
        write_field(bytes, offset, size, value);
        if !raw {
            let mut block = BlockData::zeroed();
            block.bytes_mut().copy_from_slice(bytes);
            let validator: &dyn Validator = match place {
                Where::Tree => &NODE_VALIDATOR,
                Where::Block(_) => &ARRAY_VALIDATOR,
            };
            validator.seal(BlockNr(at), &mut block);
            bytes.copy_from_slice(block.bytes());
        }
        image
    }
}

fn words(plain: &mut Plain) -> ArrayType<'_> {
    ArrayType {
        value_bytes: 8,
        values: plain,
    }
}

fn check_of(error: Error) -> &'static str {
    match error {
        Error::Damaged(damage) => damage.check,
        other => panic!("{other}"),
    }
}

#[test]
fn every_fault_of_an_array_is_damage_that_says_which() {
    let victim = Victim::new();
    let (first, last) = (Where::Block(0), Where::Block(2));
    let leaf_value = 32 + 8 * 252;
    let own = victim.root.0;
    let next = victim.blocks[1];
    // Where, which field, its value, whether the checksum stays wrong; the element
    // that is asked for, and what is found.
    let faults = [
        (first, (12, 4), 4, false, 0, "capacity"),
        (first, (12, 4), 0, false, 0, "value size"),
        (first, (12, 4), 4073, false, 0, "value size"),
        (first, (12, 4), u64::MAX, false, 0, "value size"),
        (first, (4, 4), 508, false, 0, "capacity"),
        (first, (4, 4), 510, false, 0, "capacity"),
        (first, (4, 4), u64::MAX, false, 0, "capacity"),
        (first, (8, 4), 510, false, 0, "entries"),
        (first, (8, 4), u64::MAX, false, 0, "entries"),
        // Not the last one, and not full.
        (first, (8, 4), 508, false, 0, "entries"),
        (first, (8, 4), 0, false, 0, "entries"),
        (last, (8, 4), 99, false, LEN - 1, "missing elements"),
        (last, (8, 4), 0, false, LEN - 1, "missing elements"),
        (first, (16, 8), next, true, 0, "location"),
        (first, (2000, 8), 1 << 40, true, 0, "checksum"),
        (first, (0, 4), 0, true, 0, "checksum"),
        // The tree above: a key gap at the beginning, inside, at the end.
        (Where::Tree, (32, 8), 0, false, 0, ""),
        (Where::Tree, (32 + 16, 8), 3, false, LEN - 1, "tree key"),
        (Where::Tree, (16, 4), 2, false, LEN - 1, "missing elements"),
        (Where::Tree, (16, 4), 0, false, 0, "missing elements"),
        (Where::Tree, (leaf_value, 8), 0, false, 0, "location"),
        (
            Where::Tree,
            (leaf_value, 8),
            BLOCKS as u64,
            false,
            0,
            "location",
        ),
        (Where::Tree, (leaf_value, 8), u64::MAX, false, 0, "location"),
        (Where::Tree, (leaf_value, 8), own, false, 0, "block kind"),
        (Where::Tree, (24, 4), 4, false, 0, "value size"),
    ];
    for fault in faults {
        let (place, field, value, raw, index, check) = fault;
        let image = victim.spoilt(place, field, value, raw);
        let device = Arc::new(MemoryDevice::writable(image));
        let blocks = BlockManager::new(device, 1 << 20);
        let array = Array::new(&blocks, victim.root, 8, LEN).unwrap();
        let mut out = [0; 8];
        let got = array.get(index, &mut out, Wait::Yes);
        let walked = array.walk(|_, _| Ok(()));
        let mut bulk = vec![0; LEN as usize * 8];
        let read = array.read(0, &mut bulk);
        let moved = array.cursor().and_then(|mut cursor| cursor.skip(index));
        let mut txn = Transaction::in_memory(&blocks).unwrap();
        let mut plain = Plain;
        let mut of_words = words(&mut plain);
        let before = txn.side_effects();
        let value = [1; 8];
        if check.is_empty() {
            // The fault that is none.
            assert!([got, walked, read, moved].iter().all(Result::is_ok));
            continue;
        }
        for answer in [got, walked, read, moved] {
            assert_eq!(check_of(answer.unwrap_err()), check, "{fault:?}");
        }
        let set = array::set(&mut txn, &mut of_words, victim.root, LEN, index, &value);
        let found = check_of(set.unwrap_err());
        // A change does not look at the blocks behind: what is short is missing.
        let known = [check, "missing elements"];
        assert!(known.contains(&found), "{fault:?}: {found}");
        assert_eq!(txn.side_effects(), before, "{fault:?}");
    }
}

#[test]
fn an_array_block_that_is_its_own_tree_is_let_go_of_as_damage() {
    let victim = Victim::new();
    let own = victim.root.0;
    let image = victim.spoilt(Where::Tree, (32 + 8 * 252 + 16, 8), own, false);
    for len in [LEN, 600] {
        let device = Arc::new(MemoryDevice::writable(image.clone()));
        let blocks = BlockManager::new(device, 1 << 20);
        let mut txn = Transaction::in_memory(&blocks).unwrap();
        for at in victim.blocks.into_iter().chain([own]) {
            txn.set_count(BlockNr(at), 1).unwrap();
        }
        let mut plain = Plain;
        let mut of_words = words(&mut plain);
        let answer = if len == LEN {
            array::delete(&mut txn, &mut of_words, victim.root)
        } else {
            array::resize(&mut txn, &mut of_words, victim.root, LEN, len, &[0; 8]).map(drop)
        };
        assert!(matches!(answer, Err(Error::Damaged(_))));
        blocks.write_lock(victim.root, &NODE_VALIDATOR).unwrap();
    }
}
