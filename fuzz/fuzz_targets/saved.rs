//! Opens bookmarks, indexes and ends of packs that hold the fuzzer's bytes. The laws are in tests/core/fuzzed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thinmeta_fuzz::fuzzed::run("saved", bytes);
});
