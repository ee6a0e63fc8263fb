//! Doing a job: reading its leaves, checking them, and writing their runs.

use zerocopy::little_endian::U64;

use super::format::{Format, Section};
use super::nodes::{NodeReader, NodeRef};
use super::plan::{Item, Job};
use super::text::Text;
use crate::block::BlockData;
use crate::btree::Node;
use crate::error::{Damage, Result};
use crate::thin::{MappingValue, Pool, Run};

/// A run at the edge of a job, and the section that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    pub section: Section,
    pub run: Run,
}

/// What became of a job. The first and the last run are not written yet where a
/// neighbouring job may continue them.
#[derive(Default)]
pub(super) struct Part {
    /// The end of what another job began.
    pub first: Option<Edge>,
    /// What comes between.
    pub text: Text,
    /// The begin of what another job will end.
    pub last: Option<Edge>,
    /// Mappings told, and leaves that they lie in.
    pub mappings: u64,
    pub leaves: u64,
}

/// One thread's means to do jobs.
pub(super) struct Worker<'p, F> {
    pool: &'p Pool,
    nodes: NodeReader<'p>,
    format: F,
    /// Blocks of the job's leaves, in ascending order, and their bytes.
    blocks: Vec<u32>,
    leaves: Vec<BlockData>,
}

impl<'p, F: Format> Worker<'p, F> {
    pub fn new(pool: &'p Pool) -> Self {
        Self {
            pool,
            nodes: NodeReader::new(pool),
            format: F::default(),
            blocks: Vec::new(),
            leaves: Vec::new(),
        }
    }

    /// Does `job`; `text` is where to write.
    pub fn work(&mut self, job: &Job, mut text: Text) -> Result<Part> {
        text.clear();
        self.read_leaves(job)?;
        if let Some(section) = &job.section {
            self.format.resume(section);
        }
        let part = Part {
            text,
            ..Part::default()
        };
        let mut runs = Runs {
            format: &mut self.format,
            section: job.section,
            at_begin: job.section.is_some(),
            run: Open::default(),
            part,
        };
        for item in &job.items {
            match item {
                Item::Leaf(leaf) => {
                    let index = self.blocks.partition_point(|block| *block < leaf.block);
                    runs.leaf(leaf, &self.leaves[index], self.pool)?;
                }
                Item::Open(section) => {
                    runs.finish();
                    runs.section = Some(*section);
                    runs.format.open(section, &mut runs.part.text);
                }
                Item::Reference(name) => {
                    runs.finish();
                    runs.format.reference(*name, &mut runs.part.text);
                }
                Item::Close(section) => {
                    runs.finish();
                    runs.format.close(section, &mut runs.part.text);
                }
            }
        }
        Ok(runs.into_part())
    }

    /// Reads every leaf of the job, once each.
    fn read_leaves(&mut self, job: &Job) -> Result<()> {
        let leaf = |item: &Item| match item {
            Item::Leaf(leaf) => Some(leaf.block),
            _ => None,
        };
        self.blocks.clear();
        self.blocks.extend(job.items.iter().filter_map(leaf));
        self.blocks.sort_unstable();
        self.blocks.dedup();
        if self.leaves.len() < self.blocks.len() {
            self.leaves = BlockData::zeroed_blocks(self.blocks.len().next_power_of_two());
        }
        let leaves = &mut self.leaves;
        self.nodes.read_each(&self.blocks, |index, block| {
            leaves[index].bytes_mut().copy_from_slice(block.bytes());
            Ok(())
        })
    }
}

/// The run that grows, as it lies in the leaf. No blocks: there is none.
#[derive(Clone, Copy, Default)]
struct Open {
    first_key: u64,
    first_value: u64,
    last_key: u64,
    last_value: u64,
    blocks: u64,
}

/// From one data block to the next, at the same time.
const NEXT_BLOCK: u64 = 1 << 24;

impl Open {
    /// Takes in a mapping that follows in both spaces and is of the same time.
    #[inline]
    fn join(&mut self, key: u64, value: u64) -> bool {
        let follows = self.blocks != 0
            && key.wrapping_sub(self.last_key) == 1
            && value.wrapping_sub(self.last_value) == NEXT_BLOCK
            && value > self.last_value;
        if follows {
            (self.last_key, self.last_value) = (key, value);
            self.blocks += 1;
        }
        follows
    }

    fn single(key: u64, value: u64) -> Self {
        Self {
            first_key: key,
            first_value: value,
            last_key: key,
            last_value: value,
            blocks: 1,
        }
    }

    #[inline]
    fn run(&self) -> Option<Run> {
        let value = MappingValue(self.first_value);
        (self.blocks != 0).then_some(Run {
            virtual_begin: self.first_key,
            data_begin: value.data_block(),
            length_blocks: self.blocks,
            time: value.time(),
        })
    }
}

/// Turns mappings into runs and writes all but the job's first and last.
struct Runs<'w, F> {
    format: &'w mut F,
    section: Option<Section>,
    /// Nothing of the job was written: its first run may continue another's.
    at_begin: bool,
    run: Open,
    part: Part,
}

impl<F: Format> Runs<'_, F> {
    fn leaf(&mut self, at: &NodeRef, block: &BlockData, pool: &Pool) -> Result<()> {
        let node = at.parse(block)?;
        let (keys, values) = (node.keys(), node.values::<U64>()?);
        check_values(&node, values, pool)?;
        let mut run = self.run;
        for (key, value) in keys.iter().zip(values) {
            let (key, value) = (key.get(), value.get());
            if !run.join(key, value) {
                self.put(run);
                run = Open::single(key, value);
            }
        }
        self.run = run;
        self.part.mappings += keys.len() as u64;
        self.part.leaves += 1;
        Ok(())
    }

    #[inline]
    fn put(&mut self, run: Open) {
        let Some(run) = run.run() else {
            return;
        };
        if self.at_begin {
            self.at_begin = false;
            self.part.first = self.edge(run);
        } else {
            self.format.run(&run, &mut self.part.text);
        }
    }

    /// No run goes on from here.
    fn finish(&mut self) {
        let run = std::mem::take(&mut self.run);
        self.put(run);
        self.at_begin = false;
    }

    fn edge(&self, run: Run) -> Option<Edge> {
        self.section.map(|section| Edge { section, run })
    }

    fn into_part(mut self) -> Part {
        if self.at_begin {
            self.put(self.run);
        } else {
            self.part.last = self.run.run().and_then(|run| self.edge(run));
        }
        self.part
    }
}

/// Refuses mappings that point past the data device.
fn check_values(node: &Node<'_>, values: &[U64], pool: &Pool) -> Result<(), Damage> {
    let (at, limits) = (node.location(), pool.limits());
    let Some(highest) = values.iter().map(|value| value.get()).max() else {
        return Ok(());
    };
    if limits.check(at, 0, highest).is_ok() {
        return Ok(());
    }
    let mut mappings = node.keys().iter().zip(values);
    mappings.try_for_each(|(key, value)| limits.check(at, key.get(), value.get()))
}
