//! Where the children of lost nodes are: found by what nobody else accounts for.
//!
//! The metadata's space map says how many references each node has, and the walk how many
//! there are. A sound node with more than were met hangs under lost nodes, in as many
//! places as are missing. If just so many gaps can hold its keys, it is in all of them;
//! if more can, nothing proves which.

use rustc_hash::{FxHashMap, FxHashSet};

use super::scan::{Scan, Scanned, Shape};
use super::trees::Met;
use super::walk::{Gap, Graft, Grafts};
use crate::block::BlockManager;
use crate::device::Device;
use crate::disk_space::{DiskSpaceMap, SpaceMapRoot};
use crate::error::Result;
use crate::space::SpaceMap;
use crate::task::Task;
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::walk::BlockSet;

use std::sync::Arc;

/// Memory for the space map's nodes.
const CACHE_BYTES: u64 = 8 << 20;

/// A sound node to which more refer than were met.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loose {
    pub node: Scanned,
    /// Levels below it.
    pub height: u8,
    /// What its leaves are.
    pub kind: Shape,
    /// References that were not met.
    pub missing: u32,
}

/// All of them.
pub(super) fn loose_nodes(
    device: &Arc<dyn Device>,
    scan: &Scan,
    space: Option<&SpaceMapRoot>,
    met: &mut Met,
    reached: &BlockSet,
    task: &Task<'_>,
) -> Result<Vec<Loose>> {
    let Some(space) = space else {
        return Ok(Vec::new());
    };
    let limit = met.counts.nr_blocks();
    let blocks = BlockManager::new(Arc::clone(device), CACHE_BYTES);
    let map = DiskSpaceMap::metadata(&blocks, *space);
    let mut counted: Vec<(Scanned, u32)> = Vec::new();
    for (index, node) in scan.nodes.iter().enumerate() {
        if index % 1024 == 0 {
            task.step(0, 0)?;
        }
        // What is damaged in the map says nothing; nor does it of what is past its end.
        match map.get_count(node.block.into()) {
            Ok(count) if count > 0 && u64::from(node.block) < limit => counted.push((*node, count)),
            _ => {}
        }
    }
    let mut nodes = NodeReader::of_device(&**device, limit);
    // Nodes that only lost ones lead to have children as well.
    let unreached: Vec<NodeRef> = counted
        .iter()
        .filter(|(node, _)| node.shape == Shape::Internal && !reached.contains(node.block.into()))
        .map(|(node, _)| NodeRef::root(node.block))
        .collect();
    let counts = &mut met.counts;
    let mut children: FxHashMap<u32, u32> = FxHashMap::default();
    for at in &unreached {
        // One that leads astray is none of ours.
        let _ = nodes.each_child(std::slice::from_ref(at), task, |parent, child| {
            children.entry(parent.block).or_insert(child.block);
            counts.add(child.block.into());
            Ok(())
        });
    }
    let mut loose = Vec::new();
    for (node, count) in counted {
        let missing = count.saturating_sub(met.counts.get(node.block.into()));
        if missing == 0 {
            continue;
        }
        if let Some((height, kind)) = kind(&mut nodes, scan, &node, task)? {
            loose.push(Loose {
                node,
                height,
                kind,
                missing,
            });
        }
    }
    Ok(loose)
}

/// What a tree's leaves are, by the way to its first one, and how far down they are.
pub(super) fn kind(
    nodes: &mut NodeReader<'_>,
    scan: &Scan,
    node: &Scanned,
    task: &Task<'_>,
) -> Result<Option<(u8, Shape)>> {
    let mut at = *node;
    for height in 0..16 {
        if at.shape != Shape::Internal {
            return Ok(Some((height, at.shape)));
        }
        let mut first = None;
        let here = NodeRef::root(at.block);
        let read = nodes.each_child(std::slice::from_ref(&here), task, |_, child| {
            first.get_or_insert(child.block);
            Ok(())
        });
        if let Err(crate::error::Error::Interrupted) = read {
            return Err(crate::error::Error::Interrupted);
        }
        match first.and_then(|first| scan.get(first)) {
            Some(child) => at = *child,
            None => return Ok(None),
        }
    }
    Ok(None)
}

/// Puts loose nodes where lost ones were. What was not placed stays in `loose`.
pub(super) fn place(mut gaps: Vec<Gap>, loose: &mut Vec<Loose>, task: &Task<'_>) -> Result<Grafts> {
    gaps.sort_unstable_by_key(|gap| (gap.low, gap.block));
    let mut grafts: FxHashMap<u32, Vec<Loose>> = FxHashMap::default();
    let mut unplaced = Vec::new();
    for each in loose.drain(..) {
        task.step(0, 0)?;
        let below = gaps.partition_point(|gap| gap.low <= each.node.first);
        let fits = |gap: &&Gap| {
            gap.high.is_none_or(|high| each.node.last < high)
                && gap.height.is_none_or(|height| height == each.height + 1)
        };
        let is_ours = matches!(each.kind, Shape::Mappings | Shape::Top);
        // One more than there are references is as good as many more.
        let most = usize::try_from(each.missing).map_or(usize::MAX, |most| most + 1);
        let fitting = gaps[..below].iter().filter(fits).take(most);
        let fitting: Vec<u32> = fitting.map(|gap| gap.block).collect();
        if is_ours && !fitting.is_empty() && fitting.len() as u64 <= u64::from(each.missing) {
            for block in fitting {
                grafts.entry(block).or_default().push(each);
            }
        } else {
            unplaced.push(each);
        }
    }
    let mut placed = Grafts::default();
    for (block, mut children) in grafts {
        children.sort_unstable_by_key(|child| (child.node.first, child.node.block));
        let heights: FxHashSet<u8> = children.iter().map(|child| child.height).collect();
        let apart = children
            .windows(2)
            .all(|two| two[0].node.last < two[1].node.first);
        if heights.len() == 1 && apart {
            let graft = |child: &Loose| Graft {
                first: child.node.first,
                last: child.node.last,
                block: child.node.block,
            };
            placed.insert(block, children.iter().map(graft).collect());
        } else {
            unplaced.extend(children);
        }
    }
    *loose = unplaced;
    Ok(placed)
}
