//! Putting right what the trees prove: counts that are too high, sums that are wrong,
//! and how many mappings devices are said to have.
//!
//! Only where nothing fatal was found, so that every tree was read whole and all that
//! refers to a block is known. Then the right counts are known too, and the transaction
//! that writes them goes by these and not by what is stored. It is a transaction like
//! any other: what it writes goes to blocks that nothing refers to, and block 0 last. Before
//! that the whole pool is checked once more, as it will be.
//!
//! A count that is too *low* is left to a repair into another place: the block may have
//! been given out again since, and a right count would only hide that.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use zerocopy::IntoBytes;

use super::counts::{LOW_BITS, pack, sum_up};
use super::finding::{Finding, Severity};
use super::{Check, CheckOptions, CheckReport, SUMMARY, check_device};
use crate::block::{BlockManager, DEFAULT_CACHE_BYTES};
use crate::btree::{self, Plain, TreeType};
use crate::device::{Device, FileDevice};
use crate::disk_space::{Bitmap, ENTRIES_PER_BITMAP, ENTRIES_PER_WORD, MANY, Mender};
use crate::error::{Damage, Error, Result};
use crate::space::MemorySpaceMap;
use crate::task::Task;
use crate::thin::{
    DeviceDetails, DeviceInfo, NEEDS_CHECK, RootArea, SUPERBLOCK_NAME, SUPERBLOCK_VALIDATOR,
    Snapshot, Superblock, clear_needs_check, read_superblock,
};
use crate::transaction::Transaction;
use crate::units::BlockNr;
use crate::walk::Counts;

const SUPERBLOCK: BlockNr = BlockNr(0);
const PER_BITMAP: u64 = ENTRIES_PER_BITMAP as u64;

/// What is put right, by code.
const MENDED: [&str; 4] = ["data-leak", "metadata-leak", SUMMARY, "mapped-blocks-wrong"];

/// What a sound walk of the live roots has found.
#[derive(Debug)]
pub(super) struct Known {
    /// References to data blocks.
    pub data: Counts,
    /// References to metadata blocks.
    pub metadata: Counts,
    /// Devices whose details are wrong, with what is right.
    pub miscounted: Vec<DeviceInfo>,
    /// A count is too high that is not one in place of none.
    pub overcounted: bool,
}

/// How far to go.
#[derive(Clone, Copy, Debug, Default)]
pub struct MendOptions {
    /// Clear `needs_check` if the pool is sound then.
    pub clear_needs_check: bool,
    /// Do what thin-provisioning-tools 1.x do and no more: of counts only those of one, of
    /// blocks that nothing refers to, and no device's number of mappings.
    pub like_1_x: bool,
}

/// What was found and done.
#[derive(Debug)]
pub struct Mended {
    /// What was wrong.
    pub before: CheckReport,
    /// How the pool is now, where something was put right.
    pub after: Option<CheckReport>,
    /// Why nothing was put right although something is wrong.
    pub refused: Option<&'static str>,
    /// Whether `needs_check` was set and is not any more.
    pub cleared: bool,
}

/// Checks the metadata at `path`, and puts right what can be. Nobody else has the pool
/// from before the check until it is done.
///
/// # Errors
/// As [`super::check_path`]; [`Error::Unsupported`] for features that forbid a change;
/// [`Error::NoSpace`] where there are no free blocks to write to. The pool is as it was
/// then. [`Error::Poisoned`] after a write or a flush that failed: it is as it was or as it
/// was to be.
pub fn mend_path(
    path: impl Into<PathBuf>,
    options: MendOptions,
    task: &Task<'_>,
) -> Result<Mended> {
    mend_device(Arc::new(FileDevice::open_writable(path)?), options, task)
}

/// As [`mend_path`], on a device that is open.
pub fn mend_device(
    device: Arc<dyn Device>,
    options: MendOptions,
    task: &Task<'_>,
) -> Result<Mended> {
    let (before, known) = look(&device, task)?;
    let known = known.filter(|_| before.may_be_mended(options.like_1_x));
    let wrong = |report: &CheckReport| codes(report).any(|code| MENDED.contains(&code));
    let refused = match &known {
        _ if before.is_clean() => None,
        _ if options.like_1_x && before.is_sound_for_1_x(false) => None,
        None => Some(
            "something fatal is wrong, so that not all that refers to a block is known: \
             'thinmeta repair' makes a new pool of what can be read",
        ),
        Some(known) if options.like_1_x && known.overcounted => Some(
            "blocks are counted too often by more than one, or are in use, which thin_check of \
             thin-provisioning-tools does not repair; 'thinmeta check --auto-repair' does",
        ),
        Some(known) if options.like_1_x && !known.miscounted.is_empty() => Some(
            "devices are said to have another number of mappings, which thin_check of \
             thin-provisioning-tools does not repair; 'thinmeta check --auto-repair' does",
        ),
        Some(_) if !wrong(&before) => Some("nothing of what is wrong can be put right in place"),
        Some(_) => None,
    };
    let mut mended = Mended {
        before,
        after: None,
        refused,
        cleared: false,
    };
    match known {
        Some(known) if refused.is_none() && wrong(&mended.before) => {
            let superblock = writable(&*device)?;
            let after = Mending::begin(&device, superblock, &known)?.run(known, options, task)?;
            let flags = after.superblock.map_or(0, |after| after.flags.get());
            mended.cleared = superblock.needs_check() && flags & NEEDS_CHECK == 0;
            mended.after = Some(after);
        }
        _ if options.clear_needs_check
            && (mended.before.is_sound(false)
                || options.like_1_x && mended.before.is_sound_for_1_x(false)) =>
        {
            mended.cleared = clear_needs_check(&*device)?;
        }
        _ => {}
    }
    Ok(mended)
}

/// Checks everything, and keeps what the trees say where they are sound.
fn look(device: &Arc<dyn Device>, task: &Task<'_>) -> Result<(CheckReport, Option<Known>)> {
    let options = CheckOptions::default();
    let live = match read_superblock(&**device, false) {
        Ok(live) => live,
        Err(_) => {
            // Says what is wrong in a report, where that can be.
            let report = check_device(Arc::clone(device), Snapshot::None, &options, task)?;
            return Ok((report, None));
        }
    };
    let mut check = Check::new(&**device, live, None);
    check.keeps = true;
    let mut report = check.run(&options, task)?;
    let known = report.known.take();
    Ok((report, known))
}

/// Checks everything; how many references each data block has, where nothing fatal is
/// wrong, or nothing that 1.x would see: of all devices, and of those of the metadata
/// snapshot.
///
/// # Errors
/// As [`super::check_path`].
pub fn check_references(
    device: &Arc<dyn Device>,
    like_1_x: bool,
    task: &Task<'_>,
) -> Result<(CheckReport, Option<Counts>)> {
    let (report, known) = look(device, task)?;
    let known = known.filter(|_| report.may_be_mended(like_1_x));
    Ok((report, known.map(|known| known.data)))
}

impl CheckReport {
    /// Whether nothing fatal was found, or nothing that 1.x would see.
    fn may_be_mended(&self, like_1_x: bool) -> bool {
        let fatal = |finding: &&Finding| finding.severity == Severity::Fatal;
        let mut fatal = self.findings.iter().filter(fatal);
        fatal.all(|finding| like_1_x && self.is_ignored_by_1_x(finding))
    }
}

fn codes(report: &CheckReport) -> impl Iterator<Item = &'static str> {
    let found = report.findings.iter();
    let serious = found.filter(|finding| finding.severity != Severity::Info);
    serious.map(|finding| finding.code)
}

fn writable(device: &dyn Device) -> Result<Superblock> {
    let superblock = read_superblock(device, false)?;
    match superblock.unwritable() {
        None => Ok(superblock),
        Some(reason) => Err(Error::Unsupported {
            path: device.path().to_owned(),
            reason,
        }),
    }
}

/// A transaction whose counts are those that were found.
struct Mending<'d> {
    device: &'d Arc<dyn Device>,
    blocks: Arc<BlockManager>,
    txn: Transaction,
    superblock: Superblock,
}

/// Where right counts come from.
enum Right<'c> {
    Found(&'c Counts),
    /// The transaction's own, which changes them.
    Own,
}

impl<'d> Mending<'d> {
    fn begin(device: &'d Arc<dyn Device>, superblock: Superblock, known: &Known) -> Result<Self> {
        let blocks = BlockManager::new(Arc::clone(device), DEFAULT_CACHE_BYTES);
        blocks.guard_superblock(SUPERBLOCK);
        let counted = 0..superblock.metadata_blocks();
        let counts = counted.map(|block| known.metadata.get(block)).collect();
        Ok(Self {
            device,
            txn: Transaction::over_counts(&blocks, MemorySpaceMap::of_counts(counts)),
            blocks,
            superblock,
        })
    }

    /// All of it; how the pool is then.
    fn run(mut self, known: Known, options: MendOptions, task: &Task<'_>) -> Result<CheckReport> {
        let made = self.make(known, task);
        made.map_err(|error| match error {
            Error::NoSpace { .. } => Error::no_metadata_space(
                "what is put right is written to free blocks, so that a crash leaves the pool as \
                 it was or as it is to be, and there are not enough of them: grow the metadata, \
                 or make a new pool with 'thinmeta repair'",
            ),
            other => other,
        })?;
        self.blocks.flush()?;
        let mut superblock = self.superblock;
        superblock.flags = (superblock.flags.get() & !NEEDS_CHECK).into();
        let mut after =
            Check::new(&**self.device, superblock, None).run(&CheckOptions::default(), task)?;
        self.accept(&after, options.like_1_x)?;
        let is_sound = after.is_sound(false) || options.like_1_x && after.is_sound_for_1_x(false);
        let clears = options.clear_needs_check && is_sound;
        if !clears {
            superblock.flags = self.superblock.flags;
        }
        self.publish(&superblock)?;
        after.superblock = Some(superblock);
        Ok(after)
    }

    /// Writes the new maps and details, to free blocks.
    fn make(&mut self, known: Known, task: &Task<'_>) -> Result<()> {
        self.mend_details(&known.miscounted)?;
        let root = self.superblock.data_space_map_root.root;
        let mut data = Mender::data(&root);
        let nr_blocks = root.nr_blocks.get();
        self.mend_counts(&mut data, nr_blocks, &Right::Found(&known.data), task)?;
        let allocated = self.mend_sums(&mut data, nr_blocks, task)?;
        data.write_index_tree(&mut self.txn)?;
        self.superblock.data_space_map_root = RootArea::new(data.root(allocated));
        drop(known);

        let root = self.superblock.metadata_space_map_root.root;
        let mut metadata = Mender::metadata(&mut self.txn, &root)?;
        let nr_blocks = root.nr_blocks.get();
        // Changing a count takes blocks of its own, each bitmap and node once: their counts
        // are right in the next round.
        while self.mend_counts(&mut metadata, nr_blocks, &Right::Own, task)? {}
        let allocated = self.mend_sums(&mut metadata, nr_blocks, task)?;
        metadata.write_index_block(&self.blocks)?;
        self.superblock.metadata_space_map_root = RootArea::new(metadata.root(allocated));
        Ok(())
    }

    fn mend_details(&mut self, miscounted: &[DeviceInfo]) -> Result<()> {
        let mut root = BlockNr(self.superblock.device_details_root.get());
        for device in miscounted {
            let mut tree = TreeType {
                levels: 1,
                value_bytes: size_of::<DeviceDetails>(),
                values: &mut Plain,
            };
            let details = device.details();
            let keys = [device.id];
            root = btree::insert(&mut self.txn, &mut tree, root, &keys, details.as_bytes())?.root;
        }
        self.superblock.device_details_root = root.0.into();
        Ok(())
    }

    /// Sets every count that is not what it should be; whether there was one.
    fn mend_counts(
        &mut self,
        map: &mut Mender,
        nr_blocks: u64,
        right: &Right<'_>,
        task: &Task<'_>,
    ) -> Result<bool> {
        let mut any = false;
        for number in 0..nr_blocks.div_ceil(PER_BITMAP) {
            task.step(0, 0)?;
            for (count, blocks) in self.wrong_in(map, number, nr_blocks, right)? {
                map.set(&mut self.txn, &blocks, count)?;
                any = true;
            }
        }
        Ok(any)
    }

    /// Blocks of a bitmap with wrong counts, by the right ones.
    fn wrong_in(
        &self,
        map: &Mender,
        number: u64,
        nr_blocks: u64,
        right: &Right<'_>,
    ) -> Result<BTreeMap<u32, Vec<u64>>> {
        let first = number * PER_BITMAP;
        let counts = right.of_bitmap(&self.txn, first, nr_blocks)?;
        let block = map.bitmap(&self.blocks, number)?;
        let bitmap: &Bitmap = block.view();
        let mut wrong: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
        for (index, word) in bitmap.words.iter().enumerate() {
            let (stored, begin) = (word.get(), index * ENTRIES_PER_WORD);
            let Some(found) = counts[begin..].first_chunk::<ENTRIES_PER_WORD>() else {
                break;
            };
            let many = stored & stored >> 1 & LOW_BITS;
            if pack(found) == stored && many == 0 {
                continue;
            }
            for (offset, count) in found.iter().enumerate() {
                let at = first + (begin + offset) as u64;
                if at >= nr_blocks {
                    break;
                }
                let stored = match bitmap.entry(begin + offset) {
                    MANY => map.many(&self.blocks, at)?,
                    few => few,
                };
                let count = match count {
                    &u8::MAX => right.of_block(&self.txn, at)?,
                    small => u32::from(*small),
                };
                if stored != count {
                    wrong.entry(count).or_default().push(at);
                }
            }
        }
        Ok(wrong)
    }

    /// Replaces sums that are wrong; how many blocks are in use.
    fn mend_sums(&mut self, map: &mut Mender, nr_blocks: u64, task: &Task<'_>) -> Result<u64> {
        let mut allocated = 0;
        for number in 0..nr_blocks.div_ceil(PER_BITMAP) {
            task.step(0, 0)?;
            let real = (nr_blocks - number * PER_BITMAP).min(PER_BITMAP);
            let real = usize::try_from(real).unwrap_or(ENTRIES_PER_BITMAP);
            let block = map.bitmap(&self.blocks, number)?;
            let sums = sum_up(block.view(), real);
            allocated += real as u64 - u64::from(sums.free_real);
            let entry = map.entry(&self.blocks, number)?;
            if !sums.are_those_of(&entry) {
                map.set_sums(number, entry, sums.free, sums.first_free);
            }
        }
        Ok(allocated)
    }

    /// Whether what was written is what was meant. What is not is our own mistake, or
    /// that of the memory, and stays without effect.
    fn accept(&self, after: &CheckReport, like_1_x: bool) -> Result<()> {
        let holds_snapshot = self.superblock.held_root.get() != 0;
        let stays = |finding: &&Finding| match finding.severity {
            Severity::Fatal => !(like_1_x && after.is_ignored_by_1_x(finding)),
            // A metadata snapshot's details stay as they are.
            Severity::NonFatal if finding.code == "mapped-blocks-wrong" => !holds_snapshot,
            Severity::NonFatal => MENDED.contains(&finding.code),
            Severity::Info => false,
        };
        let Some(finding) = after.findings.iter().find(stays) else {
            return Ok(());
        };
        let found = format!("{}: {}", finding.code, finding.message);
        let expected = "nothing, after all was put right; the pool is as it was";
        Err(Damage::new(SUPERBLOCK, SUPERBLOCK_NAME, "check", found, expected).into())
    }

    /// Writes block 0, when everything else is durable.
    fn publish(&self, superblock: &Superblock) -> Result<()> {
        let mut guard = self.blocks.write_lock(SUPERBLOCK, &SUPERBLOCK_VALIDATOR)?;
        *guard.view_mut() = *superblock;
        self.blocks.write_superblock(guard)
    }
}

impl Right<'_> {
    /// The counts of a bitmap's blocks, above 255 as 255; zeros past the end.
    fn of_bitmap(&self, txn: &Transaction, first: u64, nr_blocks: u64) -> Result<Vec<u8>> {
        let mut counts = vec![0; ENTRIES_PER_BITMAP];
        let real = usize::try_from((nr_blocks - first).min(PER_BITMAP)).unwrap_or_default();
        match self {
            Self::Found(found) => found.copy_saturated(first, &mut counts[..real]),
            Self::Own => {
                for (at, count) in (first..).zip(&mut counts[..real]) {
                    *count = u8::try_from(self.of_block(txn, at)?).unwrap_or(u8::MAX);
                }
            }
        }
        Ok(counts)
    }

    fn of_block(&self, txn: &Transaction, block: u64) -> Result<u32> {
        match self {
            Self::Found(found) => Ok(found.get(block)),
            Self::Own => txn.ref_count(BlockNr(block)),
        }
    }
}
