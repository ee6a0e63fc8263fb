//! Reads arrays and bitsets in every way, and changes them, their blocks spoiled as
//! the fuzzer's bytes say. The laws are in tests/core/fuzzed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thinmeta_fuzz::fuzzed::run("arrays", bytes);
});
