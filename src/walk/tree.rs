//! The shape of one tree, however damaged.
//!
//! For the trees that are small beside the mappings: details, the top level of
//! the mappings, indices and overflow counts. The mappings themselves are walked
//! by `tools::check`, which has all trees at once.

use super::{BlockSet, Counts, Reader, WINDOW_BLOCKS};
use crate::block::{BlockData, Validator};
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, check_bounds};
use crate::device::AlignedBuffer;
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::units::{BLOCK_BYTES, BlockNr};

/// A damaged node, and which keys are lost with it.
#[derive(Clone, Debug)]
pub struct NodeDamage {
    /// What is wrong.
    pub damage: Damage,
    /// Blocks from the tree's root down to the damaged one.
    pub path: Vec<BlockNr>,
    /// First key that may be lost.
    pub begin: u64,
    /// One past the last; `None`: to the end.
    pub end: Option<u64>,
}

/// A tree's leaves, in the order of their keys.
#[derive(Debug, Default)]
pub struct TreeShape {
    /// Sound leaves.
    pub leaves: Vec<u32>,
    /// Levels of nodes; a tree of one leaf has one.
    pub levels: usize,
    /// Nodes read, damaged ones included.
    pub nodes: u64,
    /// What could not be read.
    pub damages: Vec<NodeDamage>,
    /// Sound nodes that break a rule of writers and are readable all the same.
    pub irregular: Vec<Damage>,
}

/// A node to be read, and what its parent says of it.
#[derive(Clone)]
struct Expected {
    block: u32,
    /// Index in the level above; meaningless for the root.
    parent: u32,
    low: Option<u64>,
    high: Option<u64>,
}

/// What a node turned out to be.
#[derive(Clone)]
enum Found {
    Leaf,
    Internal(Vec<(u64, u64)>),
    Bad(Damage),
}

/// Walks the tree under `root` level by level. Each node that `counted` does not
/// know yet adds the references it makes to `counts`.
///
/// # Errors
/// Only [`Error::Interrupted`](crate::error::Error::Interrupted); all else is in the shape.
pub fn tree_shape(
    reader: &Reader<'_>,
    task: &Task<'_>,
    root: u64,
    value_size: usize,
    counts: &mut Counts,
    counted: &mut BlockSet,
) -> Result<TreeShape> {
    let limit = counts.nr_blocks();
    let mut shape = TreeShape::default();
    let mut seen = BlockSet::new(limit);
    let mut levels: Vec<Vec<Expected>> = Vec::new();
    let Some(block) = usable(root, limit).filter(|_| seen.insert(root)) else {
        let damage = Damage::new(
            BlockNr(root),
            NODE_NAME,
            "pointer",
            root,
            pointer_range(limit),
        );
        shape.damages.push(NodeDamage {
            damage,
            path: vec![],
            begin: 0,
            end: None,
        });
        return Ok(shape);
    };
    levels.push(vec![Expected {
        block,
        parent: 0,
        low: None,
        high: None,
    }]);
    while let Some(level) = levels.last().filter(|level| !level.is_empty()) {
        let found = read_level(reader, task, level, value_size, &mut shape.irregular)?;
        let depth = levels.len();
        shape.levels = depth;
        let mut next = Vec::new();
        for (index, found) in found.into_iter().enumerate() {
            let expected = &levels[depth - 1][index];
            shape.nodes += 1;
            let damaged = |damage| NodeDamage {
                damage,
                path: path_to(&levels, depth - 1, index),
                begin: expected.low.unwrap_or(0),
                end: expected.high,
            };
            match found {
                Found::Bad(damage) => shape.damages.push(damaged(damage)),
                Found::Leaf => shape.leaves.push(expected.block),
                Found::Internal(_) if depth >= MAX_DEPTH => {
                    let at = BlockNr(expected.block.into());
                    let limit = format!("at most {MAX_DEPTH} levels");
                    shape
                        .damages
                        .push(damaged(Damage::new(at, NODE_NAME, "depth", "more", limit)));
                }
                Found::Internal(children) => {
                    let count = counted.insert(expected.block.into());
                    for (entry, (low, child)) in children.iter().enumerate() {
                        let high = children.get(entry + 1).map(|next| next.0).or(expected.high);
                        let Some(block) = usable(*child, limit) else {
                            let mut bad = damaged(bad_pointer(expected.block, *child, limit));
                            (bad.begin, bad.end) = (*low, high);
                            shape.damages.push(bad);
                            continue;
                        };
                        if count {
                            counts.add(*child);
                        }
                        if seen.insert(*child) {
                            let parent = u32::try_from(index).unwrap_or(u32::MAX);
                            next.push(Expected {
                                block,
                                parent,
                                low: Some(*low),
                                high,
                            });
                        } else {
                            let at = BlockNr(*child);
                            let found = "a block met before in this tree";
                            let again =
                                Damage::new(at, NODE_NAME, "loop", found, "a block of its own");
                            let mut bad = damaged(again);
                            (bad.begin, bad.end) = (*low, high);
                            bad.path.push(at);
                            shape.damages.push(bad);
                        }
                    }
                }
            }
        }
        levels.push(next);
    }
    Ok(shape)
}

/// A pointer that leads to a block of the metadata.
fn usable(pointer: u64, limit: u64) -> Option<u32> {
    u32::try_from(pointer)
        .ok()
        .filter(|block| *block != 0 && u64::from(*block) < limit)
}

fn pointer_range(limit: u64) -> String {
    format!("1 to {}", limit.saturating_sub(1))
}

fn bad_pointer(at: u32, pointer: u64, limit: u64) -> Damage {
    Damage::new(
        BlockNr(at.into()),
        NODE_NAME,
        "pointer",
        pointer,
        pointer_range(limit),
    )
}

fn path_to(levels: &[Vec<Expected>], depth: usize, index: usize) -> Vec<BlockNr> {
    let mut path = Vec::with_capacity(depth + 1);
    let mut index = index;
    for level in levels[..=depth].iter().rev() {
        let Some(expected) = level.get(index) else {
            break;
        };
        path.push(BlockNr(expected.block.into()));
        index = expected.parent as usize;
    }
    path.reverse();
    path
}

/// Reads a level in order of location and answers in order of keys.
fn read_level(
    reader: &Reader<'_>,
    task: &Task<'_>,
    level: &[Expected],
    value_size: usize,
    irregular: &mut Vec<Damage>,
) -> Result<Vec<Found>> {
    let mut order: Vec<u32> = (0..u32::try_from(level.len()).unwrap_or(u32::MAX)).collect();
    order.sort_unstable_by_key(|index| level[*index as usize].block);
    let blocks: Vec<u32> = order
        .iter()
        .map(|index| level[*index as usize].block)
        .collect();
    let by_block: rustc_hash::FxHashMap<u32, u32> =
        blocks.iter().copied().zip(order.iter().copied()).collect();
    let (made, oddities) = reader.visit(
        task,
        &blocks,
        NODE_NAME,
        Found::Leaf,
        Vec::new,
        |odd: &mut Vec<Damage>, at, block| {
            let index = u32::try_from(at.0)
                .ok()
                .and_then(|block| by_block.get(&block));
            let expected = index.map(|index| &level[*index as usize]);
            let (low, high) =
                expected.map_or((None, None), |expected| (expected.low, expected.high));
            let read = block.and_then(|block| read_node(at, block, low, high, value_size, odd));
            Ok(read.unwrap_or_else(Found::Bad))
        },
    )?;
    let mut oddities: Vec<Damage> = oddities.into_iter().flatten().collect();
    // Threads tell in any order; of one block there is one thread.
    oddities.sort_by_key(|odd| odd.block);
    irregular.append(&mut oddities);
    let mut found = vec![Found::Leaf; level.len()];
    for (index, made) in order.into_iter().zip(made) {
        found[index as usize] = made;
    }
    Ok(found)
}

fn read_node(
    at: BlockNr,
    block: &BlockData,
    low: Option<u64>,
    high: Option<u64>,
    value_size: usize,
    odd: &mut Vec<Damage>,
) -> Result<Found, Damage> {
    NODE_VALIDATOR.check(at, block)?;
    let node = Node::parse(at, block)?;
    check_bounds(&node, low, high)?;
    let found = node.header().value_size.get();
    if node.is_leaf() && usize::try_from(found) != Ok(value_size) {
        return Err(Damage::new(at, NODE_NAME, "value size", found, value_size));
    }
    odd.extend(irregularities(&node, low.is_none()));
    if node.is_leaf() {
        return Ok(Found::Leaf);
    }
    let children = node.keys().iter().zip(node.children()?);
    Ok(Found::Internal(
        children
            .map(|(key, child)| (key.get(), child.get()))
            .collect(),
    ))
}

/// What writers promise and readers can do without: capacity and fill.
pub fn irregularities(node: &Node<'_>, is_root: bool) -> impl Iterator<Item = Damage> {
    let header = node.header();
    let (nr, max) = (header.nr_entries.get(), header.max_entries.get());
    let size = usize::try_from(header.value_size.get()).unwrap_or(usize::MAX);
    let capacity = crate::btree::max_entries(size.min(BLOCK_BYTES));
    let at = node.location();
    let odd_capacity = (usize::try_from(max) != Ok(capacity))
        .then(|| Damage::new(at, NODE_NAME, "capacity", max, capacity));
    let underfull = (!is_root && nr < max / 3)
        .then(|| Damage::new(at, NODE_NAME, "fill", nr, format!("at least {}", max / 3)));
    odd_capacity.into_iter().chain(underfull)
}

/// Calls `visit` with each leaf in the order given; reads them in order of
/// location, a window at a time. A leaf that went bad since is a damage.
pub fn each_leaf_in_order(
    reader: &Reader<'_>,
    leaves: &[u32],
    mut visit: impl FnMut(Result<Node<'_>, Damage>) -> Result<()>,
) -> Result<()> {
    let mut window = AlignedBuffer::new(0);
    for part in leaves.chunks(WINDOW_BLOCKS) {
        let mut order: Vec<usize> = (0..part.len()).collect();
        order.sort_unstable_by_key(|index| part[*index]);
        let blocks: Vec<u32> = order.iter().map(|index| part[*index]).collect();
        let mut read: Vec<Result<BlockData, Damage>> = Vec::new();
        read.resize_with(part.len(), || Ok(BlockData::zeroed()));
        reader.read(&blocks, NODE_NAME, &mut window, |index, block| {
            let at = BlockNr(blocks[index].into());
            read[order[index]] = block.and_then(|block| {
                NODE_VALIDATOR.check(at, block)?;
                Ok(block.clone())
            });
            Ok(())
        })?;
        for (block, read) in part.iter().zip(&read) {
            let at = BlockNr((*block).into());
            visit(
                read.as_ref()
                    .map_err(Clone::clone)
                    .and_then(|block| Node::parse(at, block)),
            )?;
        }
    }
    Ok(())
}
