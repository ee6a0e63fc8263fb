//! A device's leaves in key order, past whatever is damaged on the way.

use rustc_hash::FxHashMap;
use zerocopy::little_endian::U64;

use crate::btree::{MAX_DEPTH, Node};
use crate::error::{Error, Result};
use crate::tools::dump::nodes::{NodeReader, NodeRef, child};
use crate::walk::{Forest, State};

/// Sub-trees that are taken for the children of a lost node: first key and block.
pub(super) type Grafts = FxHashMap<u32, Vec<(u64, u32)>>;

/// What a walk comes to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Leaf {
        leaf: NodeRef,
        /// It hangs under a lost node.
        grafted: bool,
    },
    /// Keys of a node that cannot be read.
    Lost(Gap),
}

/// A node that cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub block: u32,
    pub low: u64,
    pub high: Option<u64>,
    /// Levels below it, if its neighbours tell.
    pub height: Option<u8>,
}

pub(super) struct Walker<'r> {
    nodes: NodeReader<'r>,
    forest: &'r Forest,
    grafts: &'r Grafts,
}

impl<'r> Walker<'r> {
    pub fn new(nodes: NodeReader<'r>, forest: &'r Forest, grafts: &'r Grafts) -> Self {
        Self {
            nodes,
            forest,
            grafts,
        }
    }

    /// Walks the tree under a device's root.
    pub fn each(&mut self, root: u32, visit: &mut dyn FnMut(Step) -> Result<()>) -> Result<()> {
        self.descend(NodeRef::root(root), None, 0, false, visit)
    }

    fn descend(
        &mut self,
        at: NodeRef,
        height: Option<u8>,
        depth: usize,
        grafted: bool,
        visit: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        if let Some(summary) = self.forest.summary(at.block)
            && summary.state == State::Sound
            && summary.height == 0
            && (summary.entries == 0 && at.low.is_none()
                || at.low.is_none_or(|low| low <= summary.first)
                    && at.high.is_none_or(|high| summary.last < high))
        {
            return visit(Step::Leaf { leaf: at, grafted });
        }
        let read = match self.nodes.read_one(at.block) {
            Ok(block) => Some(block),
            Err(Error::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        let node = read.as_ref().and_then(|block| at.parse(block).ok());
        let Some(node) = node.filter(|node| is_ours(node) && depth < MAX_DEPTH) else {
            return self.lost(at, height, depth, visit);
        };
        if node.is_leaf() {
            return visit(Step::Leaf { leaf: at, grafted });
        }
        let below = self.height_below(&node);
        for index in 0..node.keys().len() {
            match child(&node, index, at.high, self.nodes.limit()) {
                Ok(child) => self.descend(child, below, depth + 1, grafted, visit)?,
                Err(_) => {
                    let key = node.keys()[index].get();
                    let high = node.keys().get(index + 1).map(|key| key.get()).or(at.high);
                    // No block that there is: nothing can take its place.
                    let gap = Gap {
                        block: 0,
                        low: key,
                        high,
                        height: Some(0),
                    };
                    visit(Step::Lost(gap))?;
                }
            }
        }
        Ok(())
    }

    /// A node that cannot be read: what is taken for its children, or nothing.
    fn lost(
        &mut self,
        at: NodeRef,
        height: Option<u8>,
        depth: usize,
        visit: &mut dyn FnMut(Step) -> Result<()>,
    ) -> Result<()> {
        let grafts = self.grafts;
        let found = grafts.get(&at.block).filter(|_| depth < MAX_DEPTH);
        let Some(children) = found else {
            let (low, high) = (at.low.unwrap_or(0), at.high);
            return visit(Step::Lost(Gap {
                block: at.block,
                low,
                high,
                height,
            }));
        };
        for (index, (first, block)) in children.iter().enumerate() {
            let child = NodeRef {
                block: *block,
                low: Some(*first),
                high: children.get(index + 1).map(|next| next.0).or(at.high),
            };
            // What hangs there is never lost itself, so that this ends.
            let below = height.and_then(|height| height.checked_sub(1));
            self.descend(child, below, depth + 1, true, visit)?;
        }
        Ok(())
    }

    /// Levels below the children of a node, if one of them is sound.
    fn height_below(&self, node: &Node<'_>) -> Option<u8> {
        let mut children = node.children().ok()?.iter().map(|child| child.get());
        children.find_map(|child| {
            let summary = self.forest.summary(u32::try_from(child).ok()?)?;
            (summary.state == State::Sound).then_some(summary.height)
        })
    }
}

/// Whether a node can be one of a device's tree.
fn is_ours(node: &Node<'_>) -> bool {
    !node.is_leaf() || node.values::<U64>().is_ok()
}
