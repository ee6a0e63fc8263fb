//! The k-th read, write or flush of the metadata device fails, for every k.

use thinmeta::Error;
use thinmeta::device::{Fault, Request};
use thinmeta::thin::PoolState;

use super::cases::{Case, Opened, all_answer, assert_read_only, cases, judge_image, needs_check};
use crate::pool::world::{judge, listing};

/// The last commit can be read, whatever the flag.
fn assert_current(opened: &Opened, case: &Case, at: &str) {
    let current = opened.writer.current().unwrap();
    assert!(listing(&current) == case.before.devices, "{at}");
}

#[test]
fn a_failed_read_leaves_the_last_commit_and_work_goes_on() {
    let (mut without_trace, mut half_done, mut in_commit) = (0, 0, 0);
    for case in cases() {
        for after in (0..).step_by(case.stride()) {
            let at = format!("{}, read {after}", case.name);
            let opened = case.open();
            let txn = opened.writer.transaction().unwrap();
            let mut model = case.before.clone();
            opened.faulty.set_fault(Fault::once(Request::Read, after));
            let changed = case.change(&txn, &mut model);
            let was_changed = changed.is_ok();
            let outcome = changed.and_then(|()| txn.commit());
            let failed = opened.faulty.failed() > 0;
            opened.faulty.heal();
            match outcome {
                Ok(()) => {
                    model.commit();
                    judge_image(&opened.memory, &model, &at);
                    match failed {
                        // A read ahead that fails is nobody's failure.
                        true => continue,
                        false => break,
                    }
                }
                Err(Error::CommitFailed {
                    source,
                    needs_check_set,
                }) => {
                    in_commit += 1;
                    assert!(was_changed && needs_check_set, "{at}: {source}");
                    assert!(needs_check(&opened.memory), "{at}");
                    assert!(txn.has_ended(), "{at}");
                    assert_read_only(&opened.writer, &at);
                    assert_current(&opened, &case, &at);
                    judge_image(&opened.memory, &case.before, &at);
                    continue;
                }
                Err(error) => assert!(matches!(error, Error::Io { .. }), "{at}: {error}"),
            }
            if txn.changed().is_ok() {
                // No trace: what was done before it is committed.
                without_trace += 1;
                txn.commit().unwrap();
                model.commit();
                judge(&opened.writer.current().unwrap(), &model);
                judge_image(&opened.memory, &model, &at);
                continue;
            }
            half_done += 1;
            all_answer(&txn, &at, |error| matches!(error, Error::Aborted(_)));
            assert_current(&opened, &case, &at);
            match after % 2 {
                0 => assert!(matches!(txn.commit(), Err(Error::Aborted(_))), "{at}"),
                _ => txn.abort().unwrap(),
            }
            all_answer(&txn, &at, |error| matches!(error, Error::Usage(_)));
            assert_eq!(opened.writer.state(), PoolState::Write, "{at}");
            judge(&opened.writer.current().unwrap(), &case.before);
            judge_image(&opened.memory, &case.before, &at);
            let again = opened.writer.transaction().unwrap();
            let mut model = case.before.clone();
            case.change(&again, &mut model).unwrap();
            again.commit().unwrap();
            model.commit();
            judge_image(&opened.memory, &model, &at);
        }
    }
    assert!(
        without_trace > 20 && half_done > 10,
        "{without_trace} without a trace, {half_done} half-way, {in_commit} in a commit"
    );
}

/// Faults of a kind of request, each of the first `count`.
fn faults(request: Request, count: u64) -> Vec<Fault> {
    let torn = match request {
        Request::Write => [0, 512, 4096].as_slice(),
        _ => &[0],
    };
    let each = |after| {
        let torn = torn.iter().map(move |torn_bytes| Fault {
            torn_bytes: *torn_bytes,
            ..Fault::once(request, after)
        });
        torn.chain([Fault::from(request, after)])
    };
    (0..count).flat_map(each).collect()
}

#[test]
fn after_a_failed_write_or_flush_the_pool_can_be_read_and_the_flag_says_what_the_error_says() {
    let (mut early, mut late) = (0, 0);
    for case in cases() {
        let [writes, flushes] = case.counted();
        assert_eq!(flushes, 2, "{}", case.name);
        for (request, count) in [(Request::Write, writes), (Request::Flush, flushes)] {
            for fault in faults(request, count) {
                match fails(&case, fault, writes) {
                    true => early += 1,
                    false => late += 1,
                }
            }
        }
    }
    assert!(early > 20 && late > 50, "{early} early, {late} in a commit");
}

/// Whether it failed before the commit.
fn fails(case: &Case, fault: Fault, writes: u64) -> bool {
    let at = format!("{}, {fault:?}", case.name);
    let opened = case.open();
    let counts = || [Request::Write, Request::Flush].map(|request| opened.faulty.count(request));
    let txn = opened.writer.transaction().unwrap();
    opened.faulty.set_fault(fault);
    let mut model = case.before.clone();
    let changed = case.change(&txn, &mut model);
    model.commit();
    let early = changed.is_err();
    if let Err(error) = changed {
        let poisoned = |error: &Error| matches!(error, Error::Poisoned(_));
        assert!(poisoned(&error), "{at}: {error}");
        all_answer(&txn, &at, |error| {
            // Nothing is there to be done.
            matches!(error, Error::Poisoned(_) | Error::Usage(_))
        });
        if fault.after.is_multiple_of(2) {
            // Taken back: nobody had asked for a commit, and nothing more is written.
            let before = counts();
            assert!(txn.abort().is_err_and(|error| poisoned(&error)), "{at}");
            assert_eq!(counts(), before, "{at}");
            assert!(!needs_check(&opened.memory), "{at}");
            assert_ends(&opened, case, &at);
            judge_image(&opened.memory, &case.before, &at);
            return true;
        }
    }
    let needs_check_set = match txn.commit() {
        Err(Error::CommitFailed {
            needs_check_set, ..
        }) => needs_check_set,
        other => panic!("{at}: {other:?}"),
    };
    assert!(opened.faulty.was_poisoned(), "{at}");
    let superblock = fault.request == Request::Write && fault.after + 1 == writes;
    let second_flush = fault.request == Request::Flush && fault.after == 1;
    if superblock || second_flush {
        assert_eq!(counts(), [writes, 1 + u64::from(second_flush)], "{at}");
        assert!(!needs_check_set, "{at}");
    } else {
        assert_eq!(needs_check_set, !fault.lasting, "{at}");
    }
    // What was written and not flushed may be there all the same.
    let written = fault.lasting && fault.request == Request::Flush;
    if needs_check_set || !written {
        assert_eq!(needs_check(&opened.memory), needs_check_set, "{at}");
    }
    assert_ends(&opened, case, &at);
    // The superblock's first sector tells.
    let is_new = second_flush || (superblock && fault.torn_bytes > 0);
    let found = if is_new { &model } else { &case.before };
    judge_image(&opened.memory, found, &at);
    early
}

/// The pool can be read, and nothing is written any more.
fn assert_ends(opened: &Opened, case: &Case, at: &str) {
    let before = opened.memory.contents();
    let writes = opened.faulty.count(Request::Write);
    opened.faulty.heal();
    assert_read_only(&opened.writer, at);
    assert_current(opened, case, at);
    opened.writer.flush_volumes().unwrap();
    opened.writer.close().unwrap();
    assert_eq!(opened.faulty.count(Request::Write), writes, "{at}");
    assert!(opened.memory.contents() == before, "{at}");
}

#[test]
fn a_pool_that_cannot_go_back_refuses_everything_but_to_be_closed() {
    let (mut failed, mut flagged) = (0, 0);
    for case in cases() {
        for after in (0..).step_by(case.stride()) {
            let at = format!("{}, all reads from {after} on", case.name);
            let opened = case.open();
            let txn = opened.writer.transaction().unwrap();
            opened.faulty.set_fault(Fault::from(Request::Read, after));
            let changed = case.change(&txn, &mut case.before.clone());
            let outcome = match (changed, after % 2) {
                (Ok(()), _) | (Err(_), 0) => txn.commit(),
                _ => txn.abort(),
            };
            let said = match &outcome {
                Err(Error::CommitFailed {
                    needs_check_set, ..
                }) => *needs_check_set,
                _ => false,
            };
            let any = opened.faulty.failed() > 0;
            opened.faulty.heal();
            assert_eq!(needs_check(&opened.memory), said, "{at}");
            if !any {
                break;
            }
            if opened.writer.state() != PoolState::Failed {
                continue;
            }
            failed += 1;
            flagged += u32::from(said);
            let refused = |answer: thinmeta::Result<()>| matches!(answer, Err(Error::Usage(_)));
            assert!(outcome.is_err(), "{at}");
            all_answer(&txn, &at, |error| matches!(error, Error::Usage(_)));
            assert!(refused(txn.commit()) && refused(txn.abort()), "{at}");
            assert!(refused(opened.writer.transaction().map(drop)), "{at}");
            assert!(refused(opened.writer.current().map(drop)), "{at}");
            let writes = opened.faulty.count(Request::Write);
            opened.writer.close().unwrap();
            drop((txn, opened.writer));
            assert_eq!(opened.faulty.count(Request::Write), writes, "{at}");
            judge_image(&opened.memory, &case.before, &at);
        }
    }
    assert!(
        failed > 20,
        "{failed} failed, {flagged} of them in a commit"
    );
}
