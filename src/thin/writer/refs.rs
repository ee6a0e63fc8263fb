//! References to data blocks, counted a few hundred thousand at a time.

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use super::SUPERBLOCK;
use crate::btree::{TreeType, ValueType};
use crate::disk_space::DataMap;
use crate::error::{Damage, Error, Result};
use crate::thin::MappingValue;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Bytes of a mapping, and of a tree's root.
pub(super) const WORD: usize = size_of::<U64>();

/// So many are gathered before they are counted: sorted, they touch each bitmap once.
const MOST: usize = 1 << 18;

/// References that were gained and lost, and are not counted yet.
#[derive(Default)]
pub(super) struct Pending {
    gained: Vec<u64>,
    lost: Vec<u64>,
}

impl Pending {
    pub fn gain(&mut self, data_block: u64) {
        self.gained.push(data_block);
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Counts them. Those that were gained first: whatever was lost was counted or
    /// gained before, so that no count falls below what it will be.
    pub fn settle(&mut self, txn: &mut Transaction, map: &mut DataMap) -> Result<()> {
        self.gained.sort_unstable();
        let counted = map.inc_sorted(txn, &self.gained);
        counted.map_err(impossible)?;
        self.lost.sort_unstable();
        let counted = map.dec_sorted(txn, &self.lost);
        counted.map_err(impossible)?;
        for gathered in [&mut self.gained, &mut self.lost] {
            gathered.clear();
            gathered.shrink_to(MOST);
        }
        Ok(())
    }
}

/// Counts that cannot be are the disk's fault: its leaves and its space map disagree.
fn impossible(error: Error) -> Error {
    let Error::Usage(found) = error else {
        return error;
    };
    Damage::new(
        SUPERBLOCK,
        "data space map",
        "reference count",
        found,
        "the mappings' own",
    )
    .into()
}

/// The values of a device's mapping tree.
pub(super) struct DataRefs<'w> {
    pub map: &'w mut DataMap,
    pub pending: &'w mut Pending,
    /// Whether a mapping to the same block takes over the reference of the one it
    /// replaces. In a batch each brings one of its own.
    pub takes_over: bool,
}

impl DataRefs<'_> {
    /// A device's tree.
    pub fn tree(&mut self) -> TreeType<'_> {
        self.levels(1)
    }

    /// A tree with so many levels of nesting.
    pub fn levels(&mut self, levels: usize) -> TreeType<'_> {
        TreeType {
            levels,
            value_bytes: WORD,
            values: self,
        }
    }
}

fn data_blocks(values: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let values = <[U64]>::ref_from_bytes(values).unwrap_or_default();
    values
        .iter()
        .map(|value| MappingValue(value.get()).data_block())
}

impl ValueType for DataRefs<'_> {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        self.pending.gained.extend(data_blocks(values));
        if self.pending.gained.len() < MOST {
            return Ok(());
        }
        self.pending.settle(txn, self.map)
    }

    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        self.pending.lost.extend(data_blocks(values));
        if self.pending.lost.len() < MOST {
            return Ok(());
        }
        self.pending.settle(txn, self.map)
    }

    /// The time does not count.
    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        self.takes_over && data_blocks(old).eq(data_blocks(new))
    }
}

/// The values of the mapping tree's top level: roots of the devices' trees.
/// Whoever takes one out has the reference from then on.
pub(super) struct RootRefs;

impl ValueType for RootRefs {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> Result<()> {
        let roots = <[U64]>::ref_from_bytes(values).unwrap_or_default();
        for root in roots {
            let at = BlockNr(root.get());
            txn.inc(at).map_err(|error| match error {
                Error::Usage(found) => {
                    let expected = "a block that can be counted";
                    Damage::new(at, "mapping tree", "root of a device", found, expected).into()
                }
                other => other,
            })?;
        }
        Ok(())
    }

    fn dec(&mut self, _txn: &mut Transaction, _values: &[u8]) -> Result<()> {
        Ok(())
    }

    fn equal(&self, _old: &[u8], _new: &[u8]) -> bool {
        true
    }
}
