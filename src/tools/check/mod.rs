//! check: everything that can be wrong with a pool's metadata, as a list.
//!
//! Reads every reachable block once; goes on past damage; writes nothing. The
//! live roots and those of a held metadata snapshot are checked together, as
//! they share nodes and the counts are of both. When a metadata snapshot alone
//! is asked for (a pool in use), its trees are checked and no counts, since the
//! space maps belong to the live superblock.

mod affected;
mod counts;
mod devices;
mod doubled;
mod finding;
mod mend;
mod overflow;
mod space;

use std::path::PathBuf;
use std::sync::Arc;

pub(in crate::tools) use affected::leading_to;
pub use finding::{Affected, Finding, Severity};
pub use mend::{MendOptions, Mended, check_references, mend_device, mend_path};

use crate::device::{Device, FileDevice};
use crate::error::{Damage, Error, Result};
use crate::task::Task;
use crate::thin::{
    DeviceInfo, Pool, SUPERBLOCK_NAME, Snapshot, Superblock, clear_needs_check, read_superblock,
};
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::{BlockSet, Counts, Reader};
use devices::MAPPED_BLOCKS;
use doubled::DOUBLED;
use finding::Findings;

/// The code of sums that are not those of the bitmaps.
const SUMMARY: &str = "space-map-summary";
/// The code of mappings that are later than the clock.
const TIME: &str = "mapping-time";

/// Which pool is sound enough for `needs_check` to be cleared.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leniency {
    /// One in which nothing is fatal.
    pub minor: bool,
    /// One that thin-provisioning-tools 1.x find sound. They do not look at the times of
    /// mappings; with `minor`, only leaks of one and the shape of nodes do not count.
    pub like_1_x: bool,
}

/// How much to check.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Only block 0.
    pub superblock_only: bool,
    /// Superblock, devices and space maps, but no mappings and so no counts.
    pub skip_mappings: bool,
    /// Take this block for the root of the mapping tree, whatever the superblock says.
    pub mapping_root: Option<u64>,
    /// And this one for the root of the devices' details.
    pub details_root: Option<u64>,
}

impl CheckOptions {
    /// Puts other roots into a superblock, where they were asked for.
    fn override_roots(&self, superblock: &mut Superblock) {
        if let Some(root) = self.mapping_root {
            superblock.data_mapping_root = root.into();
        }
        if let Some(root) = self.details_root {
            superblock.device_details_root = root.into();
        }
    }
}

/// What a check found.
#[derive(Debug)]
pub struct CheckReport {
    /// The worst first.
    pub findings: Vec<Finding>,
    /// Findings left out, by code.
    pub omitted: Vec<(&'static str, u64)>,
    /// Metadata blocks that were read and verified.
    pub metadata_blocks_checked: u64,
    /// Mappings in distinct leaves.
    pub mappings_checked: u64,
    /// Devices in the details tree.
    pub devices: u64,
    /// The superblock whose roots were checked, if it is sound.
    pub superblock: Option<Superblock>,
    /// A count is too high that is not one in place of none.
    pub overcounted: bool,
    /// What the trees say, for whoever puts the rest right.
    known: Option<mend::Known>,
}

impl CheckReport {
    /// Whether nothing is wrong; what is only worth knowing does not count.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let worst = self.findings.iter().map(|finding| finding.severity).min();
        worst.is_none_or(|worst| worst == Severity::Info)
    }

    /// Whether the pool may be changed: nothing is wrong but sums of its space maps;
    /// or, with `minor`, nothing fatal.
    pub(in crate::tools) fn is_sound(&self, minor: bool) -> bool {
        self.findings.iter().all(|finding| match finding.severity {
            Severity::Fatal => false,
            Severity::NonFatal => minor || finding.code == SUMMARY,
            Severity::Info => true,
        })
    }

    /// Whether it is fatal, but not for thin-provisioning-tools 1.x: they do not look at
    /// times; nor for what a device has twice, but that a pool of one device has nothing
    /// that is shared.
    fn is_ignored_by_1_x(&self, finding: &Finding) -> bool {
        match finding.code {
            TIME => true,
            DOUBLED => self.devices != 1,
            _ => false,
        }
    }

    /// Whether thin-provisioning-tools 1.x find it sound; see [`Leniency`].
    pub(in crate::tools) fn is_sound_for_1_x(&self, minor: bool) -> bool {
        let counts = |finding: &Finding| match finding.severity {
            Severity::Fatal => !self.is_ignored_by_1_x(finding),
            Severity::NonFatal if minor => finding.code == MAPPED_BLOCKS,
            Severity::NonFatal => finding.code != SUMMARY,
            Severity::Info => false,
        };
        let is_wrong = self.findings.iter().any(counts) || minor && self.overcounted;
        !is_wrong
    }
}

/// Checks the metadata at `path`.
///
/// # Errors
/// What is no thin metadata at all ([`Error::NotFormatted`], [`Error::Unsupported`]),
/// what is in use, I/O on block 0, and a metadata snapshot that is not there.
/// Damage is in the report.
pub fn check_path(
    path: impl Into<PathBuf>,
    snapshot: Snapshot,
    options: &CheckOptions,
    task: &Task<'_>,
) -> Result<CheckReport> {
    check_device(
        Arc::new(FileDevice::open(path, snapshot.claim())?),
        snapshot,
        options,
        task,
    )
}

/// As [`check_path`] of the live roots, and clears `needs_check` if the pool is sound:
/// nothing but sums of its space maps is wrong, which other tools leave wrong and nobody
/// relies on; or as `leniency` has it. Says whether it was cleared. Nobody else has the
/// pool from before the check until it is done.
///
/// # Errors
/// As [`check_path`], and those of [`clear_needs_check`].
pub fn check_and_clear(
    path: impl Into<PathBuf>,
    options: &CheckOptions,
    leniency: Leniency,
    task: &Task<'_>,
) -> Result<(CheckReport, bool)> {
    let device = Arc::new(FileDevice::open_writable(path)?);
    let report = check_device(Arc::clone(&device) as _, Snapshot::None, options, task)?;
    let is_sound = match leniency.like_1_x {
        true => report.is_sound_for_1_x(leniency.minor),
        false => report.is_sound(leniency.minor),
    };
    let cleared = is_sound && clear_needs_check(&*device)?;
    Ok((report, cleared))
}

/// Checks the metadata on `device`; as [`check_path`].
pub fn check_device(
    device: Arc<dyn Device>,
    snapshot: Snapshot,
    options: &CheckOptions,
    task: &Task<'_>,
) -> Result<CheckReport> {
    let live = match read_superblock(&*device, snapshot != Snapshot::None) {
        Ok(live) => live,
        Err(Error::Damaged(damage)) => {
            let mut findings = Findings::default();
            findings.push(Finding::from_damage("superblock", &damage));
            return Ok(Check::report(findings, 1, 0, 0, None));
        }
        Err(error) => return Err(error),
    };
    if snapshot != Snapshot::None {
        return match Pool::from_devices(
            device,
            None,
            &crate::thin::OpenOptions {
                snapshot,
                ..Default::default()
            },
        ) {
            Ok(pool) => check_pool(&Arc::new(pool), options, task),
            Err(Error::Damaged(damage)) => {
                let mut findings = Findings::default();
                let mut finding = Finding::from_damage("metadata snapshot", &damage);
                finding.code = "metadata-snapshot-damaged";
                findings.push(finding);
                Ok(Check::report(findings, 2, 0, 0, None))
            }
            Err(error) => Err(error),
        };
    }
    Check::new(&*device, live, None).run(options, task)
}

/// Checks an open pool: the roots that it reads.
pub fn check_pool(
    pool: &Arc<Pool>,
    options: &CheckOptions,
    task: &Task<'_>,
) -> Result<CheckReport> {
    let snapshot = pool.snapshot().map(|at| (at, *pool.superblock()));
    let check = Check::new(&**pool.device(), *pool.live_superblock(), snapshot);
    pool.confirmed(check.run(options, task))
}

/// One check under way.
struct Check<'d> {
    reader: Reader<'d>,
    /// Blocks of the metadata that may be pointed to.
    metadata_blocks: u64,
    live: Superblock,
    /// Checked instead of the live roots.
    only: Option<(BlockNr, Superblock)>,
    findings: Findings,
    /// References found, and nodes whose own references are in there.
    metadata: Counts,
    counted: BlockSet,
    blocks_checked: u64,
    /// Whether the report is to say what the trees say.
    keeps: bool,
    /// Devices of the live roots of which another number of mappings is stored.
    miscounted: Vec<DeviceInfo>,
    /// A count is too high that is not one in place of none.
    overcounted: bool,
}

impl<'d> Check<'d> {
    fn new(device: &'d dyn Device, live: Superblock, only: Option<(BlockNr, Superblock)>) -> Self {
        let device_blocks = (device.size_bytes() / BLOCK_BYTES as u64).min(MAX_METADATA_BLOCKS);
        // Beside a running pool, block 0 may be older than its metadata's size.
        let metadata_blocks = match only {
            None => device_blocks.min(live.metadata_blocks().max(1)),
            Some(_) => device_blocks,
        };
        Self {
            reader: Reader::new(device, only.is_some()),
            metadata_blocks,
            live,
            only,
            findings: Findings::default(),
            metadata: Counts::new(metadata_blocks),
            counted: BlockSet::new(metadata_blocks),
            blocks_checked: 1,
            keeps: false,
            miscounted: Vec::new(),
            overcounted: false,
        }
    }

    fn run(mut self, options: &CheckOptions, task: &Task<'_>) -> Result<CheckReport> {
        let device_blocks = self.reader.device_blocks();
        match &mut self.only {
            Some((_, superblock)) => options.override_roots(superblock),
            None => options.override_roots(&mut self.live),
        }
        let (at, superblock) = self.only.unwrap_or((BlockNr(0), self.live));
        if superblock.needs_check() {
            let text = "the kernel set needs_check: it allows only reading until a check clears it";
            let finding = Finding::new("needs-check", Severity::Info, text);
            self.findings.push(finding.at("superblock", at));
        }
        if let Err(damage) = superblock.check_geometry(at, device_blocks) {
            let unusable = matches!(damage.check, "data block size" | "metadata block size");
            let mut finding = Finding::from_damage("superblock", &damage);
            finding.code = "bad-geometry";
            self.findings.push(finding);
            if unusable {
                return Ok(self.finish(0, 0, Some(superblock)));
            }
        }
        if options.superblock_only {
            return Ok(self.finish(0, 0, Some(superblock)));
        }
        match self.only {
            Some((_, superblock)) => self.check_snapshot_alone(&superblock, options, task),
            None => self.check_live(options, task),
        }
    }

    /// The trees of a metadata snapshot beside a pool in use.
    fn check_snapshot_alone(
        mut self,
        superblock: &Superblock,
        options: &CheckOptions,
        task: &Task<'_>,
    ) -> Result<CheckReport> {
        let roots = self.read_roots(superblock, task)?;
        let devices = roots.details.len() as u64;
        let mappings = match options.skip_mappings {
            true => 0,
            false => self.check_mappings(&[roots], self.live.data_blocks(), None, task)?,
        };
        Ok(self.finish(devices, mappings, Some(*superblock)))
    }

    /// Everything: both sets of roots, and both space maps.
    fn check_live(mut self, options: &CheckOptions, task: &Task<'_>) -> Result<CheckReport> {
        let live = self.live;
        self.count_superblock();
        let mut roots = vec![self.read_roots(&live, task)?];
        let devices = roots[0].details.len() as u64;
        if let Some(held) = self.held_superblock(task)? {
            roots.push(self.read_roots(&held, task)?);
        }
        let data_map = self.read_data_index(task)?;
        let metadata_map = self.read_metadata_index(task)?;
        let data = Counts::new(live.data_blocks().min(data_map.blocks_with_bitmaps()));
        let mut mappings = 0;
        if !options.skip_mappings {
            mappings = self.check_mappings(&roots, live.data_blocks(), Some(&data), task)?;
        }
        // After damage the references below it are unknown: a count that is too
        // high proves nothing then, one that is too low still does.
        let known = !options.skip_mappings;
        // A mapping's time hides nothing, nor does its place.
        let hides_nothing = self.findings.of(TIME) + self.findings.of(DOUBLED);
        let complete = self.findings.fatal == hides_nothing;
        if known && !complete {
            let text = "blocks may be counted for what is damaged or wrong above: leaks are not looked for";
            self.findings
                .push(Finding::new("leaks-not-checked", Severity::Info, text));
        }
        self.check_map(&data_map, known.then_some(&data), complete, task)?;
        let metadata = std::mem::replace(&mut self.metadata, Counts::new(0));
        self.check_map(&metadata_map, known.then_some(&metadata), complete, task)?;
        let miscounted = std::mem::take(&mut self.miscounted);
        let overcounted = self.overcounted;
        let hides_nothing = self.findings.of(TIME) + self.findings.of(DOUBLED);
        let keeps = self.keeps && known && self.findings.fatal == hides_nothing;
        let mut report = self.finish(devices, mappings, Some(live));
        report.overcounted = overcounted;
        report.known = keeps.then_some(mend::Known {
            data,
            metadata,
            miscounted,
            overcounted,
        });
        Ok(report)
    }

    /// Adds the references that block 0 makes.
    fn count_superblock(&mut self) {
        let (data, metadata) = (
            self.live.data_space_map_root.root,
            self.live.metadata_space_map_root.root,
        );
        let roots = [
            metadata.bitmap_root,
            metadata.ref_count_root,
            data.bitmap_root,
            data.ref_count_root,
            self.live.data_mapping_root,
            self.live.device_details_root,
            self.live.held_root,
        ];
        self.count(0);
        for root in roots
            .iter()
            .map(|root| root.get())
            .filter(|root| *root != 0)
        {
            self.count(root);
        }
    }

    /// One more reference to a metadata block; one out of range is a finding elsewhere.
    fn count(&mut self, block: u64) {
        if block < self.metadata_blocks {
            self.metadata.add(block);
        }
    }

    /// The held metadata snapshot's superblock, with the references it makes.
    fn held_superblock(&mut self, _task: &Task<'_>) -> Result<Option<Superblock>> {
        let at = BlockNr(self.live.held_root.get());
        if at.0 == 0 {
            return Ok(None);
        }
        let read = self
            .reader
            .read_block(at, SUPERBLOCK_NAME, &crate::thin::SUPERBLOCK_VALIDATOR);
        let checked = read.and_then(|block| {
            let superblock: Superblock = *block.view();
            if let Some(reason) = superblock.unsupported() {
                let expected = "a known version without unknown features";
                return Err(Damage::new(
                    at,
                    SUPERBLOCK_NAME,
                    "version",
                    reason,
                    expected,
                ));
            }
            superblock.check_geometry(at, self.metadata_blocks)?;
            Ok(superblock)
        });
        self.blocks_checked += 1;
        match checked {
            Ok(held) => {
                self.count(held.data_mapping_root.get());
                self.count(held.device_details_root.get());
                Ok(Some(held))
            }
            Err(damage) => {
                let mut finding = Finding::from_damage("metadata snapshot", &damage);
                finding.code = "metadata-snapshot-damaged";
                self.findings.push(finding);
                Ok(None)
            }
        }
    }

    fn finish(self, devices: u64, mappings: u64, superblock: Option<Superblock>) -> CheckReport {
        Self::report(
            self.findings,
            self.blocks_checked,
            mappings,
            devices,
            superblock,
        )
    }

    fn report(
        findings: Findings,
        metadata_blocks_checked: u64,
        mappings_checked: u64,
        devices: u64,
        superblock: Option<Superblock>,
    ) -> CheckReport {
        let (findings, omitted) = findings.finish();
        CheckReport {
            findings,
            omitted,
            metadata_blocks_checked,
            mappings_checked,
            devices,
            superblock,
            overcounted: false,
            known: None,
        }
    }
}
