//! Reading trees whose values' size is known at run time only.

use std::sync::Arc;

use super::lookup::{find, find_by, find_last};
use super::{Cursor, NODE_VALIDATOR, Node, Wait};
use crate::block::BlockManager;
use crate::error::{Error, Result};
use crate::transaction::NonBlockingClone;
use crate::units::BlockNr;

/// A key and the bytes of its value.
pub type RawEntry = (u64, Vec<u8>);

/// Copies the value of `key`, of `value_bytes` bytes, to `out`; answers whether
/// there is one.
///
/// # Errors
/// [`Error::Usage`] when `out` has another size; [`Error::WouldBlock`] where
/// `wait` forbids waiting; [`Error::Damaged`], [`Error::Io`].
pub fn get(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    key: u64,
    out: &mut [u8],
    wait: Wait,
) -> Result<bool> {
    check_room(out, value_bytes)?;
    let found = find(blocks, root, key, wait, |leaf, index| {
        copy_value(leaf, index, value_bytes, out)
    })?;
    Ok(found.is_some())
}

/// As [`get`], for those who must not wait: what is not cached is remembered by
/// `clone`, node by node, until it is brought in.
///
/// # Errors
/// [`Error::WouldBlock`], otherwise as [`get`].
pub fn get_nonblocking(
    clone: &NonBlockingClone,
    root: BlockNr,
    value_bytes: usize,
    key: u64,
    out: &mut [u8],
) -> Result<bool> {
    check_room(out, value_bytes)?;
    let read = |at| Ok(clone.read_lock(at, &NODE_VALIDATOR)?.pin());
    let found = find_by(read, root, key, |leaf, index| {
        copy_value(leaf, index, value_bytes, out)
    })?;
    Ok(found.is_some())
}

fn check_room(out: &[u8], value_bytes: usize) -> Result<()> {
    if out.len() == value_bytes {
        return Ok(());
    }
    let found = out.len();
    let text = format!("a buffer of {found} bytes for a value of {value_bytes}");
    Err(Error::Usage(text))
}

fn copy_value(
    leaf: &Node<'_>,
    index: Option<usize>,
    value_bytes: usize,
    out: &mut [u8],
) -> Result<Option<()>> {
    let values = leaf.packed_values(value_bytes)?;
    Ok(index.map(|index| {
        let value = &values[index * value_bytes..][..value_bytes];
        // The usual size is worth a copy without a call.
        match (out.as_chunks_mut::<8>(), value.as_chunks::<8>()) {
            (([out], []), ([value], [])) => *out = *value,
            _ => out.copy_from_slice(value),
        }
    }))
}

/// The entry with the smallest key not below `key`.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Io`].
pub fn next(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    key: u64,
) -> Result<Option<RawEntry>> {
    let mut cursor = Cursor::new(blocks, root, value_bytes, key, None);
    let Some(leaf) = cursor.next_leaf()? else {
        return Ok(None);
    };
    let (keys, values) = leaf.packed_entries(value_bytes)?;
    let value = values.get(..value_bytes).unwrap_or_default();
    Ok(keys.first().map(|key| (key.get(), value.to_vec())))
}

/// The entry with the smallest key.
///
/// # Errors
/// As [`next`].
pub fn first(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
) -> Result<Option<RawEntry>> {
    next(blocks, root, value_bytes, 0)
}

/// The entry with the largest key.
///
/// # Errors
/// As [`next`].
pub fn last(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
) -> Result<Option<RawEntry>> {
    find_last(blocks, root, |leaf| {
        let values = leaf.packed_values(value_bytes)?;
        let begin = values.len().saturating_sub(value_bytes);
        let key = leaf.keys().last();
        Ok(key.map(|key| (key.get(), values[begin..].to_vec())))
    })
}

/// Appends the entries with keys in `begin..end` (`None`: to the end) to two
/// columns, in order: keys, and values one after the other.
///
/// # Errors
/// As [`next`]; the columns then hold what came before.
pub fn scan(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    (begin, end): (u64, Option<u64>),
    keys_out: &mut Vec<u64>,
    values_out: &mut Vec<u8>,
) -> Result<()> {
    let mut cursor = Cursor::new(blocks, root, value_bytes, begin, end);
    while let Some(leaf) = cursor.next_leaf()? {
        let (keys, values) = leaf.packed_entries(value_bytes)?;
        keys_out.extend(keys.iter().map(|key| key.get()));
        values_out.extend_from_slice(values);
    }
    Ok(())
}
