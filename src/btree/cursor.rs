//! Walking entries in order, a leaf at a time.

use std::ops::Range;
use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::lookup::too_deep;
use super::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, Value};
use crate::block::{BlockData, BlockManager};
use crate::error::{Damage, Result};
use crate::units::BlockNr;

/// A node on the way down, and which child comes next.
struct Frame {
    at: BlockNr,
    node: Arc<BlockData>,
    next: usize,
    /// No key below may reach this.
    end: Option<u64>,
}

/// The entries of one leaf that lie in the range.
pub struct LeafSlice {
    at: BlockNr,
    node: Arc<BlockData>,
    entries: Range<usize>,
}

impl LeafSlice {
    /// How many entries of the leaf those are, one at least.
    pub(super) fn entry_count(&self) -> u64 {
        self.entries.len() as u64
    }

    /// The leaf's block.
    #[must_use]
    pub fn location(&self) -> BlockNr {
        self.at
    }

    /// Keys and values, as many of one as of the other.
    pub fn entries<V: Value>(&self) -> Result<(&[U64], &[V])> {
        let node = Node::parse(self.at, &self.node)?;
        Ok((
            &node.keys()[self.entries.clone()],
            &node.values()?[self.entries.clone()],
        ))
    }

    /// Keys, and the values one after the other, of a tree whose values have so many bytes.
    pub fn packed_entries(&self, value_bytes: usize) -> Result<(&[U64], &[u8])> {
        let node = Node::parse(self.at, &self.node)?;
        let Range { start, end } = self.entries;
        Ok((
            &node.keys()[start..end],
            &node.packed_values(value_bytes)?[start * value_bytes..end * value_bytes],
        ))
    }
}

/// An ordered walk over `begin..end` of a tree. Holds pins, not locks. Keys have
/// to rise and to stay within what the parents say, so that no wrong tree can
/// make it visit a leaf twice.
pub struct Cursor {
    blocks: Arc<BlockManager>,
    root: Option<BlockNr>,
    /// What the parent of `root` says about its keys; nothing, where that is a tree's root.
    bounds: (Option<u64>, Option<u64>),
    path: Vec<Frame>,
    begin: u64,
    end: Option<u64>,
    /// What a leaf has to hold, an empty one too.
    value_bytes: usize,
    /// Entries still to be left out.
    skip: u64,
}

impl Cursor {
    /// Entries of the tree under `root`, whose values have so many bytes, with
    /// keys in `begin..end` (`None`: to the end).
    #[must_use]
    pub fn new(
        blocks: &Arc<BlockManager>,
        root: BlockNr,
        value_bytes: usize,
        begin: u64,
        end: Option<u64>,
    ) -> Self {
        let empty = end.is_some_and(|end| end <= begin);
        Self {
            blocks: Arc::clone(blocks),
            root: (!empty).then_some(root),
            bounds: (None, None),
            path: Vec::new(),
            begin,
            end,
            value_bytes,
            skip: 0,
        }
    }

    /// All entries under a node whose parent says that its keys lie in `low..high`.
    pub(super) fn below(
        blocks: &Arc<BlockManager>,
        at: BlockNr,
        value_bytes: usize,
        low: u64,
        high: Option<u64>,
    ) -> Self {
        let mut cursor = Self::new(blocks, at, value_bytes, low, None);
        cursor.bounds = (Some(low), high);
        cursor
    }

    /// Leaves out so many of the entries that come next.
    pub fn skip(&mut self, entries: u64) {
        self.skip = self.skip.saturating_add(entries);
    }

    /// The next leaf with entries in the range; `None` at the end. After an
    /// error the cursor is at its end.
    pub fn next_leaf(&mut self) -> Result<Option<LeafSlice>> {
        let answer = self.advance_past_skipped();
        if answer.is_err() {
            self.root = None;
            self.path.clear();
        }
        answer
    }

    fn advance_past_skipped(&mut self) -> Result<Option<LeafSlice>> {
        while let Some(mut leaf) = self.advance()? {
            let skipped = self.skip.min(leaf.entries.len() as u64);
            self.skip -= skipped;
            // No more than a leaf has entries.
            leaf.entries.start += usize::try_from(skipped).unwrap_or(0);
            if !leaf.entries.is_empty() {
                return Ok(Some(leaf));
            }
        }
        Ok(None)
    }

    fn advance(&mut self) -> Result<Option<LeafSlice>> {
        if let Some(root) = self.root.take()
            && let Some(leaf) = self.descend(root, self.bounds.0, self.bounds.1)?
        {
            return Ok(Some(leaf));
        }
        while let Some(frame) = self.path.last_mut() {
            let node = Node::parse(frame.at, &frame.node)?;
            let (keys, children) = (node.keys(), node.children()?);
            let index = frame.next;
            // Keys below a child's own are nowhere, the first child's included.
            let reached = |end| keys.get(index).is_some_and(|key| key.get() >= end);
            let past = index >= keys.len() || self.end.is_some_and(reached);
            if past {
                self.path.pop();
                continue;
            }
            frame.next += 1;
            let low = keys[index].get();
            let high = keys.get(index + 1).map(|key| key.get()).or(frame.end);
            let child = BlockNr(children[index].get());
            if let Some(leaf) = self.descend(child, Some(low), high)? {
                return Ok(Some(leaf));
            }
        }
        Ok(None)
    }

    /// Enters a node whose keys have to lie in `low..high`. A leaf with
    /// something in the range is the answer; an internal node joins the path.
    fn descend(
        &mut self,
        at: BlockNr,
        low: Option<u64>,
        high: Option<u64>,
    ) -> Result<Option<LeafSlice>> {
        let node = self.blocks.read(at, &NODE_VALIDATOR)?;
        let view = Node::parse(at, &node)?;
        check_bounds(&view, low, high)?;
        if view.is_leaf() {
            view.packed_values(self.value_bytes)?;
            let begin = view.search_at_least(self.begin);
            let end = self
                .end
                .map_or(view.keys().len(), |end| view.search_at_least(end));
            let entries = begin..end;
            return Ok((begin < end).then_some(LeafSlice { at, node, entries }));
        }
        if self.path.len() + 1 >= MAX_DEPTH {
            return Err(too_deep(at).into());
        }
        let next = view.search(self.begin).unwrap_or(0);
        self.path.push(Frame {
            at,
            node,
            next,
            end: high,
        });
        Ok(None)
    }
}

/// Whether a node below the root keeps to its parent's bounds and is not empty.
pub(crate) fn check_bounds(
    node: &Node<'_>,
    low: Option<u64>,
    high: Option<u64>,
) -> Result<(), Damage> {
    let bad = |check, found: u64, expected: String| {
        Err(Damage::new(
            node.location(),
            NODE_NAME,
            check,
            found,
            expected,
        ))
    };
    let (first, last) = match (node.keys().first(), node.keys().last()) {
        (Some(first), Some(last)) => (first.get(), last.get()),
        _ if low.is_none() => return Ok(()),
        _ => return bad("entries", 0, "at least 1 below the root".to_owned()),
    };
    match (low, high) {
        (Some(low), _) if first < low => bad("key bounds", first, format!("{low} or more")),
        (_, Some(high)) if last >= high => bad("key bounds", last, format!("below {high}")),
        _ => Ok(()),
    }
}
