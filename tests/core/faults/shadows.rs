//! The shadow table may forget, and must never remember.

use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::device::{Device, MemoryDevice, Operation, RecordingDevice};
use thinmeta::store::Store;

use super::cases::{Case, cases, options};
use crate::crash::judge::{judge, judge_open};
use crate::crash::script::Op;
use crate::crash::state::{Content, State};
use crate::support::chance::Chance;

/// Does it all, forgetting one shadow in so many after each step (0: none); how
/// many things were done that an abort would have to undo.
fn effort(case: &Case, forget_one_in: u64, chance: &mut Chance<'_>) -> u64 {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(case.image.clone()));
    let store = Store::open_on(Arc::clone(&device), &options()).unwrap();
    let txn = store.transaction(None).unwrap();
    let mut trees = case.before.trees.clone();
    for op in &case.ops {
        op.apply(&txn, &mut trees).unwrap();
        if forget_one_in > 0 {
            let forget = store.manager().change(|txn| {
                txn.forget_shadows(|_| !chance.one_in(forget_one_in));
                Ok(())
            });
            forget.unwrap();
        }
    }
    txn.commit().unwrap();
    let effort = store.manager().look(|txn| Ok(txn.side_effects())).unwrap();
    drop(txn);
    judge_open(&store, &case.after).unwrap_or_else(|problem| {
        panic!("{}, one in {forget_one_in} forgotten: {problem}", case.name)
    });
    effort
}

#[test]
fn shadows_that_are_forgotten_cost_copies_and_nothing_else() {
    for case in cases() {
        let mut chance = Chance::of_case(1, case.name, 0);
        let usual = effort(&case, 0, &mut chance);
        for forget_one_in in [1, 1, 2, 2, 2, 5, 20] {
            let found = effort(&case, forget_one_in, &mut chance);
            // Forgotten shadows of trees that are not touched again cost nothing.
            assert!(found >= usual, "{}: {found} instead of {usual}", case.name);
            let single = forget_one_in == 1 && case.ops.len() > 5;
            assert!(
                !single || found > usual,
                "{}: nothing was forgotten",
                case.name
            );
        }
    }
}

#[test]
fn no_block_is_a_shadow_after_a_commit_or_an_abort() {
    for case in cases() {
        let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(case.image.clone()));
        let store = Store::open_on(device, &options()).unwrap();
        let shadows = || {
            let count = |txn: &thinmeta::transaction::Transaction| {
                let all = (0..txn.nr_blocks()).map(BlockNr);
                (
                    txn.has_shadows(),
                    all.filter(|at| txn.is_shadow(*at)).count(),
                )
            };
            store.manager().look(|txn| Ok(count(txn))).unwrap()
        };
        for commits in [false, true] {
            let txn = store.transaction(None).unwrap();
            let mut trees = case.before.trees.clone();
            case.ops
                .iter()
                .for_each(|op| op.apply(&txn, &mut trees).unwrap());
            let (any, some) = shadows();
            assert!(any && some > 1, "{}", case.name);
            if commits {
                txn.commit().unwrap();
            } else {
                txn.abort().unwrap();
            }
            assert_eq!(shadows(), (false, 0), "{}, commits: {commits}", case.name);
        }
    }
}

/// The root of the first tree, which is not shared.
fn lonely_root(store: &Arc<Store>, name: &str) -> BlockNr {
    let root = store.view().unwrap().tree(name).unwrap().root;
    let count = store.manager().look(|txn| txn.ref_count(root)).unwrap();
    assert_eq!(count, 1);
    root
}

#[test]
fn a_committed_block_that_is_taken_for_a_shadow_shows_in_a_crash_and_after_an_abort() {
    let case = cases().swap_remove(0);
    let device = Arc::new(RecordingDevice::new(case.image.clone()));
    let store = Store::open_on(Arc::clone(&device) as Arc<dyn Device>, &options()).unwrap();
    let root = lonely_root(&store, "b");
    let txn = store.transaction(None).unwrap();
    let change = store.manager().change(|txn| {
        txn.remember_shadow(root);
        Ok(())
    });
    change.unwrap();
    let mut trees = case.before.trees.clone();
    Op::Put("b", 100, vec![1, 2, 3], 4)
        .apply(&txn, &mut trees)
        .unwrap();
    // The root stays where it is: the commit must have another reason.
    let more = Op::Put("a", 8, vec![4], 5);
    let state = || State::Store(Content::new(case.before.generation, &case.before.trees));
    let wrong = |image: Vec<u8>| {
        let image: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image));
        judge(&image, &state()).is_err()
    };
    // Written early, and taken back.
    store.manager().blocks().flush().unwrap();
    txn.abort().unwrap();
    assert!(wrong(device.contents()));

    let device = Arc::new(RecordingDevice::new(case.image.clone()));
    let store = Store::open_on(Arc::clone(&device) as Arc<dyn Device>, &options()).unwrap();
    let txn = store.transaction(None).unwrap();
    let change = store.manager().change(|txn| {
        txn.remember_shadow(root);
        Ok(())
    });
    change.unwrap();
    let mut trees = case.before.trees.clone();
    let both = [Op::Put("b", 100, vec![1, 2, 3], 4), more];
    both.iter()
        .for_each(|op| op.apply(&txn, &mut trees).unwrap());
    txn.commit().unwrap();
    let log = device.log();
    let is_superblock = |operation: &Operation| {
        matches!(
            operation,
            Operation::Write {
                offset_bytes: 0,
                ..
            }
        )
    };
    let commit = log.operations().iter().position(is_superblock).unwrap();
    assert!(wrong(log.prefix(commit)));
    // The judge is not simply always against it.
    assert!(!wrong(case.image.clone()));
}
