//! Spoiled pools are opened and changed: an error or a success, never a panic, a hang,
//! or a hunger for memory.

use std::sync::LazyLock;

use crate::fuzzed::pool::{change, victims};
use crate::hostile::law::{Broken, Verdict};
use crate::hostile::mutation::{any, several_at_once};
use crate::hostile::run::run_judged;
use crate::hostile::victim::Victim;
use crate::support::chance::Chance;
use crate::support::image::Image;

static VICTIMS: LazyLock<Vec<Victim>> = LazyLock::new(victims);

/// A third of THINMETA_HOSTILE_CASES each.
const FAMILIES: u64 = 3;

fn judge(_: &Victim, image: &Image, _: bool, chance: &mut Chance<'_>) -> Result<Verdict, Broken> {
    // What breaks a law panics, which is told with the case.
    let outcome = change(image, chance);
    Ok(match outcome.as_slice() {
        [.., last] if last == "not opened" => Verdict::Refused,
        [] => Verdict::Same,
        _ => Verdict::Found,
    })
}

#[test]
fn pools_of_which_one_thing_is_spoiled_are_changed() {
    run_judged("change_any", FAMILIES, &VICTIMS, any, judge);
}

#[test]
fn pools_of_which_several_things_are_spoiled_are_changed() {
    run_judged("change_several", FAMILIES, &VICTIMS, several_at_once, judge);
}

#[test]
fn whole_pools_stay_sound() {
    for victim in VICTIMS.iter() {
        for case in 0..40 {
            change(&victim.image, &mut Chance::of_case(case, victim.name, 0));
        }
    }
}
