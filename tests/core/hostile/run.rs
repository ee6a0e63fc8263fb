//! Runs cases: seeded, watched for hangs and hunger.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use super::law::{Broken, Verdict, judge};
use super::mutation::Mutation;
use super::victim::Victim;
use crate::support::allocator;
use crate::support::chance::Chance;
use crate::support::image::Image;

/// Cases of all families together, unless THINMETA_HOSTILE_CASES says otherwise.
const DEFAULT_CASES: u64 = 8000;
/// Unless THINMETA_HOSTILE_SEED says otherwise.
const DEFAULT_SEED: u64 = 0x7468_696e;

/// A case takes some hundredths of a second; a debug build on a busy machine more.
const CASE_LIMIT: Duration = Duration::from_secs(20);
/// With everything that is told of an image, and what it is compared with. Shared
/// nodes make that many times the image: each device that has them tells them.
const SINGLE_LIMIT: usize = 64 << 20;
const PEAK_LIMIT: usize = 256 << 20;

/// Cases under way: what they are, and since when.
static RUNNING: Mutex<BTreeMap<String, Instant>> = Mutex::new(BTreeMap::new());

fn from_environment(name: &str, otherwise: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is no number")),
        Err(_) => otherwise,
    }
}

/// Runs a family's share of the cases, one of `families`.
pub fn run(family: &str, families: u64, victims: &[Victim], spoil: Mutation) {
    run_judged(family, families, victims, spoil, judge);
}

/// As [`run`], held to other laws. THINMETA_HOSTILE_CASE runs the case of that number
/// alone.
pub fn run_judged(
    family: &str,
    families: u64,
    victims: &[Victim],
    spoil: Mutation,
    judge: impl Fn(&Victim, &Image, bool, &mut Chance<'_>) -> Result<Verdict, Broken>,
) {
    watch();
    let seed = from_environment("THINMETA_HOSTILE_SEED", DEFAULT_SEED);
    let cases = from_environment("THINMETA_HOSTILE_CASES", DEFAULT_CASES).div_ceil(families);
    let only = from_environment("THINMETA_HOSTILE_CASE", u64::MAX);
    let indices = match only {
        u64::MAX => 0..cases,
        index => index..index + 1,
    };
    let mut verdicts: BTreeMap<Verdict, u64> = BTreeMap::new();
    let mut broken = Vec::new();
    let (mut slowest, mut hungriest) = (Duration::ZERO, 0);
    for index in indices.clone() {
        let mut chance = Chance::of_case(seed, family, index);
        let victim = &victims[chance.index(victims.len())];
        let mut image = victim.image.clone();
        let done = spoil(victim, &mut chance, &mut image);
        let name = format!(
            "THINMETA_HOSTILE_SEED={seed} THINMETA_HOSTILE_CASE={index} {family} of {}: {}",
            victim.name, done.story
        );
        let begun = begin(&name);
        let before = allocator::start();
        let judged = AssertUnwindSafe(|| judge(victim, &image, done.sealed, &mut chance));
        let judged = catch_unwind(judged);
        let taken = allocator::end(before);
        end(&name);
        slowest = slowest.max(begun.elapsed());
        hungriest = hungriest.max(taken.peak);
        match judged {
            Ok(Ok(verdict)) => *verdicts.entry(verdict).or_default() += 1,
            Ok(Err(law)) => broken.push(format!("{name}\n    {}", shortened(&law))),
            Err(_) => broken.push(format!("{name}\n    panicked, see above")),
        }
        if taken.single > SINGLE_LIMIT || taken.peak > PEAK_LIMIT {
            broken.push(format!("{name}\n    memory: {taken:?}"));
        }
        if broken.len() >= 5 {
            break;
        }
    }
    println!(
        "seed {seed}, {family}: {} cases, {verdicts:?}, slowest {slowest:?}, at most {} KiB",
        indices.end - indices.start,
        hungriest >> 10
    );
    assert!(broken.is_empty(), "{family}:\n{}", broken.join("\n"));
}

fn shortened(text: &str) -> &str {
    let end = text
        .char_indices()
        .nth(1500)
        .map_or(text.len(), |(at, _)| at);
    &text[..end]
}

fn running() -> std::sync::MutexGuard<'static, BTreeMap<String, Instant>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn begin(name: &str) -> Instant {
    let now = Instant::now();
    running().insert(name.to_owned(), now);
    now
}

fn end(name: &str) {
    running().remove(name);
}

/// Ends the process, with the case's name, when one takes too long.
fn watch() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                for (name, begun) in running().iter() {
                    if begun.elapsed() > CASE_LIMIT {
                        eprintln!("hangs: {name}");
                        std::process::abort();
                    }
                }
            }
        });
    });
}
