//! B-trees whose nodes lie are changed.

use thinmeta::btree::{
    Plain, TreeType, delete, first, insert, insert_sorted, last, remove, remove_leaves,
    remove_range, scan,
};

use super::Outcome;
use super::base::{BASE, change, commit, note, open};
use crate::support::chance::Chance;

pub fn run(bytes: &[u8]) -> Outcome {
    let (mut chance, mut outcome) = (Chance::Bytes(bytes), Outcome::new());
    let image = BASE.patched(&mut chance, &["btree node"]);
    let Some(manager) = open(image, &mut outcome) else {
        return outcome;
    };
    let mut committed = BASE.trees;
    let mut roots = committed;
    for _ in 0..8 {
        let which = chance.index(2);
        let (root, levels) = (roots[which], which + 1);
        let key = chance.below(1500);
        let keys = &[key % 5, key][2 - levels..];
        let what = chance.below(10);
        let value = key.to_le_bytes();
        let mut now = root;
        let going_on = change(&manager, &mut outcome, |txn| {
            let mut tree = TreeType {
                levels,
                value_bytes: 8,
                values: &mut Plain,
            };
            now = match what {
                0..3 => insert(txn, &mut tree, root, keys, &value)?.root,
                3 | 4 => remove(txn, &mut tree, root, keys)?.unwrap_or(root),
                5 => remove_leaves(txn, &mut tree, root, keys, key + 200)?.0,
                6 => {
                    let above = &keys[..levels - 1];
                    // Up to a few leaves goes entry by entry, the others are cut out.
                    remove_range(txn, &mut tree, root, above, key / 2..key * 2)?.0
                }
                7 if levels == 1 => {
                    let keys: Vec<u64> = (key..key + 300).collect();
                    let values = vec![1; keys.len() * 8];
                    insert_sorted(txn, &mut tree, root, &keys, &values)?.root
                }
                8 => {
                    delete(txn, &mut tree, root)?;
                    thinmeta::btree::empty(txn, 8)?
                }
                _ => root,
            };
            Ok(())
        });
        roots[which] = now;
        if manager.look(|txn| Ok(txn.has_shadows())).ok() == Some(false) {
            // Nothing was changed, or an abort undid it.
            roots = committed;
        }
        if !going_on {
            return outcome;
        }
        if what == 9 {
            if !commit(&manager, &mut outcome) {
                break;
            }
            committed = roots;
        }
    }
    let blocks = manager.blocks();
    for root in roots {
        note(first(blocks, root, 8), &mut outcome);
        note(last(blocks, root, 8), &mut outcome);
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let scanned = scan(blocks, root, 8, (0, None), &mut keys, &mut values);
        note(scanned, &mut outcome);
        assert!(keys.is_sorted_by(|one, next| one < next));
        assert_eq!(values.len(), keys.len() * 8);
    }
    BASE.check_unlocked(blocks);
    outcome
}
