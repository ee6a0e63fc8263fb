//! A device's leaves in key order.

use crate::error::Result;
use crate::thin::Pool;
use crate::tools::dump::nodes::{NodeReader, NodeRef, Reached, TreeWalk};

pub(super) struct Leaves<'p> {
    nodes: NodeReader<'p>,
    walk: TreeWalk,
}

impl<'p> Leaves<'p> {
    pub fn new(pool: &'p Pool, root: u32) -> Self {
        Self {
            nodes: NodeReader::new(pool),
            walk: TreeWalk::new(NodeRef::root(root), None),
        }
    }

    pub fn next(&mut self) -> Result<Option<NodeRef>> {
        loop {
            match self.walk.next(&mut self.nodes, |_| false)? {
                Some(Reached::Leaf(leaf)) => return Ok(Some(leaf)),
                Some(Reached::Stop(_)) => {}
                None => return Ok(None),
            }
        }
    }
}
