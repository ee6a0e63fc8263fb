//! Merging a sorted batch into the nodes it touches.

use std::ops::Range;

use super::source::Source;
use crate::block::{BlockData, WriteGuard};
use crate::btree::fill::{Child, Fill, Plan, write_nodes};
use crate::btree::lookup::too_deep;
use crate::btree::node_mut::{Form, for_each_run, inspect};
use crate::btree::{MAX_DEPTH, NODE_VALIDATOR, Node, ValueType, check_bounds};
use crate::error::Result;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// A batch on its way into a tree.
pub(super) struct Merge<'a, S> {
    pub txn: &'a mut Transaction,
    pub counting: &'a mut dyn ValueType,
    pub value_bytes: usize,
    pub batch: S,
    /// Entries whose keys were not there before.
    pub added: u64,
    /// Values that were overwritten in the leaf at hand.
    pub overwritten: Vec<u8>,
}

/// A node, and which part of the batch goes below it.
struct Place {
    at: BlockNr,
    low: Option<u64>,
    /// No key below may reach this; `None` on the right edge of the tree.
    high: Option<u64>,
    part: Range<usize>,
    depth: usize,
}

impl<S: Source> Merge<'_, S> {
    /// Merges the whole batch into the tree under `root`; the nodes that take the root's place.
    pub fn tree(&mut self, root: BlockNr) -> Result<Vec<Child>> {
        let place = Place {
            at: root,
            low: None,
            high: None,
            part: 0..self.batch.len(),
            depth: 1,
        };
        let mut nodes = Vec::new();
        self.node(place, &mut nodes)?;
        Ok(nodes)
    }

    /// Merges a part of the batch into what is below one node; adds the nodes
    /// that take its place to `replaced`.
    fn node(&mut self, place: Place, replaced: &mut Vec<Child>) -> Result<()> {
        let Place { at, low, high, .. } = place;
        if place.depth > MAX_DEPTH {
            return Err(too_deep(at).into());
        }
        let (guard, shared) = self.txn.shadow_block(at, &NODE_VALIDATOR)?;
        let (form, _) = inspect(at, &guard, self.value_bytes)?;
        let node = Node::parse(at, &guard)?;
        check_bounds(&node, low, high)?;
        if shared {
            self.share_below(&node)?;
        }
        if form.leaf {
            self.leaf(&place, guard, form, replaced)
        } else {
            self.internal(&place, guard, form, replaced)
        }
    }

    /// Counts what a copied node refers to once more.
    fn share_below(&mut self, node: &Node<'_>) -> Result<()> {
        if node.is_leaf() {
            let values = node.packed_values(self.value_bytes)?;
            return self.counting.inc(self.txn, values);
        }
        for_each_run(node.children()?, |run| self.txn.inc_range(run))
    }

    fn internal(
        &mut self,
        place: &Place,
        guard: WriteGuard,
        form: Form,
        replaced: &mut Vec<Child>,
    ) -> Result<()> {
        let node = Node::parse(place.at, &guard)?;
        let (keys, children) = (node.keys(), node.children()?);
        let old = |index: usize| (keys[index].get(), BlockNr(children[index].get()));
        let mut entries: Vec<Child> = Vec::with_capacity(keys.len() + 8);
        // Children seen so far, and the first that the batch touches.
        let (mut seen, mut touched) = (0, None);
        let mut part = place.part.start..place.part.start;
        while part.end < place.part.end {
            part.start = part.end;
            // What is below every key goes to the first child.
            let index = node.search(self.batch.key(part.start)).unwrap_or(0);
            let above = keys.get(index + 1).map(|key| key.get());
            part.end = above.map_or(place.part.end, |above| {
                self.batch.seek(part.start..place.part.end, above)
            });
            entries.extend((seen..index).map(old));
            touched.get_or_insert(index);
            seen = index + 1;
            let (low, at) = old(index);
            let child = Place {
                at,
                low: Some(low),
                high: above.or(place.high),
                part: part.clone(),
                depth: place.depth + 1,
            };
            let first = entries.len();
            self.node(child, &mut entries)?;
            // A key may only be lowered: what is below it is below its neighbour's.
            if let Some(first) = entries.get_mut(first) {
                first.0 = first.0.min(low);
            }
        }
        entries.extend((seen..keys.len()).map(old));
        let append = place.high.is_none() && touched == Some(keys.len() - 1);
        let plan = Plan::new(entries.len(), form.capacity, append);
        let mut rest = &entries[..];
        write_nodes(
            self.txn,
            Some(guard),
            form,
            plan,
            replaced,
            |fill, count| {
                let (own, others) = rest.split_at(count);
                rest = others;
                fill.children(own);
            },
        )
    }

    fn leaf(
        &mut self,
        place: &Place,
        guard: WriteGuard,
        form: Form,
        replaced: &mut Vec<Child>,
    ) -> Result<()> {
        // The node is written over while its old entries are still read.
        let old: BlockData = (*guard).clone();
        let node = Node::parse(place.at, &old)?;
        let mut both = Both {
            keys: &node,
            values: node.packed_values(self.value_bytes)?,
            width: form.value_bytes,
            batch: &self.batch,
            old: 0,
            new: place.part.clone(),
            same: 0,
        };
        let old_entries = node.keys().len();
        // What surely fits one node need not be counted first.
        let mut entries = old_entries + place.part.len();
        if entries > form.capacity {
            entries -= both.common();
        }
        let last = node.keys().last().map(|key| key.get());
        let past = last.map_or(place.part.start, |last| {
            self.batch.seek(place.part.clone(), last.saturating_add(1))
        });
        // Most of what came lies behind everything that was there.
        let append = place.high.is_none() && 2 * (place.part.end - past) >= place.part.len();
        let plan = Plan::new(entries, form.capacity, append);
        let (counting, overwritten) = (&*self.counting, &mut self.overwritten);
        write_nodes(
            self.txn,
            Some(guard),
            form,
            plan,
            replaced,
            |fill, count| {
                both.fill(fill, count, |old, new| {
                    if !counting.equal(old, new) {
                        overwritten.extend_from_slice(old);
                    }
                });
            },
        )?;
        self.added += (place.part.len() - both.same) as u64;
        if !self.overwritten.is_empty() {
            self.counting.dec(self.txn, &self.overwritten)?;
            self.overwritten.clear();
        }
        Ok(())
    }
}

/// A leaf's old entries and the batch's new ones, in one order.
struct Both<'a, S> {
    keys: &'a Node<'a>,
    values: &'a [u8],
    width: usize,
    batch: &'a S,
    /// The next old entry.
    old: usize,
    /// New entries not yet taken.
    new: Range<usize>,
    /// Keys that were in both, so far.
    same: usize,
}

/// What comes next.
enum Run {
    Old(Range<usize>),
    New(Range<usize>),
    /// An old entry and the new one that takes its place.
    Same(usize, usize),
}

impl<S: Source> Both<'_, S> {
    fn next(&self, most: usize) -> Option<Run> {
        let (keys, old, new) = (self.keys.keys(), self.old, self.new.clone());
        let run = match (keys.get(old).map(|key| key.get()), new.is_empty()) {
            (None, true) => return None,
            (Some(_), true) => Run::Old(old..keys.len().min(old + most)),
            (None, false) => Run::New(new.start..new.end.min(new.start + most)),
            (Some(own), false) => {
                let other = self.batch.key(new.start);
                match own.cmp(&other) {
                    std::cmp::Ordering::Equal => Run::Same(old, new.start),
                    std::cmp::Ordering::Less => {
                        let end = self.keys.search_at_least_from(old, other);
                        Run::Old(old..end.min(old + most))
                    }
                    std::cmp::Ordering::Greater => {
                        let end = self.batch.seek(new.clone(), own);
                        Run::New(new.start..end.min(new.start + most))
                    }
                }
            }
        };
        Some(run)
    }

    fn take(&mut self, run: &Run) {
        match run {
            Run::Old(entries) => self.old = entries.end,
            Run::New(entries) => self.new.start = entries.end,
            Run::Same(old, new) => {
                (self.old, self.new.start) = (old + 1, new + 1);
                self.same += 1;
            }
        }
    }

    /// How many keys are in both, from here on; takes nothing.
    fn common(&self) -> usize {
        let mut ahead = Self {
            new: self.new.clone(),
            same: 0,
            ..*self
        };
        loop {
            let steps = ahead.steps_alike(usize::MAX);
            for _ in 0..steps {
                let (own, other) = ahead.keys_ahead();
                ahead.same += usize::from(own == other);
                ahead.step(own, other);
            }
            if steps == 0 {
                let Some(run) = ahead.next(usize::MAX / 2) else {
                    return ahead.same;
                };
                ahead.take(&run);
            }
        }
    }

    /// So many entries can be taken one by one before either side ends; 0 where
    /// one side has so many more that its runs had better be looked for.
    fn steps_alike(&self, most: usize) -> usize {
        let (old, new) = (self.keys.keys().len() - self.old, self.new.len());
        if old > 8 * new || new > 8 * old {
            return 0;
        }
        most.min(old).min(new)
    }

    fn keys_ahead(&self) -> (u64, u64) {
        (
            self.keys.keys()[self.old].get(),
            self.batch.key(self.new.start),
        )
    }

    /// Takes the smaller key's entry, or both. Which it is cannot be foretold,
    /// so that a branch would cost more than all the rest.
    fn step(&mut self, own: u64, other: u64) {
        self.old += usize::from(own <= other);
        self.new.start += usize::from(other <= own);
    }

    /// Moves the next `count` entries to a node, or what there is; `overwritten`
    /// sees the old and the new value where there are both.
    fn fill(
        &mut self,
        fill: &mut Fill<'_>,
        count: usize,
        mut overwritten: impl FnMut(&[u8], &[u8]),
    ) {
        let end = fill.len() + count;
        while fill.len() < end {
            let steps = self.steps_alike(end - fill.len());
            if steps > 0 {
                self.weave(fill, steps, &mut overwritten);
                continue;
            }
            let Some(run) = self.next(end - fill.len()) else {
                return;
            };
            match &run {
                Run::Old(entries) => {
                    let values = entries.start * self.width..entries.end * self.width;
                    fill.copy(&self.keys.keys()[entries.clone()], &self.values[values]);
                }
                Run::New(entries) => {
                    let (keys, values) = fill.next(entries.len());
                    self.batch.copy(entries.clone(), keys, values);
                }
                Run::Same(old, new) => {
                    overwritten(self.old_value(*old), self.batch.first_value(*new));
                    let (keys, values) = fill.next(1);
                    self.batch.copy(*new..new + 1, keys, values);
                }
            }
            self.take(&run);
        }
    }

    /// Moves so many entries to a node, one by one from either side.
    fn weave(
        &mut self,
        fill: &mut Fill<'_>,
        steps: usize,
        overwritten: &mut impl FnMut(&[u8], &[u8]),
    ) {
        let (keys, values) = fill.next(steps);
        for (key, value) in keys.iter_mut().zip(values.chunks_exact_mut(self.width)) {
            let (own, other) = self.keys_ahead();
            key.set(own.min(other));
            let (old, new) = (self.old_value(self.old), self.batch.value(self.new.start));
            // Both words are loaded, then one is chosen.
            match (word(old), word(new)) {
                (Some(old), Some(new)) if S::WORDS => {
                    let chosen = if other <= own { new } else { old };
                    value.copy_from_slice(&chosen.to_ne_bytes());
                }
                _ => value.copy_from_slice(if other <= own { new } else { old }),
            }
            if own == other {
                self.same += 1;
                overwritten(
                    self.old_value(self.old),
                    self.batch.first_value(self.new.start),
                );
            }
            self.step(own, other);
        }
    }

    fn old_value(&self, index: usize) -> &[u8] {
        &self.values[index * self.width..][..self.width]
    }
}

fn word(value: &[u8]) -> Option<u64> {
    Some(u64::from_ne_bytes(value.try_into().ok()?))
}
