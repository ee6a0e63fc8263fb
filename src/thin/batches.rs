//! Mappings a batch at a time, for readers who may stop in between for long.
//!
//! Nothing is held from one batch to the next, neither blocks nor the pool.

use zerocopy::little_endian::U64;

use super::mappings::MappingValue;
use super::{Run, ThinDevice};
use crate::btree::max_entries;
use crate::error::Result;
use crate::task::Task;

/// How far a reader of batches has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The first virtual block not yet given; `None` at the end.
    next: Option<u64>,
    stop: Option<u64>,
}

/// Mappings as columns, a row for each block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MappingColumns {
    /// Rising.
    pub virtual_blocks: Vec<u64>,
    /// Where they lie, in data blocks.
    pub data_blocks: Vec<u64>,
    /// The pool's clock when they were mapped.
    pub times: Vec<u32>,
}

impl Position {
    /// Before the first mapping of `begin..stop` (`None`: to the end).
    #[must_use]
    pub fn new(begin: u64, stop: Option<u64>) -> Self {
        Self {
            next: Some(begin),
            stop,
        }
    }

    /// The next runs of `device`, at least one and at most `most`; none at the
    /// end. No run is cut in two by a batch's end. What lies before a damaged
    /// node is given out first, but for the run that may go on in there.
    pub fn next_runs(&mut self, device: &ThinDevice, most: usize) -> Result<Vec<Run>> {
        let mut runs = Vec::new();
        let Some(next) = self.next else {
            return Ok(runs);
        };
        // The last one waits for its end, so there have to be two.
        let answer = device
            .runs(next, self.stop)
            .fill(&mut runs, most.max(1) + 1);
        device.pool().confirm()?;
        match answer {
            Ok(false) => self.next = None,
            Err(error) if runs.len() < 2 => return Err(error),
            Ok(true) | Err(_) => self.next = runs.pop().map(|last| last.virtual_begin),
        }
        Ok(runs)
    }

    /// The next mappings of `device`, whole leaves until there are `enough`;
    /// none at the end.
    pub fn next_columns(
        &mut self,
        device: &ThinDevice,
        enough: usize,
        task: &Task<'_>,
    ) -> Result<MappingColumns> {
        let mut columns = MappingColumns::default();
        let Some(next) = self.next else {
            return Ok(columns);
        };
        columns.reserve(device, enough);
        let mut leaves = device.runs(next, self.stop);
        while columns.virtual_blocks.len() < enough {
            let Some(leaf) = leaves.next_leaf()? else {
                self.next = None;
                break;
            };
            let (keys, values) = leaf.entries::<U64>()?;
            let value = |value: &U64| MappingValue(value.get());
            columns
                .virtual_blocks
                .extend(keys.iter().map(|key| key.get()));
            columns
                .data_blocks
                .extend(values.iter().map(|at| value(at).data_block()));
            columns
                .times
                .extend(values.iter().map(|at| value(at).time()));
            self.next = keys.last().and_then(|key| key.get().checked_add(1));
            task.step(0, keys.len() as u64)?;
        }
        device.pool().confirm()?;
        Ok(columns)
    }
}

impl MappingColumns {
    /// Makes room for what `device` says it has, as far as its metadata can hold that.
    fn reserve(&mut self, device: &ThinDevice, enough: usize) {
        let most = device.pool().blocks().nr_blocks() * max_entries(size_of::<U64>()) as u64;
        let rows = usize::try_from(device.info().mapped_blocks.min(most)).unwrap_or(usize::MAX);
        let rows = rows.min(enough);
        self.virtual_blocks.reserve(rows);
        self.data_blocks.reserve(rows);
        self.times.reserve(rows);
    }
}

impl ThinDevice {
    /// All mappings at once.
    pub fn columns(&self, task: &Task<'_>) -> Result<MappingColumns> {
        task.expect(self.info().mapped_blocks);
        Position::new(0, None).next_columns(self, usize::MAX, task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PoolBuilder, mapping};
    use crate::units::BlockNr;

    /// Runs of 7 blocks, the mappings of a leaf and of a run ending in different places.
    fn entries() -> Vec<(u64, u64)> {
        let block = |index: u64| (index + index / 7 * 3, mapping(index + index / 7, 2));
        (0..2000).map(block).collect()
    }

    fn device(entries: &[(u64, u64)], ruined: Option<u64>) -> ThinDevice {
        let mut builder = PoolBuilder::new(10_000);
        let root = builder.tree(entries, 50);
        builder.device(1, root);
        if let Some(block) = ruined {
            builder.ruin(BlockNr(block));
        }
        builder.open().device_by_id(1).unwrap()
    }

    #[test]
    fn batches_are_the_same_runs_however_large_they_are() {
        let device = device(&entries(), None);
        for (begin, stop) in [(0, None), (3, Some(1000)), (5, Some(5)), (9000, None)] {
            let mut whole = Vec::new();
            device
                .runs(begin, stop)
                .fill(&mut whole, usize::MAX)
                .unwrap();
            for most in [1, 2, 3, 50, 10_000] {
                let mut position = Position::new(begin, stop);
                let mut runs = Vec::new();
                loop {
                    let batch = position.next_runs(&device, most).unwrap();
                    assert!(batch.len() <= most);
                    if batch.is_empty() {
                        break;
                    }
                    runs.extend(batch);
                }
                assert_eq!(runs, whole, "{begin} {stop:?} {most}");
            }
        }
    }

    #[test]
    fn what_lies_before_damage_is_given_out_first() {
        // Leaves are made first: block 1 is the first one.
        let device = device(&entries(), Some(3));
        let mut position = Position::new(0, None);
        let first = position.next_runs(&device, 1000).unwrap();
        let blocks: u64 = first.iter().map(|run| run.length_blocks).sum();
        // 100 mappings in two leaves; the last 2 of them may go on in the third.
        assert_eq!(blocks, 98);
        assert!(position.next_runs(&device, 1000).is_err());
        assert!(position.next_runs(&device, 1000).is_err());
    }

    #[test]
    fn columns_hold_every_mapping_in_any_pieces() {
        let entries = entries();
        let device = device(&entries, None);
        for enough in [1, 50, 51, 10_000] {
            let mut position = Position::new(0, None);
            let mut found = Vec::new();
            loop {
                let batch = position.next_columns(&device, enough, &Task::default());
                let batch = batch.unwrap();
                if batch.virtual_blocks.is_empty() {
                    break;
                }
                let values = batch.data_blocks.iter().zip(&batch.times);
                let values = values.map(|(data, time)| mapping(*data, (*time).into()));
                found.extend(batch.virtual_blocks.iter().copied().zip(values));
            }
            assert_eq!(found, entries);
        }
        assert_eq!(device.columns(&Task::default()).unwrap().times.len(), 2000);
    }
}
