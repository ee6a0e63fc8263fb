//! A power cut while a pool is put right leaves it as it was, or right.

use std::sync::Arc;

use thinmeta::device::{Device, RecordingDevice};
use thinmeta::task::Task;
use thinmeta::tools::check::{MendOptions, mend_device};

use super::spoil::Spoil;
use super::{check, wrong};
use crate::crash::history::{Milestone, Recorded};
use crate::crash::images::judge_some;
use crate::crash::judge::{Verdict, equal};
use crate::crash::number;
use crate::support::chance::Chance;
use crate::support::fixtures::unpacked;

/// Images in a plain test run; `THINMETA_CRASH_IMAGES` asks for more.
const IMAGES: usize = 600;

/// What has to be found wrong.
type State = Vec<&'static str>;

fn judge(device: &Arc<dyn Device>, state: &State, chance: &mut Chance<'_>) -> Verdict {
    equal("what is wrong", &wrong(&check(device)), state)?;
    if !chance.one_in(8) {
        return Ok(());
    }
    // Whatever was left can be put right.
    let mended = mend_device(Arc::clone(device), MendOptions::default(), &Task::default());
    mended.map_err(|error| error.to_string())?;
    equal("after another try", wrong(&check(device)), State::new())
}

fn record(name: &str, seed: u64) -> Recorded<State> {
    let whole = unpacked(&format!("thin/{name}/meta.img"));
    let mut chance = Chance::of_case(seed, name, 0);
    let mut spoil = Spoil::default();
    while !spoil.is_something() {
        spoil = Spoil::random(&whole, &mut chance);
    }
    let device = Arc::new(RecordingDevice::new(spoil.apply(&whole)));
    let shared: Arc<dyn Device> = Arc::clone(&device) as _;
    let before = wrong(&check(&shared));
    let mended = mend_device(
        Arc::clone(&shared),
        MendOptions::default(),
        &Task::default(),
    );
    assert!(mended.unwrap().after.is_some(), "{name} {seed}: {before:?}");
    let log = device.log();
    let milestones = vec![Milestone {
        begin: 0,
        end: log.operations().len(),
    }];
    Recorded {
        name: format!("{name} {seed}"),
        milestones,
        log,
        states: vec![before, wrong(&check(&shared))],
    }
}

#[test]
fn a_crash_while_a_pool_is_put_right_leaves_it_as_it_was_or_right() {
    let wanted = number("THINMETA_CRASH_IMAGES", IMAGES);
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    let names = [
        "discards",
        "deleted",
        "snap-chain",
        "crashed-busy",
        "sequential",
    ];
    let mut images = 0;
    for round in 0.. {
        if images >= wanted {
            break;
        }
        let recorded = record(names[round % names.len()], seed << 32 | round as u64);
        assert_eq!(recorded.states[1], State::new(), "{}", recorded.name);
        let judged = judge_some(&recorded, wanted / names.len(), seed, judge);
        images += judged.unwrap_or_else(|problem| {
            panic!("seed {seed}, after {images} sound images: {problem}");
        });
    }
    println!("{images} crash images of pools that were put right, all of them sound");
}
