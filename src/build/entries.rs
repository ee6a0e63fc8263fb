//! Entries that become nodes of a level's own.

use zerocopy::little_endian::U64;

use super::level::{CAPACITY, FEWEST};

#[derive(Default)]
pub(super) struct Entries {
    pub keys: Vec<U64>,
    pub values: Vec<U64>,
}

impl Entries {
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn extend(&mut self, keys: &[U64], values: &[U64]) {
        self.keys.extend_from_slice(keys);
        self.values.extend_from_slice(values);
    }

    pub fn append(&mut self, other: &mut Self) {
        self.keys.append(&mut other.keys);
        self.values.append(&mut other.values);
    }

    pub fn clear(&mut self) {
        self.keys.clear();
        self.values.clear();
    }

    /// Moves the last entries in front of another's.
    fn give_last(&mut self, count: usize, to: &mut Self) {
        let rest = self.len() - count;
        to.keys.splice(0..0, self.keys.drain(rest..));
        to.values.splice(0..0, self.values.drain(rest..));
    }
}

/// The last one or two nodes of entries that follow each other.
#[derive(Default)]
pub(super) struct Stretch {
    /// A full node, from which the next one may have to take entries; empty: none.
    pub held: Entries,
    pub open: Entries,
}

impl Stretch {
    pub fn len(&self) -> usize {
        self.held.len() + self.open.len()
    }

    /// The least number of nodes.
    pub fn nodes(&self) -> usize {
        self.len().div_ceil(CAPACITY)
    }

    /// Nothing follows: a rest that is too small for a node shares with the one before it.
    pub fn even_out(&mut self) {
        if self.held.len() > 0 && (1..FEWEST).contains(&self.open.len()) {
            // Halves are where others are more likely to have the same nodes than a small
            // rest, which ends the nodes of those early who have it.
            let given = (self.held.len() - self.open.len()) / 2;
            self.held.give_last(given, &mut self.open);
        }
    }

    /// Moves all of it behind another's entries.
    pub fn move_to(&mut self, to: &mut Entries) {
        to.append(&mut self.held);
        to.append(&mut self.open);
    }
}
