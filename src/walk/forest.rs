//! All mapping trees at once: each node is read and verified once, however many
//! devices share it.
//!
//! The walk goes level by level from all roots. What a parent says of a child
//! cannot be checked then, as another parent may say something else; so each
//! node leaves a summary of what lies below it, and [`super::resolve`] compares
//! these with every parent afterwards.

use zerocopy::little_endian::U64;

use super::{BlockSet, Counts, Crew, Reader, Scatter, irregularities};
use crate::block::{BlockData, Validator};
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::MappingValue;
use crate::units::BlockNr;

/// The most damages and the like that are kept; more are only counted.
pub const MAX_KEPT: usize = 10_000;

/// Whether a node and what lies below it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Internal; its children have not been looked at.
    Open,
    /// Sound, all the way down.
    Sound,
    /// Damaged, or something below it is.
    Damaged,
}

/// What lies below a node.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// Smallest key; meaningless in an empty leaf.
    pub first: u64,
    /// Largest key.
    pub last: u64,
    /// Mappings in the leaves.
    pub entries: u32,
    /// Levels below: 0 in a leaf.
    pub height: u8,
    /// Whether the above is all there is.
    pub state: State,
}

impl Summary {
    pub(super) const OPEN: Self = Self {
        first: 0,
        last: 0,
        entries: 0,
        height: 0,
        state: State::Open,
    };
    pub(super) const DAMAGED: Self = Self {
        state: State::Damaged,
        ..Self::OPEN
    };
}

/// Why a mapping of a sound leaf is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadMapping {
    /// It points past the data device.
    BeyondData,
    /// Its virtual block lies past 2^64 bytes.
    BeyondVolume,
    /// It was made after the pool's clock.
    FutureTime,
}

/// Wrong mappings of one leaf.
#[derive(Clone, Copy, Debug)]
pub struct BadMappings {
    /// The leaf.
    pub leaf: u32,
    /// What is wrong.
    pub kind: BadMapping,
    /// First and last virtual block affected.
    pub keys: (u64, u64),
    /// The first wrong data block, virtual block or time.
    pub found: u64,
    /// How many are wrong.
    pub mappings: u32,
}

/// What the mappings have to keep to.
#[derive(Clone, Copy, Debug)]
pub struct ForestLimits {
    /// Blocks of the metadata.
    pub metadata_blocks: u64,
    /// Blocks of the data device.
    pub data_blocks: u64,
    /// Virtual blocks that a volume of 2^64 bytes has.
    pub virtual_blocks: u64,
    /// The pool's clock.
    pub time: u32,
}

/// What the walk found.
pub struct Forest {
    /// Index into `summaries` plus one, by block; 0 = not met.
    ids: Vec<u32>,
    pub(super) summaries: Vec<Summary>,
    /// Internal nodes by level, ascending blocks.
    pub internals: Vec<Vec<u32>>,
    /// Damaged nodes.
    pub damages: Vec<Damage>,
    /// Sound nodes that break a writers' rule.
    pub irregular: Vec<Damage>,
    /// Wrong mappings.
    pub bad_mappings: Vec<BadMappings>,
    /// Mappings in distinct leaves.
    pub mappings: u64,
    /// Findings that were not kept.
    pub dropped: u64,
}

/// One thread's share.
struct Worker<'c> {
    scatter: Option<Scatter<'c>>,
    /// Internal nodes and their children.
    internals: Vec<(u32, Vec<u64>)>,
    damages: Vec<Damage>,
    irregular: Vec<Damage>,
    bad_mappings: Vec<BadMappings>,
    mappings: u64,
}

impl Forest {
    /// Walks the trees under `roots` (ascending, distinct, in range). References
    /// made by internal nodes are added to `metadata`, those of leaves to `data`
    /// where it is given.
    ///
    /// # Errors
    /// Only [`Error::Interrupted`](crate::error::Error::Interrupted).
    pub fn walk(
        reader: &Reader<'_>,
        task: &Task<'_>,
        roots: &[u32],
        limits: ForestLimits,
        metadata: &mut Counts,
        data: Option<&Counts>,
    ) -> Result<Self> {
        let mut forest = Self {
            ids: vec![0; usize::try_from(limits.metadata_blocks).unwrap_or(0)],
            summaries: Vec::new(),
            internals: Vec::new(),
            damages: Vec::new(),
            irregular: Vec::new(),
            bad_mappings: Vec::new(),
            mappings: 0,
            dropped: 0,
        };
        let mut is_root = BlockSet::new(limits.metadata_blocks);
        roots
            .iter()
            .for_each(|root| _ = is_root.insert((*root).into()));
        let mut level: Vec<u32> = Vec::new();
        roots.iter().for_each(|root| forest.meet(*root, &mut level));
        forest.number(&mut level);
        for _ in 0..MAX_DEPTH {
            if level.is_empty() {
                break;
            }
            let first = forest.summaries.len() - level.len();
            let crew = data.map(|data| Crew::new(data, task.threads()));
            let (made, workers) = reader.visit(
                task,
                &level,
                NODE_NAME,
                Summary::DAMAGED,
                || Worker::new(crew.as_ref()),
                |worker, at, block| {
                    let root = is_root.contains(at.0);
                    let read = block.and_then(|block| worker.node(at, block, root, &limits));
                    Ok(read.unwrap_or_else(|damage| worker.damaged(damage)))
                },
            )?;
            forest.summaries.truncate(first);
            forest.summaries.extend(made);
            level = forest.take_in(workers, metadata);
        }
        for block in &level {
            let limit = format!("at most {MAX_DEPTH} levels");
            let damage = Damage::new(BlockNr((*block).into()), NODE_NAME, "depth", "more", limit);
            keep(&mut forest.damages, damage, &mut forest.dropped);
        }
        forest.damages.sort_by_key(|damage| damage.block);
        forest.irregular.sort_by_key(|damage| damage.block);
        forest.bad_mappings.sort_by_key(|bad| (bad.leaf, bad.keys));
        Ok(forest)
    }

    /// Nodes that were met, each once.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.summaries.len() as u64
    }

    /// The summary of a block that the walk met.
    #[must_use]
    pub fn summary(&self, block: u32) -> Option<&Summary> {
        self.summaries.get(self.id(block)?)
    }

    /// Sound leaves that have mappings, ascending, once the forest is resolved.
    pub fn leaves(&self) -> impl Iterator<Item = u32> {
        let met = (0..).zip(&self.ids).filter(|(_, id)| **id > 0);
        met.map(|(block, _)| block).filter(|block| {
            let is_leaf = |summary: &Summary| summary.state == State::Sound && summary.height == 0;
            let summary = self.summary(*block);
            summary.is_some_and(|summary| is_leaf(summary) && summary.entries > 0)
        })
    }

    pub(super) fn id(&self, block: u32) -> Option<usize> {
        (*self.ids.get(block as usize)? as usize).checked_sub(1)
    }

    /// Notes a block that is met for the first time, to be read with `level`.
    fn meet(&mut self, block: u32, level: &mut Vec<u32>) {
        if let Some(id @ 0) = self.ids.get_mut(block as usize) {
            // Set to its place by `number`, when the level is sorted.
            *id = u32::MAX;
            level.push(block);
            self.summaries.push(Summary::DAMAGED);
        }
    }

    /// Adds what the threads found; the blocks of the next level, ascending.
    fn take_in(&mut self, workers: Vec<Worker<'_>>, metadata: &mut Counts) -> Vec<u32> {
        let mut next = Vec::new();
        let mut internals = Vec::new();
        for worker in workers {
            self.mappings += worker.mappings;
            for (from, to) in [
                (worker.damages, &mut self.damages),
                (worker.irregular, &mut self.irregular),
            ] {
                from.into_iter()
                    .for_each(|damage| keep(to, damage, &mut self.dropped));
            }
            for bad in worker.bad_mappings {
                keep(&mut self.bad_mappings, bad, &mut self.dropped);
            }
            for (block, children) in worker.internals {
                internals.push(block);
                let limit = metadata.nr_blocks();
                for child in children {
                    match u32::try_from(child) {
                        Ok(usable) if usable != 0 && child < limit => {
                            metadata.add(child);
                            self.meet(usable, &mut next);
                        }
                        _ => {
                            let expected = format!("1 to {}", limit.saturating_sub(1));
                            let at = BlockNr(block.into());
                            let bad = Damage::new(at, NODE_NAME, "pointer", child, expected);
                            keep(&mut self.damages, bad, &mut self.dropped);
                        }
                    }
                }
            }
        }
        internals.sort_unstable();
        self.internals.push(internals);
        self.number(&mut next);
        next
    }

    /// Sorts a level and gives its blocks the ids that its summaries will have.
    fn number(&mut self, level: &mut [u32]) {
        level.sort_unstable();
        let first = self.summaries.len() - level.len();
        for (index, block) in level.iter().enumerate() {
            self.ids[*block as usize] = u32::try_from(first + index + 1).unwrap_or(u32::MAX);
        }
    }
}

/// Keeps a finding unless there are too many already.
pub(super) fn keep<T>(kept: &mut Vec<T>, found: T, dropped: &mut u64) {
    if kept.len() < MAX_KEPT {
        kept.push(found);
    } else {
        *dropped += 1;
    }
}

impl<'c> Worker<'c> {
    fn new(crew: Option<&'c Crew<'c>>) -> Self {
        Self {
            scatter: crew.map(Crew::join),
            internals: Vec::new(),
            damages: Vec::new(),
            irregular: Vec::new(),
            bad_mappings: Vec::new(),
            mappings: 0,
        }
    }

    fn damaged(&mut self, damage: Damage) -> Summary {
        self.damages.push(damage);
        Summary::DAMAGED
    }

    fn node(
        &mut self,
        at: BlockNr,
        block: &BlockData,
        is_root: bool,
        limits: &ForestLimits,
    ) -> Result<Summary, Damage> {
        NODE_VALIDATOR.check(at, block)?;
        let node = Node::parse(at, block)?;
        if !is_root && node.keys().is_empty() {
            return Err(Damage::new(
                at,
                NODE_NAME,
                "entries",
                0_u64,
                "at least 1 below the root",
            ));
        }
        let values = node.is_leaf().then(|| node.values::<U64>()).transpose()?;
        self.irregular.extend(irregularities(&node, is_root));
        let number = u32::try_from(at.0).unwrap_or(u32::MAX);
        if let Some(values) = values {
            self.mappings += values.len() as u64;
            self.leaf(number, node.keys(), values, limits);
            let key = |key: Option<&U64>| key.map_or(0, |key| key.get());
            return Ok(Summary {
                first: key(node.keys().first()),
                last: key(node.keys().last()),
                entries: u32::try_from(values.len()).unwrap_or(u32::MAX),
                height: 0,
                state: State::Sound,
            });
        }
        let children = node.children()?.iter().map(|child| child.get()).collect();
        self.internals.push((number, children));
        Ok(Summary::OPEN)
    }

    /// Counts a leaf's data blocks and looks for wrong ones.
    fn leaf(&mut self, leaf: u32, keys: &[U64], values: &[U64], limits: &ForestLimits) {
        let (mut data, mut time) = (0, 0);
        for value in values {
            let value = MappingValue(value.get());
            data = data.max(value.data_block());
            time = time.max(value.time());
        }
        let sound = data < limits.data_blocks;
        if let Some(scatter) = &mut self.scatter {
            for value in values {
                let block = MappingValue(value.get()).data_block();
                if sound || block < limits.data_blocks {
                    scatter.add(block);
                }
            }
        }
        if keys
            .last()
            .is_some_and(|key| key.get() >= limits.virtual_blocks)
        {
            let beyond = |key: u64, _| key >= limits.virtual_blocks;
            self.bad(
                leaf,
                BadMapping::BeyondVolume,
                keys,
                values,
                beyond,
                |key, _| key,
            );
        }
        if !sound {
            let beyond = |_, value: MappingValue| value.data_block() >= limits.data_blocks;
            let found = |_, value: MappingValue| value.data_block();
            self.bad(leaf, BadMapping::BeyondData, keys, values, beyond, found);
        }
        if time > limits.time {
            let future = |_, value: MappingValue| value.time() > limits.time;
            let found = |_, value: MappingValue| value.time().into();
            self.bad(leaf, BadMapping::FutureTime, keys, values, future, found);
        }
    }

    fn bad(
        &mut self,
        leaf: u32,
        kind: BadMapping,
        keys: &[U64],
        values: &[U64],
        is_bad: impl Fn(u64, MappingValue) -> bool,
        found: impl Fn(u64, MappingValue) -> u64,
    ) {
        let all = keys
            .iter()
            .zip(values)
            .map(|(key, value)| (key.get(), MappingValue(value.get())));
        let mut bad = all.filter(|(key, value)| is_bad(*key, *value));
        if let Some((first, value)) = bad.next() {
            let (last, more) = bad.fold((first, 1), |(_, count), (key, _)| (key, count + 1));
            let keys = (first, last);
            let found = found(first, value);
            self.bad_mappings.push(BadMappings {
                leaf,
                kind,
                keys,
                found,
                mappings: more,
            });
        }
    }
}
