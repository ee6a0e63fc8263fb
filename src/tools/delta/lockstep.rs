//! The walk over two trees at once.

use std::cmp::Ordering;

use rustc_hash::FxHashSet;

use super::side::{Head, Place, Side, lower_end};
use super::table::Builder;
use super::window::Window;
use crate::error::Result;
use crate::task::Task;
use crate::thin::Pool;
use crate::units::BlockNr;

const LEFT: usize = 0;
const RIGHT: usize = 1;

/// Two walks that keep to the same keys.
pub(super) struct Lockstep<'a> {
    task: &'a Task<'a>,
    sides: [Side<'a>; 2],
    window: Window<'a>,
    /// Levels that the left tree has more than the right one, as far as known.
    /// It decides only which side opens a node first.
    left_ahead: isize,
    with_same: bool,
    rows: &'a mut Builder,
}

impl<'a> Lockstep<'a> {
    pub fn new(
        pool: &'a Pool,
        roots: [BlockNr; 2],
        with_same: bool,
        task: &'a Task<'a>,
        rows: &'a mut Builder,
    ) -> Self {
        Self {
            task,
            sides: roots.map(|root| Side::new(pool, root)),
            window: Window::new(pool),
            left_ahead: 0,
            with_same,
            rows,
        }
    }

    pub fn run(&mut self) -> Result<()> {
        loop {
            if let Some(depths) = self.shared() {
                self.left_ahead = difference(depths);
                self.leave_out(depths)?;
                continue;
            }
            match (self.sides[LEFT].head(), self.sides[RIGHT].head()) {
                (Head::End, Head::End) => return Ok(()),
                (Head::Node(left), Head::Node(right)) => self.open_first(&left, &right)?,
                (Head::Entry(_), Head::Entry(_)) => self.compare_leaves()?,
                (Head::Node(node), Head::Entry(key)) if node.may_begin_by(key) => {
                    self.open(LEFT)?;
                }
                (Head::Entry(key), Head::Node(node)) if node.may_begin_by(key) => {
                    self.open(RIGHT)?;
                }
                (Head::Node(_), Head::End) => self.open(LEFT)?,
                (Head::End, Head::Node(_)) => self.open(RIGHT)?,
                (Head::Entry(_), _) => self.one_sided(LEFT)?,
                (_, Head::Entry(_)) => self.one_sided(RIGHT)?,
            }
        }
    }

    /// The node that comes next on both sides, by its depth in each. There is
    /// no second one: this one is not open yet on one of them.
    fn shared(&self) -> Option<[usize; 2]> {
        self.sides[LEFT].untouched().find_map(|(left, at)| {
            let mut others = self.sides[RIGHT].untouched();
            let (right, _) = others.find(|(_, other)| *other == at)?;
            Some([left, right])
        })
    }

    fn leave_out(&mut self, depths: [usize; 2]) -> Result<()> {
        if !self.with_same {
            self.sides[LEFT].skip(depths[LEFT])?;
            return self.sides[RIGHT].skip(depths[RIGHT]);
        }
        // Go through it on a side that has not opened it yet.
        let opened = self.sides[LEFT].depth() > depths[LEFT];
        let (side, other) = if opened { (RIGHT, LEFT) } else { (LEFT, RIGHT) };
        if let Some(place) = self.sides[other].place(depths[other]) {
            self.sides[side].narrow(place);
        }
        self.open(side)?;
        while self.sides[side].depth() > depths[side] {
            if let Head::Node(_) = self.sides[side].head() {
                self.open(side)?;
                continue;
            }
            let done = self.rows.same(self.sides[side].entries()?);
            self.sides[side].advance(done)?;
        }
        self.sides[other].skip(depths[other])
    }

    /// Opens the higher of two nodes; of two at one height that with the lower
    /// keys, or both.
    fn open_first(&mut self, left: &Place, right: &Place) -> Result<()> {
        let higher = difference([LEFT, RIGHT].map(|side| self.sides[side].depth()));
        let order = higher.cmp(&self.left_ahead);
        let order = order.then(left.low.cmp(&right.low));
        if order != Ordering::Greater {
            self.open(LEFT)?;
        }
        if order != Ordering::Less {
            self.open(RIGHT)?;
        }
        Ok(())
    }

    fn open(&mut self, side: usize) -> Result<()> {
        if let Some(leaf) = self.sides[side].next_leaf()
            && self.window.get(leaf).is_none()
        {
            self.read_ahead(leaf)?;
        }
        self.sides[side].open(&self.window, self.task)
    }

    /// Reads `leaf` and what both sides need after it under the nodes that they
    /// are in. Leaves that both have there are read for `with_same` only; one of
    /// those that has to be opened nevertheless does not make the others be read
    /// again.
    fn read_ahead(&mut self, leaf: BlockNr) -> Result<()> {
        let (left, left_end) = self.sides[LEFT].leaves_ahead()?;
        let (right, right_end) = self.sides[RIGHT].leaves_ahead()?;
        // What comes after that may be shared with nodes not yet open.
        let end = lower_end(left_end, right_end);
        let comes = |place: &&Place| end.is_none_or(|end| place.low < Some(end));
        let blocks = |places: &[Place]| -> FxHashSet<u64> {
            places.iter().map(|place| place.at.0).collect()
        };
        let (in_left, in_right) = (blocks(&left), blocks(&right));
        let left = left
            .iter()
            .filter(comes)
            .filter(|place| self.with_same || !in_right.contains(&place.at.0));
        let right = right
            .iter()
            .filter(comes)
            .filter(|place| !in_left.contains(&place.at.0));
        let wanted: Vec<BlockNr> = left.chain(right).map(|place| place.at).collect();
        if wanted.contains(&leaf) {
            self.window.fill(wanted)?;
        }
        Ok(())
    }

    fn compare_leaves(&mut self) -> Result<()> {
        let [left, right] = &mut self.sides;
        self.left_ahead = difference([left.depth(), right.depth()]);
        let done = self.rows.compare(left.entries()?, right.entries()?);
        left.advance(done.0)?;
        right.advance(done.1)
    }

    /// Uses up a side's entries that lie before the other side's head.
    fn one_sided(&mut self, side: usize) -> Result<()> {
        let other = self.sides[1 - side].head();
        let entries = self.sides[side].entries_before(other)?;
        let done = self.rows.one_sided(side == RIGHT, entries);
        self.sides[side].advance(done)
    }
}

/// How much deeper the left side is.
fn difference([left, right]: [usize; 2]) -> isize {
    let level = |depth| isize::try_from(depth).unwrap_or(isize::MAX);
    level(left) - level(right)
}
