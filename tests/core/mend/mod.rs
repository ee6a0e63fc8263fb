//! Pools whose counts and sums are wrong, put right in place.
//!
//! `spoil` makes counts too high through the transactions that everybody uses, and sums
//! wrong by hand; `random` puts right what came of it, `crashes` cuts the power meanwhile,
//! and `refusals` has pools that are to be left alone.

mod crashes;
mod random;
mod refusals;
mod spoil;

use std::sync::Arc;

use thinmeta::device::Device;
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta::tools::check::{CheckOptions, CheckReport, Severity, check_device};

pub const BLOCK: usize = 4096;

/// All that a check finds.
pub fn check(device: &Arc<dyn Device>) -> CheckReport {
    let (options, task) = (CheckOptions::default(), Task::default());
    check_device(Arc::clone(device), Snapshot::None, &options, &task).unwrap()
}

/// Codes of what is wrong, each once.
pub fn wrong(report: &CheckReport) -> Vec<&'static str> {
    let findings = report.findings.iter();
    let serious = findings.filter(|finding| finding.severity != Severity::Info);
    let mut codes: Vec<_> = serious.map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Block 0's fields that a mending may change, zeroed, and so its checksum.
pub fn without_sums(image: &[u8]) -> Vec<u8> {
    let mut block = image[..BLOCK].to_vec();
    // Checksum and flags, both roots of space maps, the details' root.
    for field in [0..8, 64..96, 192..224, 328..336] {
        block[field].fill(0);
    }
    // Stray bytes behind the roots.
    block[96..192].fill(0);
    block[224..320].fill(0);
    block
}
