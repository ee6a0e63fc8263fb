//! Nodes, and the whole of a tree in key order.

use super::Fault;
use crate::support::image::{Bytes, Image, Kind, read_u32, read_u64};

/// A node whose header, place and keys are sound.
#[derive(Clone, Copy)]
pub struct Node<'i> {
    pub at: u64,
    pub is_leaf: bool,
    pub entries: usize,
    pub capacity: usize,
    pub value_size: usize,
    pub bytes: &'i Bytes,
}

impl<'i> Node<'i> {
    pub fn key(&self, index: usize) -> u64 {
        read_u64(self.bytes, 32 + 8 * index)
    }

    /// Where a value stands in the block.
    pub fn value_offset(&self, index: usize) -> usize {
        32 + 8 * self.capacity + self.value_size * index
    }

    pub fn value(&self, index: usize) -> &'i [u8] {
        let begin = self.value_offset(index);
        &self.bytes[begin..begin + self.value_size]
    }

    pub fn child(&self, index: usize) -> u64 {
        read_u64(self.value(index), 0)
    }
}

/// The node in a block.
pub fn node(image: &Image, at: u64) -> Result<Node<'_>, Fault> {
    let fault = |what: &str| Err(format!("node {at}: {what}"));
    let Some(bytes) = image.block(at) else {
        return fault("past the end");
    };
    if image.kind(at) != Some(Kind::Node) || read_u64(bytes, 8) != at {
        return fault("checksum or location");
    }
    let [flags, entries, capacity, size] =
        [4, 16, 20, 24].map(|offset| u64::from(read_u32(bytes, offset)));
    if flags != 1 && flags != 2 {
        return fault("flags");
    }
    if 32 + u128::from(capacity) * (8 + u128::from(size)) > 4096 || entries > capacity {
        return fault("capacity or entries");
    }
    if flags == 1 && (size != 8 || entries == 0) {
        return fault("value size or entries of an internal node");
    }
    let small = |number: u64| usize::try_from(number).unwrap();
    let node = Node {
        at,
        is_leaf: flags == 2,
        entries: small(entries),
        capacity: small(capacity),
        value_size: small(size),
        bytes,
    };
    if (1..node.entries).any(|index| node.key(index - 1) >= node.key(index)) {
        return fault("key order");
    }
    Ok(node)
}

/// How a tree is walked.
pub struct Walk<'a, 'r> {
    pub image: &'a Image,
    /// Bytes of a leaf's values.
    pub value_size: usize,
    /// Pointers have to be below.
    pub limit: u64,
    /// Also asks for what readers can do without: capacity, fill, leaves at one depth.
    pub strict: bool,
    /// Nodes that may hold little, as a tree begins there.
    pub is_root: &'r dyn Fn(u64) -> bool,
}

impl<'a> Walk<'a, '_> {
    /// A walk that accepts what a reader can use.
    pub fn lenient(image: &'a Image, value_size: usize) -> Self {
        let limit = image.nr_blocks();
        Self {
            image,
            value_size,
            limit,
            strict: false,
            is_root: &|_| false,
        }
    }

    /// Visits every sound node under `root`, parents before children, leaves in key
    /// order; goes on past faults and answers with the first. No node can be valid
    /// in two places of one level, as its keys would have to be in both ranges: so
    /// this ends.
    pub fn visit(&self, root: u64, visit: &mut dyn FnMut(&Node<'a>)) -> Result<(), Fault> {
        let mut leaf_depth = None;
        self.descend(root, (None, None), 0, &mut leaf_depth, visit)
    }

    fn descend(
        &self,
        at: u64,
        (low, high): (Option<u64>, Option<u64>),
        depth: usize,
        leaf_depth: &mut Option<usize>,
        visit: &mut dyn FnMut(&Node<'a>),
    ) -> Result<(), Fault> {
        if at == 0 || at >= self.limit {
            return Err(format!("pointer to {at}"));
        }
        let node = node(self.image, at)?;
        let fault = |what: &str| Err(format!("node {at}: {what}"));
        if node.entries == 0 && low.is_some() {
            return fault("empty below the root");
        }
        if node.entries > 0 {
            let (first, last) = (node.key(0), node.key(node.entries - 1));
            if low.is_some_and(|low| first < low) || high.is_some_and(|high| last >= high) {
                return fault("key bounds");
            }
        }
        if self.strict {
            let fit = (4096 - 32) / (8 + node.value_size);
            if node.capacity != fit - fit % 3 {
                return fault("odd capacity");
            }
            if low.is_some() && !(self.is_root)(at) && node.entries < node.capacity / 3 {
                return fault("underfull");
            }
        }
        if node.is_leaf && node.value_size != self.value_size {
            return fault("value size");
        }
        visit(&node);
        if node.is_leaf {
            if self.strict && *leaf_depth.get_or_insert(depth) != depth {
                return fault("leaves at different depths");
            }
            return Ok(());
        }
        if depth + 1 >= 16 {
            return fault("too deep");
        }
        let mut answer = Ok(());
        for index in 0..node.entries {
            let next = (index + 1 < node.entries).then(|| node.key(index + 1));
            let bounds = (Some(node.key(index)), next.or(high));
            let below = self.descend(node.child(index), bounds, depth + 1, leaf_depth, visit);
            answer = answer.and(below);
        }
        answer
    }
}
