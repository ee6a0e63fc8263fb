//! What an array holds, and what its tree refers to.

use super::block::{ARRAY_NAME, ARRAY_VALIDATOR, ArrayBlock, MAX_ELEMENT_BYTES, capacity};
use super::{MAX_LEN, TREE_VALUE_BYTES};
use crate::btree::{TreeType, ValueType, block_numbers};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// An array to be changed: what its elements are.
pub struct ArrayType<'v> {
    /// Bytes of an element.
    pub value_bytes: usize,
    /// Who counts what elements refer to.
    pub values: &'v mut dyn ValueType,
}

impl ArrayType<'_> {
    /// Elements in a full block.
    pub(super) fn capacity(&self) -> Result<u64> {
        check_value_bytes(self.value_bytes)?;
        Ok(capacity(self.value_bytes) as u64)
    }

    /// How many elements packed ones are.
    pub(super) fn count(&self, packed: &[u8]) -> Result<u64> {
        let bytes = self.value_bytes;
        if packed.len().is_multiple_of(bytes) {
            return Ok((packed.len() / bytes) as u64);
        }
        let found = packed.len();
        let text = format!("{found} bytes for elements of {bytes} each");
        Err(Error::Usage(text))
    }
}

/// Whether elements of this size fit a block.
pub(super) fn check_value_bytes(value_bytes: usize) -> Result<()> {
    if (1..=MAX_ELEMENT_BYTES).contains(&value_bytes) {
        return Ok(());
    }
    let text = format!("elements of {value_bytes} bytes: an array holds 1 to {MAX_ELEMENT_BYTES}");
    Err(Error::Usage(text))
}

/// Whether there can be so many elements.
pub(super) fn check_len(len: u64) -> Result<()> {
    if len <= MAX_LEN {
        return Ok(());
    }
    let text = format!("{len} elements: an array holds at most {MAX_LEN}");
    Err(Error::Usage(text))
}

/// The values of an array's tree: array blocks. Letting go of one whose only
/// owner this is lets go of its elements first.
pub(super) struct ArrayBlocks<'a, 'v>(pub &'a mut ArrayType<'v>);

impl ValueType for ArrayBlocks<'_, '_> {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        Hung.inc(txn, values)
    }

    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        for at in block_numbers(values) {
            check_pointer(txn.nr_blocks(), at)?;
            match txn.ref_count(at)? {
                0 => return Err(unreferenced(at).into()),
                1 => self.release_elements(txn, at)?,
                _ => {}
            }
            txn.dec(at)?;
        }
        Ok(())
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        old == new
    }
}

impl ArrayBlocks<'_, '_> {
    fn release_elements(&mut self, txn: &mut Transaction, at: BlockNr) -> Result<()> {
        let block = txn.read(at, &ARRAY_VALIDATOR);
        // The node that names this block is locked. No sound one names itself.
        let block = block.map_err(|error| held_is_damage(at, error))?;
        let packed = ArrayBlock::parse(at, &block)?.packed_values(self.0.value_bytes)?;
        if packed.is_empty() {
            return Ok(());
        }
        self.0.values.dec(txn, packed)
    }
}

/// The same while blocks only move: their elements go with them.
pub(super) struct Hung;

impl ValueType for Hung {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        for at in block_numbers(values) {
            check_pointer(txn.nr_blocks(), at)?;
            txn.inc(at)?;
        }
        Ok(())
    }

    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        for at in block_numbers(values) {
            check_pointer(txn.nr_blocks(), at)?;
            txn.dec(at)?;
        }
        Ok(())
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        old == new
    }
}

/// The tree of an array.
pub(super) fn tree_type(values: &mut dyn ValueType) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes: TREE_VALUE_BYTES,
        values,
    }
}

/// Whether a number that stands in a tree can be an array block's.
pub(super) fn check_pointer(nr_blocks: u64, at: BlockNr) -> Result<(), Damage> {
    if (1..nr_blocks).contains(&at.0) {
        return Ok(());
    }
    let expected = format!("a block from 1 to {}", nr_blocks.saturating_sub(1));
    Err(Damage::new(at, ARRAY_NAME, "location", at.0, expected))
}

/// A block that is named by a block that this thread holds.
pub(super) fn held_is_damage(at: BlockNr, error: Error) -> Error {
    match error {
        Error::Usage(found) => {
            let expected = "a block that nothing else uses";
            Damage::new(at, ARRAY_NAME, "location", found, expected).into()
        }
        other => other,
    }
}

fn unreferenced(at: BlockNr) -> Damage {
    Damage::new(at, ARRAY_NAME, "references", 0_u32, "at least 1")
}
