//! Checks metadata made of the fuzzer's bytes: clean exactly where the model finds
//! nothing wrong.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta_fuzz::hostile::law::{allowed, check};
use thinmeta_fuzz::model::first_fault;

fuzz_target!(|bytes: &[u8]| {
    let image = thinmeta_fuzz::image(bytes);
    let report = check(&image, Snapshot::None, &Task::new(None, Some(1)));
    let clean = match &report {
        Ok(report) => report.is_clean(),
        Err(error) => {
            allowed(error).unwrap();
            false
        }
    };
    let fault = first_fault(&image);
    assert_eq!(clean, fault.is_ok(), "{fault:?}, {report:?}");
    let _ = check(&image, Snapshot::Held, &Task::new(None, Some(2)));
});
