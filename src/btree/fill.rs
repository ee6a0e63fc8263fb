//! Writing whole nodes, from the first entry to the last.

use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::node::HEADER_BYTES;
use super::node_mut::{Form, write_form, write_header};
use super::{NODE_VALIDATOR, NodeHeader};
use crate::block::{BlockData, WriteGuard};
use crate::error::Result;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// A node, and the key its parent has for it.
pub(super) type Child = (u64, BlockNr);

/// How so many entries are shared out among nodes, as few as can hold them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    entries: usize,
    capacity: usize,
    nodes: usize,
    append: bool,
}

impl Plan {
    /// `append`: more will come at the end, so that all nodes are full but the
    /// last, and the one before it where the last would have too few. Otherwise
    /// all have as many.
    pub fn new(entries: usize, capacity: usize, append: bool) -> Self {
        Self {
            entries,
            capacity,
            nodes: entries.div_ceil(capacity),
            append,
        }
    }

    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// Entries of one of the nodes.
    pub fn size(&self, node: usize) -> usize {
        if !self.append {
            return self.entries / self.nodes + usize::from(node < self.entries % self.nodes);
        }
        let tail = self.entries - (self.nodes - 1) * self.capacity;
        let short = fewest(self.capacity).saturating_sub(tail);
        match self.nodes - node {
            _ if self.nodes == 1 => tail,
            1 => tail + short,
            2 => self.capacity - short,
            _ => self.capacity,
        }
    }
}

/// Entries that a node below the root must have.
pub(crate) const fn fewest(capacity: usize) -> usize {
    capacity / 3
}

/// The entries of a node in the making.
pub(super) struct Fill<'b> {
    keys: &'b mut [U64],
    values: &'b mut [u8],
    width: usize,
    nr: usize,
}

impl<'b> Fill<'b> {
    /// Goes on after the first `nr` entries of a block.
    pub fn new(block: &'b mut BlockData, form: Form, nr: usize) -> Self {
        let body = &mut block.bytes_mut()[HEADER_BYTES..];
        let (keys, rest) = body.split_at_mut(form.capacity * size_of::<U64>());
        let keys = zerocopy::FromBytes::mut_from_bytes(keys).unwrap_or_default();
        Self {
            keys,
            values: &mut rest[..form.capacity * form.value_bytes],
            width: form.value_bytes,
            nr,
        }
    }

    pub fn len(&self) -> usize {
        self.nr
    }

    /// Room for the next `count` entries, which the caller fills.
    pub fn next(&mut self, count: usize) -> (&mut [U64], &mut [u8]) {
        let (begin, end) = (self.nr, self.nr + count);
        self.nr = end;
        (
            &mut self.keys[begin..end],
            &mut self.values[begin * self.width..end * self.width],
        )
    }

    /// As [`Self::next`], for longer than the fill itself lasts.
    pub fn into_next(self, count: usize) -> (&'b mut [U64], &'b mut [u8]) {
        let (begin, end) = (self.nr, self.nr + count);
        (
            &mut self.keys[begin..end],
            &mut self.values[begin * self.width..end * self.width],
        )
    }

    /// Adds entries that lie in another node.
    pub fn copy(&mut self, keys: &[U64], values: &[u8]) {
        let (own_keys, own_values) = self.next(keys.len());
        own_keys.copy_from_slice(keys);
        own_values.copy_from_slice(values);
    }

    /// Adds children.
    pub fn children(&mut self, children: &[Child]) {
        let (keys, values) = self.next(children.len());
        let slots = keys.iter_mut().zip(values.chunks_exact_mut(8));
        for ((key, value), (first, child)) in slots.zip(children) {
            key.set(*first);
            value.copy_from_slice(U64::new(child.0).as_bytes());
        }
    }

    pub fn first_key(&self) -> u64 {
        self.keys.first().map_or(0, |key| key.get())
    }
}

/// Makes a zeroed block a whole node, all but checksum and location.
pub(crate) fn fill_node(
    block: &mut BlockData,
    leaf: bool,
    value_bytes: usize,
    keys: &[U64],
    values: &[u8],
) {
    let form = if leaf {
        Form::leaf(value_bytes)
    } else {
        Form::internal()
    };
    write_form(block, form, keys.len());
    Fill::new(block, form, 0).copy(keys, values);
}

/// Writes nodes as planned, the first one into `first` and the others into new
/// blocks, from left to right; each is complete before the next is allocated.
/// `fill` adds as many entries as it is told.
pub(super) fn write_nodes(
    txn: &mut Transaction,
    mut first: Option<WriteGuard>,
    form: Form,
    plan: Plan,
    written: &mut Vec<Child>,
    mut fill: impl FnMut(&mut Fill<'_>, usize),
) -> Result<()> {
    for node in 0..plan.nodes() {
        let mut guard = match first.take() {
            Some(guard) => guard,
            None => txn.new_block(&NODE_VALIDATOR)?,
        };
        write_header(&mut guard, form);
        let block: &mut BlockData = &mut guard;
        let mut entries = Fill::new(block, form, 0);
        fill(&mut entries, plan.size(node));
        let (nr, key) = (entries.len(), entries.first_key());
        let header: &mut NodeHeader = block.view_mut();
        // A node has at most 507 entries.
        header.nr_entries.set(u32::try_from(nr).unwrap_or(u32::MAX));
        written.push((key, guard.location()));
    }
    Ok(())
}

/// Puts internal nodes above `nodes` until there is one root.
pub(super) fn grow_root(txn: &mut Transaction, mut nodes: Vec<Child>) -> Result<Option<BlockNr>> {
    let form = Form::internal();
    while nodes.len() > 1 {
        let plan = Plan::new(nodes.len(), form.capacity, true);
        let mut parents = Vec::with_capacity(plan.nodes());
        let mut rest = &nodes[..];
        write_nodes(txn, None, form, plan, &mut parents, |entries, count| {
            let (own, others) = rest.split_at(count);
            rest = others;
            entries.children(own);
        })?;
        nodes = parents;
    }
    Ok(nodes.first().map(|root| root.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::max_entries;

    #[test]
    fn every_plan_fits_and_leaves_no_node_too_small() {
        for value_bytes in [1, 8, 24, 100, 1000, 1346] {
            let capacity = max_entries(value_bytes);
            for entries in 1..5 * capacity + 2 {
                for append in [false, true] {
                    let plan = Plan::new(entries, capacity, append);
                    let sizes: Vec<usize> = (0..plan.nodes()).map(|node| plan.size(node)).collect();
                    assert_eq!(sizes.iter().sum::<usize>(), entries);
                    assert!(sizes.iter().all(|size| *size <= capacity), "{sizes:?}");
                    let least = sizes.iter().min().copied().unwrap_or(0);
                    assert!(
                        sizes.len() == 1 || least >= fewest(capacity),
                        "{entries} of {capacity}: {sizes:?}"
                    );
                    if append && sizes.len() > 2 {
                        let full = &sizes[..sizes.len() - 2];
                        assert!(full.iter().all(|size| *size == capacity));
                    }
                    if !append {
                        assert!(sizes.iter().max().copied() <= Some(least + 1));
                    }
                }
            }
        }
    }
}
