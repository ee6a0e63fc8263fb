//! Spoils the fixtures' pools as the fuzzer's bytes say, checksums made right
//! again, and holds what is read of them to the laws of tests/core/hostile.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use thinmeta_fuzz::hostile::mutation::judge_bytes;
use thinmeta_fuzz::hostile::victim::Victim;
use thinmeta_fuzz::support::fixtures;

/// The smallest of every shape.
static VICTIMS: LazyLock<Vec<Victim>> = LazyLock::new(|| {
    let names = [
        "metadata-snap",
        "kernel-7.2",
        "sparse-keys",
        "restored-0.9.0",
        "metadata-full",
        "snap-chain",
        "transaction-id",
        "discards",
    ];
    names
        .map(|name| Victim::new(name, fixtures::thin(name)))
        .into()
});

fuzz_target!(|bytes: &[u8]| {
    if let Err(broken) = judge_bytes(&VICTIMS, bytes) {
        panic!("{broken}");
    }
});
