//! What the values of a tree refer to, as Python names it.

use crate::btree::{self, BlockRefs, Plain, TreeType, ValueType, block_numbers};
use crate::error::{Error, Result};
use crate::transaction::Transaction;

/// Bytes of a block's number.
const NUMBER_BYTES: usize = 8;

/// What the values are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Values {
    /// They refer to nothing.
    Plain,
    /// Numbers of blocks.
    Blocks,
    /// Roots of trees of one level, whose plain values have so many bytes.
    Trees(usize),
}

impl Values {
    /// By name.
    ///
    /// # Errors
    /// [`Error::Usage`] for another name, or values that are no block's number.
    pub fn named(name: &str, value_bytes: usize, subtree_value_bytes: usize) -> Result<Self> {
        let values = match name {
            "plain" => return Ok(Self::Plain),
            "blocks" => Self::Blocks,
            "trees" => Self::Trees(subtree_value_bytes),
            other => {
                let text = format!("values is {other:?}, not \"plain\", \"blocks\" or \"trees\"");
                return Err(Error::Usage(text));
            }
        };
        if value_bytes != NUMBER_BYTES {
            let text = format!("numbers of blocks have {NUMBER_BYTES} bytes, not {value_bytes}");
            return Err(Error::Usage(text));
        }
        Ok(values)
    }
}

impl ValueType for Values {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        match self {
            Self::Plain => Plain.inc(txn, values),
            Self::Blocks | Self::Trees(_) => BlockRefs.inc(txn, values),
        }
    }

    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        match self {
            Self::Plain => Plain.dec(txn, values),
            Self::Blocks => BlockRefs.dec(txn, values),
            Self::Trees(value_bytes) => block_numbers(values).try_for_each(|root| {
                let mut tree = TreeType {
                    levels: 1,
                    value_bytes: *value_bytes,
                    values: &mut Plain,
                };
                btree::delete(txn, &mut tree, root)
            }),
        }
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        match self {
            Self::Plain => Plain.equal(old, new),
            Self::Blocks | Self::Trees(_) => BlockRefs.equal(old, new),
        }
    }
}
