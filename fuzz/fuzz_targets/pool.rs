//! Opens pools that are spoiled as the fuzzer's bytes say and changes them. The laws
//! are in tests/core/fuzzed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thinmeta_fuzz::fuzzed::run("pool", bytes);
});
