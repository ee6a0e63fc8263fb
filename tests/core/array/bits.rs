//! Bitsets against vectors of bits, and the one word in memory.

use thinmeta::BlockNr;
use thinmeta::bitset::{Bitset, BitsetView};
use thinmeta::btree::Wait;

use super::world::{Walk, World};
use crate::support::chance::Chance;

const LONGEST: u64 = 3 * 509 * 64;

/// The bits of a bitset and those that its last word has beyond them.
fn words_of(bits: &[bool]) -> Vec<u64> {
    let word = |bits: &[bool]| {
        let bits = bits.iter().rev();
        bits.fold(0_u64, |word, bit| word << 1 | u64::from(*bit))
    };
    bits.chunks(64).map(word).collect()
}

fn check(view: &BitsetView, model: &[bool], len: u64, chance: &mut Chance<'_>) {
    let mut words = vec![0; model.len() / 64];
    view.read_words(0, &mut words).unwrap();
    assert!(words == words_of(model));
    let begin = chance.below(len + 1);
    let range = begin..begin + chance.below(len - begin + 1);
    let mut ones = Vec::new();
    let visit = |bit| {
        ones.push(bit);
        Ok(())
    };
    view.for_each_one(range.clone(), visit).unwrap();
    let expected: Vec<u64> = range.clone().filter(|bit| model[*bit as usize]).collect();
    assert!(ones == expected);
    assert_eq!(view.count_ones(range).unwrap(), ones.len() as u64);
    if len > 0 {
        let bit = chance.below(len);
        let expected = model[bit as usize];
        assert_eq!(view.test(bit, Wait::Yes).unwrap(), expected);
    }
}

#[test]
fn bitsets_keep_what_a_vector_of_bits_keeps() {
    for seed in 0..6 {
        let mut chance = Chance::of_case(seed, "bitsets", 0);
        let world = World::new(512);
        let mut bits = world.change(Bitset::empty);
        // As many as the words hold: bits past the end are kept track of too.
        let (mut model, mut len) = (Vec::<bool>::new(), 0_u64);
        let mut near = 0;
        for step in 0..3000 {
            if len > 0 && chance.one_in(6) {
                near = chance.below(len);
            }
            let bit = (near + chance.below(100)).min(len.saturating_sub(1));
            match chance.below(100) {
                0..40 if len > 0 => {
                    let value = chance.one_in(2);
                    world.change(|txn| bits.set_to(txn, bit, value));
                    model[bit as usize] = value;
                }
                40..80 if len > 0 => {
                    let found = world.change(|txn| bits.test(txn, bit));
                    assert_eq!(found, model[bit as usize], "bit {bit} of {len}");
                }
                80..86 if len > 0 => {
                    let most = 400 << chance.below(8);
                    let end = bit + chance.below((len - bit + 1).min(most));
                    let (end, value) = (end.min(len), chance.one_in(2));
                    world.change(|txn| bits.fill(txn, bit..end, value));
                    model[bit as usize..end as usize].fill(value);
                }
                86..90 => {
                    let size = match chance.below(3) {
                        0 => chance.below(LONGEST),
                        1 => chance.below(LONGEST / 64) * 64,
                        _ => len + chance.below(200),
                    };
                    let default = chance.one_in(2);
                    world.change(|txn| bits.resize(txn, size, default));
                    len = size;
                    model.resize(size.next_multiple_of(64) as usize, default);
                }
                90..93 => {
                    let root = world.change(|txn| bits.flush(txn));
                    world.commit();
                    let view = BitsetView::new(&world.read_again(), root, len).unwrap();
                    check(&view, &model, len, &mut chance);
                    let mut walk = Walk::new(&world, 8, false);
                    assert_eq!(walk.array(root).len(), model.len() / 8);
                    walk.check_counts(&world);
                }
                93 => {
                    let root = world.change(|txn| bits.flush(txn));
                    bits = Bitset::open(root, len).unwrap();
                }
                _ if step % 4 == 0 => {
                    let view = world.change(|txn| bits.view(txn));
                    check(&view, &model, len, &mut chance);
                }
                _ => {}
            }
        }
        world.change(|txn| {
            bits.flush(txn)?;
            bits.delete(txn)
        });
        world.commit();
        Walk::new(&world, 8, false).check_counts(&world);
    }
}

#[test]
fn a_word_in_memory_is_written_once_and_only_when_it_changed() {
    let world = World::new(64);
    let root = world.change(|txn| Bitset::generate(txn, 70_000, &mut |_| Ok(false))?.flush(txn));
    world.commit();
    let effects = || world.manager.look(|txn| Ok(txn.side_effects())).unwrap();
    let before = effects();
    let mut bits = Bitset::open(root, 70_000).unwrap();
    for bit in [0, 63, 64, 40_000, 69_999, 5] {
        assert!(!world.change(|txn| bits.test(txn, bit)));
        // To clear what is clear is no change either.
        world.change(|txn| bits.clear(txn, bit));
        assert!(!bits.is_dirty());
    }
    assert_eq!(world.change(|txn| bits.flush(txn)), root);
    for bit in 0..64 {
        world.change(|txn| bits.set(txn, bit));
        assert!(bits.is_dirty() && world.change(|txn| bits.test(txn, bit)));
    }
    assert_eq!(effects(), before, "64 bits in memory");
    // Another word drives it out; a failed call does not.
    assert!(world.manager.change(|txn| bits.test(txn, 70_000)).is_err());
    assert!(bits.is_dirty() && effects() == before);
    assert!(!world.change(|txn| bits.test(txn, 64)));
    assert!(!bits.is_dirty() && effects() > before);
    let flushed = world.change(|txn| bits.flush(txn));
    assert_ne!(flushed, root);
    assert_eq!(
        world
            .change(|txn| bits.view(txn))
            .count_ones(0..70_000)
            .unwrap(),
        64
    );
}

#[test]
fn a_bitset_grows_by_its_default_in_new_words_only() {
    let world = World::new(64);
    let mut words = [0; 3];
    for (default, expected) in [(true, u64::MAX), (false, 0)] {
        let mut bits = world.change(|txn| Bitset::from_bits(txn, 3, &[0b101]));
        world.change(|txn| bits.resize(txn, 150, default));
        world
            .change(|txn| bits.view(txn))
            .read_words(0, &mut words)
            .unwrap();
        assert_eq!(words, [0b101, expected, expected]);
        // What is cut off in the middle of a word comes back as it was.
        world.change(|txn| bits.resize(txn, 130, !default));
        world.change(|txn| bits.resize(txn, 192, !default));
        world
            .change(|txn| bits.view(txn))
            .read_words(0, &mut words)
            .unwrap();
        assert_eq!(words, [0b101, expected, expected]);
    }
}

/// The root that is committed is the one that a flush gave.
#[test]
fn the_root_is_had_by_a_flush_alone() {
    let world = World::new(64);
    let mut bits = world.change(|txn| Bitset::generate(txn, 100, &mut |_| Ok(false)));
    world.change(|txn| bits.set(txn, 42));
    let root: BlockNr = world.change(|txn| bits.flush(txn));
    world.commit();
    let view = BitsetView::new(&world.read_again(), root, 100).unwrap();
    assert!(view.test(42, Wait::Yes).unwrap());
}
