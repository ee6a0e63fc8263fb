//! Which devices, and which parts of them, a damaged node takes with it.
//!
//! Only when there is damage are the internal nodes read once more, to find
//! every way from a device's root down to a damaged block.

use std::rc::Rc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::finding::Affected;
use crate::block::Validator;
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node};
use crate::error::Result;
use crate::task::Task;
use crate::units::BlockNr;
use crate::walk::{Forest, Reader};

/// Ranges listed for one finding.
pub(super) const MAX_LISTED: usize = 64;

/// Steps down that are taken in all, so that a tree full of damage shared by
/// many devices does not take for ever.
const MAX_STEPS: u64 = 4_000_000;

/// Where a damaged block is met.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Blocks from the first device's root down.
    pub path: Vec<BlockNr>,
    /// The first few ranges.
    pub affected: Vec<Affected>,
    /// Ranges in all.
    pub total: u64,
}

/// Keys and children of the internal nodes that lead to wanted blocks.
type Nodes = FxHashMap<u32, Rc<[(u64, u32)]>>;

/// A wanted block below a device's root.
pub(super) struct Met<'p> {
    pub block: u32,
    /// Blocks from the root down to it.
    path: &'p [BlockNr],
    /// The keys that can be there, half-open.
    begin: u64,
    end: Option<u64>,
}

/// Finds the places of `damaged` blocks below the devices' roots.
pub fn places(
    reader: &Reader<'_>,
    task: &Task<'_>,
    forest: &Forest,
    devices: &[(u64, u32)],
    damaged: &FxHashSet<u32>,
) -> Result<FxHashMap<u32, Place>> {
    let mut descent = Descent::new(reader, task, forest, damaged)?;
    let mut places: FxHashMap<u32, Place> = FxHashMap::default();
    for (device_id, root) in devices {
        descent.below(*root, &mut |met| {
            let place = places.entry(met.block).or_default();
            if place.total == 0 {
                place.path = met.path.to_vec();
            }
            place.total += 1;
            if place.affected.len() < MAX_LISTED {
                place.affected.push(Affected {
                    device_id: *device_id,
                    begin_block: met.begin,
                    end_block: met.end,
                });
            }
        });
        task.step(0, 0)?;
    }
    Ok(places)
}

/// Internal nodes that have one of these blocks below them.
///
/// # Errors
/// Only [`Error::Interrupted`](crate::error::Error::Interrupted).
pub fn leading_to(
    reader: &Reader<'_>,
    task: &Task<'_>,
    forest: &Forest,
    wanted: &FxHashSet<u32>,
) -> Result<impl Iterator<Item = u32>> {
    Ok(leading_nodes(reader, task, forest, wanted)?.into_keys())
}

/// Internal nodes with a wanted block below, from the last level up.
fn leading_nodes(
    reader: &Reader<'_>,
    task: &Task<'_>,
    forest: &Forest,
    wanted: &FxHashSet<u32>,
) -> Result<Nodes> {
    let mut all = Nodes::default();
    for level in &forest.internals {
        let (made, _) = reader.visit(
            task,
            level,
            NODE_NAME,
            Vec::new(),
            || (),
            |(), at, block| {
                let read = block.and_then(|block| {
                    NODE_VALIDATOR.check(at, block)?;
                    let node = Node::parse(at, block)?;
                    let children = node.children()?.iter();
                    let child = |child: &zerocopy::little_endian::U64| {
                        u32::try_from(child.get()).unwrap_or(0)
                    };
                    Ok(node
                        .keys()
                        .iter()
                        .map(|key| key.get())
                        .zip(children.map(child))
                        .collect())
                });
                Ok(read.unwrap_or_default())
            },
        )?;
        let made = made.into_iter().map(Rc::from);
        all.extend(level.iter().copied().zip(made));
    }
    let mut leading: FxHashSet<u32> = FxHashSet::default();
    // Each round goes one level up, so sixteen reach every root.
    for _ in 0..MAX_DEPTH {
        let before = leading.len();
        for (block, children) in &all {
            let leads = |child: &u32| wanted.contains(child) || leading.contains(child);
            if !leading.contains(block) && children.iter().any(|(_, child)| leads(child)) {
                leading.insert(*block);
            }
        }
        if leading.len() == before {
            break;
        }
    }
    all.retain(|block, _| leading.contains(block));
    Ok(all)
}

/// Ways down from roots to blocks that are looked for.
pub(super) struct Descent<'d> {
    nodes: Nodes,
    wanted: &'d FxHashSet<u32>,
    steps: u64,
}

impl<'d> Descent<'d> {
    pub fn new(
        reader: &Reader<'_>,
        task: &Task<'_>,
        forest: &Forest,
        wanted: &'d FxHashSet<u32>,
    ) -> Result<Self> {
        Ok(Self {
            nodes: leading_nodes(reader, task, forest, wanted)?,
            wanted,
            steps: 0,
        })
    }

    /// Shows each wanted block below `root`.
    pub fn below(&mut self, root: u32, visit: &mut impl FnMut(&Met<'_>)) {
        self.descend(root, 0, None, &mut Vec::new(), visit);
    }

    /// Whether the steps were too many, so that not everything was shown.
    pub fn is_cut(&self) -> bool {
        self.steps > MAX_STEPS
    }

    fn descend(
        &mut self,
        block: u32,
        begin: u64,
        end: Option<u64>,
        path: &mut Vec<BlockNr>,
        visit: &mut impl FnMut(&Met<'_>),
    ) {
        self.steps += 1 + self
            .nodes
            .get(&block)
            .map_or(0, |children| children.len() as u64);
        if path.len() >= MAX_DEPTH || self.is_cut() {
            return;
        }
        path.push(BlockNr(block.into()));
        if self.wanted.contains(&block) {
            visit(&Met {
                block,
                path,
                begin,
                end,
            });
        }
        if let Some(children) = self.nodes.get(&block).map(Rc::clone) {
            // Only where keys can be: a loop narrows its range at every turn.
            let first = children.partition_point(|(low, _)| *low <= begin);
            let first = first.saturating_sub(1);
            for (index, (low, child)) in children.iter().enumerate().skip(first) {
                let next = children.get(index + 1).map(|next| next.0);
                let (low, high) = ((*low).max(begin), next.into_iter().chain(end).min());
                if high.is_some_and(|high| high <= low) {
                    break;
                }
                if self.wanted.contains(child) || self.nodes.contains_key(child) {
                    self.descend(*child, low, high, path, visit);
                }
            }
        }
        path.pop();
    }
}
