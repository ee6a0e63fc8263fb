//! Whether a node is a leaf, where its flags cannot be right.

use super::slips::{Expected, POINTER, Slips};
use crate::block::{BlockData, kind_of};
use crate::btree::{NODE_NAME, NodeHeader, max_entries};
use crate::error::{Damage, Result};
use crate::units::BlockNr;

pub(super) const INTERNAL: u32 = 1;
pub(super) const LEAF: u32 = 2;

/// Where values lead.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// Each to a node that begins with its key.
    On,
    /// None to any block.
    Nowhere,
    /// None to a node that begins with its key.
    Astray,
    Elsewhere,
}

impl Slips<'_> {
    /// Says of a node whether it is a leaf, where its flags cannot be right: by how high its
    /// neighbours are, or by whether it leads on.
    pub(super) fn flags(
        &self,
        at: u32,
        block: &mut BlockData,
        expected: Expected,
    ) -> Result<Vec<Damage>> {
        let header: &NodeHeader = block.view();
        let flags = header.flags.get();
        // Pointers are as long as mappings.
        let leads = || self.leads(block);
        let right = match (flags, expected.height) {
            (INTERNAL, None | Some(0)) if self.is_leaf(block, expected)? => LEAF,
            (LEAF, None | Some(1..)) if self.is_inner(at, block, expected)? => INTERNAL,
            (INTERNAL | LEAF, _) => return Ok(Vec::new()),
            (_, Some(0)) => LEAF,
            (_, Some(_)) => INTERNAL,
            // A root: that bit is set which says so, and others as well.
            (_, None) => match flags & (INTERNAL | LEAF) {
                one @ (INTERNAL | LEAF) => one,
                _ if leads()? == Leads::On => INTERNAL,
                _ if leads()? == Leads::Nowhere => LEAF,
                _ => return Ok(Vec::new()),
            },
        };
        let place = BlockNr(at.into());
        let header: &mut NodeHeader = block.view_mut();
        header.flags.set(right);
        let wrong = Damage::new(place, NODE_NAME, "flags", flags, right);
        Ok(vec![wrong])
    }

    /// Whether a node that says that it is internal cannot be.
    fn is_leaf(&self, block: &BlockData, expected: Expected) -> Result<bool> {
        let header: &NodeHeader = block.view();
        if expected.leaf_bytes != POINTER {
            let capacity = usize::try_from(expected.leaf_bytes).map_or(0, max_entries);
            let has_capacity = header.max_entries.get() as usize == capacity;
            return Ok(has_capacity && header.value_size.get() == expected.leaf_bytes);
        }
        Ok(match self.leads(block)? {
            Leads::Nowhere => true,
            // Devices' roots lead to nodes as well.
            Leads::Astray => !expected.maps,
            Leads::On | Leads::Elsewhere => !expected.maps && self.has_all_ids(block),
        })
    }

    /// Whether a node that says that it is a leaf is none: it leads on, and as a leaf it is
    /// odd.
    fn is_inner(&self, at: u32, block: &BlockData, expected: Expected) -> Result<bool> {
        let is_odd = match expected.maps {
            true => self.odd.contains(&at),
            false => !self.ids.is_empty() && !self.has_all_ids(block),
        };
        Ok(is_odd && expected.leaf_bytes == POINTER && self.leads(block)? == Leads::On)
    }

    /// Whether the keys of a node are those of the other small tree.
    fn has_all_ids(&self, block: &BlockData) -> bool {
        let header: &NodeHeader = block.view();
        let count = usize::try_from(header.nr_entries.get()).unwrap_or(usize::MAX);
        let key = |index| word(block, size_of::<NodeHeader>() + 8 * index);
        let mut ids = self.ids.iter().enumerate();
        count == self.ids.len() && ids.all(|(index, id)| key(index) == *id)
    }

    /// Where the values of a node lead if they are pointers.
    fn leads(&self, block: &BlockData) -> Result<Leads> {
        let header: &NodeHeader = block.view();
        let count = usize::try_from(header.nr_entries.get()).unwrap_or(usize::MAX);
        let capacity = max_entries(8);
        if count == 0 || count > capacity {
            return Ok(Leads::Elsewhere);
        }
        let keys = size_of::<NodeHeader>();
        let mut on = 0;
        let mut possible = 0;
        for index in 0..count {
            let key = word(block, keys + 8 * index);
            let value = word(block, keys + 8 * (capacity + index));
            let Some(child) = u32::try_from(value).ok().filter(|child| *child != 0) else {
                continue;
            };
            if value >= self.limit {
                continue;
            }
            possible += 1;
            if let Some(there) = self.read(child)?
                && let Some((NODE_NAME, _)) = kind_of(&there)
                && word(&there, keys) == key
            {
                on += 1;
            }
        }
        Ok(match (on, possible) {
            (_, 0) => Leads::Nowhere,
            (0, _) => Leads::Astray,
            (on, _) if on == count => Leads::On,
            _ => Leads::Elsewhere,
        })
    }
}

/// The eight bytes of a node at an offset.
fn word(block: &BlockData, at: usize) -> u64 {
    let bytes = block.bytes().get(at..).and_then(<[u8]>::first_chunk::<8>);
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}
