//! Bytes on the disk. Source: docs/format.md, "Arrays and bitsets".

use thinmeta::BlockNr;
use thinmeta::array::{self, ArrayType, capacity};
use thinmeta::bitset::Bitset;
use thinmeta::btree::Plain;

use super::world::World;
use crate::support::image::{read_u32, read_u64};

fn words(plain: &mut Plain) -> ArrayType<'_> {
    ArrayType {
        value_bytes: 8,
        values: plain,
    }
}

/// A block as the device has it.
fn block(world: &World, at: u64) -> Vec<u8> {
    let mut bytes = vec![0; 4096];
    thinmeta::device::Device::read_exact_at(&*world.device, &mut bytes, at * 4096).unwrap();
    bytes
}

/// The entries of a one-leaf tree, checked against the format of nodes.
fn leaf(world: &World, at: BlockNr) -> Vec<(u64, u64)> {
    let bytes = block(world, at.0);
    assert_eq!(read_u32(&bytes, 4), 2, "a leaf");
    assert_eq!((read_u32(&bytes, 20), read_u32(&bytes, 24)), (252, 8));
    let entry = |index: usize| {
        let key = read_u64(&bytes, 32 + 8 * index);
        (key, read_u64(&bytes, 32 + 8 * 252 + 8 * index))
    };
    (0..read_u32(&bytes, 16) as usize).map(entry).collect()
}

/// What the format says of an array block.
fn check_block(bytes: &[u8], at: u64, max: u32, nr: u32, value_bytes: u32) {
    let sum = !crc32c::crc32c(&bytes[4..]) ^ 595_846_735;
    assert_eq!(read_u32(bytes, 0), sum);
    let fields = [4, 8, 12].map(|offset| read_u32(bytes, offset));
    assert_eq!(fields, [max, nr, value_bytes]);
    assert_eq!(read_u64(bytes, 16), at);
}

#[test]
fn blocks_hold_509_words_and_1018_half_words_and_are_not_rounded_to_threes() {
    let sizes = [1, 3, 4, 8, 12, 2036, 2037, 4072, 4073, 0];
    let capacities = [4072, 1357, 1018, 509, 339, 2, 1, 1, 0, 0];
    assert_eq!(sizes.map(capacity), capacities);
    for (value_bytes, max) in [(8_usize, 509_u32), (4, 1018), (13, 313), (4072, 1)] {
        let world = World::new(64);
        let len = 2 * max + max.min(100) - 1;
        let bytes: Vec<u8> = (0..len as usize * value_bytes).map(|at| at as u8).collect();
        let mut array = ArrayType {
            value_bytes,
            values: &mut Plain,
        };
        let root = world.change(|txn| array::from_slice(txn, &mut array, &bytes));
        world.commit();
        let entries = leaf(&world, root);
        let mut found = Vec::new();
        for (place, (key, at)) in entries.iter().enumerate() {
            assert_eq!(*key, place as u64);
            let nr = max.min(len - max * place as u32);
            let own = block(&world, *at);
            check_block(&own, *at, max, nr, value_bytes as u32);
            found.extend_from_slice(&own[24..24 + nr as usize * value_bytes]);
        }
        assert!(found == bytes, "elements of {value_bytes} bytes");
    }
}

#[test]
fn an_empty_array_is_an_empty_tree_and_shrinking_to_nothing_leaves_one() {
    let world = World::new(64);
    let root = world.change(array::empty);
    let mut plain = Plain;
    let zeros = [0; 8];
    let grown =
        world.change(|txn| array::resize(txn, &mut words(&mut plain), root, 0, 1200, &zeros));
    world.commit();
    assert_eq!(leaf(&world, grown).len(), 3);
    let none =
        world.change(|txn| array::resize(txn, &mut words(&mut plain), grown, 1200, 0, &zeros));
    world.commit();
    assert_eq!(leaf(&world, none), []);
}

#[test]
fn a_bit_is_a_little_endian_bit_of_its_word() {
    let world = World::new(64);
    let mut bits = world.change(|txn| Bitset::generate(txn, 130, &mut |_| Ok(false)));
    let root = world.change(|txn| {
        for bit in [0, 9, 63, 64, 129] {
            bits.set(txn, bit)?;
        }
        bits.flush(txn)
    });
    world.commit();
    let at = leaf(&world, root)[0].1;
    let own = block(&world, at);
    check_block(&own, at, 509, 3, 8);
    let expected = [1_u64 << 63 | 1 << 9 | 1, 1, 2];
    assert_eq!([24, 32, 40].map(|at| read_u64(&own, at)), expected);
    assert_eq!([own[24], own[25], own[31]], [1, 2, 0x80]);
}
