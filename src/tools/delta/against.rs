//! Comparing with a bookmark: by runs, and by the time rule.

use super::table::{Builder, Delta, Kind};
use crate::bookmark::{Bookmark, Head, SavedRuns};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Run, RunCursor, ThinDevice};

/// Runs of a device that are read at once.
const RUNS_AT_ONCE: usize = 1 << 14;
/// Runs between two reports to the task.
const STEP: u64 = 1 << 12;

/// One side of a comparison of which one at least is a bookmark.
pub enum Sided<'a> {
    /// A volume of the pool.
    Device(&'a ThinDevice),
    /// A saved state.
    Saved(&'a Bookmark),
}

/// The ranges in which two states differ, the earlier of which is a bookmark. A block is the
/// same if data block and time of its mapping are equal and the time is below that of the
/// earlier state; a block of equal data blocks that is not proven the same is
/// [`Kind::Changed`].
///
/// # Errors
/// [`Error::WrongBase`] where the sides cannot be of one pool, or the device is the earlier
/// state; [`Error::Usage`] for two devices, which [`super::delta`] compares;
/// [`Error::Stream`], [`Error::Damaged`], [`Error::Io`], or what the task's monitor answers.
pub fn delta_against(
    left: &Sided<'_>,
    right: &Sided<'_>,
    same: bool,
    task: &Task<'_>,
) -> Result<Delta> {
    let mut rows = Builder::new(same);
    let sectors = compare(left, right, task, &mut rows)?;
    Ok(rows.finish(u64::from(sectors) << 9))
}

/// Fills in the rows; the size of a data block in sectors.
pub(super) fn compare(
    left: &Sided<'_>,
    right: &Sided<'_>,
    task: &Task<'_>,
    rows: &mut Builder,
) -> Result<u32> {
    let (before, sectors) = earlier(left, right)?;
    let compared = Comparison {
        left: Runs::of(left)?,
        right: Runs::of(right)?,
        before,
        most: u64::MAX / (u64::from(sectors) << 9),
        task,
    }
    .run(rows);
    let mut pools = [left, right].into_iter().filter_map(|side| match side {
        Sided::Device(device) => Some(device.pool()),
        Sided::Saved(_) => None,
    });
    match pools.next() {
        Some(pool) => pool.confirmed(compared)?,
        None => compared?,
    }
    Ok(sectors)
}

/// Every run of one side.
pub(in crate::tools) fn each_run(
    side: &Sided<'_>,
    task: &Task<'_>,
    mut take: impl FnMut(&Run),
) -> Result<()> {
    let mut read = || {
        let mut runs = Runs::of(side)?;
        let mut steps = 0_u64;
        while let Some(run) = runs.head {
            take(&run);
            runs.refill()?;
            steps += 1;
            if steps.is_multiple_of(STEP) {
                task.step(0, STEP)?;
            }
        }
        Ok(())
    };
    match side {
        Sided::Device(device) => device.pool().confirmed(read()),
        Sided::Saved(_) => read(),
    }
}

/// T of the earlier state, and the size of a data block in sectors.
fn earlier(left: &Sided<'_>, right: &Sided<'_>) -> Result<(u32, u32)> {
    match (left, right) {
        (Sided::Device(_), Sided::Device(_)) => {
            Err(Error::usage("two devices are compared without a bookmark"))
        }
        (Sided::Saved(saved), Sided::Device(device))
        | (Sided::Device(device), Sided::Saved(saved)) => {
            let (head, superblock) = (saved.head(), device.pool().superblock());
            same_blocks(head, superblock.data_block_size.get())?;
            let now = superblock.time.get();
            if now < head.pool_time {
                return Err(Error::WrongBase(format!(
                    "the pool's clock is {now}, and was {} when the bookmark was saved: this is \
                     another pool, or an earlier state of it",
                    head.pool_time
                )));
            }
            Ok((head.creation_time, head.data_block_size_sectors))
        }
        (Sided::Saved(left), Sided::Saved(right)) => {
            let (left, right) = (left.head(), right.head());
            same_blocks(left, right.data_block_size_sectors)?;
            if left.pool_uuid != right.pool_uuid
                && !left.pool_uuid.is_empty()
                && !right.pool_uuid.is_empty()
            {
                return Err(Error::WrongBase(format!(
                    "the bookmarks are of different pools, {} and {}",
                    left.pool_uuid, right.pool_uuid
                )));
            }
            let before = left.creation_time.min(right.creation_time);
            Ok((before, left.data_block_size_sectors))
        }
    }
}

fn same_blocks(head: &Head, sectors: u32) -> Result<()> {
    let saved = head.data_block_size_sectors;
    if saved == sectors {
        return Ok(());
    }
    Err(Error::WrongBase(format!(
        "the bookmark is of a pool with data blocks of {saved} sectors, this one has {sectors}"
    )))
}

/// Runs of one side, of which a part may be used up.
struct Runs {
    source: Source,
    head: Option<Run>,
}

enum Source {
    Device {
        cursor: Box<RunCursor>,
        runs: Vec<Run>,
        next: usize,
        more: bool,
    },
    Saved(SavedRuns),
}

impl Runs {
    fn of(side: &Sided<'_>) -> Result<Self> {
        let source = match side {
            Sided::Device(device) => Source::Device {
                cursor: Box::new(device.runs(0, None)),
                runs: Vec::new(),
                next: 0,
                more: true,
            },
            Sided::Saved(saved) => Source::Saved(saved.runs()?),
        };
        let mut runs = Self { source, head: None };
        runs.refill()?;
        Ok(runs)
    }

    fn refill(&mut self) -> Result<()> {
        self.head = match &mut self.source {
            Source::Saved(saved) => saved.next_run()?,
            Source::Device {
                cursor,
                runs,
                next,
                more,
            } => {
                if *next == runs.len() && *more {
                    runs.clear();
                    *next = 0;
                    *more = cursor.fill(runs, RUNS_AT_ONCE)?;
                }
                let head = runs.get(*next).copied();
                *next += usize::from(head.is_some());
                head
            }
        };
        Ok(())
    }

    /// Uses up the first `blocks` of the head.
    fn advance(&mut self, blocks: u64) -> Result<()> {
        let Some(head) = &mut self.head else {
            return Ok(());
        };
        if blocks < head.length_blocks {
            head.virtual_begin += blocks;
            head.data_begin += blocks;
            head.length_blocks -= blocks;
            return Ok(());
        }
        self.refill()
    }
}

struct Comparison<'a> {
    left: Runs,
    right: Runs,
    /// Mappings of this time and later prove nothing.
    before: u32,
    /// No virtual block may reach this: its end in bytes could not be told.
    most: u64,
    task: &'a Task<'a>,
}

impl Comparison<'_> {
    fn run(mut self, rows: &mut Builder) -> Result<()> {
        let mut steps = 0_u64;
        loop {
            steps += 1;
            if steps.is_multiple_of(STEP) {
                self.task.step(0, STEP)?;
            }
            let (left, right) = (self.left.head, self.right.head);
            let ends = [left, right].into_iter().flatten();
            let mut ends = ends.map(|run| run.virtual_begin.saturating_add(run.length_blocks));
            if ends.any(|end| end > self.most) {
                let text = "a mapping lies beyond 2^64 bytes";
                return Err(Error::Stream(text.to_owned()));
            }
            let (kind, begin, length) = match (left, right) {
                (None, None) => return Ok(()),
                (Some(left), None) => (Kind::LeftOnly, left.virtual_begin, left.length_blocks),
                (None, Some(right)) => (Kind::RightOnly, right.virtual_begin, right.length_blocks),
                (Some(left), Some(right)) => self.first(&left, &right),
            };
            let data = |run: Option<Run>, there: bool| {
                run.filter(|_| there).map_or(0, |run| run.data_begin)
            };
            let (in_left, in_right) = (kind.has_left(), kind.has_right());
            rows.add_range(
                kind,
                begin,
                length,
                data(left, in_left),
                data(right, in_right),
            );
            if in_left {
                self.left.advance(length)?;
            }
            if in_right {
                self.right.advance(length)?;
            }
        }
    }

    /// The first stretch that is of one kind.
    fn first(&self, left: &Run, right: &Run) -> (Kind, u64, u64) {
        let (begin, other) = (left.virtual_begin, right.virtual_begin);
        if begin < other {
            return (Kind::LeftOnly, begin, left.length_blocks.min(other - begin));
        }
        if other < begin {
            return (
                Kind::RightOnly,
                other,
                right.length_blocks.min(begin - other),
            );
        }
        let equal = left.data_begin == right.data_begin && left.time == right.time;
        let kind = if equal && left.time < self.before {
            Kind::Same
        } else {
            Kind::Changed
        };
        (kind, begin, left.length_blocks.min(right.length_blocks))
    }
}
