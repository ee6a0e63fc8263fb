//! Unpacks metadata as the fuzzer packs them, or spoils. The laws are in tests/core/fuzzed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    thinmeta_fuzz::fuzzed::run("unpack", bytes);
});
