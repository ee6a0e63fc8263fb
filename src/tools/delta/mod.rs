//! What is different between two thin devices of one pool.
//!
//! Their trees share nodes: whatever neither device changed since one was made
//! a snapshot of the other. So the two are walked in lockstep, and a block
//! number that comes next on both sides is left out on both, unread. That makes
//! the time that of the leaves that differ; memory holds a path into each tree
//! and the result.
//!
//! Two details carry the weight. A node need not stand under the same key on
//! both sides, as removing its first entries does not rewrite the parent; so it
//! may have been opened on one side when the other arrives at it. Therefore
//! every node that was opened but of which nothing was used yet still counts as
//! *coming next*. And the trees may be of different height; so the side whose
//! next node is higher opens it first. How the depths of the two compare is
//! learnt on the way, from the first node or leaf that both have reached.

mod side;
mod table;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::sync::Arc;

pub use table::{Columns, Delta, Kind, Row};

use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Pool, ThinDevice};
use side::{Head, Place, Side};
use table::Builder;

/// The ranges in which `left` and `right` differ; with `same`, the others too.
/// Data blocks are compared, not the times they were mapped at.
///
/// # Errors
/// [`Error::Usage`] when the devices are not of one opened pool;
/// [`Error::Damaged`], [`Error::Io`] when a tree cannot be read, or whatever the
/// task's monitor answers.
pub fn delta(left: &ThinDevice, right: &ThinDevice, same: bool, task: &Task<'_>) -> Result<Delta> {
    let pool = left.pool();
    if !Arc::ptr_eq(pool, right.pool()) {
        return Err(Error::usage(
            "devices of different pools cannot be compared: their data blocks have nothing in common",
        ));
    }
    let side = |device: &ThinDevice| Side::new(pool, Place::root(device.tree().root()));
    let mut walk = Lockstep {
        pool,
        task,
        left: side(left),
        right: side(right),
        left_ahead: 0,
        with_same: same,
        rows: Builder::new(same),
    };
    walk.run()?;
    Ok(walk.rows.finish(pool.superblock().data_block_bytes()))
}

/// Two walks that keep to the same keys.
struct Lockstep<'a> {
    pool: &'a Pool,
    task: &'a Task<'a>,
    left: Side<'a>,
    right: Side<'a>,
    /// Levels that the left tree has more than the right one, as far as known.
    /// It decides only which side opens a node first.
    left_ahead: isize,
    with_same: bool,
    rows: Builder,
}

impl Lockstep<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            if let Some((left, right)) = self.shared() {
                self.left_ahead = level(left) - level(right);
                self.leave_out(left, right)?;
                continue;
            }
            match (self.left.head(), self.right.head()) {
                (Head::End, Head::End) => return Ok(()),
                (Head::Node(left), Head::Node(right)) => self.open_first(&left, &right)?,
                (Head::Entry(_), Head::Entry(_)) => self.compare_leaves()?,
                (Head::Node(node), Head::Entry(key)) if node.may_begin_by(key) => {
                    self.left.open(self.task)?;
                }
                (Head::Entry(key), Head::Node(node)) if node.may_begin_by(key) => {
                    self.right.open(self.task)?;
                }
                (Head::Node(_), Head::End) => self.left.open(self.task)?,
                (Head::End, Head::Node(_)) => self.right.open(self.task)?,
                (Head::Entry(_), other) => self.left_only(other)?,
                (other, Head::Entry(_)) => self.right_only(other)?,
            }
        }
    }

    /// The node that comes next on both sides, by its depth in each. There is
    /// no second one: this one is not open yet on one of them.
    fn shared(&self) -> Option<(usize, usize)> {
        self.left.untouched().find_map(|(left, at)| {
            let mut others = self.right.untouched();
            let (right, _) = others.find(|(_, other)| *other == at)?;
            Some((left, right))
        })
    }

    fn leave_out(&mut self, left: usize, right: usize) -> Result<()> {
        if self.with_same {
            let place = self.left.place(left).within(self.right.place(right));
            let mut both = Side::new(self.pool, place);
            loop {
                match both.head() {
                    Head::End => break,
                    Head::Node(_) => both.open(self.task)?,
                    Head::Entry(_) => {
                        let entries = both.entries()?;
                        let done = self.rows.same(entries);
                        both.advance(done)?;
                    }
                }
            }
        }
        self.left.skip(left)?;
        self.right.skip(right)
    }

    /// Opens the higher of two nodes; of two at one height that with the lower
    /// keys, or both.
    fn open_first(&mut self, left: &Place, right: &Place) -> Result<()> {
        let depths = level(self.left.depth()).cmp(&(level(self.right.depth()) + self.left_ahead));
        let order = depths.then(left.low.cmp(&right.low));
        if order != Ordering::Greater {
            self.left.open(self.task)?;
        }
        if order != Ordering::Less {
            self.right.open(self.task)?;
        }
        Ok(())
    }

    fn compare_leaves(&mut self) -> Result<()> {
        self.left_ahead = level(self.left.depth()) - level(self.right.depth());
        let (left, right) = self
            .rows
            .compare(self.left.entries()?, self.right.entries()?);
        self.left.advance(left)?;
        self.right.advance(right)
    }

    /// Uses up the left leaf's entries that lie before the right side's head.
    fn left_only(&mut self, right: Head) -> Result<()> {
        let entries = self.left.entries_before(right)?;
        let done = self.rows.left_only(entries);
        self.left.advance(done)
    }

    /// Uses up the right leaf's entries that lie before the left side's head.
    fn right_only(&mut self, left: Head) -> Result<()> {
        let entries = self.right.entries_before(left)?;
        let done = self.rows.right_only(entries);
        self.right.advance(done)
    }
}

/// A depth that can be subtracted from another.
fn level(depth: usize) -> isize {
    isize::try_from(depth).unwrap_or(isize::MAX)
}
