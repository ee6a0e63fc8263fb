//! Roots of the pool as it was: what nothing leads to any more, and where the superblock
//! is lost, what it may have led to.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::eras::{Details, Liveness, Top, details, liveness, tops};
use super::graft::kind;
use super::scan::{Scan, Shape};
use super::trees::Trees;
use crate::device::Device;
use crate::disk_space::SpaceMapRoot;
use crate::error::Result;
use crate::task::Task;
use crate::tools::dump::nodes::NodeReader;
use crate::units::BlockNr;
use crate::walk::ForestLimits;

/// Pairs that are told of.
const MOST_CANDIDATES: usize = 16;
/// Devices that are compared in all. A pool leaves a root of each kind behind with every
/// commit, and each of the one goes with each of the other as long as no device comes or
/// goes.
const MOST_COMPARED: u64 = 1 << 28;

/// Two roots that know the same devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Root of the mappings.
    pub mapping_root: BlockNr,
    /// Root of the details.
    pub details_root: BlockNr,
    /// Devices.
    pub devices: u64,
    /// Devices whose mappings are all there, and as many as the details say.
    pub whole_devices: u64,
    /// Devices whose root the metadata's space map has in use, where it can be read: the
    /// pool has changed the others since.
    pub live_devices: u64,
    /// Mappings of sound trees.
    pub mapped_blocks: u64,
    /// The highest transaction id that a device was made in.
    pub transaction_id: u64,
    /// The latest time that the details speak of, or that a mapping was made at.
    pub time: u32,
}

impl Candidate {
    /// Whole ones first, then those of which most is still in use, then newer ones, then
    /// larger ones; of what is not whole, that with the most mappings.
    fn rank(&self) -> (bool, u64, Liveness, u64, u32, u64, u64, u64) {
        let whole = self.whole_devices == self.devices;
        (
            whole,
            if whole { 0 } else { self.mapped_blocks },
            liveness(self.live_devices, self.devices),
            self.transaction_id,
            self.time,
            self.mapped_blocks,
            self.mapping_root.0,
            self.details_root.0,
        )
    }
}

/// The pool as it was.
#[derive(Default)]
pub(super) struct Older {
    /// For each root of mappings the details that it goes with best, the most plausible pair
    /// first.
    pub candidates: Vec<Candidate>,
    /// What is under the first of them.
    pub best: Option<Trees>,
    /// All roots of mappings, those without details, too.
    pub tops: Vec<Top>,
}

/// Looks for it.
pub(super) fn candidates(
    device: &Arc<dyn Device>,
    scan: &Scan,
    limits: ForestLimits,
    space: Option<&SpaceMapRoot>,
    task: &Task<'_>,
) -> Result<Older> {
    let mut nodes = NodeReader::of_device(&**device, limits.metadata_blocks);
    let (mut mapping_roots, mut details_roots) = (Vec::new(), Vec::new());
    for node in scan.nodes.iter().rev() {
        task.step(0, 0)?;
        match kind(&mut nodes, scan, node, task)? {
            Some((_, Shape::Top)) => mapping_roots.push(node.block),
            Some((_, Shape::Details)) => details_roots.push(node.block),
            _ => {}
        }
    }
    let tops = tops(device, scan, &mapping_roots, limits, space, task)?;
    let details = details(&**device, &details_roots, limits, task)?;
    let mut by_ids: FxHashMap<Vec<u64>, Vec<&Details>> = FxHashMap::default();
    for each in &details {
        let ids = each.devices.iter().map(|info| info.id).collect();
        by_ids.entry(ids).or_default().push(each);
    }
    let mut ranked: Vec<(Candidate, &Top, &Details)> = Vec::new();
    let mut compared = 0;
    for top in &tops {
        task.step(0, 0)?;
        let ids: Vec<u64> = top.roots.iter().map(|root| root.0).collect();
        let mut best: Option<(Candidate, &Top, &Details)> = None;
        for with in by_ids.get(&ids).map_or(&[][..], Vec::as_slice) {
            // The best of each come first.
            if compared > MOST_COMPARED && best.is_some() {
                break;
            }
            compared += ids.len() as u64;
            let found = judge(top, with);
            if best
                .as_ref()
                .is_none_or(|best| best.0.rank() < found.rank())
            {
                best = Some((found, top, with));
            }
        }
        ranked.extend(best);
    }
    ranked.sort_by_key(|(candidate, ..)| std::cmp::Reverse(candidate.rank()));
    ranked.truncate(MOST_CANDIDATES);
    let best = ranked.first().map(|(_, top, with)| Trees {
        details: with.devices.clone(),
        roots: top.roots.clone(),
        ..Trees::default()
    });
    Ok(Older {
        candidates: ranked.into_iter().map(|each| each.0).collect(),
        best,
        tops,
    })
}

fn judge(top: &Top, with: &Details) -> Candidate {
    let both = with.devices.iter().zip(&top.mapped);
    let whole = both.filter(|(info, mapped)| **mapped == Some(info.mapped_blocks));
    Candidate {
        mapping_root: BlockNr(top.root.into()),
        details_root: BlockNr(with.root.into()),
        devices: with.devices.len() as u64,
        whole_devices: whole.count() as u64,
        live_devices: top.live_devices,
        mapped_blocks: top.mapped_blocks(),
        transaction_id: with.transaction_id(),
        time: with.time().max(top.time),
    }
}
