//! Opens a pool made of the fuzzer's bytes, and asks it everything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thinmeta::thin::Snapshot;
use thinmeta_fuzz::hostile::answers::agree;
use thinmeta_fuzz::hostile::reading::{open, read};
use thinmeta_fuzz::support::chance::Chance;

fuzz_target!(|bytes: &[u8]| {
    let image = thinmeta_fuzz::image(bytes);
    for snapshot in [Snapshot::None, Snapshot::Held] {
        let Ok(pool) = open(&image, snapshot, 0) else {
            continue;
        };
        let listing = read(&pool).ok().map(|reading| reading.listing);
        let mut chance = Chance::Seed(bytes.len() as u64);
        // Whatever it is, all answers have to be the same.
        if let Err(broken) = agree(&pool, listing.as_ref(), true, false, &mut chance) {
            panic!("{broken}");
        }
    }
});
