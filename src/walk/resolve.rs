//! From the leaves up: does every node hold what its parents say?
//!
//! Internal nodes are read again, in batches, rather than kept: they are one in
//! a hundred. Trees of different heights may share nodes, so that one pass from
//! the last level to the first need not be enough; passes go on as long as they
//! settle something. What never settles is a loop.

use super::Reader;
use super::forest::{Forest, State, Summary, keep};
use crate::block::{BlockData, Validator};
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::units::BlockNr;

impl Forest {
    /// Settles every internal node; what is wrong joins `damages`.
    ///
    /// # Errors
    /// Only [`Error::Interrupted`](crate::error::Error::Interrupted).
    pub fn resolve(&mut self, reader: &Reader<'_>, task: &Task<'_>) -> Result<()> {
        let mut open: Vec<Vec<u32>> = self.internals.iter().rev().cloned().collect();
        // A node is settled after those below it, of which there are sixteen levels at most.
        for _ in 0..MAX_DEPTH {
            let mut settled = 0;
            for level in &mut open {
                let left = self.resolve_level(reader, task, level)?;
                settled += level.len() - left.len();
                *level = left;
            }
            if settled == 0 {
                break;
            }
        }
        for block in open.into_iter().flatten() {
            let at = BlockNr(block.into());
            let found = "a path that leads back or goes too deep";
            let damage = Damage::new(at, NODE_NAME, "loop", found, "none");
            keep(&mut self.damages, damage, &mut self.dropped);
            self.settle(block, Summary::DAMAGED);
        }
        // Several parents may say different things of a node; threads tell in any order.
        self.damages.sort_by_cached_key(|damage| {
            let (found, expected) = (damage.found.to_string(), damage.expected.to_string());
            (damage.block, damage.check, found, expected)
        });
        Ok(())
    }

    /// Settles what can be settled of a level; the rest is returned.
    fn resolve_level(
        &mut self,
        reader: &Reader<'_>,
        task: &Task<'_>,
        level: &[u32],
    ) -> Result<Vec<u32>> {
        let known = &*self;
        let (made, found) = reader.visit(
            task,
            level,
            NODE_NAME,
            Summary::OPEN,
            Vec::new,
            |damages: &mut Vec<Damage>, at, block| {
                let summary = block.and_then(|block| known.sum_up(at, block, damages));
                Ok(summary.unwrap_or_else(|damage| {
                    damages.push(damage);
                    Summary::DAMAGED
                }))
            },
        )?;
        for damage in found.into_iter().flatten() {
            keep(&mut self.damages, damage, &mut self.dropped);
        }
        let mut left = Vec::new();
        for (block, summary) in level.iter().zip(made) {
            match summary.state {
                State::Open => left.push(*block),
                _ => self.settle(*block, summary),
            }
        }
        Ok(left)
    }

    fn settle(&mut self, block: u32, summary: Summary) {
        if let Some(id) = self.id(block) {
            self.summaries[id] = summary;
        }
    }

    /// The summary of an internal node from its children's, or [`Summary::OPEN`]
    /// while one of them is open.
    fn sum_up(
        &self,
        at: BlockNr,
        block: &BlockData,
        damages: &mut Vec<Damage>,
    ) -> Result<Summary, Damage> {
        NODE_VALIDATOR.check(at, block)?;
        let node = Node::parse(at, block)?;
        let (keys, children) = (node.keys(), node.children()?);
        let child = |index: usize| {
            let block = u32::try_from(children[index].get()).ok()?;
            self.summary(block)
        };
        if (0..children.len())
            .filter_map(child)
            .any(|child| child.state == State::Open)
        {
            return Ok(Summary::OPEN);
        }
        let first = keys.first().map_or(0, |key| key.get());
        let mut sum = Summary {
            first,
            last: first,
            entries: 0,
            height: 0,
            state: State::Sound,
        };
        let mut height = None;
        for (index, key) in keys.iter().enumerate() {
            let Some(below) = child(index) else {
                sum.state = State::Damaged;
                continue;
            };
            sum.entries = sum.entries.saturating_add(below.entries);
            if below.state == State::Damaged {
                sum.state = State::Damaged;
                continue;
            }
            if below.entries == 0 && below.height == 0 {
                // Sound as the root that it is elsewhere, and only as that.
                let at = BlockNr(children[index].get());
                let expected = "at least 1 below the root";
                damages.push(Damage::new(at, NODE_NAME, "entries", 0_u64, expected));
                sum.state = State::Damaged;
                continue;
            }
            sum.last = sum.last.max(below.last);
            let next = keys.get(index + 1).map(|next| next.get());
            let at = BlockNr(children[index].get());
            if let Some(damage) = out_of_bounds(at, below, key.get(), next) {
                damages.push(damage);
                sum.state = State::Damaged;
            }
            if *height.get_or_insert(below.height) != below.height {
                let (found, expected) = (u32::from(below.height), height.map_or(0, u32::from));
                damages.push(Damage::new(at, NODE_NAME, "height", found, expected));
                sum.state = State::Damaged;
            }
        }
        sum.height = height.unwrap_or(0).saturating_add(1);
        // The walk from the roots cannot tell: another root may be further down.
        if usize::from(sum.height) >= MAX_DEPTH {
            let limit = format!("at most {MAX_DEPTH} levels");
            damages.push(Damage::new(at, NODE_NAME, "depth", "more", limit));
            sum.state = State::Damaged;
        }
        Ok(sum)
    }
}

fn out_of_bounds(at: BlockNr, below: &Summary, low: u64, high: Option<u64>) -> Option<Damage> {
    let bad = |found: u64, expected: String| {
        Some(Damage::new(at, NODE_NAME, "key bounds", found, expected))
    };
    match high {
        _ if below.first < low => bad(below.first, format!("{low} or more")),
        Some(high) if below.last >= high => bad(below.last, format!("below {high}")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PoolBuilder, mapping};
    use crate::walk::{Counts, ForestLimits};

    #[test]
    fn an_empty_leaf_is_sound_as_a_root_alone() {
        let mut builder = PoolBuilder::new(100);
        let empty = builder.leaf::<u64>(&[]);
        let full = builder.leaf(&[(7, mapping(1, 0))]);
        let parent = builder.internal(&[(0, empty), (7, full)]);
        builder.device(1, empty);
        let damages = |builder: &PoolBuilder, roots: &[BlockNr]| {
            let pool = builder.open();
            let reader = Reader::new(&**pool.device(), true);
            let limits = ForestLimits {
                metadata_blocks: pool.blocks().nr_blocks(),
                data_blocks: 100,
                virtual_blocks: 1 << 40,
                time: 0,
            };
            let roots: Vec<u32> = roots.iter().map(|root| root.0 as u32).collect();
            let (task, mut counts) = (Task::default(), Counts::new(limits.metadata_blocks));
            let forest = Forest::walk(&reader, &task, &roots, limits, &mut counts, None);
            let mut forest = forest.unwrap();
            forest.resolve(&reader, &task).unwrap();
            let of = |damage: &Damage| (damage.block, damage.check);
            forest.damages.iter().map(of).collect::<Vec<_>>()
        };
        assert_eq!(damages(&builder, &[empty, full]), []);
        assert_eq!(damages(&builder, &[empty, parent]), [(empty, "entries")]);
        assert_eq!(damages(&builder, &[parent]), [(empty, "entries")]);
    }

    /// Every node has many of the following ones as children, and roots stand all
    /// along: breadth first, hardly a node is settled in the pass that reaches it.
    #[test]
    fn a_crafted_graph_costs_a_bounded_number_of_passes() {
        const NODES: u64 = 500;
        let mut builder = PoolBuilder::new(100);
        let mut nodes = vec![builder.leaf(&[(0, mapping(1, 0))])];
        for _ in 0..NODES {
            let below = nodes.iter().rev().take(60).copied();
            let children: Vec<_> = (0..).zip(below).collect();
            nodes.push(builder.internal(&children));
        }
        for (id, root) in (0..).zip(nodes.iter().step_by(9)) {
            builder.device(id, *root);
        }
        let (pool, device) = builder.open_counted();
        let mut roots: Vec<u32> = nodes.iter().step_by(9).map(|root| root.0 as u32).collect();
        roots.sort_unstable();
        let reader = Reader::new(&**pool.device(), true);
        let metadata_blocks = pool.blocks().nr_blocks();
        let limits = ForestLimits {
            metadata_blocks,
            data_blocks: 100,
            virtual_blocks: 1 << 40,
            time: 0,
        };
        let task = Task::new(None, Some(1));
        let mut counts = Counts::new(metadata_blocks);
        let mut forest = Forest::walk(&reader, &task, &roots, limits, &mut counts, None).unwrap();
        device.take_blocks_read();
        forest.resolve(&reader, &task).unwrap();
        assert!(device.take_blocks_read() <= MAX_DEPTH as u64 * NODES);
        assert!(!forest.damages.is_empty());
        assert!(
            forest
                .summaries
                .iter()
                .all(|summary| summary.state != State::Open)
        );
    }
}
