//! Cutting a dump into jobs: what is to be printed, in order, a few leaves at a
//! time.

use super::format::Section;
use super::nodes::{NodeReader, NodeRef, Reached, TreeWalk};
use super::shared::Shared;
use super::work::Part;
use crate::error::Result;

/// A device or a shared node, and the tree that has its mappings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    pub section: Section,
    pub root: NodeRef,
    /// Levels below the root, if known.
    pub height: Option<usize>,
}

/// A step of a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    Open(Section),
    Leaf(NodeRef),
    Reference(u32),
    Close(Section),
}

/// Steps that follow each other.
#[derive(Debug, Default)]
pub(super) struct Job {
    /// The section that is open when the job begins.
    pub section: Option<Section>,
    pub items: Vec<Item>,
}

/// Steps of a job for each leaf of it, at most: so many are no more work.
const ITEMS_PER_LEAF: usize = 16;

/// Makes the jobs of all sources.
pub(super) struct Planner<'p, S> {
    nodes: NodeReader<'p>,
    sources: S,
    shared: Option<&'p Shared>,
    job_leaves: usize,
    current: Option<(Section, TreeWalk)>,
}

impl<'p, S: Iterator<Item = Source>> Planner<'p, S> {
    /// `shared`: nodes that were told before the sources and are only referred to.
    pub fn new(
        nodes: NodeReader<'p>,
        sources: S,
        shared: Option<&'p Shared>,
        job_leaves: usize,
    ) -> Self {
        Self {
            nodes,
            sources,
            shared,
            job_leaves,
            current: None,
        }
    }

    /// Work done with `part`, in the units that were expected of the task.
    pub fn progress(&self, part: &Part) -> u64 {
        match self.shared {
            None => part.mappings,
            Some(_) => part.leaves,
        }
    }

    /// The next job, put into `items`; `None` at the end.
    pub fn next_job(&mut self, items: Vec<Item>) -> Result<Option<Job>> {
        let section = self.current.as_ref().map(|(section, _)| *section);
        let mut job = Job { section, items };
        job.items.clear();
        let mut leaves = 0;
        while leaves < self.job_leaves && job.items.len() < self.job_leaves * ITEMS_PER_LEAF {
            let Some((section, walk)) = &mut self.current else {
                let Some(source) = self.sources.next() else {
                    break;
                };
                self.begin(source, &mut job);
                continue;
            };
            let shared = self.shared;
            let stop = |block| shared.is_some_and(|shared| shared.contains(block));
            match walk.next(&mut self.nodes, stop)? {
                Some(Reached::Leaf(leaf)) => {
                    leaves += 1;
                    job.items.push(Item::Leaf(leaf));
                }
                Some(Reached::Stop(block)) => job.items.push(Item::Reference(block)),
                None => {
                    job.items.push(Item::Close(*section));
                    self.current = None;
                }
            }
        }
        Ok((!job.items.is_empty()).then_some(job))
    }

    fn begin(&mut self, source: Source, job: &mut Job) {
        let Source {
            section,
            root,
            height,
        } = source;
        job.items.push(Item::Open(section));
        match (section, self.shared) {
            (Section::Device(_), Some(shared)) if shared.contains(root.block) => {
                job.items.push(Item::Reference(root.block));
                job.items.push(Item::Close(section));
            }
            _ => self.current = Some((section, TreeWalk::new(root, height))),
        }
    }
}
