//! Spoils the fixtures' pools as the fuzzer's bytes say, checksums made right
//! again, and holds what is read of them to the laws of tests/core/hostile.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use thinmeta_fuzz::fuzzed::pool::victims;
use thinmeta_fuzz::hostile::mutation::judge_bytes;
use thinmeta_fuzz::hostile::victim::Victim;

static VICTIMS: LazyLock<Vec<Victim>> = LazyLock::new(victims);

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = judge_bytes(&VICTIMS, bytes) {
        panic!("{broken}");
    }
});
