//! Reading the nodes above the leaves, one tree after the other in key order.

use crate::block::{BlockData, Validator};
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, check_bounds};
use crate::device::{AlignedBuffer, Device};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::Pool;
use crate::units::{BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::{Reader, WINDOW_BLOCKS};

/// A node, and the range that its keys have to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tools) struct NodeRef {
    pub block: u32,
    /// `None` above the root: then the node may be empty.
    pub low: Option<u64>,
    /// No key may reach it.
    pub high: Option<u64>,
}

impl NodeRef {
    /// The root of a tree.
    pub fn root(block: u32) -> Self {
        Self {
            block,
            low: None,
            high: None,
        }
    }

    /// Its place.
    pub fn at(&self) -> BlockNr {
        BlockNr(self.block.into())
    }

    /// Takes on another parent's range as well. A node in no range at all is
    /// refused when it is read.
    pub fn narrow(&mut self, other: &Self) {
        // `None` is below every key as a begin, and above every key as an end.
        self.low = self.low.max(other.low);
        self.high = match (self.high, other.high) {
            (Some(one), Some(another)) => Some(one.min(another)),
            (one, another) => one.or(another),
        };
    }

    /// The bytes of the node, if they are one and keep to the range.
    pub fn parse<'b>(&self, block: &'b BlockData) -> Result<Node<'b>, Damage> {
        let node = Node::parse(self.at(), block)?;
        check_bounds(&node, self.low, self.high)?;
        Ok(node)
    }
}

/// A pointer that leads to a metadata block.
pub(in crate::tools) fn usable(at: BlockNr, pointer: u64, limit: u64) -> Result<u32, Damage> {
    let block = u32::try_from(pointer).ok();
    block
        .filter(|block| *block != 0 && pointer < limit)
        .ok_or_else(|| {
            let expected = format!("1 to {}", limit.saturating_sub(1));
            Damage::new(at, NODE_NAME, "pointer", pointer, expected)
        })
}

/// Metadata blocks that pointers may lead to. A pool in use may have grown since
/// its superblock was read, so that the device has to tell.
pub(in crate::tools) fn metadata_blocks(pool: &Pool) -> u64 {
    let device = pool.blocks().nr_blocks().min(MAX_METADATA_BLOCKS);
    match pool.snapshot() {
        None => pool.live_superblock().metadata_blocks().min(device),
        Some(_) => device,
    }
}

/// Child `index` of an internal node whose keys end below `high`.
pub(in crate::tools) fn child(
    node: &Node<'_>,
    index: usize,
    high: Option<u64>,
    limit: u64,
) -> Result<NodeRef, Damage> {
    let (keys, children) = (node.keys(), node.children()?);
    Ok(NodeRef {
        block: usable(node.location(), children[index].get(), limit)?,
        low: Some(keys[index].get()),
        high: keys.get(index + 1).map(|key| key.get()).or(high),
    })
}

/// Reads nodes. What it hands out was checked, but for its bounds.
pub(in crate::tools) struct NodeReader<'p> {
    reader: Reader<'p>,
    limit: u64,
    window: AlignedBuffer,
}

impl<'p> NodeReader<'p> {
    /// A reader of `pool`.
    pub fn new(pool: &'p Pool) -> Self {
        // Beside a pool in use nothing may be read but what was asked for.
        let only_wanted = pool.snapshot().is_some();
        Self {
            reader: Reader::new(&**pool.device(), only_wanted),
            limit: metadata_blocks(pool),
            window: AlignedBuffer::new(0),
        }
    }

    /// A reader of nodes on a device, of which so many blocks may be pointed to.
    pub fn of_device(device: &'p dyn Device, limit: u64) -> Self {
        Self {
            reader: Reader::new(device, false),
            limit,
            window: AlignedBuffer::new(0),
        }
    }

    /// Metadata blocks of the pool.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// One node.
    pub fn read_one(&mut self, block: u32) -> Result<Box<BlockData>> {
        let mut found = Box::new(BlockData::zeroed());
        self.read_each(&[block], |_, block| {
            found.bytes_mut().copy_from_slice(block.bytes());
            Ok(())
        })?;
        Ok(found)
    }

    /// Calls `visit(node, child)` for each child of `level`, whose nodes are
    /// internal, ascending and distinct.
    pub fn each_child(
        &mut self,
        level: &[NodeRef],
        task: &Task<'_>,
        mut visit: impl FnMut(&NodeRef, NodeRef) -> Result<()>,
    ) -> Result<()> {
        let limit = self.limit;
        for part in level.chunks(WINDOW_BLOCKS) {
            task.step(0, 0)?;
            let blocks: Vec<u32> = part.iter().map(|node| node.block).collect();
            self.read_each(&blocks, |index, block| {
                let at = &part[index];
                let node = at.parse(block)?;
                (0..node.keys().len())
                    .try_for_each(|index| visit(at, child(&node, index, at.high, limit)?))
            })?;
        }
        Ok(())
    }

    /// Calls `visit(index, block)` for each of `blocks`, which ascend and are
    /// distinct.
    pub fn read_each(
        &mut self,
        blocks: &[u32],
        mut visit: impl FnMut(usize, &BlockData) -> Result<()>,
    ) -> Result<()> {
        self.reader
            .read(blocks, NODE_NAME, &mut self.window, |index, block| {
                let block = block?;
                NODE_VALIDATOR.check(BlockNr(blocks[index].into()), block)?;
                visit(index, block)
            })
    }
}

/// An internal node on the way down.
struct Frame {
    at: NodeRef,
    node: Box<BlockData>,
    next: usize,
}

/// What a walk came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::tools) enum Reached {
    /// A leaf that nobody has looked at yet.
    Leaf(NodeRef),
    /// A node where the walk was told to stop.
    Stop(u32),
}

/// An ordered walk over the leaves of one tree. It holds one node a level and
/// reads no leaf but the first, by which it knows the depth of the others. As in
/// [`Cursor`](crate::btree::Cursor), no wrong tree can keep it going: what it
/// descends into keeps to the bounds of the way there, and so will a leaf's
/// reader see to it.
pub(in crate::tools) struct TreeWalk {
    root: Option<NodeRef>,
    path: Vec<Frame>,
    /// Frames above a leaf.
    leaf_depth: Option<usize>,
}

impl TreeWalk {
    /// A walk over the tree under `root`. `height`: levels below it, if known.
    pub fn new(root: NodeRef, height: Option<usize>) -> Self {
        Self {
            root: Some(root),
            path: Vec::new(),
            leaf_depth: height,
        }
    }

    /// The next leaf, or the next node below the root for which `stop` says so.
    pub fn next(
        &mut self,
        nodes: &mut NodeReader<'_>,
        stop: impl Fn(u32) -> bool,
    ) -> Result<Option<Reached>> {
        if let Some(root) = self.root.take() {
            if self.leaf_depth == Some(0) {
                return Ok(Some(Reached::Leaf(root)));
            }
            if let Some(leaf) = self.descend(root, nodes)? {
                return Ok(Some(Reached::Leaf(leaf)));
            }
        }
        while let Some(frame) = self.path.last_mut() {
            let node = Node::parse(frame.at.at(), &frame.node)?;
            if frame.next == node.keys().len() {
                self.path.pop();
                continue;
            }
            let child = child(&node, frame.next, frame.at.high, nodes.limit())?;
            frame.next += 1;
            if stop(child.block) {
                return Ok(Some(Reached::Stop(child.block)));
            }
            if self.leaf_depth == Some(self.path.len()) {
                return Ok(Some(Reached::Leaf(child)));
            }
            if let Some(leaf) = self.descend(child, nodes)? {
                return Ok(Some(Reached::Leaf(leaf)));
            }
        }
        Ok(None)
    }

    /// Enters a node of unknown kind: the first leaf is the answer, an internal
    /// node joins the path.
    fn descend(&mut self, at: NodeRef, nodes: &mut NodeReader<'_>) -> Result<Option<NodeRef>> {
        let node = nodes.read_one(at.block)?;
        if at.parse(&node)?.is_leaf() {
            return match self.leaf_depth.replace(self.path.len()) {
                None => Ok(Some(at)),
                Some(depth) => {
                    let found = format!("a leaf at depth {}", self.path.len());
                    let expected = format!("leaves at depth {depth}");
                    Err(Damage::new(at.at(), NODE_NAME, "depth", found, expected).into())
                }
            };
        }
        if self.path.len() + 1 >= MAX_DEPTH {
            return Err(too_deep(at).into());
        }
        self.path.push(Frame { at, node, next: 0 });
        Ok(None)
    }
}

/// A path that is longer than any sound tree's.
pub(in crate::tools) fn too_deep(at: NodeRef) -> Damage {
    let expected = format!("at most {MAX_DEPTH} levels");
    Damage::new(at.at(), NODE_NAME, "depth", "a deeper level", expected)
}
