//! Two devices side by side.

use std::sync::Arc;

use crate::error::Result;
use crate::thin::{Pool, Run, RunCursor};

/// Runs that are held at a time.
const RUNS: usize = 4096;

/// One device's runs, with one to look at.
struct Side {
    cursor: RunCursor,
    runs: Vec<Run>,
    next: usize,
    /// What is left of the run in turn.
    rest: Option<Run>,
}

impl Side {
    fn open(pool: &Arc<Pool>, id: u64) -> Result<Self> {
        Ok(Self {
            cursor: pool.device_by_id(id)?.runs(0, None),
            runs: Vec::new(),
            next: 0,
            rest: None,
        })
    }

    fn peek(&mut self) -> Result<Option<Run>> {
        if self.rest.is_none() {
            if self.next == self.runs.len() {
                self.runs.clear();
                self.next = 0;
                self.cursor.fill(&mut self.runs, RUNS)?;
            }
            self.rest = self.runs.get(self.next).copied();
            self.next += usize::from(self.rest.is_some());
        }
        Ok(self.rest)
    }

    /// Takes the first blocks of the run in turn.
    fn take(&mut self, blocks: u64) -> Option<Run> {
        let run = self.rest.take()?;
        if blocks < run.length_blocks {
            self.rest = Some(Run {
                virtual_begin: run.virtual_begin + blocks,
                data_begin: run.data_begin + blocks,
                length_blocks: run.length_blocks - blocks,
                time: run.time,
            });
        }
        let length_blocks = blocks.min(run.length_blocks);
        Some(Run {
            length_blocks,
            ..run
        })
    }
}

/// Virtual blocks that are mapped by either device or by both; the runs begin and end with
/// each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Both {
    pub origin: Option<Run>,
    pub snapshot: Option<Run>,
}

impl Both {
    /// What the snapshot has, or else the origin.
    pub fn merged(&self) -> Option<Run> {
        self.snapshot.or(self.origin)
    }

    pub fn length(&self) -> u64 {
        self.merged().map_or(0, |run| run.length_blocks)
    }
}

/// What either device maps, in ascending order.
pub(super) struct Overlay {
    origin: Side,
    snapshot: Side,
}

impl Overlay {
    pub fn open(pool: &Arc<Pool>, origin: u64, snapshot: u64) -> Result<Self> {
        Ok(Self {
            origin: Side::open(pool, origin)?,
            snapshot: Side::open(pool, snapshot)?,
        })
    }

    pub fn next(&mut self) -> Result<Option<Both>> {
        let (one, other) = (self.origin.peek()?, self.snapshot.peek()?);
        let both = match (one, other) {
            (None, None) => return Ok(None),
            (Some(one), Some(other)) if one.virtual_begin == other.virtual_begin => {
                let blocks = one.length_blocks.min(other.length_blocks);
                Both {
                    origin: self.origin.take(blocks),
                    snapshot: self.snapshot.take(blocks),
                }
            }
            (one, other) => {
                // Up to where the other one begins.
                let begins = |run: Option<Run>| run.map_or(u64::MAX, |run| run.virtual_begin);
                let (one, other) = (begins(one), begins(other));
                let (origin, snapshot) = if one < other {
                    (self.origin.take(other - one), None)
                } else {
                    (None, self.snapshot.take(one - other))
                };
                Both { origin, snapshot }
            }
        };
        Ok(Some(both))
    }
}
