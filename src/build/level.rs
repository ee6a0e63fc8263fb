//! One level of a device's tree: entries come in, nodes come out.
//!
//! Entries wait in `keys` and `values` until as many follow them as a node can have, so
//! that a known node can be recognised. Those that belong to none fill nodes of the
//! level's own. All nodes are full but those before a shared one and the last, and none
//! that has neighbours has less than a third: a small rest takes entries from the full
//! node before it.
//!
//! A shared node ends the one before it early. Whether that was worth it is known when
//! the entries after it are (`own`), so that those before it (`before`) and itself
//! (`shared`) wait for them: if all of them take fewer nodes together, or those after it
//! are too few for a node, they become nodes of the level's own.

use zerocopy::little_endian::U64;

use super::blocks::Blocks;
use super::content::{Child, Content};
use super::entries::{Entries, Stretch};
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

pub(super) struct Level {
    level: usize,
    /// Entries to come; those before `at` are dealt with.
    ahead: Entries,
    at: usize,
    /// Own entries before the shared nodes; none if there are no such nodes.
    before: Stretch,
    /// Shared nodes that were not passed up yet: one, or a few small ones.
    shared: Vec<Child>,
    /// The latest own entries.
    own: Stretch,
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
            before: Stretch::default(),
            shared: Vec::new(),
            own: Stretch::default(),
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
        self.passed == 0 && self.shared.is_empty() && self.own.len() == 0
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
        let ahead = std::mem::take(&mut self.ahead);
        let range = self.at..end;
        self.at = end;
        let taken = self.add(out, &ahead.keys[range.clone()], &ahead.values[range]);
        self.ahead = ahead;
        taken
    }

    fn add(&mut self, out: &mut Out<'_>, keys: &[U64], values: &[U64]) -> Result<()> {
        let mut at = 0;
        while at < keys.len() {
            let count = (keys.len() - at).min(CAPACITY - self.own.open.len());
            let range = at..at + count;
            self.own.open.extend(&keys[range.clone()], &values[range]);
            at += count;
            if self.own.open.len() == CAPACITY {
                if self.own.held.len() > 0 {
                    // So many that the shared node is worth it.
                    self.pass_shared(out)?;
                    self.write_held(out)?;
                }
                std::mem::swap(&mut self.own.held, &mut self.own.open);
            }
        }
        Ok(())
    }

    /// Puts a known node after all that came; whether that is possible.
    pub fn place(&mut self, out: &mut Out<'_>, child: Child) -> Result<bool> {
        if !self.shared.is_empty() {
            let all = self.before.len() + self.shared_len() + child.nr;
            if self.own.len() == 0 && all <= CAPACITY {
                // It may be that they are one node.
                self.shared.push(child);
                return Ok(true);
            }
            self.decide(out, false)?;
        }
        if (1..FEWEST).contains(&self.own.len()) {
            return Ok(false);
        }
        std::mem::swap(&mut self.before, &mut self.own);
        self.shared.push(child);
        Ok(true)
    }

    fn shared_len(&self) -> usize {
        self.shared.iter().map(|child| child.nr).sum()
    }

    /// Passes the shared nodes up as they are, or makes them own entries. `last`: nothing
    /// follows.
    fn decide(&mut self, out: &mut Out<'_>, last: bool) -> Result<()> {
        let all = self.before.len() + self.shared_len() + self.own.len();
        let together = all.div_ceil(CAPACITY);
        // Too few for a node: they take the nearest shared one with them.
        let few = (1..FEWEST).contains(&self.own.len());
        let taken = self
            .shared
            .last()
            .map_or(0, |child| usize::from(few) * child.nr);
        let after = (taken + self.own.len()).div_ceil(CAPACITY);
        let apart = self.before.nodes() + after;
        // One that nobody has used yet is not needed at all, perhaps.
        let unused = || {
            self.shared
                .iter()
                .all(|child| out.content.is_unused(*child))
        };
        // A root that is a single node has nothing above it.
        let alone = self.before.len() + self.own.len() == 0 && self.shared.len() == 1;
        let root = last && !self.unused && self.passed == 0 && together == 1 && !alone;
        if together < apart || root || (together == apart && unused()) {
            return self.dissolve(out);
        }
        if few {
            let nearest = self.shared.pop();
            self.pass_shared(out)?;
            self.shared.extend(nearest);
            return self.dissolve(out);
        }
        self.pass_shared(out)
    }

    /// Makes own entries of everything that waits.
    fn dissolve(&mut self, out: &mut Out<'_>) -> Result<()> {
        let mut all = Entries::default();
        self.before.move_to(&mut all);
        for child in self.shared.drain(..) {
            let node = out.blocks.read(child.at)?;
            all.extend(node.keys(), values_of(&node)?);
        }
        self.own.move_to(&mut all);
        self.add(out, &all.keys, &all.values)
    }

    /// Passes up the shared nodes and what is before them.
    fn pass_shared(&mut self, out: &mut Out<'_>) -> Result<()> {
        let mut before = std::mem::take(&mut self.before);
        self.write_stretch(out, &mut before)?;
        self.before = before;
        self.passed += self.shared.len() as u64;
        out.children.append(&mut self.shared);
        Ok(())
    }

    fn finish(&mut self, out: &mut Out<'_>) -> Result<()> {
        if self.is_empty() && self.level == 0 && !self.unused {
            let child = out.content.empty_leaf(out.blocks)?;
            self.pass(out, child);
            return Ok(());
        }
        if !self.shared.is_empty() {
            self.decide(out, true)?;
        }
        let mut own = std::mem::take(&mut self.own);
        self.write_stretch(out, &mut own)
    }

    fn write_stretch(&mut self, out: &mut Out<'_>, stretch: &mut Stretch) -> Result<()> {
        stretch.even_out();
        for node in [&mut stretch.held, &mut stretch.open] {
            if node.len() > 0 {
                self.write(out, node)?;
                node.clear();
            }
        }
        Ok(())
    }

    fn write_held(&mut self, out: &mut Out<'_>) -> Result<()> {
        let mut held = std::mem::take(&mut self.own.held);
        self.write(out, &held)?;
        held.clear();
        self.own.held = held;
        Ok(())
    }

    fn write(&mut self, out: &mut Out<'_>, node: &Entries) -> Result<()> {
        let Entries { keys, values } = node;
        let content = &mut *out.content;
        if let (Some(key), Some(value)) = (keys.first(), values.first())
            && content.nodes.may_begin(self.level, key.get(), value.get())
        {
            // Entries of shared nodes and others may be a known node together.
            let nodes = &content.nodes;
            let known = nodes.find(out.blocks, self.level, keys, values, Place::Root)?;
            if let Some(child) = known {
                self.pass(out, child);
                return Ok(());
            }
        }
        let (child, fresh) = content.write(out.blocks, self.level, keys, values, self.unused)?;
        out.fresh.push(fresh);
        self.pass(out, child);
        Ok(())
    }

    fn pass(&mut self, out: &mut Out<'_>, child: Child) {
        self.passed += 1;
        out.children.push(child);
    }

    /// Adds the entries of a node that cannot be placed as it is.
    pub fn push_entries_of(&mut self, out: &mut Out<'_>, child: Child) -> Result<()> {
        let node = out.blocks.read(child.at)?;
        self.ahead.extend(node.keys(), values_of(&node)?);
        Ok(())
    }
}
