//! The k-th allocation of a transaction finds no free block, for every k.

use std::sync::Arc;

use thinmeta::btree::NODE_VALIDATOR;
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::store::Store;
use thinmeta::{BlockNr, Error};

use super::cases::{Case, UNTOUCHED, all_answer, cases, options, transact};
use crate::crash::judge::judge_open;
use crate::crash::script::Op;
use crate::crash::state::Content;

/// Takes blocks until no more than `left` are free.
fn take_all_but(store: &Arc<Store>, left: u64) -> Vec<BlockNr> {
    let taken = store.manager().change(|txn| {
        let mut taken = Vec::new();
        while txn.nr_free() > left {
            let guard = txn.new_block(&NODE_VALIDATOR)?;
            taken.push(guard.location());
        }
        Ok(taken)
    });
    taken.unwrap()
}

/// Whether the transaction was possible with so few free blocks.
fn with_few_blocks(case: &Case, left: u64) -> bool {
    let at = format!("{}, {left} free blocks", case.name);
    let device = Arc::new(MemoryDevice::writable(case.image.clone()));
    let store = Store::open_on(Arc::clone(&device) as Arc<dyn Device>, &options()).unwrap();
    let txn = store.transaction(None).unwrap();
    let name = UNTOUCHED;
    let tree = txn.tree(name).unwrap();
    let mut trees = case.before.trees.clone();
    let taken = take_all_but(&store, left);
    let done = case
        .ops
        .iter()
        .try_for_each(|op| op.apply(&txn, &mut trees));
    match done.and_then(|()| txn.commit()) {
        Ok(()) => {
            drop(txn);
            let blocks = store.space().unwrap().0;
            device.grow((usize::try_from(blocks).unwrap() + 64) * 4096);
            give_back(&store, case, &taken);
            true
        }
        Err(Error::NoSpace { space, .. }) => {
            assert_eq!(space, "metadata", "{at}");
            if store.manager().aborted().is_some() {
                all_answer(&store, &txn, tree, name, |error| {
                    matches!(error, Error::Aborted(_))
                });
            }
            txn.abort().unwrap();
            drop(txn);
            judge_open(&store, &case.before).unwrap_or_else(|problem| panic!("{at}: {problem}"));
            transact(&store, &case.ops, &mut case.before.trees.clone()).unwrap();
            judge_open(&store, &case.after).unwrap_or_else(|problem| panic!("{at}: {problem}"));
            false
        }
        Err(error) => panic!("{at}: {error}"),
    }
}

/// Frees what was taken to make space scarce, so that the counts can be walked. There
/// may be no block left to do even that, so the store grows first.
fn give_back(store: &Arc<Store>, case: &Case, taken: &[BlockNr]) {
    let mut trees = case.after.trees.clone();
    let txn = store.transaction(None).unwrap();
    let freed = store.manager().change(|txn| {
        txn.extend(64)?;
        taken.iter().try_for_each(|at| txn.dec(*at))
    });
    freed.unwrap();
    Op::Put("later", 8, vec![1], 1)
        .apply(&txn, &mut trees)
        .unwrap();
    txn.commit().unwrap();
    let content = Content::new(case.after.generation + 1, &trees);
    judge_open(store, &content).unwrap();
}

#[test]
fn a_transaction_that_runs_out_of_space_anywhere_leaves_the_committed_state() {
    for case in cases() {
        let needed = (0..400).find(|left| with_few_blocks(&case, *left));
        let needed = needed.unwrap_or_else(|| panic!("{} never succeeds", case.name));
        assert!(needed >= 3, "{} needs {needed} blocks", case.name);
    }
}
