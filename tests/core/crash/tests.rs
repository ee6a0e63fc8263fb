//! The claims.

use super::history::{random, scripted};
use super::images::judge_all;
use crate::support::chance::Chance;

/// Images in a plain test run; `THINMETA_CRASH_IMAGES` asks for more.
const IMAGES: usize = 6000;

fn number(name: &str, otherwise: usize) -> usize {
    let told = std::env::var(name).ok();
    told.map_or(otherwise, |told| told.parse().unwrap())
}

#[test]
fn a_crash_at_any_point_leaves_the_old_state_or_the_new_one() {
    let wanted = number("THINMETA_CRASH_IMAGES", IMAGES);
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    println!("seed {seed}");
    let known = scripted().into_iter().map(|history| (history, wanted / 3));
    let known_histories = known.len();
    let unknown = (0..).map(|number| (random(seed << 32 | number), wanted));
    let (mut images, mut histories, mut share) = (0, 0, 0);
    for (history, _) in known.chain(unknown) {
        if images >= wanted && histories > known_histories {
            break;
        }
        let mut chance = Chance::of_case(seed, &history.name, 0);
        let recorded = history.run().unwrap();
        let mut crashes = recorded.crashes(&mut chance);
        // In a plain run each history gives a part of its crashes.
        let part = if histories < known_histories {
            wanted * 2 / 3 / known_histories
        } else {
            wanted / 12
        };
        while crashes.len() > part {
            crashes.swap_remove(chance.index(crashes.len()));
        }
        share = share.max(crashes.len());
        match judge_all(&recorded, &mut crashes, seed) {
            Ok(judged) => images += judged,
            Err(problem) => panic!("seed {seed}, after {images} sound images: {problem}"),
        }
        histories += 1;
    }
    println!("{images} crash images of {histories} histories, at most {share} of one, all sound");
}
