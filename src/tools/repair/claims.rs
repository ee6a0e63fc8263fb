//! What has become of a deleted device's data.
//!
//! Each of its mappings is held against those of all others. A data block that somebody has
//! now was given out again, unless it is shared: the other one has it at the same virtual
//! block and of the same time, and the pool's clock has ticked since while the device was
//! there. For whatever is mapped at a time was written then, and a block that the device
//! had beyond that time could not be given out meanwhile.
//!
//! A block that nobody has may have had other owners in between. Old leaves tell of some.

use super::leaves::runs;
use crate::error::Result;
use crate::thin::{MAX_TIME, Run};
use crate::tools::dump::nodes::{NodeReader, NodeRef};
use crate::walk::{BlockSet, ForestLimits};

/// What became of a data block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Nobody has it, and nothing tells that anybody had.
    Free,
    /// Nobody has it, and by an old node somebody else may have had it since.
    Doubtful,
    /// Another device has it too, by the same snapshot.
    Shared,
    /// Somebody else has it now.
    Overwritten,
}

impl Fate {
    /// The word used in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Doubtful => "doubtful",
            Self::Shared => "shared",
            Self::Overwritten => "overwritten",
        }
    }
}

/// Virtual blocks of a deleted device that have one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FateRange {
    /// First one.
    pub begin: u64,
    /// One past the last.
    pub end: u64,
    /// What became of their data.
    pub fate: Fate,
    /// A device that has them now.
    pub owner: Option<u64>,
}

/// Who has a leaf.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub id: u64,
    /// When the last snapshot of it was made.
    pub snapshotted_time: u32,
    /// It is a device of the metadata snapshot alone.
    pub held: bool,
}

/// A mapping of a deleted device.
#[derive(Clone, Copy)]
struct Claim {
    data: u64,
    virtual_block: u64,
    time: u32,
    /// Who has it now, if somebody has.
    owner: u32,
    fate: Fate,
}

/// All mappings of a deleted device.
pub(super) struct Claims {
    id: u64,
    era: u32,
    /// By data block.
    claims: Vec<Claim>,
}

impl Claims {
    /// Those of these runs; `era`: the device was still there at this time.
    pub fn new(id: u64, era: u32, runs: &[Run]) -> Self {
        let each = |run: &Run| {
            let run = *run;
            (0..run.length_blocks).map(move |at| Claim {
                data: run.data_begin + at,
                virtual_block: run.virtual_begin + at,
                time: run.time,
                owner: 0,
                fate: Fate::Free,
            })
        };
        let mut claims: Vec<Claim> = runs.iter().flat_map(each).collect();
        claims.sort_unstable_by_key(|claim| (claim.data, claim.virtual_block));
        Self { id, era, claims }
    }

    /// The claims to a run, each with the virtual block that another one has it at.
    fn on_run(&mut self, run: &Run, mut visit: impl FnMut(&mut Claim, u64)) {
        let end = run.data_begin + run.length_blocks;
        let first = self
            .claims
            .partition_point(|claim| claim.data < run.data_begin);
        let claims = self.claims[first..].iter_mut();
        for claim in claims.take_while(|claim| claim.data < end) {
            let at = run.virtual_begin + (claim.data - run.data_begin);
            visit(claim, at);
        }
    }

    /// Takes note of what a device has now.
    pub fn meet(&mut self, owner: Owner, runs: &[Run]) {
        let (id, era) = (self.id, self.era);
        for run in runs {
            self.on_run(run, |claim, at| {
                let is_same = claim.virtual_block == at && claim.time == run.time;
                // The metadata snapshot has the device itself, as it was then.
                let is_own = owner.held && owner.id == id;
                let is_shared = run.time < era && run.time < owner.snapshotted_time;
                let fate = match is_same && (is_own || is_shared) {
                    true if owner.held => return,
                    true => Fate::Shared,
                    false => Fate::Overwritten,
                };
                if fate > claim.fate {
                    claim.fate = fate;
                    claim.owner = u32::try_from(owner.id).unwrap_or(u32::MAX);
                }
            });
        }
    }

    /// Takes note of an old leaf, whosever that was; `now` is the pool's clock.
    fn meet_old(&mut self, runs: &[Run], now: u32) {
        for run in runs.iter().filter(|run| run.time <= now) {
            self.on_run(run, |claim, at| {
                let is_same = claim.virtual_block == at && claim.time == run.time;
                if claim.fate == Fate::Free && !is_same && run.time >= claim.time {
                    claim.fate = Fate::Doubtful;
                }
            });
        }
    }

    /// Old leaves that may tell something: all but those of the device itself.
    pub fn meet_all_old(
        &mut self,
        nodes: &mut NodeReader<'_>,
        leaves: &[u32],
        own: &BlockSet,
        limits: ForestLimits,
        step: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        const LEAVES: usize = 256;
        let others = leaves.iter().filter(|leaf| !own.contains((**leaf).into()));
        let others: Vec<u32> = others.copied().collect();
        // As they are: what is later than the clock is from another pool's life.
        let now = limits.time;
        let limits = ForestLimits {
            time: MAX_TIME,
            ..limits
        };
        for part in others.chunks(LEAVES) {
            step()?;
            nodes.read_each(part, |index, block| {
                let node = NodeRef::root(part[index]).parse(block)?;
                self.meet_old(&runs(&node, limits)?, now);
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Ranges of virtual blocks of one fate, ascending, and who has them now.
    pub fn ranges(mut self) -> Vec<FateRange> {
        self.claims
            .sort_unstable_by_key(|claim| claim.virtual_block);
        let mut ranges: Vec<FateRange> = Vec::new();
        for claim in &self.claims {
            let at = claim.virtual_block;
            let has_owner = claim.fate >= Fate::Shared;
            let owner = has_owner.then_some(u64::from(claim.owner));
            match ranges.last_mut() {
                Some(last) if last.end == at && (last.fate, last.owner) == (claim.fate, owner) => {
                    last.end = at + 1;
                }
                _ => ranges.push(FateRange {
                    begin: at,
                    end: at + 1,
                    fate: claim.fate,
                    owner,
                }),
            }
        }
        ranges
    }
}
