//! One level of a device's tree: entries come in, nodes come out.
//!
//! Entries wait in `keys` and `values` until as many follow them as a node can have, so
//! that a known node can be recognised. Those that belong to none fill a node of their
//! own. All nodes are full but those before a shared one and the last, and none that has
//! neighbours has less than a third: a small rest takes entries from the full node
//! before it (`held`); where that one is shared (`shared`), the two become own nodes.

use zerocopy::little_endian::U64;

use super::blocks::Blocks;
use super::content::{Child, Content};
use super::nodes::{Fresh, Place, values_of};
use crate::btree::{fewest, max_entries};
use crate::error::Result;

/// Entries of a node.
pub(super) const CAPACITY: usize = max_entries(8);
/// The least of one that has neighbours.
pub(super) const FEWEST: usize = fewest(CAPACITY);
/// Entries that may wait.
pub(super) const AHEAD: usize = 16 * CAPACITY;

/// How far entries are to be looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// All but the last ones, after which more will come.
    Ahead,
    /// All of them: what follows is no entry.
    Boundary,
    /// All of them: nothing follows.
    End,
}

#[derive(Default)]
struct Entries {
    keys: Vec<U64>,
    values: Vec<U64>,
}

impl Entries {
    fn len(&self) -> usize {
        self.keys.len()
    }

    fn extend(&mut self, keys: &[U64], values: &[U64]) {
        self.keys.extend_from_slice(keys);
        self.values.extend_from_slice(values);
    }

    fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
    }

    /// Moves the last entries in front of another's.
    fn give_last(&mut self, count: usize, to: &mut Self) {
        let rest = self.len() - count;
        to.keys.splice(0..0, self.keys.drain(rest..));
        to.values.splice(0..0, self.values.drain(rest..));
    }
}

pub(super) struct Level {
    level: usize,
    /// Entries to come; those before `at` are dealt with.
    ahead: Entries,
    at: usize,
    /// A full node, from which the next one may have to take entries; empty: none.
    held: Entries,
    open: Entries,
    /// A shared node that was not passed up yet.
    shared: Option<Child>,
    /// Nodes that were passed up, ever.
    passed: u64,
    /// Whether nodes are written for a part, which nobody has used yet.
    unused: bool,
}

/// Where a level's nodes go.
pub(super) struct Out<'o> {
    pub blocks: &'o mut Blocks,
    pub content: &'o mut Content,
    pub children: &'o mut Vec<Child>,
    pub fresh: &'o mut Vec<Fresh>,
}

impl Level {
    /// `unused`: its nodes are those of a part.
    pub fn new(level: usize, unused: bool) -> Self {
        Self {
            level,
            ahead: Entries::default(),
            at: 0,
            held: Entries::default(),
            open: Entries::default(),
            shared: None,
            passed: 0,
            unused,
        }
    }

    /// Nodes that were passed up, ever.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Entries that may be added before [`Self::settle`].
    pub fn room(&self) -> usize {
        AHEAD.saturating_sub(self.ahead.len())
    }

    pub fn push(&mut self, entries: impl Iterator<Item = (u64, u64)> + Clone) {
        let keys = entries.clone().map(|(key, _)| U64::new(key));
        self.ahead.keys.extend(keys);
        self.ahead
            .values
            .extend(entries.map(|(_, value)| U64::new(value)));
    }

    /// Makes nodes of entries.
    pub fn settle(&mut self, out: &mut Out<'_>, until: Until) -> Result<()> {
        let end = match until {
            Until::Ahead => (self.ahead.len() + 1).saturating_sub(CAPACITY),
            Until::Boundary | Until::End => self.ahead.len(),
        };
        while self.at < end {
            let next = self.next_known(out, end);
            self.take(out, next)?;
            if self.at >= end {
                break;
            }
            let (keys, values) = (&self.ahead.keys[self.at..], &self.ahead.values[self.at..]);
            let place = match until {
                Until::End if self.is_empty() && self.at == 0 => Place::Root,
                _ => Place::Below { fewest: FEWEST },
            };
            let nodes = &out.content.nodes;
            let mut known = nodes.find(out.blocks, self.level, keys, values, place)?;
            if known.is_none() && place == Place::Root {
                let place = Place::Below { fewest: FEWEST };
                known = nodes.find(out.blocks, self.level, keys, values, place)?;
            }
            match known {
                Some(child) if self.place(out, child)? => self.at += child.nr,
                _ => self.take(out, self.at + 1)?,
            }
        }
        self.ahead.keys.drain(..self.at);
        self.ahead.values.drain(..self.at);
        self.at = 0;
        if until == Until::End {
            self.finish(out)?;
        }
        Ok(())
    }

    /// Whether no node was begun.
    fn is_empty(&self) -> bool {
        self.passed == 0 && self.shared.is_none() && self.held.len() == 0 && self.open.len() == 0
    }

    /// Where the next entry is with which a known node may begin.
    fn next_known(&self, out: &Out<'_>, end: usize) -> usize {
        let nodes = &out.content.nodes;
        if nodes.is_empty() {
            return end;
        }
        let keys = self.ahead.keys[self.at..end].iter();
        let mut entries = keys.zip(&self.ahead.values[self.at..end]);
        let found =
            entries.position(|(key, value)| nodes.may_begin(self.level, key.get(), value.get()));
        found.map_or(end, |found| self.at + found)
    }

    /// Puts the entries before `end` into nodes of its own.
    fn take(&mut self, out: &mut Out<'_>, end: usize) -> Result<()> {
        while self.at < end {
            let count = (end - self.at).min(CAPACITY - self.open.len());
            let range = self.at..self.at + count;
            self.open
                .extend(&self.ahead.keys[range.clone()], &self.ahead.values[range]);
            self.at += count;
            if self.open.len() == CAPACITY {
                self.pass_shared(out);
                self.write_held(out)?;
                std::mem::swap(&mut self.held, &mut self.open);
            }
        }
        Ok(())
    }

    /// Puts a known node after all that came; whether that is possible.
    pub fn place(&mut self, out: &mut Out<'_>, child: Child) -> Result<bool> {
        let small = (1..FEWEST).contains(&self.open.len()) && self.held.len() == 0;
        if small && self.shared.is_none() {
            return Ok(false);
        }
        self.close(out)?;
        self.shared = Some(child);
        Ok(true)
    }

    /// Passes up everything: a shared node comes next, or nothing.
    fn close(&mut self, out: &mut Out<'_>) -> Result<()> {
        if (1..FEWEST).contains(&self.open.len()) {
            if self.held.len() > 0 {
                let missing = FEWEST - self.open.len();
                self.held.give_last(missing, &mut self.open);
            } else if let Some(child) = self.shared.take() {
                self.open_again(out, child)?;
            }
        }
        self.pass_shared(out);
        self.write_held(out)?;
        std::mem::swap(&mut self.held, &mut self.open);
        self.write_held(out)
    }

    /// Makes entries of a shared node again, which go before the few in the open one.
    fn open_again(&mut self, out: &mut Out<'_>, child: Child) -> Result<()> {
        let node = out.blocks.read(child.at)?;
        self.held.extend(node.keys(), values_of(&node)?);
        let both = self.held.len() + self.open.len();
        let moved = if both <= CAPACITY {
            self.held.len()
        } else {
            self.held.len() - both / 2
        };
        self.held.give_last(moved, &mut self.open);
        Ok(())
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<()> {
        let is_root = self.passed == 0 && self.shared.is_none() && self.held.len() == 0;
        if is_root && self.open.len() == 0 && self.level == 0 && !self.unused {
            // A device without mappings has an empty leaf.
            return self.write(out, &Entries::default());
        }
        self.close(out)?;
        self.pass_shared(out);
        Ok(())
    }

    fn pass_shared(&mut self, out: &mut Out<'_>) {
        if let Some(child) = self.shared.take() {
            self.passed += 1;
            out.children.push(child);
        }
    }

    fn write_held(&mut self, out: &mut Out<'_>) -> Result<()> {
        if self.held.len() == 0 {
            return Ok(());
        }
        let mut held = std::mem::take(&mut self.held);
        self.write(out, &held)?;
        held.clear();
        self.held = held;
        Ok(())
    }

    fn write(&mut self, out: &mut Out<'_>, node: &Entries) -> Result<()> {
        let Entries { keys, values } = node;
        let (child, fresh) =
            out.content
                .write(out.blocks, self.level, keys, values, self.unused)?;
        if child.nr > 0 {
            out.fresh.push(fresh);
        }
        self.passed += 1;
        out.children.push(child);
        Ok(())
    }

    /// Adds the entries of a node that cannot be placed as it is.
    pub fn push_entries_of(&mut self, out: &mut Out<'_>, child: Child) -> Result<()> {
        let node = out.blocks.read(child.at)?;
        self.ahead.extend(node.keys(), values_of(&node)?);
        Ok(())
    }
}
