//! Counts of every size, in any order, through commit and abort.

use thinmeta::{BlockNr, Error};

use super::{commit, create, memory, reopen};

struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }
}

/// The checker below compares every answer; the plain counts here are its judge.
#[test]
fn random_counts_are_exact_and_survive() {
    let size = 20_000;
    let device = memory(size);
    let mut manager = create(device.clone()).unwrap();
    let mut random = Random(77);
    // Blocks of ours, far from those of the map itself.
    let ours = 10_000..10_000 + 3000_u64;
    let mut counts = vec![0_u32; 3000];
    let mut committed = counts.clone();
    for round in 0..60 {
        for _ in 0..40 {
            let begin = random.next(3000);
            let end = (begin + 1 + random.next(30)).min(3000);
            let range = ours.start + begin..ours.start + end;
            let part = begin as usize..end as usize;
            if random.next(5) < 3 {
                manager.change(|txn| txn.inc_range(range)).unwrap();
                counts[part].iter_mut().for_each(|count| *count += 1);
            } else {
                let legal = counts[part.clone()].iter().all(|count| *count > 0);
                let answer = manager.change(|txn| txn.dec_range(range));
                assert_eq!(answer.is_ok(), legal);
                if legal {
                    counts[part].iter_mut().for_each(|count| *count -= 1);
                } else {
                    assert!(matches!(answer, Err(Error::Usage(_))));
                }
            }
        }
        if round % 4 == 3 {
            manager.abort().unwrap();
            counts.clone_from(&committed);
        } else {
            commit(&manager).unwrap();
            committed.clone_from(&counts);
        }
        if round % 7 == 6 {
            drop(manager);
            manager = reopen(device.clone()).unwrap();
        }
        for (index, count) in counts.iter().enumerate() {
            let block = BlockNr(ours.start + index as u64);
            let found = manager.look(|txn| Ok((txn.ref_count(block)?, txn.is_shared(block)?)));
            assert_eq!(
                found.unwrap(),
                (*count, *count > 1),
                "block {block}, round {round}"
            );
        }
    }
    assert!(counts.iter().any(|count| *count > 3));
}

#[test]
fn counts_end_at_the_largest_number_and_not_above() {
    let manager = create(memory(64)).unwrap();
    let block = BlockNr(50);
    manager
        .change(|txn| txn.set_count(block, u32::MAX - 1))
        .unwrap();
    manager.change(|txn| txn.inc(block)).unwrap();
    assert!(matches!(
        manager.change(|txn| txn.inc(block)),
        Err(Error::Usage(_))
    ));
    commit(&manager).unwrap();
    assert_eq!(manager.look(|txn| txn.ref_count(block)).unwrap(), u32::MAX);
    manager.change(|txn| txn.set_count(block, 2)).unwrap();
    manager.change(|txn| txn.set_count(block, 0)).unwrap();
    assert!(matches!(
        manager.change(|txn| txn.dec(block)),
        Err(Error::Usage(_))
    ));
    commit(&manager).unwrap();
}

#[test]
fn low_space_is_told_once_each_time_that_it_gets_low() {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TOLD: AtomicU64 = AtomicU64::new(0);
    let manager = create(memory(64)).unwrap();
    let tell = Box::new(|free| {
        assert!(free <= 40);
        TOLD.fetch_add(1, Ordering::Relaxed);
    });
    manager.change(|txn| txn.on_low_space(40, tell)).unwrap();
    let take = |count: usize| {
        let one = |_| {
            let block = manager.change(|txn| {
                txn.new_block(&thinmeta::btree::NODE_VALIDATOR)
                    .map(|guard| guard.location())
            });
            block.unwrap()
        };
        (0..count).map(one).collect::<Vec<_>>()
    };
    let first = take(30);
    assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    commit(&manager).unwrap();
    first
        .into_iter()
        .for_each(|block| manager.change(|txn| txn.dec(block)).unwrap());
    commit(&manager).unwrap();
    // An observation above the threshold arms it again.
    take(1);
    assert_eq!(TOLD.load(Ordering::Relaxed), 1);
    take(25);
    assert_eq!(TOLD.load(Ordering::Relaxed), 2);
}
