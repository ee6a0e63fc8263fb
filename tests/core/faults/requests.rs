//! The k-th read, write or flush of a transaction fails, for every k.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::store::{Store, StoreView};
use thinmeta::transaction::Transaction;

use super::cases::{Case, UNTOUCHED, all_answer, cases, options, transact};
use crate::crash::judge::{judge, judge_open, read_back};
use crate::crash::script::{Op, scattered};
use crate::crash::state::{Content, State};

fn open(case: &Case) -> (Arc<MemoryDevice>, Arc<FaultyDevice>, Arc<Store>) {
    let memory = Arc::new(MemoryDevice::writable(case.image.clone()));
    let faulty = Arc::new(FaultyDevice::new(Arc::clone(&memory) as Arc<dyn Device>));
    let store = Store::open_on(Arc::clone(&faulty) as Arc<dyn Device>, &options()).unwrap();
    (memory, faulty, store)
}

fn again(content: &Content) -> State {
    State::Store(Content::new(content.generation, &content.trees))
}

fn still_reads(view: &StoreView, content: &Content, at: &str) {
    read_back(view, content).unwrap_or_else(|problem| panic!("{at}: a view: {problem}"));
}

#[test]
fn a_failed_read_leaves_the_committed_state_and_work_goes_on() {
    let (mut failures, mut half_done) = (0, 0);
    for case in cases() {
        for after in 0.. {
            let (memory, faulty, store) = open(&case);
            let at = format!("{}, read {after}", case.name);
            let view = store.view().unwrap();
            let txn = store.transaction(None).unwrap();
            let name = UNTOUCHED;
            let tree = txn.tree(name).unwrap();
            let mut trees = case.before.trees.clone();
            faulty.set_fault(Fault::once(Request::Read, after));
            let mut left = case.ops.as_slice();
            let outcome = loop {
                let Some((op, rest)) = left.split_first() else {
                    break txn.commit();
                };
                if let Err(error) = op.apply(&txn, &mut trees) {
                    break Err(error);
                }
                left = rest;
            };
            // A read ahead that fails is nobody's failure.
            let failed = faulty.failed() > 0;
            faulty.heal();
            let Err(error) = outcome else {
                drop(view);
                judge_open(&store, &case.after).unwrap();
                if failed {
                    continue;
                }
                break;
            };
            failures += 1;
            assert!(matches!(error, Error::Io { .. }), "{at}: {error}");
            if store.manager().aborted().is_some() {
                half_done += 1;
                all_answer(&store, &txn, tree, name, |error| {
                    matches!(error, Error::Aborted(_))
                });
                still_reads(&view, &case.before, &at);
                txn.abort().unwrap();
                drop(txn);
                judge_open(&store, &case.before)
                    .unwrap_or_else(|problem| panic!("{at}: {problem}"));
                trees = case.before.trees.clone();
                transact(&store, &case.ops, &mut trees).unwrap();
            } else {
                // No trace: the same call again does what it should have done.
                for op in left {
                    op.apply(&txn, &mut trees).unwrap();
                }
                txn.commit().unwrap();
            }
            still_reads(&view, &case.before, &at);
            drop(view);
            judge_open(&store, &case.after).unwrap_or_else(|problem| panic!("{at}: {problem}"));
            judge(&(memory as Arc<dyn Device>), &again(&case.after)).unwrap();
        }
    }
    assert!(
        failures > 50 && half_done > 20,
        "{failures} failures, {half_done} half-way"
    );
}

/// What a plain run of the transaction writes.
fn counted(case: &Case) -> [u64; 2] {
    let (_, faulty, store) = open(case);
    transact(&store, &case.ops, &mut case.before.trees.clone()).unwrap();
    [Request::Write, Request::Flush].map(|request| faulty.count(request))
}

#[test]
fn after_a_failed_write_or_flush_nothing_but_views_answers_and_reopening_finds_old_or_new() {
    for case in cases() {
        let [writes, flushes] = counted(&case);
        assert_eq!(flushes, 2, "{}", case.name);
        let torn = [0, 512, 4096].map(|torn| (Request::Write, writes, torn));
        for (request, count, torn_bytes) in [torn.as_slice(), &[(Request::Flush, 2, 0)]].concat() {
            for after in 0..count {
                // The superblock comes last, and its first sector tells.
                let is_new = after + 1 == count && (request == Request::Flush || torn_bytes > 0);
                let fault = Fault {
                    torn_bytes,
                    ..Fault::once(request, after)
                };
                fails(&case, fault, is_new);
            }
        }
    }
}

fn fails(case: &Case, fault: Fault, is_new: bool) {
    let at = format!("{}, {fault:?}", case.name);
    let (memory, faulty, store) = open(case);
    let view = store.view().unwrap();
    let txn = store.transaction(None).unwrap();
    let name = UNTOUCHED;
    let tree = txn.tree(name).unwrap();
    let mut trees = case.before.trees.clone();
    faulty.set_fault(fault);
    let done = case
        .ops
        .iter()
        .try_for_each(|op| op.apply(&txn, &mut trees));
    let poisoned = |error: &Error| matches!(error, Error::Poisoned(_));
    let error = done.and_then(|()| txn.commit()).expect_err(&at);
    assert!(poisoned(&error), "{at}: {error}");
    assert!(faulty.was_poisoned(), "{at}");
    let written = || [Request::Write, Request::Flush].map(|request| faulty.count(request));
    let before = written();
    all_answer(&store, &txn, tree, name, poisoned);
    assert!(poisoned(&txn.abort().unwrap_err()), "{at}");
    drop(txn);
    assert!(
        store.transaction(None).is_err_and(|error| poisoned(&error)),
        "{at}"
    );
    assert!(store.space().is_err_and(|error| poisoned(&error)), "{at}");
    still_reads(&view, &case.before, &at);
    still_reads(&store.view().unwrap(), &case.before, &at);
    drop((view, store));
    assert_eq!(written(), before, "{at}: something was written later");
    let found = if is_new { &case.after } else { &case.before };
    let memory = memory as Arc<dyn Device>;
    judge(&memory, &again(found)).unwrap_or_else(|problem| panic!("{at}: {problem}"));
    if !is_new {
        let store = Store::open_on(memory, &options()).unwrap();
        let mut trees = case.before.trees.clone();
        transact(&store, &case.ops, &mut trees).unwrap();
        judge_open(&store, &case.after).unwrap();
    }
}

#[test]
fn an_abort_that_fails_is_made_good_by_the_next_and_views_keep_their_blocks() {
    let case = cases().pop().unwrap();
    let (_, faulty, store) = open(&case);
    let view = store.view().unwrap();
    let mut trees = case.before.trees.clone();
    transact(&store, &case.ops, &mut trees).unwrap();
    let numbers = || {
        let all = |txn: &Transaction| Ok((txn.nr_free(), txn.withheld_blocks()));
        store.manager().look(all).unwrap()
    };
    let before = numbers();
    assert!(before.1 > 0, "{before:?}");
    let txn = store.transaction(None).unwrap();
    let all = Op::PutMany("big", 1000, scattered(200), 9);
    all.apply(&txn, &mut trees.clone()).unwrap();
    faulty.set_fault(Fault::from(Request::Read, 0));
    assert!(matches!(txn.abort(), Err(Error::Io { .. })));
    drop(txn);
    let aborted = |error: Error| matches!(error, Error::Aborted(_));
    assert!(store.space().is_err_and(aborted));
    faulty.heal();
    store.transaction(None).unwrap().abort().unwrap();
    assert_eq!(numbers(), before);
    // Every block that may be used is.
    let mut last = case.after.generation;
    for round in 0..200 {
        let op = Op::Put("big", 1000, vec![round * 1003 % 60_000], round);
        let mut changed = trees.clone();
        match transact(&store, &[op], &mut changed) {
            Ok(()) => (trees, last) = (changed, last + 1),
            Err(error) => assert!(matches!(error, Error::NoSpace { .. }), "{error}"),
        }
    }
    still_reads(&view, &case.before, "after many commits");
    drop(view);
    judge_open(&store, &Content::new(last, &trees)).unwrap();
}
