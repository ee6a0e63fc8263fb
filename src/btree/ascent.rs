//! Looking up keys that rise: neighbours share the way down.

use std::sync::Arc;

use super::lookup::too_deep;
use super::{MAX_DEPTH, NODE_VALIDATOR, Node, check_bounds};
use crate::block::{BlockData, BlockManager};
use crate::error::Result;
use crate::units::BlockNr;

/// A node on the way down.
struct Step {
    at: BlockNr,
    node: Arc<BlockData>,
    low: Option<u64>,
    /// No key below may reach this.
    high: Option<u64>,
}

/// A way down a tree that is kept from one look-up to the next. Holds pins, not
/// locks. Each node is entered once while keys rise; a smaller key is found as
/// well, but starts from the root.
pub struct Ascent {
    blocks: Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    path: Vec<Step>,
}

impl Ascent {
    /// Ways down the tree under `root`, whose values have so many bytes.
    #[must_use]
    pub fn new(blocks: &Arc<BlockManager>, root: BlockNr, value_bytes: usize) -> Self {
        Self {
            blocks: Arc::clone(blocks),
            root,
            value_bytes,
            path: Vec::new(),
        }
    }

    /// The leaf that has `key` if any has, and the first key that may lie in
    /// another one. `None`: the key is below every key of the tree.
    pub fn leaf(&mut self, key: u64) -> Result<Option<(Node<'_>, Option<u64>)>> {
        let holds = |step: &Step| {
            step.low.is_none_or(|low| low <= key) && step.high.is_none_or(|high| key < high)
        };
        while self.path.last().is_some_and(|step| !holds(step)) {
            self.path.pop();
        }
        if self.path.is_empty() {
            self.enter(self.root, None, None)?;
        }
        loop {
            let Some(step) = self.path.last() else {
                unreachable!("the root was entered")
            };
            let node = Node::parse(step.at, &step.node)?;
            if node.is_leaf() {
                node.packed_values(self.value_bytes)?;
                break;
            }
            let Some(index) = node.search(key) else {
                return Ok(None);
            };
            if self.path.len() >= MAX_DEPTH {
                return Err(too_deep(step.at).into());
            }
            let child = BlockNr(node.children()?[index].get());
            let low = node.keys()[index].get();
            let high = node.keys().get(index + 1).map(|key| key.get());
            let high = high.or(step.high);
            self.enter(child, Some(low), high)?;
        }
        let leaf = self
            .path
            .last()
            .map(|step| -> Result<_> { Ok((Node::parse(step.at, &step.node)?, step.high)) });
        leaf.transpose()
    }

    fn enter(&mut self, at: BlockNr, low: Option<u64>, high: Option<u64>) -> Result<()> {
        let node = self.blocks.read(at, &NODE_VALIDATOR)?;
        check_bounds(&Node::parse(at, &node)?, low, high)?;
        self.path.push(Step {
            at,
            node,
            low,
            high,
        });
        Ok(())
    }
}
