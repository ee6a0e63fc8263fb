//! A device's leaves in key order, past whatever is damaged on the way.

use rustc_hash::FxHashMap;
use zerocopy::little_endian::U64;

use crate::btree::{MAX_DEPTH, Node};
use crate::error::{Error, Result};
use crate::tools::dump::nodes::{NodeReader, NodeRef, child};
use crate::walk::{Forest, State};

/// A sub-tree that is taken for a child of a lost node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Graft {
    pub first: u64,
    pub last: u64,
    pub block: u32,
}

/// Those of each lost node, in ascending order.
pub(super) type Grafts = FxHashMap<u32, Vec<Graft>>;

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
    /// Children of it were found, and whether some were here as well is not known.
    pub between: bool,
}

pub(super) struct Walker<'r> {
    nodes: NodeReader<'r>,
    forest: &'r Forest,
    grafts: &'r Grafts,
    /// Keys that are of interest.
    keys: (u64, Option<u64>),
}

impl<'r> Walker<'r> {
    pub fn new(nodes: NodeReader<'r>, forest: &'r Forest, grafts: &'r Grafts) -> Self {
        Self {
            nodes,
            forest,
            grafts,
            keys: (0, None),
        }
    }

    /// Goes where some of these keys may be, and nowhere else.
    pub fn within(mut self, low: u64, high: Option<u64>) -> Self {
        self.keys = (low, high);
        self
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
                Ok(child) if self.is_outside(&child) => {}
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
                        between: false,
                    };
                    visit(Step::Lost(gap))?;
                }
            }
        }
        Ok(())
    }

    fn is_outside(&self, at: &NodeRef) -> bool {
        let (low, high) = self.keys;
        at.high.is_some_and(|end| end <= low)
            || at.low.zip(high).is_some_and(|(begin, high)| begin >= high)
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
        let whole = Gap {
            block: at.block,
            low: at.low.unwrap_or(0),
            high: at.high,
            height,
            between: found.is_some(),
        };
        let Some(children) = found else {
            return visit(Step::Lost(whole));
        };
        let mut low = whole.low;
        for (index, graft) in children.iter().enumerate() {
            if low < graft.first {
                let high = Some(graft.first);
                visit(Step::Lost(Gap { low, high, ..whole }))?;
            }
            let child = NodeRef {
                block: graft.block,
                low: Some(graft.first),
                high: children.get(index + 1).map(|next| next.first).or(at.high),
            };
            // What hangs there is never lost itself, so that this ends.
            let below = height.and_then(|height| height.checked_sub(1));
            self.descend(child, below, depth + 1, true, visit)?;
            low = graft.last.saturating_add(1);
        }
        if at.high.is_none_or(|high| low < high) {
            visit(Step::Lost(Gap { low, ..whole }))?;
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
