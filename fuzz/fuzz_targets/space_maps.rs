//! Allocates, counts and commits on space maps that are spoiled as the fuzzer's
//! bytes say. The laws are in tests/core/fuzzed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thinmeta_fuzz::fuzzed::run("space_maps", bytes);
});
