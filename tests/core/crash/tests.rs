//! The claims.

use super::history::{random, scripted};
use super::images::{MOST_OF_ONE, judge_some, judge_store};
use super::{bare, judge_histories, number};

/// Images in a plain test run; `THINMETA_CRASH_IMAGES` asks for more.
const IMAGES: usize = 6000;

#[test]
fn a_crash_at_any_point_leaves_the_old_state_or_the_new_one() {
    let wanted = number("THINMETA_CRASH_IMAGES", IMAGES);
    // Two thirds for what is known to be hard.
    let known = (scripted(), wanted * 2 / 3);
    let (images, histories) = judge_histories(known, random, wanted, |it| it.run(), judge_store);
    println!("{images} crash images of {histories} histories, all of them sound");
}

#[test]
fn a_crash_leaves_both_space_maps_of_a_bare_transaction_manager_right() {
    let wanted = number("THINMETA_CRASH_IMAGES", IMAGES) / 4;
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    let share = wanted.div_ceil(4).min(MOST_OF_ONE);
    let (mut images, mut histories) = (0, 0);
    while images < wanted || histories < 3 {
        let recorded = if histories == 0 {
            bare::one_at_a_time()
        } else {
            bare::random(seed << 32 | histories)
        };
        let judged = recorded.and_then(|recorded| judge_some(&recorded, share, seed, bare::judge));
        images += judged.unwrap_or_else(|problem| {
            panic!("seed {seed}, after {images} sound images: {problem}");
        });
        histories += 1;
    }
    println!("{images} crash images of {histories} bare histories, all of them sound");
}
