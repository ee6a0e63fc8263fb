//! What a leaf can hold, and who counts references to it.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::Result;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// A fixed-size value as it lies on disk.
pub trait Value: FromBytes + Immutable + KnownLayout + Unaligned + Copy {}

impl Value for U32 {}
impl Value for U64 {}

/// What the values of a tree's last level refer to, and how those references are counted.
/// Values come packed, a whole number of them.
pub trait ValueType {
    /// A leaf was copied while it was shared: one more reference on each value.
    ///
    /// # Errors
    /// What counting says.
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()>;

    /// Values were overwritten by different ones, removed, or their tree deleted:
    /// one reference less on each.
    ///
    /// # Errors
    /// What counting says.
    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()>;

    /// Whether overwriting `old` by `new` leaves the references as they are.
    fn equal(&self, old: &[u8], new: &[u8]) -> bool;
}

/// Values that refer to nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plain;

impl ValueType for Plain {
    fn inc(&mut self, _txn: &mut Transaction, _values: &[u8]) -> Result<()> {
        Ok(())
    }

    fn dec(&mut self, _txn: &mut Transaction, _values: &[u8]) -> Result<()> {
        Ok(())
    }

    fn equal(&self, _old: &[u8], _new: &[u8]) -> bool {
        true
    }
}

/// Values that are metadata blocks, 8 bytes each, counted one by one: roots of
/// other things whose deletion is somebody else's business.
#[derive(Clone, Copy, Debug, Default)]
pub struct BlockRefs;

impl ValueType for BlockRefs {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        block_numbers(values).try_for_each(|at| txn.inc(at))
    }

    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        block_numbers(values).try_for_each(|at| txn.dec(at))
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        old == new
    }
}

/// The block numbers in packed values of 8 bytes.
pub fn block_numbers(values: &[u8]) -> impl Iterator<Item = BlockNr> + '_ {
    let numbers = <[U64]>::ref_from_bytes(values).unwrap_or_default();
    numbers.iter().map(|number| BlockNr(number.get()))
}

/// A tree to be changed: how deep it nests and what its values are.
pub struct TreeType<'v> {
    /// Nested levels, 1 or more. The values of all but the last are roots of
    /// sub-trees, which are counted by themselves.
    pub levels: usize,
    /// Bytes of a value of the last level.
    pub value_bytes: usize,
    /// Who counts what the values of the last level refer to.
    pub values: &'v mut dyn ValueType,
}
