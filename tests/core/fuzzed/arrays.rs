//! Arrays and bitsets whose blocks and trees lie are read in all ways and changed.

use std::sync::Arc;

use thinmeta::array::{self, Array, ArrayType};
use thinmeta::bitset::{Bitset, BitsetView};
use thinmeta::block::BlockManager;
use thinmeta::btree::{Plain, Wait};
use thinmeta::{BlockNr, Error};

use super::Outcome;
use super::base::{BASE, LENGTHS, change, commit, note, open};
use crate::support::chance::Chance;

pub fn run(bytes: &[u8]) -> Outcome {
    let (mut chance, mut outcome) = (Chance::Bytes(bytes), Outcome::new());
    let image = BASE.patched(&mut chance, &["array block", "btree node", "array block"]);
    let Some(manager) = open(image, &mut outcome) else {
        return outcome;
    };
    let known = BASE.arrays.iter().zip(LENGTHS);
    let mut arrays: Vec<_> = known
        .map(|(root, (bytes, len))| (*root, bytes, len))
        .collect();
    for (root, value_bytes, len) in &arrays {
        let wrong = [0, 1, 2].map(|_| chance.below(*len + 2));
        read(
            manager.blocks(),
            *root,
            *value_bytes,
            *len,
            wrong,
            &mut outcome,
        );
    }
    let mut committed = arrays.clone();
    for _ in 0..6 {
        let which = chance.index(2);
        let (root, value_bytes, len) = arrays[which];
        let (what, some) = (chance.below(9), chance.below(2000));
        let mut now = (root, len);
        let going_on = change(&manager, &mut outcome, |txn| {
            let mut array = ArrayType {
                value_bytes,
                values: &mut Plain,
            };
            let value = vec![some as u8; value_bytes];
            now = match what {
                0..2 => (array::set(txn, &mut array, root, len, some, &value)?, len),
                2 => {
                    let begin = some.min(len);
                    (
                        array::fill(txn, &mut array, root, len, begin..len, &value)?,
                        len,
                    )
                }
                3 | 4 => {
                    let new = some % 1400;
                    let root = array::resize(txn, &mut array, root, len, new, &value)?;
                    (root, new)
                }
                5 => {
                    array::delete(txn, &mut array, root)?;
                    (array::empty(txn)?, 0)
                }
                6 | 7 if value_bytes == 8 => {
                    let mut bits = Bitset::open(root, len * 64)?;
                    bits.set_to(txn, some * 31, some % 2 == 0)?;
                    bits.test(txn, some * 29)?;
                    (bits.flush(txn)?, len)
                }
                _ => (root, len),
            };
            Ok(())
        });
        arrays[which] = (now.0, value_bytes, now.1);
        if manager.look(|txn| Ok(txn.has_shadows())).ok() == Some(false) {
            arrays.clone_from(&committed);
        }
        if !going_on {
            break;
        }
        if what == 8 {
            if !commit(&manager, &mut outcome) {
                break;
            }
            committed.clone_from(&arrays);
        }
    }
    for (root, value_bytes, len) in arrays {
        read(
            manager.blocks(),
            root,
            value_bytes,
            len,
            [0, len / 2, len],
            &mut outcome,
        );
    }
    BASE.check_unlocked(manager.blocks());
    outcome
}

/// All ways of reading: where the walk gets through, all of them give the same.
fn read(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    len: u64,
    indices: [u64; 3],
    outcome: &mut Outcome,
) {
    let array = Array::new(blocks, root, value_bytes, len).unwrap();
    let mut walked = Vec::new();
    let visit = |index, element: &[u8]| {
        assert_eq!(index, (walked.len() / value_bytes) as u64);
        walked.extend_from_slice(element);
        Ok(())
    };
    let whole = note(array.walk(visit), outcome).is_some();
    assert!(!whole || walked.len() as u64 == len * value_bytes as u64);
    let mut bulk = vec![0; len as usize * value_bytes];
    let read = array.read(0, &mut bulk);
    assert_eq!(read.is_ok(), whole);
    assert!(!whole || bulk == walked);
    for index in indices {
        let mut out = vec![0; value_bytes];
        let answer = array.get(index, &mut out, Wait::Yes);
        let place = index as usize * value_bytes;
        match answer {
            Err(Error::Usage(_)) => assert!(index >= len),
            Err(error) => {
                assert!(!whole, "element {index}: {error}");
                note::<()>(Err(error), outcome);
            }
            Ok(()) => {
                assert!(index < len);
                assert!(!whole || out == walked[place..place + value_bytes]);
                let mut again = vec![0; value_bytes];
                match array.get(index, &mut again, Wait::No) {
                    Ok(()) => assert_eq!(out, again),
                    // Somebody reads ahead.
                    Err(error) => assert!(matches!(error, Error::WouldBlock), "{error}"),
                }
            }
        }
        let cursor = array.cursor().and_then(|mut cursor| {
            cursor.skip(index)?;
            Ok(cursor.get()?.to_vec())
        });
        assert!(index < len || cursor.is_err());
        assert!(!whole || index >= len || cursor.ok().as_ref() == Some(&out));
    }
    if value_bytes == 8 {
        let view = BitsetView::new(blocks, root, len * 64).unwrap();
        let ones = note(view.count_ones(0..len * 64), outcome);
        let count = |byte: &u8| u64::from(byte.count_ones());
        let expected = walked.iter().map(count).sum();
        assert_eq!(ones, whole.then_some(expected));
    }
}
