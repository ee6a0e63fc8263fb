//! Finding what several trees have in common, so that it is told once.
//!
//! A node with more than one reference among the trees that are dumped is
//! *joint*. `thin_restore` takes references to shared nodes inside devices and
//! not inside each other, so a joint node is told as one only when no joint node
//! lies below it. One that is *parted* so is never told; its children are, be
//! they joint or reached from several places only through it, and so on down.
//!
//! All trees are walked at once, level by level from the top, so that a node is
//! looked at when all its parents are known, and with them the range that suits
//! them all; its keys are held to that. Memory: a few bits for each metadata
//! block, and a record for each node above the leaves and each leaf told once.

use super::nodes::{NodeReader, NodeRef, child, too_deep};
use crate::btree::{MAX_DEPTH, NODE_NAME};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::walk::BlockSet;

/// A node whose mappings are told once, and how many levels lie below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SharedNode {
    pub node: NodeRef,
    pub height: usize,
}

/// All nodes told once.
pub(super) struct Shared {
    /// In ascending block.
    pub nodes: Vec<SharedNode>,
    blocks: BlockSet,
    /// Distinct roots of devices, ascending, and the levels below each.
    heights: Vec<(u32, usize)>,
    /// Leaves to be told, each counted once.
    pub leaves: u64,
}

impl Shared {
    /// Looks through the trees under `roots`, one entry a device.
    pub fn find(roots: &[u32], nodes: &mut NodeReader<'_>, task: &Task<'_>) -> Result<Self> {
        let limit = nodes.limit();
        let mut survey = Survey::new(roots, nodes, task)?;
        survey.descend()?;
        survey.find_parted()?;
        let leaves = survey.leaves;
        let heights = std::mem::take(&mut survey.heights);
        let mut found = survey.told_once()?;
        found.sort_unstable_by_key(|shared| shared.node.block);
        let mut blocks = BlockSet::new(limit);
        for shared in &found {
            blocks.insert(shared.node.block.into());
        }
        Ok(Self {
            nodes: found,
            blocks,
            heights,
            leaves,
        })
    }

    /// Whether the node is only referred to.
    pub fn contains(&self, block: u32) -> bool {
        self.blocks.contains(block.into())
    }

    /// Levels below a device's root. The tree was looked through so far and no
    /// further: a walk that met only nodes told elsewhere could not tell.
    pub fn height(&self, root: u32) -> Option<usize> {
        let found = self.heights.binary_search_by_key(&root, |known| known.0);
        found.ok().map(|index| self.heights[index].1)
    }
}

/// What is known of the trees so far.
struct Survey<'s, 'p> {
    nodes: &'s mut NodeReader<'p>,
    task: &'s Task<'s>,
    /// By height, in ascending block: all nodes above the leaves, and of the
    /// leaves the roots and the joint ones.
    levels: Vec<Vec<NodeRef>>,
    /// Blocks that something refers to.
    seen: BlockSet,
    joint: BlockSet,
    parted: BlockSet,
    heights: Vec<(u32, usize)>,
    /// Distinct leaves.
    leaves: u64,
}

impl<'s, 'p> Survey<'s, 'p> {
    fn new(roots: &[u32], nodes: &'s mut NodeReader<'p>, task: &'s Task<'s>) -> Result<Self> {
        let limit = nodes.limit();
        let mut survey = Self {
            nodes,
            task,
            levels: vec![Vec::new(); MAX_DEPTH],
            seen: BlockSet::new(limit),
            joint: BlockSet::new(limit),
            parted: BlockSet::new(limit),
            heights: Vec::new(),
            leaves: 0,
        };
        let mut ordered = roots.to_vec();
        ordered.sort_unstable();
        for same in ordered.chunk_by(|one, other| one == other) {
            task.step(0, 0)?;
            let root = same[0];
            survey.seen.insert(root.into());
            if same.len() > 1 {
                survey.joint.insert(root.into());
            }
            let height = survey.height(root)?;
            survey.heights.push((root, height));
            survey.levels[height].push(NodeRef::root(root));
            survey.leaves += u64::from(height == 0);
        }
        Ok(survey)
    }

    /// Levels below a root, by the way to its first leaf.
    fn height(&mut self, root: u32) -> Result<usize> {
        let mut at = NodeRef::root(root);
        for height in 0..MAX_DEPTH {
            let block = self.nodes.read_one(at.block)?;
            let node = at.parse(&block)?;
            if node.is_leaf() {
                return Ok(height);
            }
            at = child(&node, 0, at.high, self.nodes.limit())?;
        }
        Err(too_deep(at).into())
    }

    /// Finds all nodes, which are joint, and their ranges.
    fn descend(&mut self) -> Result<()> {
        for height in (1..MAX_DEPTH).rev() {
            self.find_children(height)?;
            self.narrow_children(height)?;
        }
        let joint = &self.joint;
        self.levels[0].retain(|leaf| joint.contains(leaf.block.into()));
        Ok(())
    }

    /// Enters the children of a level into the one below.
    fn find_children(&mut self, height: usize) -> Result<()> {
        let (below, level) = below_and(&mut self.levels, height);
        let (seen, joint, leaves) = (&mut self.seen, &mut self.joint, &mut self.leaves);
        self.nodes.each_child(level, self.task, |_, child| {
            let first = seen.insert(child.block.into());
            let second = !first && joint.insert(child.block.into());
            let wanted = if height == 1 { second } else { first };
            *leaves += u64::from(height == 1 && first);
            if wanted {
                below.push(NodeRef::root(child.block));
            }
            Ok(())
        })?;
        below.sort_unstable_by_key(|node| node.block);
        // A leaf may be a root too.
        below.dedup();
        Ok(())
    }

    /// Gives the children of a level the ranges that their parents leave them.
    fn narrow_children(&mut self, height: usize) -> Result<()> {
        let (below, level) = below_and(&mut self.levels, height);
        if below.is_empty() {
            return Ok(());
        }
        let joint = &self.joint;
        self.nodes.each_child(level, self.task, |_, child| {
            if height == 1 && !joint.contains(child.block.into()) {
                return Ok(());
            }
            match below.binary_search_by_key(&child.block, |node| node.block) {
                Ok(index) => below[index].narrow(&child),
                Err(_) => return Err(on_two_levels(child).into()),
            }
            Ok(())
        })
    }

    /// Finds nodes with joint ones below them.
    fn find_parted(&mut self) -> Result<()> {
        for height in 1..MAX_DEPTH {
            let (joint, parted) = (&self.joint, &mut self.parted);
            let level = &self.levels[height];
            self.nodes.each_child(level, self.task, |at, child| {
                let block = child.block.into();
                if joint.contains(block) || parted.contains(block) {
                    parted.insert(at.block.into());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// What is reached from several places, in pieces that are not parted.
    fn told_once(self) -> Result<Vec<SharedNode>> {
        let Self {
            nodes,
            task,
            mut levels,
            mut joint,
            parted,
            ..
        } = self;
        let mut found = Vec::new();
        for height in (1..MAX_DEPTH).rev() {
            let (below, level) = below_and(&mut levels, height);
            level.retain(|node| joint.contains(node.block.into()));
            let (whole, divided) = level
                .iter()
                .partition::<Vec<_>, _>(|node| !parted.contains(node.block.into()));
            found.extend(whole.into_iter().map(|node| SharedNode { node, height }));
            nodes.each_child(&divided, task, |_, child| {
                // Its only parent is here, or it is joint itself.
                if joint.insert(child.block.into()) && height == 1 {
                    below.push(child);
                }
                Ok(())
            })?;
        }
        let leaves = std::mem::take(&mut levels[0]).into_iter();
        found.extend(leaves.map(|node| SharedNode { node, height: 0 }));
        Ok(found)
    }
}

/// A level and the one below it.
fn below_and(levels: &mut [Vec<NodeRef>], height: usize) -> (&mut Vec<NodeRef>, &mut Vec<NodeRef>) {
    let (low, high) = levels.split_at_mut(height);
    (&mut low[height - 1], &mut high[0])
}

fn on_two_levels(at: NodeRef) -> Damage {
    let (found, expected) = ("a block met on another level", "a block of one level");
    Damage::new(at.at(), NODE_NAME, "level", found, expected)
}
