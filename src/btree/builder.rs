//! A new tree from sorted entries: nodes fill from left to right, upper levels on the fly.

use super::fill::{Child, Fill, fewest};
use super::node_mut::{Form, write_header};
use super::{NODE_VALIDATOR, NodeHeader, check_value_bytes};
use crate::block::BlockData;
use crate::error::{Error, Result};
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Builds a tree whose nodes are all full, but for the last one or two of each
/// level. Holds two nodes of each level and nothing else, whatever comes.
///
/// It takes over the caller's references to what values refer to.
pub struct Builder {
    value_bytes: usize,
    levels: Vec<Level>,
    last_key: Option<u64>,
    entries: u64,
}

/// The nodes of one level that are not written yet.
struct Level {
    form: Form,
    /// A full node: the next one may have to take some of its entries.
    full: Option<Box<BlockData>>,
    open: Box<BlockData>,
    /// Entries in the open node.
    nr: usize,
}

impl Builder {
    /// A tree with values of so many bytes, nothing in it yet.
    ///
    /// # Errors
    /// [`Error::Usage`] for values that no leaf can hold.
    pub fn new(value_bytes: usize) -> Result<Self> {
        check_value_bytes(value_bytes)?;
        Ok(Self {
            value_bytes,
            levels: vec![Level::new(Form::leaf(value_bytes))],
            last_key: None,
            entries: 0,
        })
    }

    /// Blocks of a tree of so many entries: what to want a run of.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn blocks_for(entries: u64, value_bytes: usize) -> Result<u64> {
        check_value_bytes(value_bytes)?;
        let mut nodes = entries
            .div_ceil(Form::leaf(value_bytes).capacity as u64)
            .max(1);
        let mut blocks = nodes;
        while nodes > 1 {
            nodes = nodes.div_ceil(Form::internal().capacity as u64);
            blocks += nodes;
        }
        Ok(blocks)
    }

    /// Entries so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.entries
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Adds an entry whose key is above all others.
    ///
    /// # Errors
    /// [`Error::Usage`] for another key or a value of another size, which change
    /// nothing; what allocation says, after which the builder is of no use.
    pub fn push(&mut self, txn: &mut Transaction, key: u64, value: &[u8]) -> Result<()> {
        self.push_many(txn, &[key], value)
    }

    /// Adds entries; `values` has theirs, one after the other.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub fn push_many(&mut self, txn: &mut Transaction, keys: &[u64], values: &[u8]) -> Result<()> {
        self.check(keys, values)?;
        let Some(last) = keys.last() else {
            return Ok(());
        };
        self.last_key = Some(*last);
        self.entries += keys.len() as u64;
        let mut done = 0;
        while done < keys.len() {
            let leaves = &mut self.levels[0];
            let count = (keys.len() - done).min(leaves.form.capacity - leaves.nr);
            let width = self.value_bytes;
            let mut fill = Fill::new(&mut leaves.open, leaves.form, leaves.nr);
            let (own_keys, own_values) = fill.next(count);
            for (slot, key) in own_keys.iter_mut().zip(&keys[done..]) {
                slot.set(*key);
            }
            own_values.copy_from_slice(&values[done * width..(done + count) * width]);
            leaves.nr += count;
            done += count;
            if leaves.nr == leaves.form.capacity {
                self.turn(txn, 0)?;
            }
        }
        Ok(())
    }

    fn check(&self, keys: &[u64], values: &[u8]) -> Result<()> {
        if keys.len().checked_mul(self.value_bytes) != Some(values.len()) {
            let (keys, found, each) = (keys.len(), values.len(), self.value_bytes);
            let text = format!("{keys} keys and {found} bytes of values, {each} bytes each");
            return Err(Error::Usage(text));
        }
        let above = self.last_key.zip(keys.first());
        let rises = above.is_none_or(|(last, first)| last < *first)
            && keys
                .windows(2)
                .fold(true, |so_far, pair| so_far & (pair[0] < pair[1]));
        if rises {
            return Ok(());
        }
        Err(Error::usage("a builder's keys have to ascend"))
    }

    /// The open node of a level is full: writes the one before it and opens another.
    fn turn(&mut self, txn: &mut Transaction, level: usize) -> Result<()> {
        let mut level = level;
        loop {
            let own = &mut self.levels[level];
            let fresh = Box::new(BlockData::zeroed());
            let now_full = std::mem::replace(&mut own.open, fresh);
            own.nr = 0;
            let Some(written) = own.full.replace(now_full) else {
                return Ok(());
            };
            let child = own.write(txn, &written, own.form.capacity)?;
            level += 1;
            if !self.pass_up(level, child) {
                return Ok(());
            }
        }
    }

    /// Gives a written node to the level above; whether that one's open node is full now.
    fn pass_up(&mut self, level: usize, child: Child) -> bool {
        if level == self.levels.len() {
            self.levels.push(Level::new(Form::internal()));
        }
        let own = &mut self.levels[level];
        Fill::new(&mut own.open, own.form, own.nr).children(&[child]);
        own.nr += 1;
        own.nr == own.form.capacity
    }

    /// Writes what is left; the tree's root, whose one reference is the caller's.
    ///
    /// # Errors
    /// What allocation says.
    pub fn finish(mut self, txn: &mut Transaction) -> Result<BlockNr> {
        let mut level = 0;
        loop {
            let above = level + 1;
            let own = &mut self.levels[level];
            let (full, nr) = (own.full.take(), own.nr);
            let mut nodes: Vec<Child> = Vec::with_capacity(2);
            match full {
                None => nodes.push(own.write_open(txn)?),
                Some(full) if nr == 0 => nodes.push(own.write(txn, &full, own.form.capacity)?),
                Some(mut full) => {
                    let left = own.even_out(&mut full);
                    nodes.push(own.write(txn, &full, left)?);
                    nodes.push(own.write_open(txn)?);
                }
            }
            if above == self.levels.len()
                && let [(_, root)] = nodes[..]
            {
                return Ok(root);
            }
            for child in nodes {
                if self.pass_up(above, child) {
                    self.turn(txn, above)?;
                }
            }
            level = above;
        }
    }
}

impl Level {
    fn new(form: Form) -> Self {
        Self {
            form,
            full: None,
            open: Box::new(BlockData::zeroed()),
            nr: 0,
        }
    }

    /// Moves as many entries of the full node to the open one as it needs; what
    /// the full one has left.
    fn even_out(&mut self, full: &mut BlockData) -> usize {
        let (form, nr) = (self.form, self.nr);
        let moved = fewest(form.capacity).saturating_sub(nr);
        let rest = form.capacity - moved;
        if moved == 0 {
            return rest;
        }
        let mut both = BlockData::zeroed();
        let mut fill = Fill::new(&mut both, form, 0);
        for (source, begin, end) in [(full, rest, form.capacity), (&mut *self.open, 0, nr)] {
            let (keys, values) = Fill::new(source, form, begin).into_next(end - begin);
            fill.copy(keys, values);
        }
        *self.open = both;
        self.nr = nr + moved;
        rest
    }

    fn write_open(&self, txn: &mut Transaction) -> Result<Child> {
        self.write(txn, &self.open, self.nr)
    }

    /// Writes the first `nr` entries of a node to a new block.
    fn write(&self, txn: &mut Transaction, node: &BlockData, nr: usize) -> Result<Child> {
        let mut guard = txn.new_block(&NODE_VALIDATOR)?;
        guard.bytes_mut().copy_from_slice(node.bytes());
        write_header(&mut guard, self.form);
        let location = guard.location();
        let block: &mut BlockData = &mut guard;
        let header: &mut NodeHeader = block.view_mut();
        // A node has at most 507 entries.
        header.nr_entries.set(u32::try_from(nr).unwrap_or(u32::MAX));
        Ok((Fill::new(block, self.form, nr).first_key(), location))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::testing::{Judge, Model, transaction, value};
    use crate::testing::Random;

    #[test]
    fn every_size_gives_a_tree_of_full_nodes_and_the_blocks_foretold() {
        let mut random = Random::new(9);
        for value_bytes in [8, 600, 1346] {
            let leaf = Form::leaf(value_bytes).capacity;
            let sizes: Vec<usize> = match value_bytes {
                8 => vec![
                    0,
                    1,
                    251,
                    252,
                    253,
                    335,
                    336,
                    337,
                    503,
                    504,
                    505,
                    252 * 252,
                    252 * 252 + 1,
                    252 * 260 + 5,
                ],
                _ => (0..40)
                    .chain([leaf * 252, leaf * 252 + 1, leaf * 300 + 2, leaf * 1000 + 1])
                    .collect(),
            };
            for size in sizes {
                let mut txn = transaction(1100);
                let mut builder = Builder::new(value_bytes).unwrap();
                let mut model = Model::new();
                let mut key = random.below(5);
                while model.len() < size {
                    let count = (random.below(700) as usize + 1).min(size - model.len());
                    let (mut keys, mut values) = (Vec::new(), Vec::new());
                    for _ in 0..count {
                        let value = value(&mut random, value_bytes, 1 << 40);
                        keys.push(key);
                        values.extend_from_slice(&value);
                        model.insert(key, value);
                        key += 1 + random.below(3);
                    }
                    builder.push_many(&mut txn, &keys, &values).unwrap();
                }
                assert_eq!(builder.len(), size as u64);
                let root = builder.finish(&mut txn).unwrap();
                let mut judge = Judge::new(&txn, value_bytes);
                assert!(judge.tree(root) == model, "{size} values of {value_bytes}");
                judge.check_counts();
                let foretold = Builder::blocks_for(size as u64, value_bytes).unwrap();
                assert_eq!(judge.pointers.len() as u64, foretold);
            }
        }
    }

    #[test]
    fn keys_that_do_not_rise_change_nothing() {
        let mut txn = transaction(10);
        let mut builder = Builder::new(2).unwrap();
        assert!(builder.is_empty());
        builder.push(&mut txn, 5, &[1, 2]).unwrap();
        for (keys, values) in [
            (&[5][..], &[0, 0][..]),
            (&[4], &[0, 0]),
            (&[6, 6], &[0; 4]),
            (&[6], &[0]),
        ] {
            let answer = builder.push_many(&mut txn, keys, values);
            assert!(matches!(answer, Err(Error::Usage(_))));
        }
        builder.push(&mut txn, 6, &[3, 4]).unwrap();
        let root = builder.finish(&mut txn).unwrap();
        let model = Judge::new(&txn, 2).tree(root);
        assert_eq!(model, Model::from([(5, vec![1, 2]), (6, vec![3, 4])]));
        assert!(Builder::new(0).is_err() && Builder::new(1347).is_err());
    }
}
