//! Calls that cannot be answered leave no trace.

use thinmeta::array::{self, Array, ArrayType, MAX_ELEMENT_BYTES, MAX_LEN};
use thinmeta::bitset::{Bitset, BitsetView, MAX_BITS};
use thinmeta::block::BlockManager;
use thinmeta::btree::{self, Plain, TreeType, Wait};
use thinmeta::transaction::Transaction;
use thinmeta::{BlockNr, Error, Result};

use super::world::{Walk, World};

fn words(plain: &mut Plain) -> ArrayType<'_> {
    sized(plain, 8)
}

fn sized(plain: &mut Plain, value_bytes: usize) -> ArrayType<'_> {
    ArrayType {
        value_bytes,
        values: plain,
    }
}

/// Makes a call that has to fail before anything is done.
fn refused<T>(world: &World, call: impl FnOnce(&mut Transaction) -> Result<T>) -> Error {
    let count = |txn: &Transaction| Ok((txn.side_effects(), txn.nr_free()));
    let before = world.manager.look(count).unwrap();
    let answer = world.manager.change(call);
    let error = answer.err().expect("it was to be refused");
    assert_eq!(world.manager.look(count).unwrap(), before, "{error}");
    assert_eq!(world.manager.aborted(), None);
    error
}

fn is_usage(error: &Error) -> bool {
    matches!(error, Error::Usage(_))
}

#[test]
fn indices_and_sizes_that_cannot_be_are_refused_without_a_trace() {
    let world = World::new(64);
    let (mut one, value) = (Plain, [1; 8]);
    let root = world.change(|txn| array::from_slice(txn, &mut words(&mut one), &[9; 800]));
    world.commit();
    type Call<'c> = Box<dyn FnOnce(&mut Transaction, &mut ArrayType<'_>) -> Result<BlockNr> + 'c>;
    let calls: Vec<Call<'_>> = vec![
        Box::new(|txn, array| array::set(txn, array, root, 100, 100, &value)),
        Box::new(|txn, array| array::set(txn, array, root, 100, u64::MAX, &value)),
        Box::new(|txn, array| array::set(txn, array, root, 100, 0, &value[..7])),
        Box::new(|txn, array| array::set(txn, array, root, 100, 0, &[0; 16])),
        Box::new(|txn, array| array::set(txn, array, root, MAX_LEN + 1, 0, &value)),
        Box::new(|txn, array| array::set_range(txn, array, root, 100, 99, &[0; 16])),
        Box::new(|txn, array| array::set_range(txn, array, root, 100, 0, &[0; 15])),
        Box::new(|txn, array| array::set_range(txn, array, root, 100, u64::MAX, &[0; 16])),
        Box::new(|txn, array| array::fill(txn, array, root, 100, 50..101, &value)),
        #[allow(clippy::reversed_empty_ranges)]
        Box::new(|txn, array| array::fill(txn, array, root, 100, 51..50, &value)),
        Box::new(|txn, array| array::resize(txn, array, root, 100, 200, &value[..4])),
        Box::new(|txn, array| array::resize(txn, array, root, 100, MAX_LEN + 1, &value)),
        // The array is longer than that.
        Box::new(|txn, array| array::resize(txn, array, root, 99, 200, &value)),
        Box::new(|txn, array| array::resize(txn, array, root, 0, 200, &value)),
        Box::new(|txn, array| array::from_slice(txn, array, &[0; 9])),
        Box::new(|txn, array| array::generate(txn, array, MAX_LEN + 1, &mut |_, _| Ok(()))),
    ];
    for (place, call) in calls.into_iter().enumerate() {
        let mut plain = Plain;
        let error = refused(&world, |txn| call(txn, &mut words(&mut plain)));
        assert!(is_usage(&error), "call {place}: {error}");
    }
    for value_bytes in [0, MAX_ELEMENT_BYTES + 1, usize::MAX] {
        let mut plain = Plain;
        let mut array = sized(&mut plain, value_bytes);
        let error = refused(&world, |txn| array::from_slice(txn, &mut array, &[]));
        assert!(is_usage(&error));
        let error = refused(&world, |txn| array::delete(txn, &mut array, root));
        assert!(is_usage(&error));
        assert!(Array::new(world.blocks(), root, value_bytes, 1).is_err());
    }
    let array = Array::new(world.blocks(), root, 8, 100).unwrap();
    for error in [
        array.get(100, &mut [0; 8], Wait::Yes),
        array.get(0, &mut [0; 7], Wait::Yes),
        array.read(99, &mut [0; 16]),
        array.read(0, &mut [0; 15]),
        array.for_each_block(0..101, |_, _| Ok(())),
        Array::new(world.blocks(), root, 8, MAX_LEN + 1).map(drop),
    ] {
        assert!(is_usage(&error.unwrap_err()));
    }
}

#[test]
fn an_array_that_is_shorter_than_its_owner_says_is_damaged_and_stays_as_it_is() {
    let world = World::new(64);
    let mut plain = Plain;
    let bytes = [9; 600 * 8];
    let root = world.change(|txn| array::from_slice(txn, &mut words(&mut plain), &bytes));
    world.commit();
    let check = |error: Error| match error {
        Error::Damaged(damage) => assert_eq!(damage.check, "missing elements", "{damage}"),
        other => panic!("{other}"),
    };
    for (len, index) in [(700, 650), (601, 600), (2000, 1900), (2000, 1100)] {
        let mut plain = Plain;
        let mut of_words = words(&mut plain);
        check(refused(&world, |txn| {
            array::set(txn, &mut of_words, root, len, index, &[1; 8])
        }));
        check(refused(&world, |txn| {
            array::resize(txn, &mut of_words, root, len, 1, &[1; 8])
        }));
        let array = Array::new(world.blocks(), root, 8, len).unwrap();
        check(array.get(index, &mut [0; 8], Wait::Yes).unwrap_err());
        check(array.walk(|_, _| Ok(())).unwrap_err());
        let mut bits = Bitset::open(root, len * 64).unwrap();
        check(refused(&world, |txn| bits.set(txn, index * 64)));
        let view = BitsetView::new(world.blocks(), root, len * 64).unwrap();
        check(view.count_ones(0..len * 64).unwrap_err());
    }
    // An empty one too.
    let none = world.change(array::empty);
    let array = Array::new(world.blocks(), none, 8, 1).unwrap();
    check(array.get(0, &mut [0; 8], Wait::Yes).unwrap_err());
    check(array.cursor().err().unwrap());
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_made() {
    let world = World::new(40);
    let mut plain = Plain;
    let mut array = words(&mut plain);
    let root = world.change(|txn| array::from_slice(txn, &mut array, &[9; 800]));
    world.commit();
    let no_space = |error: Error| assert!(matches!(error, Error::NoSpace { .. }), "{error}");
    no_space(refused(&world, |txn| {
        array::resize(txn, &mut array, root, 100, 100_000, &[0; 8])
    }));
    no_space(refused(&world, |txn| {
        array::generate(txn, &mut array, 1 << 31, &mut |_, _| panic!("nobody asks"))
    }));
    no_space(refused(&world, |txn| {
        Bitset::generate(txn, MAX_BITS, &mut |_| panic!("nobody asks"))
    }));
    // And until the last block there is no trouble.
    let (mut root, mut len) = (root, 100);
    loop {
        let step =
            |txn: &mut Transaction| array::resize(txn, &mut array, root, len, len + 509, &[9; 8]);
        let grown = world.manager.change(step);
        let committed = grown.and_then(|new| world.try_commit().map(|()| new));
        match committed {
            Ok(new) => (root, len) = (new, len + 509),
            Err(error) => break no_space(error),
        }
    }
    assert!(len > 15 * 509, "{len}");
    if world.manager.aborted().is_some() {
        world.manager.abort().unwrap();
    }
    let mut walk = Walk::new(&world, 8, false);
    assert!(walk.array(root) == vec![9; len as usize * 8]);
    walk.check_counts(&world);
}

#[test]
fn bits_past_the_end_are_refused_and_change_nothing() {
    let world = World::new(64);
    let mut bits = world.change(|txn| Bitset::from_bits(txn, 70, &[u64::MAX, u64::MAX]));
    for bit in [70, 127, 128, u64::MAX] {
        assert!(is_usage(&refused(&world, |txn| bits.set(txn, bit))));
        assert!(is_usage(&refused(&world, |txn| bits.clear(txn, bit))));
        assert!(is_usage(&refused(&world, |txn| bits.test(txn, bit))));
    }
    assert!(is_usage(&refused(&world, |txn| bits.fill(
        txn,
        3..71,
        true
    ))));
    let too_long = refused(&world, |txn| bits.resize(txn, MAX_BITS + 1, true));
    assert!(is_usage(&too_long));
    assert!(Bitset::open(BlockNr(1), MAX_BITS + 1).is_err());
    let wrong = refused(&world, |txn| Bitset::from_bits(txn, 65, &[0]));
    assert!(is_usage(&wrong));
    let view = world.change(|txn| bits.view(txn));
    assert!(is_usage(&view.test(70, Wait::Yes).unwrap_err()));
    assert!(is_usage(&view.count_ones(0..71).unwrap_err()));
    assert_eq!(view.count_ones(0..70).unwrap(), 70);
    // What was handed over beyond the end was left out.
    let mut words = [0; 2];
    view.read_words(0, &mut words).unwrap();
    assert_eq!(words, [u64::MAX, 0x3f]);
}

/// Owners of several roots put them into a tree, whose other values are no arrays.
#[test]
fn a_tree_of_something_else_is_no_array() {
    let world = World::new(64);
    let root = world.change(|txn| {
        let root = btree::empty(txn, 4)?;
        let mut tree = TreeType {
            levels: 1,
            value_bytes: 4,
            values: &mut Plain,
        };
        Ok(btree::insert(txn, &mut tree, root, &[0], &[1; 4])?.root)
    });
    world.commit();
    let blocks: &std::sync::Arc<BlockManager> = world.blocks();
    let array = Array::new(blocks, root, 8, 1).unwrap();
    let error = array.get(0, &mut [0; 8], Wait::Yes).unwrap_err();
    assert!(matches!(error, Error::Damaged(_)), "{error}");
    let mut plain = Plain;
    let mut of_words = words(&mut plain);
    let error = refused(&world, |txn| {
        array::set(txn, &mut of_words, root, 1, 0, &[1; 8])
    });
    assert!(matches!(error, Error::Damaged(_)), "{error}");
}
