//! Makes metadata of XML as the fuzzer writes it, or puts together from words of it. The
//! laws are in tests/core/fuzzed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thinmeta_fuzz::fuzzed::run("restore", bytes);
});
