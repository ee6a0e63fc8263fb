//! One of the two trees: where the walk stands in it.

use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::table::Entries;
use super::window::Window;
use crate::block::BlockData;
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, check_bounds};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::Pool;
use crate::units::BlockNr;

/// A node, and the keys that its parents leave it.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub at: BlockNr,
    /// No key may be below; `None` at the root, which alone may be empty.
    pub low: Option<u64>,
    /// No key may reach this.
    pub high: Option<u64>,
}

impl Place {
    fn root(at: BlockNr) -> Self {
        let (low, high) = (None, None);
        Self { at, low, high }
    }

    /// Whether the node may have entries that are not above `key`.
    pub fn may_begin_by(&self, key: u64) -> bool {
        self.low.unwrap_or(0) <= key
    }

    /// One node in two places has to keep to the bounds of both.
    fn within(self, other: Self) -> Self {
        let high = lower_end(self.high, other.high);
        let (at, low) = (self.at, self.low.max(other.low));
        Self { at, low, high }
    }
}

/// The lower of two ends, where `None` is after every key.
pub(super) fn lower_end(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// An open node, and the first of its entries that is not done. Of an internal
/// node that is the child which the next frame holds, if there is one.
struct Frame {
    place: Place,
    node: Arc<BlockData>,
    index: usize,
    entries: usize,
}

impl Frame {
    fn view(&self) -> Result<Node<'_>> {
        Ok(Node::parse(self.place.at, &self.node)?)
    }
}

/// What comes next.
#[derive(Clone, Copy)]
pub(super) enum Head {
    /// Nothing.
    End,
    /// A node that is not open yet.
    Node(Place),
    /// An entry of an open leaf, with its key.
    Entry(u64),
}

/// An ordered walk over a tree that can leave parts out. Holds pins, not locks.
/// As in [`Cursor`](crate::btree::Cursor), keys have to rise and to stay within
/// what the parents say, so that no wrong tree makes it visit a leaf twice.
pub(super) struct Side<'a> {
    pool: &'a Pool,
    path: Vec<Frame>,
    head: Head,
    /// The depth of leaves, once the first was seen.
    leaf_depth: Option<usize>,
}

impl<'a> Side<'a> {
    /// A walk over what lies under `root`.
    pub fn new(pool: &'a Pool, root: BlockNr) -> Self {
        Self {
            pool,
            path: Vec::new(),
            head: Head::Node(Place::root(root)),
            leaf_depth: None,
        }
    }

    pub fn head(&self) -> Head {
        self.head
    }

    /// Nodes that are open, from the top down to where the walk stands.
    pub fn depth(&self) -> usize {
        self.path.len()
    }

    /// Nodes of which nothing is done yet, from the lowest up, each with its
    /// depth: the one that comes next, and the open ones that begin with it.
    pub fn untouched(&self) -> impl Iterator<Item = (usize, BlockNr)> + '_ {
        let next = match self.head {
            Head::Node(place) => Some((self.path.len(), place.at)),
            _ => None,
        };
        let open = self.path.iter().enumerate().rev();
        let open = open.take_while(|(_, frame)| frame.index == 0);
        next.into_iter()
            .chain(open.map(|(depth, frame)| (depth, frame.place.at)))
    }

    /// The node at `depth` of the way to the head.
    pub fn place(&self, depth: usize) -> Option<Place> {
        match (self.path.get(depth), self.head) {
            (Some(frame), _) => Some(frame.place),
            (None, Head::Node(place)) => Some(place),
            (None, _) => None,
        }
    }

    /// The leaf that comes next, as far as can be told before it is open.
    pub fn next_leaf(&self) -> Option<BlockNr> {
        match self.head {
            Head::Node(place) if self.leaf_depth == Some(self.path.len()) => Some(place.at),
            _ => None,
        }
    }

    /// Leaves that come next under the node whose leaves are being walked, and
    /// one past the last key that may lie under that.
    pub fn leaves_ahead(&self) -> Result<(Vec<Place>, Option<u64>)> {
        let nothing = (Vec::new(), None);
        let Some(parent) = self.leaf_depth.and_then(|depth| depth.checked_sub(1)) else {
            return Ok(nothing);
        };
        let Some(frame) = self.path.get(parent) else {
            return Ok(nothing);
        };
        let node = frame.view()?;
        if node.is_leaf() {
            return Ok(nothing);
        }
        // One that is open does not come any more.
        let is_open = self.path.len() > parent + 1;
        let children = frame.index + usize::from(is_open)..frame.entries;
        let ahead = children.map(|index| child(&node, index, frame.place.high));
        Ok((ahead.collect::<Result<_>>()?, frame.place.high))
    }

    /// Has the node that comes next keep to another place's bounds as well.
    pub fn narrow(&mut self, other: Place) {
        if let Head::Node(place) = self.head {
            self.head = Head::Node(place.within(other));
        }
    }

    /// Opens the node that comes next.
    pub fn open(&mut self, window: &Window<'_>, task: &Task<'_>) -> Result<()> {
        let Head::Node(place) = self.head else {
            return Ok(());
        };
        let ahead = self.next_leaf().and_then(|at| window.get(at));
        let node = match ahead {
            Some(leaf) => Arc::clone(leaf),
            None => {
                let blocks = self.pool.blocks();
                blocks.read_lock(place.at, &NODE_VALIDATOR)?.pin()
            }
        };
        let view = Node::parse(place.at, &node)?;
        check_bounds(&view, place.low, place.high)?;
        task.step(0, u64::from(view.is_leaf()))?;
        if view.is_leaf() {
            self.check_mappings(&view)?;
            self.leaf_depth.get_or_insert(self.path.len());
        } else if self.path.len() + 1 >= MAX_DEPTH {
            let (found, expected) = ("a deeper level", format!("at most {MAX_DEPTH} levels"));
            return Err(Damage::new(place.at, NODE_NAME, "depth", found, expected).into());
        }
        self.path.push(Frame {
            place,
            entries: view.keys().len(),
            index: 0,
            node,
        });
        self.settle()
    }

    fn check_mappings(&self, leaf: &Node<'_>) -> Result<()> {
        let limits = self.pool.limits();
        for (key, value) in leaf.keys().iter().zip(leaf.values::<U64>()?) {
            limits.check(leaf.location(), key.get(), value.get())?;
        }
        // So that begin and end in bytes can be told.
        let past = u64::MAX / self.pool.superblock().data_block_bytes();
        match leaf.keys().last() {
            Some(last) if last.get() >= past => {
                let expected = format!("below {past}, for an end within 2^64 bytes");
                let (at, found) = (leaf.location(), last.get());
                Err(Damage::new(at, "mapping", "virtual block", found, expected).into())
            }
            _ => Ok(()),
        }
    }

    /// What is left of the open leaf; nothing where the head is no entry.
    pub fn entries(&self) -> Result<Entries<'_>> {
        let (Head::Entry(_), Some(frame)) = (self.head, self.path.last()) else {
            let (keys, values) = (&[][..], &[][..]);
            return Ok(Entries { keys, values });
        };
        let node = frame.view()?;
        Ok(Entries {
            keys: &node.keys()[frame.index..],
            values: &node.values()?[frame.index..],
        })
    }

    /// Of those, the ones that lie before another side's head.
    pub fn entries_before(&self, other: Head) -> Result<Entries<'_>> {
        let Entries { keys, values } = self.entries()?;
        let end = match other {
            Head::Node(place) => place.low.unwrap_or(0),
            Head::Entry(key) => key,
            Head::End => return Ok(Entries { keys, values }),
        };
        let count = keys.partition_point(|key| key.get() < end);
        Ok(Entries {
            keys: &keys[..count],
            values: &values[..count],
        })
    }

    /// Leaves `done` entries of the open node behind.
    pub fn advance(&mut self, done: usize) -> Result<()> {
        if let Some(frame) = self.path.last_mut() {
            frame.index += done;
        }
        self.settle()
    }

    /// Leaves everything under the node at `depth` behind.
    pub fn skip(&mut self, depth: usize) -> Result<()> {
        self.path.truncate(depth);
        self.advance(1)
    }

    /// Finds out what comes next, after what was opened or done.
    fn settle(&mut self) -> Result<()> {
        while let Some(frame) = self.path.last() {
            if frame.index < frame.entries {
                let node = frame.view()?;
                self.head = if node.is_leaf() {
                    Head::Entry(node.keys()[frame.index].get())
                } else {
                    Head::Node(child(&node, frame.index, frame.place.high)?)
                };
                return Ok(());
            }
            self.path.pop();
            if let Some(parent) = self.path.last_mut() {
                parent.index += 1;
            }
        }
        self.head = Head::End;
        Ok(())
    }
}

/// A child of an internal node below which no key may reach `high`.
fn child(node: &Node<'_>, index: usize, high: Option<u64>) -> Result<Place> {
    let keys = node.keys();
    Ok(Place {
        at: BlockNr(node.children()?[index].get()),
        low: Some(keys[index].get()),
        high: keys.get(index + 1).map(|key| key.get()).or(high),
    })
}
