//! What holds of every image, however spoiled: an error, a finding, or the truth.

use std::sync::Arc;

use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta::tools::check::{CheckOptions, CheckReport, Severity, check_device};
use thinmeta::{BlockNr, Result as Answer};

use super::answers::{agree, one_thread};
use super::dumped::dumps;
use super::reading::{Reading, open, read};
use super::victim::Victim;
use crate::model::{self, Listing};
use crate::support::allocator::{self, Taken};
use crate::support::chance::Chance;
use crate::support::image::Image;

/// What is wrong with the crate, in words.
pub type Broken = String;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(super) use ensure;

/// The most that a check may take at one time, and in one piece: the images have
/// a few MiB. What a thread of its own takes is not counted.
const CHECK_BYTES: Taken = Taken {
    peak: 12 << 20,
    single: 4 << 20,
};

/// A whole check.
pub fn check(image: &Image, snapshot: Snapshot, task: &Task<'_>) -> Answer<CheckReport> {
    check_device(
        Arc::new(image.clone()),
        snapshot,
        &CheckOptions::default(),
        task,
    )
}

/// A whole check, on this thread, within its bounds.
fn bounded_check(image: &Image, snapshot: Snapshot) -> Result<Answer<CheckReport>, Broken> {
    let before = allocator::start();
    let report = check(image, snapshot, &one_thread());
    let taken = allocator::end(before);
    ensure!(
        taken.peak <= CHECK_BYTES.peak && taken.single <= CHECK_BYTES.single,
        "a check takes {taken:?}"
    );
    Ok(report)
}

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// It could not be opened.
    Refused,
    /// The check found it.
    Found,
    /// Nothing was to be found: the same listing as before.
    Same,
    /// Sound metadata of another pool.
    Another,
}

/// Reads `image` in every way there is, and holds what comes out against the
/// model and the whole image. `sealed`: a checksum was made right again.
pub fn judge(
    victim: &Victim,
    image: &Image,
    sealed: bool,
    chance: &mut Chance<'_>,
) -> Result<Verdict, Broken> {
    let touched = victim.is_touched(image);
    let report = bounded_check(image, Snapshot::None)?;
    let fault = model::first_fault(image);
    let clean = match &report {
        Ok(report) => report.is_clean(),
        Err(error) => !allowed(error)?,
    };
    ensure!(
        clean == fault.is_ok(),
        "check clean: {clean}, the model: {fault:?}; {report:?}"
    );
    if !sealed {
        let same = told(&report) == victim.told;
        ensure!(touched != same, "touched: {touched}, {report:?}");
    }
    if chance.one_in(4) {
        threads_agree(image, &report)?;
        less_finds_less(image, &report)?;
    }
    let listing = root(
        image,
        Snapshot::None,
        0,
        &report,
        (!sealed).then_some(&victim.listing),
        chance,
    )?;
    held(victim, image, sealed, chance)?;
    odd_root(image, chance)?;
    Ok(match (&report, listing) {
        (Err(_), _) => Verdict::Refused,
        (Ok(report), _) if !report.is_clean() => Verdict::Found,
        (Ok(_), Some(listing)) if !listing.agrees_with(&victim.listing) => Verdict::Another,
        (Ok(_), _) => Verdict::Same,
    })
}

/// Whether an error is one that bad bytes may cause: always, or the law is broken.
pub fn allowed(error: &Error) -> Result<bool, Broken> {
    match error {
        Error::Damaged(_) | Error::Unsupported { .. } | Error::NotFormatted(_) => Ok(true),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => Ok(true),
        other => Err(format!("an error that bytes cannot cause: {other:?}")),
    }
}

/// One set of roots: the listing, and everything else that can be asked of it.
fn root(
    image: &Image,
    snapshot: Snapshot,
    at: u64,
    report: &Answer<CheckReport>,
    pristine: Option<&Listing>,
    chance: &mut Chance<'_>,
) -> Result<Option<Listing>, Broken> {
    let fatal = match report {
        Ok(report) => report
            .findings
            .iter()
            .any(|finding| finding.severity == Severity::Fatal),
        Err(_) => true,
    };
    let expected = model::list(image, at);
    let pool = match open(image, snapshot, chance.pick(&[0, 1 << 20, 64 << 20])) {
        Ok(pool) => pool,
        Err(error) => {
            allowed(&error)?;
            ensure!(
                fatal,
                "cannot be opened and no fatal finding: {error}; {report:?}"
            );
            ensure!(
                expected.is_err(),
                "cannot be opened, the model can: {error}"
            );
            return Ok(None);
        }
    };
    let Reading { listing, partial } = match read(&pool) {
        Ok(reading) => reading,
        Err(error) => {
            allowed(&error)?;
            ensure!(fatal, "no devices and no fatal finding: {error}");
            ensure!(expected.is_err(), "no devices, the model has some: {error}");
            agree(&pool, None, fatal, false, chance)?;
            dumps(&pool, None, pristine, fatal, chance)?;
            return Ok(None);
        }
    };
    ensure!(
        listing.is_whole() || fatal,
        "a device cannot be read and no finding is fatal: {:?}; {report:?}",
        listing
            .devices
            .iter()
            .find_map(|device| device.mappings.as_ref().err())
    );
    match &expected {
        Ok(expected) => ensure!(
            listing.agrees_with(expected),
            "listing {listing:?}, the model's {expected:?}"
        ),
        Err(fault) => return Err(format!("listed, the model cannot: {fault}")),
    }
    if let Some(pristine) = pristine {
        no_lies(&listing, &partial, pristine)?;
    }
    // Beside a running pool nothing is counted.
    let counted = at == 0 && report.as_ref().is_ok_and(CheckReport::is_clean);
    agree(&pool, Some(&listing), fatal, counted, chance)?;
    dumps(&pool, Some(&listing), pristine, fatal, chance)?;
    Ok(Some(listing))
}

/// Under a checksum that was left wrong nothing may be told but the truth.
fn no_lies(
    listing: &Listing,
    partial: &[Vec<model::Mapping>],
    pristine: &Listing,
) -> Result<(), Broken> {
    ensure!(
        listing.devices.len() == pristine.devices.len(),
        "{} devices",
        listing.devices.len()
    );
    for ((device, told), true_one) in listing.devices.iter().zip(partial).zip(&pristine.devices) {
        ensure!(device.details() == true_one.details(), "details {device:?}");
        let truth = true_one.mappings.as_ref().unwrap();
        ensure!(
            truth.starts_with(told),
            "device {}: mappings that are not there",
            device.id
        );
    }
    Ok(())
}

/// The metadata snapshot, by way of block 0.
fn held(
    victim: &Victim,
    image: &Image,
    sealed: bool,
    chance: &mut Chance<'_>,
) -> Result<(), Broken> {
    let live = model::superblock(image, 0, image.nr_blocks());
    let Some(at) = live
        .as_ref()
        .ok()
        .map(|live| live.held_root)
        .filter(|at| *at != 0)
    else {
        let opened = open(image, Snapshot::Held, 0);
        ensure!(
            matches!(&opened, Err(Error::NoMetadataSnapshot(_)))
                || live.is_err() && opened.as_ref().is_err_and(|error| allowed(error).is_ok()),
            "a metadata snapshot where none is: {:?}",
            opened.err()
        );
        return Ok(());
    };
    let report = bounded_check(image, Snapshot::Held)?;
    let fault = model::first_fault_held(image, at);
    let clean = match &report {
        Ok(report) => report.is_clean(),
        Err(error) => !allowed(error)?,
    };
    ensure!(
        clean == fault.is_ok(),
        "check -m clean: {clean}, the model: {fault:?}; {report:?}"
    );
    let pristine = victim.held.as_ref().filter(|held| !sealed && held.0 == at);
    root(
        image,
        Snapshot::Held,
        at,
        &report,
        pristine.map(|held| &held.1),
        chance,
    )?;
    Ok(())
}

/// A metadata snapshot in some block or other.
fn odd_root(image: &Image, chance: &mut Chance<'_>) -> Result<(), Broken> {
    let at = match chance.below(8) {
        0 => u64::MAX,
        1 => chance.word(),
        _ => chance.below(image.nr_blocks() + 2),
    };
    match open(image, Snapshot::At(BlockNr(at)), 0) {
        Ok(pool) => {
            let listed = read(&pool).ok().map(|reading| reading.listing);
            let expected = model::list(image, at).ok();
            let same = match (&listed, &expected) {
                (Some(listed), Some(expected)) => listed.agrees_with(expected),
                (listed, expected) => listed.is_none() == expected.is_none(),
            };
            ensure!(
                same,
                "block {at} as a snapshot: {listed:?}, the model: {expected:?}"
            );
            Ok(())
        }
        Err(Error::Usage(_)) if at == 0 => Ok(()),
        Err(error) => allowed(&error).map(|_| ()),
    }
}

/// What a check says, as text.
pub fn told(report: &Answer<CheckReport>) -> String {
    match report {
        Ok(report) => format!("{:?} {:?}", report.findings, report.omitted),
        Err(error) => format!("{error:?}"),
    }
}

/// A check of less finds nothing that a whole one does not.
fn less_finds_less(image: &Image, whole: &Answer<CheckReport>) -> Result<(), Broken> {
    for (superblock_only, skip_mappings) in [(true, false), (false, true)] {
        let options = CheckOptions {
            superblock_only,
            skip_mappings,
            ..CheckOptions::default()
        };
        let less = check_device(
            Arc::new(image.clone()),
            Snapshot::None,
            &options,
            &one_thread(),
        );
        let (Ok(less), Ok(whole)) = (&less, whole) else {
            ensure!(less.is_err() == whole.is_err(), "{less:?}, {whole:?}");
            continue;
        };
        let known = |code| whole.findings.iter().any(|finding| finding.code == code);
        let more = less.findings.iter().find(|finding| !known(finding.code));
        ensure!(more.is_none(), "{options:?} finds {more:?}");
    }
    Ok(())
}

/// The work is shared out differently; what is found is the same.
fn threads_agree(image: &Image, one: &Answer<CheckReport>) -> Result<(), Broken> {
    let many = check(image, Snapshot::None, &Task::new(None, Some(3)));
    ensure!(
        told(one) == told(&many),
        "one thread: {}; three: {}",
        told(one),
        told(&many)
    );
    Ok(())
}
