//! Kept inputs as plain tests, and some more that chance makes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::{TARGETS, run};
use crate::support::chance::Chance;

fn folder(target: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/core");
    tests.join("fuzzed/seeds").join(target)
}

/// An input that chance makes.
fn input(target: &str, case: u64) -> Vec<u8> {
    let mut chance = Chance::of_case(1, target, case);
    let length = 8 + chance.below(120);
    (0..length).map(|_| chance.word() as u8).collect()
}

fn run_kept(target: &str) {
    let mut met = BTreeSet::new();
    let mut kept = 0;
    for entry in fs::read_dir(folder(target)).unwrap() {
        let path = entry.unwrap().path();
        println!("{}", path.display());
        met.extend(run(target, &fs::read(&path).unwrap()));
        kept += 1;
    }
    assert!(kept >= 6, "{target}: {kept} inputs are kept");
    // They were chosen because of what they met.
    assert!(met.len() >= 5, "{target}: {met:?}");
}

fn run_chance(target: &str, cases: u64) {
    let mut failed = 0;
    for case in 0..cases {
        println!("{target}, case {case}");
        failed += u64::from(!run(target, &input(target, case)).is_empty());
    }
    assert!(failed > cases / 10, "{target}: {failed} of {cases}");
}

macro_rules! targets {
    ($($target:ident)+) => {
        $(mod $target {
            #[test]
            fn kept_inputs_keep_the_law() {
                super::run_kept(stringify!($target));
            }

            #[test]
            fn inputs_by_chance_keep_the_law() {
                super::run_chance(stringify!($target), 400);
            }
        })+
    };
}

targets! { tree_changes space_maps arrays store pool saved restore unpack }

/// Not a test: keeps the first input of each outcome that none of those kept has.
/// `cargo test --release --test core fuzzed::tests::keep -- --ignored`
#[test]
#[ignore = "writes files"]
fn keep() {
    for (target, _) in TARGETS {
        let folder = folder(target);
        fs::create_dir_all(&folder).unwrap();
        let mut met = BTreeSet::new();
        for entry in fs::read_dir(&folder).unwrap() {
            met.extend(run(target, &fs::read(entry.unwrap().path()).unwrap()));
        }
        for case in 0..4000 {
            let bytes = input(target, case);
            let outcome = run(target, &bytes);
            let before = met.len();
            met.extend(outcome);
            if met.len() > before {
                fs::write(folder.join(format!("case-{case}")), bytes).unwrap();
            }
        }
    }
}
