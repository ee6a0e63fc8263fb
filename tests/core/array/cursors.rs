//! Cursors: across blocks, past the end, after damage.

use std::sync::Arc;

use thinmeta::array::{self, Array, ArrayType};
use thinmeta::bitset::{Bitset, BitsetView};
use thinmeta::btree::Plain;
use thinmeta::device::MemoryDevice;
use thinmeta::{BlockNr, Error};

use super::world::World;
use crate::support::chance::Chance;

/// Words that count, 509 to a block; and the world that they are in.
fn counting(len: u64) -> (World, Array) {
    let world = World::new(128);
    let elements: Vec<u8> = (0..len).flat_map(u64::to_le_bytes).collect();
    let mut array = ArrayType {
        value_bytes: 8,
        values: &mut Plain,
    };
    let root = world.change(|txn| array::from_slice(txn, &mut array, &elements));
    world.commit();
    let array = Array::new(world.blocks(), root, 8, len).unwrap();
    (world, array)
}

fn word(element: &[u8]) -> u64 {
    u64::from_le_bytes(element.try_into().unwrap())
}

fn is_usage<T>(answer: thinmeta::Result<T>) -> bool {
    matches!(answer, Err(Error::Usage(_)))
}

#[test]
fn a_skip_across_blocks_stands_on_the_right_element() {
    let (_world, array) = counting(5 * 509 + 7);
    let mut chance = Chance::Seed(4);
    for _ in 0..200 {
        let mut cursor = array.cursor().unwrap();
        let mut index = 0;
        while index < array.len() {
            assert_eq!(cursor.index(), index);
            assert_eq!(word(cursor.get().unwrap()), index);
            let step = match chance.below(3) {
                0 => chance.below(3),
                1 => 509 - index % 509 + chance.below(2),
                _ => chance.below(1100),
            };
            if index + step >= array.len() {
                assert!(is_usage(cursor.skip(step)));
                // And is where it was.
                assert_eq!(word(cursor.get().unwrap()), index);
                assert!(is_usage(cursor.skip(u64::MAX)));
                break;
            }
            cursor.skip(step).unwrap();
            index += step;
            if cursor.next_element().unwrap() {
                index += 1;
            } else {
                index = array.len();
                assert!(is_usage(cursor.get()));
                assert!(!cursor.next_element().unwrap());
                assert!(is_usage(cursor.skip(0)));
            }
        }
    }
}

#[test]
fn a_cursor_ends_where_its_owner_says_and_not_where_the_array_does() {
    let (world, array) = counting(1200);
    for len in [1, 508, 509, 510, 1018, 1199] {
        let shorter = Array::new(world.blocks(), array.root(), 8, len).unwrap();
        let mut cursor = shorter.cursor().unwrap();
        cursor.skip(len - 1).unwrap();
        assert_eq!(word(cursor.get().unwrap()), len - 1);
        assert!(!cursor.next_element().unwrap());
        assert!(is_usage(cursor.get()));
    }
    let none = Array::new(world.blocks(), array.root(), 8, 0).unwrap();
    assert!(is_usage(none.cursor()));
    none.walk(|_, _| panic!("there is no element")).unwrap();
}

#[test]
fn a_block_that_cannot_be_read_ends_the_cursor_and_nothing_else() {
    let (world, array) = counting(3 * 509);
    let mut bytes = vec![0; 128 << 12];
    thinmeta::device::Device::read_exact_at(&*world.device, &mut bytes, 0).unwrap();
    // The second array block: the only one that begins with element 509.
    let begins = |block: &[u8]| word(&block[24..32]) == 509 && block[12] == 8;
    let at = bytes.chunks(4096).position(begins).unwrap();
    bytes[at * 4096 + 2000] ^= 1;
    let device = Arc::new(MemoryDevice::new(bytes));
    let blocks = thinmeta::block::BlockManager::new(device, 1 << 20);
    let spoilt = Array::new(&blocks, array.root(), 8, array.len()).unwrap();
    let mut cursor = spoilt.cursor().unwrap();
    cursor.skip(508).unwrap();
    let damaged = cursor.next_element();
    assert!(matches!(damaged, Err(Error::Damaged(damage)) if damage.block == BlockNr(at as u64)));
    assert!(is_usage(cursor.get()) && !cursor.next_element().unwrap());
    drop(cursor);
    // No lock is left on the block, nor on others.
    let mut cursor = spoilt.cursor().unwrap();
    assert!(matches!(cursor.skip(600), Err(Error::Damaged(_))));
    assert!(is_usage(cursor.get()) && is_usage(cursor.skip(0)));
    let mut cursor = spoilt.cursor().unwrap();
    cursor.skip(1018).unwrap();
    assert_eq!(word(cursor.get().unwrap()), 1018);
    let view = BitsetView::new(&blocks, array.root(), array.len() * 64).unwrap();
    let mut bits = view.cursor().unwrap();
    bits.skip(508 * 64 + 63).unwrap();
    assert!(matches!(bits.next_bit(), Err(Error::Damaged(_))));
    assert!(is_usage(bits.get()) && !bits.next_bit().unwrap() && is_usage(bits.skip(0)));
}

#[test]
fn a_cursor_over_bits_has_the_same_law() {
    let world = World::new(128);
    let is_set = |bit: u64| bit % 7 == 3 || bit / 64 % 3 == 1;
    let len = 2 * 509 * 64 + 100;
    let mut bits = world.change(|txn| Bitset::generate(txn, len, &mut |bit| Ok(is_set(bit))));
    let view = world.change(|txn| bits.view(txn));
    let mut chance = Chance::Seed(5);
    for _ in 0..100 {
        let mut cursor = view.cursor().unwrap();
        loop {
            let bit = cursor.index();
            assert_eq!(cursor.get().unwrap(), is_set(bit));
            let step = match chance.below(3) {
                0 => chance.below(3),
                1 => 64 - bit % 64,
                _ => chance.below(40_000),
            };
            if bit + step >= len {
                assert!(is_usage(cursor.skip(step)));
                assert_eq!((cursor.index(), cursor.get().unwrap()), (bit, is_set(bit)));
                break;
            }
            cursor.skip(step).unwrap();
        }
        while cursor.next_bit().unwrap() {
            assert_eq!(cursor.get().unwrap(), is_set(cursor.index()));
        }
        assert_eq!(cursor.index(), len);
        assert!(is_usage(cursor.get()));
    }
    let none = world.change(|txn| Bitset::empty(txn)?.view(txn));
    assert!(is_usage(none.cursor()));
    assert_eq!(none.count_ones(0..0).unwrap(), 0);
}
