//! A node that is being changed, and the ways entries move between nodes.

use std::ops::Range;

use zerocopy::little_endian::U64;

use super::node::{HEADER_BYTES, INTERNAL, LEAF};
use super::{NODE_NAME, NODE_VALIDATOR, Node, NodeHeader, max_entries};
use crate::block::{BlockData, WriteGuard};
use crate::error::{Damage, Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Bytes of a key, of a child and of a sub-tree's root.
const WORD: usize = 8;

/// What a node is, as far as its entries' places go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Form {
    pub leaf: bool,
    /// Bytes of a value; 8 in internal nodes.
    pub value_bytes: usize,
    /// Entries that fit.
    pub capacity: usize,
}

impl Form {
    pub fn leaf(value_bytes: usize) -> Self {
        let capacity = max_entries(value_bytes);
        Self {
            leaf: true,
            value_bytes,
            capacity,
        }
    }

    pub fn internal() -> Self {
        let capacity = max_entries(WORD);
        Self {
            leaf: false,
            value_bytes: WORD,
            capacity,
        }
    }

    fn key(index: usize) -> usize {
        HEADER_BYTES + WORD * index
    }

    fn value(&self, index: usize) -> usize {
        HEADER_BYTES + WORD * self.capacity + self.value_bytes * index
    }

    fn keys(entries: Range<usize>) -> Range<usize> {
        Self::key(entries.start)..Self::key(entries.end)
    }

    fn values(&self, entries: Range<usize>) -> Range<usize> {
        self.value(entries.start)..self.value(entries.end)
    }
}

/// A write-locked node whose header was checked: the places of its entries lie
/// inside the block, and there are never more of them than fit.
pub(super) struct NodeMut {
    guard: WriteGuard,
    form: Form,
    nr: usize,
}

impl NodeMut {
    /// The node in a block; its leaves hold values of `value_bytes`.
    pub fn open(guard: WriteGuard, value_bytes: usize) -> Result<Self, Damage> {
        let (form, nr) = inspect(guard.location(), &guard, value_bytes)?;
        Ok(Self { guard, form, nr })
    }

    /// A new node without entries, complete before anything else is allocated.
    pub fn new(txn: &mut Transaction, form: Form) -> Result<Self> {
        let mut guard = txn.new_block(&NODE_VALIDATOR)?;
        write_header(&mut guard, form);
        Ok(Self { guard, form, nr: 0 })
    }

    pub fn location(&self) -> BlockNr {
        self.guard.location()
    }

    pub fn form(&self) -> Form {
        self.form
    }

    pub fn is_leaf(&self) -> bool {
        self.form.leaf
    }

    /// Entries in use.
    pub fn len(&self) -> usize {
        self.nr
    }

    pub fn is_full(&self) -> bool {
        self.nr >= self.form.capacity
    }

    /// The same for those who only read.
    pub fn view(&self) -> Result<Node<'_>, Damage> {
        Node::parse(self.location(), &self.guard)
    }

    pub fn key(&self, index: usize) -> Option<u64> {
        self.word(Form::key(index), index)
    }

    /// The child, or the sub-tree, of an entry.
    pub fn child(&self, index: usize) -> Result<BlockNr, Damage> {
        let child = match self.form.value_bytes {
            WORD => self.word(self.form.value(index), index),
            _ => None,
        };
        child.map(BlockNr).ok_or_else(|| self.no_entry(index))
    }

    fn word(&self, place: usize, index: usize) -> Option<u64> {
        let bytes = self.guard.bytes().get(place..place + WORD)?;
        let word = <[u8; WORD]>::try_from(bytes).ok()?;
        (index < self.nr).then(|| u64::from_le_bytes(word))
    }

    pub fn set_key(&mut self, index: usize, key: u64) -> Result<(), Damage> {
        self.check_entry(index)?;
        self.guard.bytes_mut()[Form::keys(index..index + 1)].copy_from_slice(&key.to_le_bytes());
        Ok(())
    }

    pub fn set_child(&mut self, index: usize, child: BlockNr) -> Result<(), Damage> {
        self.set_value(index, &child.0.to_le_bytes())
    }

    /// The value of an entry.
    pub fn value(&self, index: usize) -> Result<&[u8], Damage> {
        self.check_entry(index)?;
        Ok(&self.guard.bytes()[self.form.values(index..index + 1)])
    }

    pub fn set_value(&mut self, index: usize, value: &[u8]) -> Result<(), Damage> {
        self.check_entry(index)?;
        self.check_value(value)?;
        self.guard.bytes_mut()[self.form.values(index..index + 1)].copy_from_slice(value);
        Ok(())
    }

    /// All values, packed.
    pub fn values(&self) -> &[u8] {
        &self.guard.bytes()[self.form.values(0..self.nr)]
    }

    /// Puts an entry before the one at `index`. The caller has seen to the order.
    pub fn insert(&mut self, index: usize, key: u64, value: &[u8]) -> Result<(), Damage> {
        if index > self.nr {
            return Err(self.no_entry(index));
        }
        self.check_value(value)?;
        self.check_room(1)?;
        let (form, nr) = (self.form, self.nr);
        let bytes = self.guard.bytes_mut();
        bytes.copy_within(Form::keys(index..nr), Form::key(index + 1));
        bytes.copy_within(form.values(index..nr), form.value(index + 1));
        bytes[Form::keys(index..index + 1)].copy_from_slice(&key.to_le_bytes());
        bytes[form.values(index..index + 1)].copy_from_slice(value);
        self.set_len(nr + 1);
        Ok(())
    }

    pub fn remove(&mut self, index: usize) -> Result<(), Damage> {
        self.check_entry(index)?;
        self.close_gap(index, index + 1);
        Ok(())
    }

    /// Drops a run of entries.
    pub fn remove_run(&mut self, run: Range<usize>) -> Result<(), Damage> {
        self.check_count(run.end)?;
        if !run.is_empty() {
            self.close_gap(run.start, run.end);
        }
        Ok(())
    }

    /// Moves the first `count` entries of `right` to the end of this node, its left neighbour.
    pub fn take_front(&mut self, right: &mut Self, count: usize) -> Result<(), Damage> {
        self.check_like(right)?;
        self.check_room(count)?;
        right.check_count(count)?;
        let (form, nr) = (self.form, self.nr);
        self.copy_entries(nr, right, 0..count);
        debug_assert!(form.capacity >= nr + count, "checked above");
        self.set_len(nr + count);
        right.close_gap(0, count);
        Ok(())
    }

    /// Moves the last `count` entries of this node to the front of `right`, its right neighbour.
    pub fn give_back(&mut self, right: &mut Self, count: usize) -> Result<(), Damage> {
        self.check_like(right)?;
        right.check_room(count)?;
        self.check_count(count)?;
        let (form, nr) = (right.form, right.nr);
        let bytes = right.guard.bytes_mut();
        bytes.copy_within(Form::keys(0..nr), Form::key(count));
        bytes.copy_within(form.values(0..nr), form.value(count));
        let rest = self.nr - count;
        right.copy_entries(0, self, rest..self.nr);
        right.set_len(nr + count);
        self.set_len(rest);
        Ok(())
    }

    /// Becomes a node of another kind, without entries, in the same block.
    pub fn become_empty(&mut self, form: Form) {
        self.form = form;
        self.nr = 0;
        write_header(&mut self.guard, self.form);
    }

    /// Becomes what `source` is, in its own block.
    pub fn become_copy(
        &mut self,
        at: BlockNr,
        source: &BlockData,
        value_bytes: usize,
    ) -> Result<(), Damage> {
        (self.form, self.nr) = inspect(at, source, value_bytes)?;
        let own = self.location().0;
        self.guard.bytes_mut().copy_from_slice(source.bytes());
        self.guard.view_mut::<NodeHeader>().blocknr.set(own);
        Ok(())
    }

    /// Whether entries can move between the two.
    pub fn check_like(&self, other: &Self) -> Result<(), Damage> {
        if self.form == other.form {
            return Ok(());
        }
        let expected = format!("those of its sibling {}", self.location());
        let found = format!("{:?}", other.form);
        let at = other.location();
        Err(Damage::new(
            at,
            NODE_NAME,
            "kind and capacity",
            found,
            expected,
        ))
    }

    fn copy_entries(&mut self, to: usize, source: &Self, entries: Range<usize>) {
        let form = self.form;
        let end = to + entries.len();
        let (own, other) = (self.guard.bytes_mut(), source.guard.bytes());
        own[Form::keys(to..end)].copy_from_slice(&other[Form::keys(entries.clone())]);
        own[form.values(to..end)].copy_from_slice(&other[form.values(entries)]);
    }

    /// Drops the entries from `begin` to `end`; both lie inside the node.
    fn close_gap(&mut self, begin: usize, end: usize) {
        let (form, nr) = (self.form, self.nr);
        let bytes = self.guard.bytes_mut();
        bytes.copy_within(Form::keys(end..nr), Form::key(begin));
        bytes.copy_within(form.values(end..nr), form.value(begin));
        self.set_len(nr - (end - begin));
    }

    fn set_len(&mut self, nr: usize) {
        self.nr = nr;
        let header: &mut NodeHeader = self.guard.view_mut();
        header.nr_entries.set(field(nr));
    }

    fn check_entry(&self, index: usize) -> Result<(), Damage> {
        if index < self.nr {
            return Ok(());
        }
        Err(self.no_entry(index))
    }

    fn no_entry(&self, index: usize) -> Damage {
        let expected = format!("an entry {index}, a block number");
        Damage::new(self.location(), NODE_NAME, "entries", self.nr, expected)
    }

    fn check_count(&self, count: usize) -> Result<(), Damage> {
        if count <= self.nr {
            return Ok(());
        }
        Err(self.no_entry(count))
    }

    fn check_room(&self, count: usize) -> Result<(), Damage> {
        if count <= self.form.capacity - self.nr {
            return Ok(());
        }
        let expected = format!("room for {count} of {}", self.form.capacity);
        let at = self.location();
        Err(Damage::new(at, NODE_NAME, "entries", self.nr, expected))
    }

    fn check_value(&self, value: &[u8]) -> Result<(), Damage> {
        if value.len() == self.form.value_bytes {
            return Ok(());
        }
        let (at, found) = (self.location(), self.form.value_bytes);
        Err(Damage::new(at, NODE_NAME, "value size", found, value.len()))
    }
}

/// The form of a node whose tree has leaves with values of `value_bytes`, and
/// how many entries it has. Every node has the capacity for its own value size;
/// one that has another cannot exchange entries with its siblings.
pub(super) fn inspect(
    at: BlockNr,
    block: &BlockData,
    value_bytes: usize,
) -> Result<(Form, usize), Damage> {
    let node = Node::parse(at, block)?;
    let form = if node.is_leaf() {
        Form::leaf(value_bytes)
    } else {
        Form::internal()
    };
    let header = node.header();
    let (size, capacity) = (header.value_size.get(), header.max_entries.get());
    if size != field(form.value_bytes) {
        let expected = form.value_bytes;
        return Err(Damage::new(at, NODE_NAME, "value size", size, expected));
    }
    if capacity != field(form.capacity) {
        let expected = form.capacity;
        return Err(Damage::new(at, NODE_NAME, "capacity", capacity, expected));
    }
    Ok((form, node.keys().len()))
}

/// A new node: all zeros but for its header.
pub(super) fn write_header(guard: &mut WriteGuard, form: Form) {
    let at = guard.location().0;
    write_form(guard, form, 0);
    let header: &mut NodeHeader = guard.view_mut();
    header.blocknr.set(at);
}

/// The header of a node of so many entries, but for its place and checksum.
pub(super) fn write_form(block: &mut BlockData, form: Form, nr_entries: usize) {
    let header: &mut NodeHeader = block.view_mut();
    let flags = if form.leaf { LEAF } else { INTERNAL };
    header.flags.set(flags);
    header.nr_entries.set(field(nr_entries));
    header.max_entries.set(field(form.capacity));
    header.value_size.set(field(form.value_bytes));
    header.padding.set(0);
}

/// A number of entries or bytes as a header has it; none leaves a block.
fn field(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Runs of adjoining numbers in a list of children, so that counting them costs
/// a call for each run.
pub(super) fn for_each_run(
    children: &[U64],
    mut each: impl FnMut(Range<u64>) -> Result<()>,
) -> Result<()> {
    let mut run: Option<Range<u64>> = None;
    for child in children.iter().map(|child| child.get()) {
        let end = child
            .checked_add(1)
            .ok_or_else(|| Error::usage(format!("block {child}: past any device")))?;
        match &mut run {
            Some(run) if run.end == child => run.end = end,
            _ => {
                if let Some(done) = run.replace(child..end) {
                    each(done)?;
                }
            }
        }
    }
    run.map_or(Ok(()), each)
}
