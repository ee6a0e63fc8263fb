//! Random histories, judged after every commit.

use thinmeta::Error;
use thinmeta::thin::PoolWriter;

use super::world::{change, checked, create, judge, judge_device, memory};
use crate::support::chance::Chance;

fn seeds(of_a_quick_run: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok()?.parse().ok();
    let first = number("THINMETA_POOL_SEED").unwrap_or(1);
    first..first + number("THINMETA_POOL_HISTORIES").unwrap_or(of_a_quick_run)
}

#[test]
fn every_commit_of_a_random_history_is_what_the_model_says() {
    for seed in seeds(12) {
        let mut chance = Chance::of_case(seed, "pool", 0);
        let device = memory(1200);
        let (mut writer, mut committed) = create(device.clone(), 3000 + chance.below(30_000));
        for step in 0..12 {
            let txn = writer.transaction().unwrap();
            let mut model = committed.clone();
            for _ in 0..1 + chance.below(12) {
                change(&txn, &mut model, &mut chance)
                    .unwrap_or_else(|error| panic!("seed {seed}, step {step}: {error}"));
            }
            if chance.one_in(4) {
                txn.abort().unwrap();
            } else {
                txn.commit().unwrap();
                model.commit();
                committed = model;
            }
            judge(&writer.current().unwrap(), &committed);
            if chance.one_in(3) {
                writer.close().unwrap();
                judge_device(device.clone(), &committed);
                writer = PoolWriter::from_devices(device.clone(), None, &checked()).unwrap();
            }
        }
    }
}

/// Small devices, so that space runs out at every kind of step.
#[test]
fn running_out_of_space_goes_back_to_the_last_commit() {
    let (mut refused, mut aborted) = (0, 0);
    for seed in seeds(40) {
        let mut chance = Chance::of_case(seed, "full pool", 0);
        let device = memory(24 + chance.index(60));
        let (writer, mut committed) = create(device.clone(), 2000);
        for _ in 0..12 {
            let txn = writer.transaction().unwrap();
            let mut model = committed.clone();
            let mut failed = None;
            for _ in 0..1 + chance.below(8) {
                if let Err(error) = change(&txn, &mut model, &mut chance) {
                    failed = Some(error);
                    break;
                }
            }
            match failed {
                None => match txn.commit() {
                    Ok(()) => {
                        model.commit();
                        committed = model;
                    }
                    Err(error) => {
                        assert!(matches!(error, Error::NoSpace { .. }), "{seed}: {error}");
                        refused += 1;
                    }
                },
                Some(error) => {
                    assert!(matches!(error, Error::NoSpace { .. }), "{seed}: {error}");
                    aborted += 1;
                    txn.abort().unwrap();
                }
            }
            judge(&writer.current().unwrap(), &committed);
        }
        judge_device(device, &committed);
    }
    assert!(aborted > 20, "{aborted} aborted, {refused} refused");
}
