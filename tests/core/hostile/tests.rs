//! One test a way of spoiling.

use std::sync::LazyLock;

use super::law::{Verdict, judge};
use super::mutation::judge_bytes;
use super::run::run;
use super::victim::Victim;
use super::{mutation, shapes};
use crate::support::chance::Chance;
use crate::support::fixtures;
use crate::support::image::Kind;

/// Small ones, of every shape: snapshots held, counts in overflow trees, internal
/// nodes, shared leaves, far keys, a leak, a pool of another writer.
const IMAGES: [&str; 14] = [
    "block-1m",
    "deleted",
    "discards",
    "empty",
    "kernel-7.2",
    "metadata-full",
    "metadata-snap",
    "needs-check",
    "restored-0.9.0",
    "sequential",
    "snap-chain",
    "snaps-300",
    "sparse-keys",
    "transaction-id",
];

static VICTIMS: LazyLock<Vec<Victim>> = LazyLock::new(|| {
    let victim = |name: &&'static str| Victim::new(name, fixtures::thin(name));
    IMAGES.iter().map(victim).collect()
});

const FAMILIES: u64 = 19;

macro_rules! families {
    ($($room:ident: $($name:ident)+;)+) => {
        $($(
            #[test]
            fn $name() {
                run(stringify!($name), FAMILIES, &VICTIMS, $room::$name);
            }
        )+)+
    };
}

families! {
    mutation: flip_reachable flip_anywhere superblock_field extreme_size node_header
        node_key node_value bitmap_entry index_entry several_at_once;
    shapes: bent_pointer cycle deep_chain swap swap_sealed other_kind overwrite truncate
        graft;
}

/// As the fuzz target `mutate` makes them; so that this stays in working order.
#[test]
fn cases_of_a_fuzzers_bytes_keep_the_law() {
    let mut chance = Chance::Seed(3);
    for length in 0..60 {
        let bytes: Vec<u8> = (0..length).map(|_| chance.word() as u8).collect();
        assert_eq!(judge_bytes(&VICTIMS[..6], &bytes).err(), None, "{bytes:?}");
    }
}

#[test]
fn whole_images_keep_the_law() {
    for name in fixtures::THIN {
        let victim = Victim::new(name, fixtures::thin(name));
        let mut chance = Chance::Seed(1);
        let verdict = judge(&victim, &victim.image, false, &mut chance);
        let clean = match victim.name {
            "metadata-full" => Verdict::Found,
            _ => Verdict::Same,
        };
        assert_eq!(verdict, Ok(clean), "{}", victim.name);
    }
}

#[test]
fn every_field_of_the_superblocks_at_its_extremes() {
    for victim in VICTIMS.iter().filter(|victim| victim.held.is_some()) {
        let held = victim.live.held_root;
        for (at, (offset, size)) in [0, held]
            .into_iter()
            .flat_map(|at| mutation::SUPERBLOCK_FIELDS.map(|field| (at, field)))
        {
            for value in [0, u64::MAX] {
                let mut image = victim.image.clone();
                image.set(at, Kind::Superblock, offset, size, value);
                let mut chance = Chance::Seed(value ^ offset as u64);
                let verdict = judge(victim, &image, true, &mut chance);
                assert!(
                    verdict.is_ok(),
                    "{}: {offset} of {at} = {value}: {verdict:?}",
                    victim.name
                );
            }
        }
    }
}
