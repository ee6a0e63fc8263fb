//! Finding out what can be kept.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::basis::{Basis, BasisSource};
use super::eras::Present;
use super::graft::{loose_nodes, place};
use super::older::{Older, candidates};
use super::outlook::{Outlook, TreeSource};
use super::overlay::{Blocks, Overlay};
use super::patch::Patches;
use super::scan::Scan;
use super::slips::{self, Slips};
use super::trees::{Met, Trees};
use super::undelete::{Cut, Undeletion};
use super::walk::{Gap, Grafts, Step, Walker};
use super::{DeletedDevice, RepairOptions};
use crate::device::Device;
use crate::disk_space::MAX_DATA_BLOCKS;
use crate::error::{Damage, Error, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, MAX_TIME, SUPERBLOCK_NAME, SUPERBLOCK_VALIDATOR, Superblock};
use crate::tools::dump::nodes::NodeReader;
use crate::units::BlockNr;
use crate::walk::{BlockSet, Forest, ForestLimits, Reader};

/// Searches for wrong fields: one may hide others below it.
const MOST_ROUNDS: u32 = 4;

/// A repair that is planned, of a device that must not change meanwhile.
pub struct Repair {
    pub(super) device: Arc<dyn Device>,
    pub(super) limits: ForestLimits,
    pub(super) forest: Forest,
    pub(super) grafts: Grafts,
    pub(super) patches: Patches,
    /// Root of each device of the outlook; none of those that have nothing mapped.
    pub(super) roots: Vec<Option<u32>>,
    /// Leaves that several devices have.
    pub(super) joint: Vec<u32>,
    pub(super) cuts: FxHashMap<u64, Arc<Cut>>,
    pub(super) outlook: Outlook,
}

/// A device on its way to the outlook.
pub(super) struct Wanted {
    pub info: DeviceInfo,
    pub recorded: Option<u64>,
    pub root: Option<u32>,
    pub source: TreeSource,
}

impl Repair {
    /// Reads what there is.
    ///
    /// # Errors
    /// [`Error::Usage`] where something has to be said that the metadata do not tell any
    /// more; [`Error::Unsupported`] and [`Error::NotFormatted`] for what never was a pool;
    /// [`Error::Io`]; [`Error::Interrupted`].
    pub fn plan(device: Arc<dyn Device>, options: &RepairOptions, task: &Task<'_>) -> Result<Self> {
        let mut scan = None;
        let (mut device, mut mended) = (device, Vec::new());
        if let Some((block, wrong)) = slips::superblock(&*device)? {
            device = Overlay::over(&device, Blocks::from([(0, block)]));
            mended = wrong;
        }
        let basis = match Basis::of_superblock(&*device, options) {
            Ok(basis) => basis,
            Err(error @ (Error::Usage(_) | Error::Io { .. })) => return Err(error),
            Err(error) => {
                let found = Scan::read(&*device, task)?;
                if found.nodes.is_empty() {
                    return Err(error);
                }
                let basis = Basis::of_scan(&*device, &found, options)?;
                scan = Some(found);
                basis
            }
        };
        mended.extend(basis.impossible_data_blocks.map(|found| {
            let right = "as many as are in use";
            Damage::new(BlockNr(0), SUPERBLOCK_NAME, "data blocks", found, right)
        }));
        let mut survey = Survey::new(device, basis, scan, options);
        survey.mended = mended;
        let own = survey.run(task)?;
        let outlook = &own.outlook;
        let is_nothing = outlook.devices.is_empty() && outlook.deleted.is_empty();
        if is_nothing && outlook.basis.source != BasisSource::Superblock {
            return Err(Error::Unsound {
                path: own.device.path().to_owned(),
                code: "superblock-damaged",
                reason: "the superblock is lost, and no device was found".to_owned(),
            });
        }
        Ok(own)
    }

    /// What [`Self::build`] will do.
    #[must_use]
    pub fn outlook(&self) -> &Outlook {
        &self.outlook
    }
}

/// What was found in the place of lost nodes.
pub(super) struct Found {
    pub forest: Forest,
    pub grafts: Grafts,
    pub patches: Patches,
    /// Devices that took what somebody else may have.
    pub unproven: FxHashSet<u64>,
    /// What is known of devices that come back.
    pub undeletion: Undeletion,
}

pub(super) struct Survey {
    pub device: Arc<dyn Device>,
    pub basis: Basis,
    pub scan: Option<Scan>,
    pub limits: ForestLimits,
    /// The pool as it was, once it was looked for.
    pub older: Option<Older>,
    pub options: RepairOptions,
    /// Devices that are not there any more, if somebody asked for them.
    pub deleted: Vec<DeletedDevice>,
    /// Fields that were wrong under a right checksum, and are read as they should be.
    pub mended: Vec<Damage>,
    /// How often that was looked for.
    pub rounds: u32,
}

impl Survey {
    fn new(
        device: Arc<dyn Device>,
        basis: Basis,
        scan: Option<Scan>,
        options: &RepairOptions,
    ) -> Self {
        let limits = ForestLimits {
            metadata_blocks: basis.limit,
            data_blocks: basis.data_blocks.unwrap_or(MAX_DATA_BLOCKS),
            virtual_blocks: basis.virtual_blocks(),
            time: match basis.source {
                BasisSource::Superblock => basis.time,
                // It knew nothing of what came later.
                _ => MAX_TIME,
            },
        };
        Self {
            device,
            basis,
            scan,
            limits,
            older: None,
            options: options.clone(),
            deleted: Vec::new(),
            mended: Vec::new(),
            rounds: 0,
        }
    }

    /// All that is on the device, read once.
    pub fn scan(&mut self, task: &Task<'_>) -> Result<&Scan> {
        if self.scan.is_none() {
            self.scan = Some(Scan::read(&*self.device, task)?);
        }
        Ok(self.scan.get_or_insert_default())
    }

    /// The pool as it was, looked for once.
    pub fn look_for_older(&mut self, present: &Present<'_>, task: &Task<'_>) -> Result<()> {
        if self.older.is_some() {
            return Ok(());
        }
        let (device, limits) = (Arc::clone(&self.device), self.limits);
        let scan = self.scan(task)?;
        self.older = Some(candidates(&device, scan, limits, present, task)?);
        Ok(())
    }

    fn run(mut self, task: &Task<'_>) -> Result<Repair> {
        let device = Arc::clone(&self.device);
        let reader = Reader::new(&*device, false);
        let mut met = Met::new(self.basis.limit);
        let mut live = Trees::default();
        let mut held = Trees::default();
        if let Some(roots) = self.basis.roots {
            self.count_roots(roots, &mut met);
            live = Trees::read(&reader, roots, &mut met, task)?;
            self.settle_ids(&mut live, roots, &mut met, task)?;
            // What was mended before may have brought this up, which is said once.
            if !self
                .mended
                .iter()
                .any(|told| Some(told) == live.renamed.as_ref())
            {
                self.mended.extend(live.renamed.clone());
            }
            if self.basis.held_root != 0 {
                match self.held_roots(&reader) {
                    Some(roots) => {
                        self.count_roots(roots, &mut met);
                        held = Trees::read(&reader, roots, &mut met, task)?;
                    }
                    // What only the snapshot refers to would look as if it were lost.
                    None => self.basis.metadata_space = None,
                }
            }
        }
        let mut roots: Vec<u32> = live
            .roots
            .iter()
            .chain(&held.roots)
            .map(|root| root.1)
            .collect();
        roots.sort_unstable();
        roots.dedup();
        let mut forest = Forest::walk(&reader, task, &roots, self.limits, &mut met.counts, None)?;
        forest.resolve(&reader, task)?;
        let mut grafts = Grafts::default();
        let mut loose = Vec::new();
        let damaged = !forest.damages.is_empty()
            || !live.roots_lost.is_empty()
            || !live.details_lost.is_empty();
        let may_slip = damaged || slips::is_odd(&forest);
        if let Some(roots) = self.basis.roots.filter(|_| may_slip) {
            let mut slips = Slips::new(&*device, &forest, self.basis.limit);
            slips.find(roots, &live, task)?;
            // From the start: what hangs below is in reach now. There is an end
            // to it, whatever comes up.
            if !slips.blocks.is_empty() && self.rounds < MOST_ROUNDS {
                let device = Overlay::over(&device, slips.blocks);
                let mut again = Self::new(device, self.basis.clone(), None, &self.options);
                again.mended = std::mem::take(&mut self.mended);
                again.mended.extend(slips.wrong);
                again.rounds = self.rounds + 1;
                return again.run(task);
            }
        }
        if damaged && self.basis.roots.is_some() {
            let gaps = self.gaps(&live, &forest, task)?;
            let space = self.basis.metadata_space;
            let mut reached = BlockSet::new(self.basis.limit);
            for node in &self.scan(task)?.nodes {
                let block = node.block.into();
                if forest.summary(node.block).is_some() || met.counted.contains(block) {
                    reached.insert(block);
                }
            }
            let scan = self.scan.get_or_insert_default();
            loose = loose_nodes(&device, scan, space.as_ref(), &mut met, &reached, task)?;
            self.find_tops(&mut live, &mut loose, task)?;
            grafts = place(gaps, &mut loose, task)?;
        }
        let known = live.details_lost.is_empty() && self.basis.roots.is_some();
        let present = Present {
            space: self.basis.metadata_space,
            met: &met.counts,
            reached: &forest,
            roots: &live.roots,
            devices: known.then(|| live.details.iter().map(|info| info.id).collect()),
            latest: self.basis.roots.map(|roots| roots.0),
        };
        let mut wanted = self.wanted(&live, &present, &mut loose, task)?;
        self.undelete(&mut wanted, &held, task)?;
        // What was found is verified as the rest was.
        let grafted = grafts.values().flatten().map(|graft| graft.block);
        let mut more: Vec<u32> = wanted.iter().filter_map(|each| each.root).collect();
        more.extend(grafted);
        more.sort_unstable();
        more.dedup();
        let mut anew = None;
        if more.iter().any(|root| forest.summary(*root).is_none()) {
            let mut counts = Met::new(self.basis.limit).counts;
            let mut walked = Forest::walk(&reader, task, &more, self.limits, &mut counts, None)?;
            walked.resolve(&reader, task)?;
            anew = Some(walked);
        }
        let whole = anew.as_ref().unwrap_or(&forest);
        let (patches, unproven) = self.patches(whole, &grafts, &wanted, &held, &present, task)?;
        let mut undeletion = self.weigh(whole, &grafts, &patches, &wanted, &held, task)?;
        let doubled = self.doubled(whole, &grafts, &patches, &wanted, task)?;
        undeletion.cuts.extend(doubled);
        let found = Found {
            forest: anew.unwrap_or(forest),
            grafts,
            patches,
            unproven,
            undeletion,
        };
        self.finish(found, wanted, &live, loose, task)
    }

    /// A superblock refers to both of its roots.
    fn count_roots(&self, roots: (u64, u64), met: &mut Met) {
        for root in [roots.0, roots.1] {
            if root < self.basis.limit {
                met.counts.add(root);
            }
        }
    }

    /// The held metadata snapshot's roots.
    fn held_roots(&self, reader: &Reader<'_>) -> Option<(u64, u64)> {
        let at = BlockNr(self.basis.held_root);
        if at.0 == 0 {
            return None;
        }
        let block = reader.read_block(at, "metadata snapshot", &SUPERBLOCK_VALIDATOR);
        let held: Superblock = *block.ok()?.view();
        Some((held.data_mapping_root.get(), held.device_details_root.get()))
    }

    /// Nodes that cannot be read, with the keys that they must have had.
    fn gaps(&self, live: &Trees, forest: &Forest, task: &Task<'_>) -> Result<Vec<Gap>> {
        let none = Grafts::default();
        let nodes = NodeReader::of_device(&*self.device, self.basis.limit);
        let mut walker = Walker::new(nodes, forest, &none);
        let mut gaps: FxHashMap<u32, Gap> = FxHashMap::default();
        for (_, root) in &live.roots {
            task.step(0, 0)?;
            walker.each(*root, &mut |step| {
                if let Step::Lost(gap) = step
                    && gap.height != Some(0)
                {
                    let known = gaps.entry(gap.block).or_insert(gap);
                    known.low = known.low.max(gap.low);
                    known.high = match (known.high, gap.high) {
                        (Some(one), Some(other)) => Some(one.min(other)),
                        (one, other) => one.or(other),
                    };
                    known.height = known.height.or(gap.height);
                }
                Ok(())
            })?;
        }
        Ok(gaps.into_values().collect())
    }
}
