//! The claim for the metadata alone.

use super::judge_pool;
use crate::crash::images::{MOST_OF_ONE, judge_some};
use crate::crash::number;
use crate::pool::history::{random, scripted};

/// Images in a plain test run; `THINMETA_CRASH_IMAGES` asks for more.
const IMAGES: usize = 1500;

#[test]
fn a_crash_at_any_point_leaves_the_old_pool_or_the_new_one() {
    let wanted = number("THINMETA_CRASH_IMAGES", IMAGES);
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    let known = scripted();
    let nr_known = known.len();
    let unknown = (0..).map(|number| random(seed << 32 | number));
    let (mut images, mut histories) = (0, 0);
    for history in known.into_iter().chain(unknown) {
        if images >= wanted && histories > nr_known {
            break;
        }
        // Half of them for what is known to be hard.
        let share = if histories < nr_known {
            wanted / 2 / nr_known
        } else {
            (wanted / 12).min(MOST_OF_ONE)
        };
        let judged = history
            .run()
            .and_then(|recorded| judge_some(&recorded, share, seed, judge_pool));
        images += judged.unwrap_or_else(|problem| {
            panic!("seed {seed}, after {images} sound images: {problem}");
        });
        histories += 1;
    }
    println!("{images} crash images of {histories} histories of pools, all of them sound");
}
