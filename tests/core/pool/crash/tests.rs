//! The claim for the metadata alone.

use super::judge_pool;
use crate::crash::{judge_histories, number};
use crate::pool::history::{random, scripted};

/// Images in a plain test run; `THINMETA_CRASH_IMAGES` asks for more.
const IMAGES: usize = 1500;

#[test]
fn a_crash_at_any_point_leaves_the_old_pool_or_the_new_one() {
    let wanted = number("THINMETA_CRASH_IMAGES", IMAGES);
    // Half of them for what is known to be hard.
    let known = (scripted(), wanted / 2);
    let (images, histories) = judge_histories(known, random, wanted, |it| it.run(), judge_pool);
    println!("{images} crash images of {histories} histories of pools, all of them sound");
}
