//! Where an array's blocks hang, and making one writable.

use zerocopy::little_endian::U64;

use super::block::{ARRAY_NAME, ARRAY_VALIDATOR, ArrayBlock, BlockMut};
use super::values::{ArrayType, Hung, check_pointer, held_is_damage, tree_type};
use crate::btree::{self, MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, check_bounds};
use crate::error::{Damage, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// An array block as its tree has it.
struct Place {
    at: BlockNr,
    /// Whether all nodes above it are this transaction's own and nobody else's.
    way_is_own: bool,
}

/// Goes down an array's tree without touching it.
fn find(txn: &Transaction, root: BlockNr, key: u64) -> Result<Option<Place>> {
    let (mut at, mut low, mut high) = (root, None, None);
    let mut way_is_own = true;
    for _ in 0..MAX_DEPTH {
        let block = txn.read(at, &NODE_VALIDATOR)?;
        let node = Node::parse(at, &block)?;
        check_bounds(&node, low, high)?;
        way_is_own = way_is_own && txn.is_shadow(at) && !txn.is_shared(at)?;
        let index = node.search(key);
        if node.is_leaf() {
            let children = node.values::<U64>()?;
            let found = index.filter(|index| node.keys()[*index].get() == key);
            let Some(index) = found else {
                return Ok(None);
            };
            let at = BlockNr(children[index].get());
            check_pointer(txn.nr_blocks(), at)?;
            return Ok(Some(Place { at, way_is_own }));
        }
        let Some(index) = index else {
            return Ok(None);
        };
        at = BlockNr(node.children()?[index].get());
        check_pointer(txn.nr_blocks(), at)?;
        low = Some(node.keys()[index].get());
        high = node.keys().get(index + 1).map(|key| key.get()).or(high);
    }
    let expected = format!("at most {MAX_DEPTH} levels");
    Err(Damage::new(at, NODE_NAME, "depth", "a deeper level", expected).into())
}

/// Puts a block in the place of `key`. Nothing but the blocks themselves is counted.
fn hang(txn: &mut Transaction, root: BlockNr, key: u64, at: BlockNr) -> Result<BlockNr> {
    let value = at.0.to_le_bytes();
    let inserted = btree::insert(txn, &mut tree_type(&mut Hung), root, &[key], &value);
    Ok(inserted.map_err(|error| held_is_damage(at, error))?.root)
}

/// Makes the array block of `key`, which has to hold `wanted` elements, writable,
/// in its block or in a copy that hangs in its place. With it, where the tree starts now.
///
/// What cannot be read, or is shorter, fails before anything is changed.
pub(super) fn open_block(
    txn: &mut Transaction,
    array: &mut ArrayType<'_>,
    root: BlockNr,
    key: u64,
    wanted: usize,
) -> Result<(BlockMut, BlockNr)> {
    let value_bytes = array.value_bytes;
    let Some(Place { at, way_is_own }) = find(txn, root, key)? else {
        return Err(missing(root, format!("none with key {key}"), "array block").into());
    };
    let block = txn.read(at, &ARRAY_VALIDATOR)?;
    let found = ArrayBlock::parse(at, &block)?.packed_values(value_bytes)?;
    let found = found.len() / value_bytes;
    if found < wanted {
        let expected = format!("{wanted} in array block {key}");
        return Err(missing(at, found.to_string(), expected).into());
    }
    drop(block);
    let mut root = root;
    if !way_is_own {
        // The block's count tells how many own it only once its leaf has one owner.
        root = hang(txn, root, key, at)?;
    }
    let (guard, inc_children) = txn.shadow_block(at, &ARRAY_VALIDATOR)?;
    let block = BlockMut::open(guard, value_bytes)?;
    if inc_children && block.len() > 0 {
        array.values.inc(txn, block.values(0..block.len()))?;
    }
    if block.location() != at {
        // To shadow it took one reference, and so will the tree.
        txn.inc(at)?;
        root = hang(txn, root, key, block.location())?;
    }
    Ok((block, root))
}

/// An array that ends before its owner says.
pub(super) fn missing(
    at: BlockNr,
    found: String,
    expected: impl Into<crate::error::Value>,
) -> Damage {
    Damage::new(at, ARRAY_NAME, "missing elements", found, expected)
}
