//! What a power cut leaves: the state before the commit in progress, or the one
//! after it, and nothing else.
//!
//! A history of transactions runs on a [`RecordingDevice`], under the store, the
//! block manager and the write-back that everybody uses. Then every crash that
//! its log allows, or a sample of them, is made into an image, opened, and held
//! against what was committed: `judge` walks the image itself and trusts none of
//! the sums that it judges.
//!
//! `THINMETA_CRASH_IMAGES` says how many images, `THINMETA_CRASH_SEED` which.
//!
//! [`RecordingDevice`]: thinmeta::device::RecordingDevice

mod bare;
pub mod history;
pub mod images;
pub mod judge;
pub mod script;
pub mod state;
mod tests;

use std::sync::Arc;

use thinmeta::device::Device;

use self::history::Recorded;
use self::images::{MOST_OF_ONE, judge_some};
use self::judge::Verdict;
use crate::support::chance::Chance;

/// Whether stores hold every count against plain ones while histories run. Where
/// a mistake was built in, the images have to show it by themselves.
pub fn hold_to_laws() -> bool {
    std::env::var_os("THINMETA_SABOTAGE").is_none()
}

/// Judges what is `known` to be hard, which shares `for_known` of the images wanted,
/// then random histories until there are so many. Tells how many images of how many
/// histories were sound.
pub fn judge_histories<H, S: Sync>(
    (known, for_known): (Vec<H>, usize),
    random: impl Fn(u64) -> H,
    wanted: usize,
    run: impl Fn(H) -> Verdict<Recorded<S>>,
    judge: impl Fn(&Arc<dyn Device>, &S, &mut Chance<'_>) -> Verdict + Sync,
) -> (usize, usize) {
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    let nr_known = known.len();
    let unknown = (0..).map(|number| random(seed << 32 | number));
    let (mut images, mut histories) = (0, 0);
    for history in known.into_iter().chain(unknown) {
        if images >= wanted && histories > nr_known {
            break;
        }
        // Each history gives as many of its crashes as it has, or its share of them.
        let share = if histories < nr_known {
            for_known / nr_known
        } else {
            (wanted / 12).min(MOST_OF_ONE)
        };
        let judged = run(history).and_then(|recorded| judge_some(&recorded, share, seed, &judge));
        images += judged.unwrap_or_else(|problem| {
            panic!("seed {seed}, after {images} sound images: {problem}");
        });
        histories += 1;
    }
    (images, histories)
}

/// A number from the environment.
pub fn number(name: &str, otherwise: usize) -> usize {
    let told = std::env::var(name).ok();
    told.map_or(otherwise, |told| told.parse().unwrap())
}
