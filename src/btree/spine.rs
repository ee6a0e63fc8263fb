//! The way down a tree that is being changed: every node on it made this
//! transaction's own and hung under its parent, which is held with it.

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use super::lookup::{find, too_deep};
use super::node_mut::{NodeMut, for_each_run};
use super::{
    MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, TreeType, Wait, check_bounds, check_value_bytes,
};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

impl TreeType<'_> {
    /// Bytes of a value in the leaves of `level`.
    pub(super) fn value_bytes_at(&self, level: usize) -> usize {
        if self.is_last(level) {
            self.value_bytes
        } else {
            size_of::<U64>()
        }
    }

    pub(super) fn is_last(&self, level: usize) -> bool {
        level + 1 >= self.levels
    }

    /// What every change asks first: whether there can be such a tree, with such keys.
    pub(super) fn check(&self, keys: &[u64]) -> Result<()> {
        if self.levels == 0 || keys.len() != self.levels {
            let text = format!("{} keys for a tree of {} levels", keys.len(), self.levels);
            return Err(Error::usage(text));
        }
        check_value_bytes(self.value_bytes)
    }
}

/// Makes a node writable, in its block or in a copy. Where others go on using
/// the old one, what it points to gains a reference before anything else happens.
pub(super) fn shadow_node(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    level: usize,
    at: BlockNr,
) -> Result<NodeMut> {
    let (guard, inc_children) = txn.shadow_block(at, &NODE_VALIDATOR)?;
    let node = NodeMut::open(guard, tree.value_bytes_at(level))?;
    if inc_children {
        count_pointed(txn, tree, level, &node)?;
    }
    Ok(node)
}

/// One more reference on everything that a node points to.
pub(super) fn count_pointed(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    level: usize,
    node: &NodeMut,
) -> Result<()> {
    if node.len() == 0 {
        return Ok(());
    }
    if node.is_leaf() && tree.is_last(level) {
        return tree.values.inc(txn, node.values());
    }
    let children = <[U64]>::ref_from_bytes(node.values()).unwrap_or_default();
    let counted = for_each_run(children, |run| txn.inc_range(run));
    counted.map_err(|error| match error {
        // The number came from the node, not from the caller.
        Error::Usage(found) => {
            let expected = "blocks that can be counted";
            Damage::new(node.location(), NODE_NAME, "children", found, expected).into()
        }
        other => other,
    })
}

/// The node that a change has come to.
pub(super) struct Spine<'a, 'v> {
    pub txn: &'a mut Transaction,
    pub tree: &'a mut TreeType<'v>,
    /// Where `node` stands in the nesting.
    pub level: usize,
    /// The node above, in the level above where `node` is the root of its own.
    pub parent: Option<NodeMut>,
    pub node: NodeMut,
    /// Whether `node` is the root of its level.
    pub at_top: bool,
    /// All keys under `node` are below it.
    pub high: Option<u64>,
    /// All keys under `parent` are below it.
    pub parent_high: Option<u64>,
    /// Where the whole tree starts now.
    pub root: BlockNr,
    depth: usize,
}

impl<'a, 'v> Spine<'a, 'v> {
    /// At the root of the first level.
    pub fn start(
        txn: &'a mut Transaction,
        tree: &'a mut TreeType<'v>,
        root: BlockNr,
    ) -> Result<Self> {
        Self::start_at(txn, tree, 0, root)
    }

    /// At the root of a tree of `level` whose number nobody has to be told: it is
    /// this transaction's own. Or at that of the first level.
    pub fn start_at(
        txn: &'a mut Transaction,
        tree: &'a mut TreeType<'v>,
        level: usize,
        root: BlockNr,
    ) -> Result<Self> {
        let node = shadow_node(txn, tree, level, root)?;
        let root = node.location();
        Ok(Self {
            txn,
            tree,
            level,
            parent: None,
            node,
            at_top: true,
            high: None,
            parent_high: None,
            root,
            depth: 0,
        })
    }

    /// On to a child of the node.
    pub fn descend(&mut self, index: usize) -> Result<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(too_deep(self.node.location()).into());
        }
        // Nothing above is changed any more.
        self.parent = None;
        let (child, high) = self.open_child(index)?;
        self.step(child);
        self.at_top = false;
        self.parent_high = std::mem::replace(&mut self.high, high);
        Ok(())
    }

    /// On to the sub-tree that an entry of this leaf is the root of.
    pub fn enter(&mut self, index: usize) -> Result<()> {
        self.parent = None;
        let at = self.node.child(index)?;
        check_child(self.txn, at, &self.node)?;
        let child = shadow_node(self.txn, self.tree, self.level + 1, at)?;
        self.node.set_child(index, child.location())?;
        self.step(child);
        self.level += 1;
        self.at_top = true;
        self.high = None;
        self.parent_high = None;
        self.depth = 0;
        Ok(())
    }

    fn step(&mut self, child: NodeMut) {
        self.parent = Some(std::mem::replace(&mut self.node, child));
    }

    /// A child of the node, writable and hung under it, with the key that its own are below.
    pub fn open_child(&mut self, index: usize) -> Result<(NodeMut, Option<u64>)> {
        let (high, level) = (self.high, self.level);
        open_child(self.txn, self.tree, level, &mut self.node, index, high)
    }
}

/// As [`Spine::open_child`], of any internal node whose keys are below `high`.
pub(super) fn open_child(
    txn: &mut Transaction,
    tree: &mut TreeType<'_>,
    level: usize,
    parent: &mut NodeMut,
    index: usize,
    high: Option<u64>,
) -> Result<(NodeMut, Option<u64>)> {
    let at = parent.child(index)?;
    check_child(txn, at, parent)?;
    let child = shadow_node(txn, tree, level, at)?;
    if child.location() != at {
        parent.set_child(index, child.location())?;
    }
    let high = parent.key(index + 1).or(high);
    check_bounds(&child.view()?, parent.key(index), high)?;
    Ok((child, high))
}

/// Whether a node that is held can point to `at`: not to itself, and not past the end.
pub(super) fn check_child(txn: &Transaction, at: BlockNr, held: &NodeMut) -> Result<(), Damage> {
    let blocks = txn.blocks().nr_blocks();
    if at != held.location() && at.0 < blocks {
        return Ok(());
    }
    let expected = format!("another block, below {blocks}");
    Err(Damage::new(
        held.location(),
        NODE_NAME,
        "child",
        at.0,
        expected,
    ))
}

/// Whether a tree has an entry, without touching anything.
pub(super) fn contains(
    txn: &Transaction,
    tree: &TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
) -> Result<bool> {
    let Some((key, above)) = keys.split_last() else {
        return Ok(false);
    };
    let Some(root) = find_subtree(txn, tree, root, above)? else {
        return Ok(false);
    };
    Ok(look_up(txn, root, tree.value_bytes, *key)?.is_some())
}

/// The root of the sub-tree that `keys` lead to, one for each level but the last.
pub(super) fn find_subtree(
    txn: &Transaction,
    tree: &TreeType<'_>,
    root: BlockNr,
    keys: &[u64],
) -> Result<Option<BlockNr>> {
    let mut at = root;
    for (level, key) in keys.iter().enumerate() {
        match look_up(txn, at, tree.value_bytes_at(level), *key)? {
            Some(number) => at = BlockNr(number),
            None => return Ok(None),
        }
    }
    Ok(Some(at))
}

/// The value of a key, as far as it is a number; without waiting where that is possible.
fn look_up(txn: &Transaction, root: BlockNr, value_bytes: usize, key: u64) -> Result<Option<u64>> {
    let found = |leaf: &Node<'_>, index: Option<usize>| {
        let values = leaf.packed_values(value_bytes)?;
        Ok(index.map(|index| {
            let value = values.get(index * value_bytes..);
            let word = value.and_then(|value| value.first_chunk());
            word.map_or(0, |word| u64::from_le_bytes(*word))
        }))
    };
    match find(txn.blocks(), root, key, Wait::No, found) {
        Err(Error::WouldBlock) => find(txn.blocks(), root, key, Wait::Yes, found),
        answer => answer,
    }
}
