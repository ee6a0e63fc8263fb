//! Space maps that lie hand out blocks, count, grow and are committed.

use std::collections::BTreeSet;

use thinmeta::BlockNr;
use thinmeta::btree::NODE_VALIDATOR;

use super::Outcome;
use super::base::{BASE, change, commit, open};
use crate::support::chance::Chance;

pub fn run(bytes: &[u8]) -> Outcome {
    let (mut chance, mut outcome) = (Chance::Bytes(bytes), Outcome::new());
    let kinds = [
        "space map bitmap",
        "space map index",
        "store superblock",
        "btree node",
    ];
    let few = if chance.one_in(8) {
        &kinds[..]
    } else {
        &kinds[..3]
    };
    let image = BASE.patched(&mut chance, few);
    let Some(manager) = open(image, &mut outcome) else {
        return outcome;
    };
    // Blocks of this transaction: none is handed out twice.
    let mut own = BTreeSet::new();
    for _ in 0..12 {
        let (what, some) = (chance.below(12), chance.below(400));
        let going_on = match what {
            0..5 => {
                let mut new = Vec::new();
                let going_on = change(&manager, &mut outcome, |txn| {
                    for _ in 0..1 + some % 40 {
                        let guard = txn.new_block(&NODE_VALIDATOR)?;
                        new.push(guard.location().0);
                        // Never read, never written: it goes when the guard goes.
                        guard.discard();
                    }
                    Ok(())
                });
                if manager.look(|txn| Ok(txn.has_shadows())).ok() == Some(true) {
                    for at in new {
                        assert!(at > 0 && at < manager.blocks().nr_blocks());
                        assert!(own.insert(at), "block {at} is handed out twice");
                    }
                }
                going_on
            }
            5 | 6 => change(&manager, &mut outcome, |txn| txn.inc(BlockNr(some))),
            7 => change(&manager, &mut outcome, |txn| {
                own.remove(&some);
                txn.dec(BlockNr(some))
            }),
            8 => change(&manager, &mut outcome, |txn| {
                txn.inc_range(some..some + some % 50)
            }),
            9 => change(&manager, &mut outcome, |txn| {
                let count = [1, 2, 3, 9, u32::MAX][(some % 5) as usize];
                own.remove(&some);
                txn.set_count(BlockNr(some), count)
            }),
            10 => change(&manager, &mut outcome, |txn| txn.extend(some % 3)),
            _ => {
                own.clear();
                commit(&manager, &mut outcome)
            }
        };
        if !going_on {
            break;
        }
        if manager.look(|txn| Ok(txn.has_shadows())).ok() == Some(false) {
            own.clear();
        }
        let counted = manager.look(|txn| {
            for at in 0..txn.nr_blocks().min(400) {
                let shared = txn.is_shared(BlockNr(at))?;
                // When in doubt, yes.
                assert!(shared || txn.ref_count(BlockNr(at))? <= 1);
            }
            Ok(())
        });
        super::base::note(counted, &mut outcome);
    }
    BASE.check_unlocked(manager.blocks());
    outcome
}
