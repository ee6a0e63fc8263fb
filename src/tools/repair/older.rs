//! Roots of the pool as it was: what nothing leads to any more, and where the superblock
//! is lost, what it may have led to.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::eras::{Details, Present, Top, behind, details, tops};
use super::graft::kind;
use super::scan::{Scan, Shape};
use crate::device::Device;
use crate::error::Result;
use crate::task::Task;
use crate::thin::DeviceInfo;
use crate::tools::dump::nodes::NodeReader;
use crate::units::BlockNr;
use crate::walk::ForestLimits;

/// Pairs that are told of.
const MOST_CANDIDATES: usize = 16;
/// Devices that are compared in all. A pool leaves a root of each kind behind with every
/// commit, and each of the one goes with each of the other as long as no device comes or
/// goes.
const MOST_COMPARED: u64 = 1 << 28;

/// Two roots that know the same devices, or most of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Root of the mappings.
    pub mapping_root: BlockNr,
    /// Root of the details, if any know some of the devices.
    pub details_root: Option<BlockNr>,
    /// Devices with mappings.
    pub devices: u64,
    /// Devices whose mappings are all there, and as many as the details say.
    pub whole_devices: u64,
    /// Devices whose root the metadata's space map has in use, where it can be read: the
    /// pool has changed the others since.
    pub live_devices: u64,
    /// Mappings of leaves that it has in use.
    pub(super) live_blocks: u64,
    /// Mappings that can be read, of devices that have no more than the details say.
    pub mapped_blocks: u64,
    /// The highest transaction id that a device was made in.
    pub transaction_id: u64,
    /// The latest time that the details speak of, or that a mapping was made at.
    pub time: u32,
}

impl Candidate {
    /// A device's root stays until the device is changed, and a leaf until something in it
    /// is: there are ever more of them towards the present. Where the space map does not
    /// tell, whole ones come first, then newer ones; of what is not whole, that with the
    /// most mappings.
    fn rank(&self) -> impl Ord + use<> {
        (
            self.evidence(),
            self.mapped_blocks,
            (self.mapping_root, self.details_root),
        )
    }

    /// What of it tells how late it is.
    fn evidence(&self) -> impl Ord + use<> {
        let whole = self.whole_devices == self.devices;
        (
            (self.live_devices, self.live_blocks),
            (whole, if whole { 0 } else { self.mapped_blocks }),
            (self.transaction_id, self.time),
        )
    }
}

/// The pool as it was.
#[derive(Default)]
pub(super) struct Older {
    /// For each root of mappings the details that it goes with best, the most plausible pair
    /// first.
    pub candidates: Vec<Candidate>,
    /// Id, root and details of each device of the first of them.
    pub devices: Vec<(u64, u32, Option<DeviceInfo>)>,
    /// All roots of mappings, those without details, too.
    pub tops: Vec<Top>,
}

/// Looks for it.
pub(super) fn candidates(
    device: &Arc<dyn Device>,
    scan: &Scan,
    limits: ForestLimits,
    present: &Present<'_>,
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
    let tops = tops(device, scan, &mapping_roots, limits, present, task)?;
    let details = details(&**device, &details_roots, limits, task)?;
    let mut by_ids: FxHashMap<Vec<u64>, Vec<&Details>> = FxHashMap::default();
    for each in &details {
        let ids = each.devices.iter().map(|info| info.id).collect();
        by_ids.entry(ids).or_default().push(each);
    }
    let mut ranked: Vec<(Candidate, &Top, Option<&Details>)> = Vec::new();
    let mut compared = 0;
    for top in &tops {
        task.step(0, 0)?;
        let ids: Vec<u64> = top.roots.iter().map(|root| root.0).collect();
        let same = by_ids.get(&ids).map_or(&[][..], Vec::as_slice);
        // Details that were lost are no reason to lose the mappings, too.
        let (mut best, with): (_, Vec<&Details>) = match same {
            [] if top.readable_blocks() == 0 => continue,
            [] => (
                Some((judge(top, None), top, None)),
                details.iter().collect(),
            ),
            same => (None, same.to_vec()),
        };
        for with in with {
            // The best of each come first.
            if compared > MOST_COMPARED && best.is_some() {
                break;
            }
            compared += ids.len().max(with.devices.len()) as u64;
            let found = judge(top, Some(with));
            if best
                .as_ref()
                .is_none_or(|best| best.0.rank() < found.rank())
            {
                best = Some((found, top, Some(with)));
            }
        }
        ranked.extend(best);
    }
    ranked.sort_by_key(|(candidate, ..)| std::cmp::Reverse(candidate.rank()));
    latest_first(&mut ranked, present.latest, limits.metadata_blocks);
    if present.space.is_none() {
        prefer_most(&mut ranked);
    }
    ranked.truncate(MOST_CANDIDATES);
    let best = ranked.first().map(|(_, top, with)| {
        let roots = top.roots.iter();
        let device = |(id, root): &(u64, u32)| (*id, *root, with.and_then(|with| with.get(*id)));
        roots.map(device).collect()
    });
    Ok(Older {
        devices: best.unwrap_or_default(),
        candidates: ranked.into_iter().map(|each| each.0).collect(),
        tops,
    })
}

/// Sorts those that come first and are equal by where their roots are: blocks are taken in
/// ascending order, and from the front again when that is at an end. So the latest one has
/// the others behind it. Between it and the first of these come those that are older, the most
/// room, and the greatest difference.
fn latest_first(
    ranked: &mut [(Candidate, &Top, Option<&Details>)],
    latest: Option<u64>,
    blocks: u64,
) {
    let Some(best) = ranked.first() else {
        return;
    };
    let age = |each: &Candidate| (each.transaction_id, each.time);
    let (evidence, youngest) = (best.0.evidence(), age(&best.0));
    let older = ranked.iter().filter(|each| age(&each.0) < youngest);
    let mut older: Vec<u64> = older.map(|each| each.1.root.into()).collect();
    older.sort_unstable();
    let equal = ranked
        .iter()
        .take_while(|each| each.0.evidence() == evidence);
    let count = equal.count();
    let equal = &mut ranked[..count];
    equal.sort_by_key(|each| each.1.root);
    let root = |index: usize| u64::from(equal[index].1.root);
    let below = |root: u64| older.partition_point(|each| *each < root);
    let apart = |index: usize| {
        let next = (index + 1) % count;
        let (here, there) = (root(index), root(next));
        let (between, room) = if next == 0 {
            (older.len() + below(there), blocks + there)
        } else {
            (below(there), there)
        };
        let room = room.saturating_sub(here);
        let difference = 1 + difference(equal[index].1, equal[next].1);
        (
            between - below(here),
            u128::from(room) * u128::from(difference),
        )
    };
    let last = match latest {
        Some(latest) => (0..count).min_by_key(|index| behind(root(*index), latest)),
        None => (0..count).max_by_key(|index| apart(*index)),
    };
    equal.rotate_left(last.map_or(0, |last| last + 1));
    equal.reverse();
}

/// Devices and mappings that one has more than the other.
fn difference(one: &Top, other: &Top) -> u64 {
    let blocks = |top: &Top, id: u64| {
        let found = top.roots.binary_search_by_key(&id, |root| root.0);
        let found = found.ok().and_then(|index| top.readable.get(index));
        found.map_or(0, |blocks| blocks.saturating_add(1))
    };
    let mut ids: Vec<u64> = one
        .roots
        .iter()
        .chain(&other.roots)
        .map(|root| root.0)
        .collect();
    ids.sort_unstable();
    ids.dedup();
    let differ = ids
        .iter()
        .map(|id| blocks(one, *id).abs_diff(blocks(other, *id)));
    differ
        .fold(0_u64, |sum, blocks| sum.saturating_add(blocks))
        .min(u64::MAX - 1)
}

/// Of a state as new as the best, most may be there, while the best has next to nothing in it.
fn prefer_most(ranked: &mut [(Candidate, &Top, Option<&Details>)]) {
    let Some((best, ..)) = ranked.first() else {
        return;
    };
    let age = |each: &Candidate| (each.transaction_id, each.time);
    let index = ranked.iter().position(|(each, ..)| {
        age(each) >= age(best) && each.mapped_blocks / 2 > best.mapped_blocks
    });
    if let Some(index) = index {
        ranked[..=index].rotate_right(1);
    }
}

fn judge(top: &Top, with: Option<&Details>) -> Candidate {
    let mut found = Candidate {
        mapping_root: BlockNr(top.root.into()),
        details_root: None,
        devices: top.roots.len() as u64,
        whole_devices: 0,
        live_devices: 0,
        live_blocks: 0,
        mapped_blocks: 0,
        transaction_id: with.map_or(0, Details::transaction_id),
        time: with.map_or(0, Details::time).max(top.time),
    };
    let both = top.mapped.iter().zip(&top.readable);
    for (((id, _), (mapped, readable)), live) in top.roots.iter().zip(both).zip(&top.live) {
        let info = with.and_then(|with| with.get(*id));
        if let (Some(with), Some(_)) = (with, info) {
            found.details_root = Some(BlockNr(with.root.into()));
        }
        let recorded = info.map(|info| info.mapped_blocks);
        found.whole_devices += u64::from(mapped.is_some() && *mapped == recorded);
        if recorded.is_none_or(|recorded| *readable <= recorded) {
            found.mapped_blocks = found.mapped_blocks.saturating_add(*readable);
        }
        // What has another size is something else by now.
        if mapped.is_none() || recorded.is_none() || *mapped == recorded {
            found.live_devices += u64::from(live.root);
            found.live_blocks = found.live_blocks.saturating_add(live.blocks);
        }
    }
    found
}
