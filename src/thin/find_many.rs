//! Many look-ups in one call.

use std::sync::{Mutex, PoisonError};

use zerocopy::little_endian::U64;

use super::mappings::MappingValue;
use super::{Mapping, ThinDevice};
use crate::error::Result;
use crate::task::Task;

/// The most rows that are sorted together: enough for leaves to be shared,
/// few enough for their columns to stay in the processor's cache.
const MOST_ROWS: usize = 1 << 20;
/// Fewer rows are not worth a thread.
const FEWEST_ROWS: usize = 1 << 14;
/// Look-ups between two reports to the task.
const ROWS_PER_STEP: u64 = 1 << 16;

/// Where many virtual blocks live: columns of one row for each block asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundMappings {
    /// Where they lie, in data blocks; 0 where nothing is mapped.
    pub data_blocks: Vec<u64>,
    /// The pool's clock when they were mapped.
    pub times: Vec<u32>,
    /// 1 where a snapshot may share the block, by the time rule.
    pub shared: Vec<u8>,
    /// 0 where nothing is mapped.
    pub mapped: Vec<u8>,
}

/// Some rows of a call: what is asked, and where the answers go.
struct Rows<'a> {
    virtual_blocks: &'a [u64],
    data_blocks: &'a mut [u64],
    times: &'a mut [u32],
    shared: &'a mut [u8],
    mapped: &'a mut [u8],
}

impl FoundMappings {
    fn holes(rows: usize) -> Self {
        Self {
            data_blocks: vec![0; rows],
            times: vec![0; rows],
            shared: vec![0; rows],
            mapped: vec![0; rows],
        }
    }

    /// Cuts the columns into pieces of `most` rows that can be filled by themselves.
    fn split<'a>(&'a mut self, virtual_blocks: &'a [u64], most: usize) -> Vec<Mutex<Rows<'a>>> {
        let columns = virtual_blocks
            .chunks(most)
            .zip(self.data_blocks.chunks_mut(most))
            .zip(self.times.chunks_mut(most))
            .zip(self.shared.chunks_mut(most))
            .zip(self.mapped.chunks_mut(most));
        let rows = columns.map(
            |((((virtual_blocks, data_blocks), times), shared), mapped)| {
                Mutex::new(Rows {
                    virtual_blocks,
                    data_blocks,
                    times,
                    shared,
                    mapped,
                })
            },
        );
        rows.collect()
    }
}

impl Rows<'_> {
    fn set(&mut self, row: usize, mapping: Mapping) {
        self.data_blocks[row] = mapping.data_block;
        self.times[row] = mapping.time;
        self.shared[row] = mapping.shared.into();
        self.mapped[row] = 1;
    }
}

impl ThinDevice {
    /// The mappings of many virtual blocks, in the order given. They are looked
    /// up in ascending order, so that each leaf is entered once for a million rows.
    pub fn find_many(&self, virtual_blocks: &[u64], task: &Task<'_>) -> Result<FoundMappings> {
        let mut found = FoundMappings::holes(virtual_blocks.len());
        task.expect(virtual_blocks.len() as u64);
        let share = virtual_blocks.len().div_ceil(task.threads());
        let pieces = found.split(virtual_blocks, share.clamp(FEWEST_ROWS, MOST_ROWS));
        let find = |(): &mut (), worker: usize, piece: usize| {
            let mut rows = pieces[piece].lock().unwrap_or_else(PoisonError::into_inner);
            self.find_rows(&mut rows, worker, task)
        };
        let all = task.share_out(pieces.len(), || (), find);
        self.pool().confirmed(all)?;
        drop(pieces);
        Ok(found)
    }

    fn find_rows(&self, rows: &mut Rows<'_>, worker: usize, task: &Task<'_>) -> Result<()> {
        let wanted = rows.virtual_blocks.iter().copied().zip(0_u32..);
        if rows.virtual_blocks.is_sorted() {
            return self.find_rising(wanted, rows, worker, task);
        }
        let mut wanted: Vec<(u64, u32)> = wanted.collect();
        wanted.sort_unstable();
        self.find_rising(wanted.into_iter(), rows, worker, task)
    }

    /// Fills the rows of virtual blocks that rise.
    fn find_rising(
        &self,
        wanted: impl Iterator<Item = (u64, u32)>,
        rows: &mut Rows<'_>,
        worker: usize,
        task: &Task<'_>,
    ) -> Result<()> {
        let mut ascent = self.tree().ascent();
        let mut wanted = wanted.peekable();
        let mut since_step = 0;
        while let Some((first, _)) = wanted.peek().copied() {
            let Some((leaf, end)) = ascent.leaf(first)? else {
                // Below the tree's first key.
                wanted.next();
                since_step += 1;
                continue;
            };
            let values = leaf.values::<U64>()?;
            let inside = |(key, _): &(u64, u32)| end.is_none_or(|end| *key < end);
            while let Some((key, row)) = wanted.next_if(inside) {
                let index = leaf.search(key).filter(|at| leaf.keys()[*at].get() == key);
                if let Some(index) = index {
                    let value = values[index].get();
                    self.pool().limits().check(leaf.location(), key, value)?;
                    rows.set(row as usize, self.interpret(MappingValue(value)));
                }
                since_step += 1;
                if since_step == ROWS_PER_STEP {
                    task.step(worker, since_step)?;
                    since_step = 0;
                }
            }
        }
        task.step(worker, since_step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::btree::Wait;
    use crate::error::Error;
    use crate::task::Monitor;
    use crate::testing::{PoolBuilder, Random, mapping};

    const DATA_BLOCKS: u64 = 1 << 30;

    /// Keys with gaps, and blocks asked for in and around them, in any order.
    fn pool(random: &mut Random, mappings: usize, asked: usize) -> (PoolBuilder, Vec<u64>) {
        let mut key = 1000;
        let mut entries = Vec::new();
        for _ in 0..mappings {
            key += if random.chance(90) {
                1
            } else {
                random.within(1, 5000)
            };
            entries.push((key, mapping(random.below(DATA_BLOCKS), random.below(9))));
        }
        let mut builder = PoolBuilder::new(DATA_BLOCKS);
        let root = builder.tree(&entries, 50);
        builder.device(1, root);
        let mut wanted: Vec<u64> = (0..asked).map(|_| random.below(key + 2000)).collect();
        wanted.extend([0, 999, u64::MAX, key, key]);
        (builder, wanted)
    }

    #[test]
    fn many_are_found_as_each_is() {
        let mut random = Random::new(11);
        for (mappings, asked) in [(0, 10), (1, 10), (20_000, 3 * FEWEST_ROWS)] {
            let (builder, mut wanted) = pool(&mut random, mappings, asked);
            let device = builder.open().device_by_id(1).unwrap();
            for _ in 0..2 {
                let task = Task::new(None, Some(3));
                let found = device.find_many(&wanted, &task).unwrap();
                for (row, block) in wanted.iter().enumerate() {
                    let each = device.find(*block, Wait::Yes).unwrap();
                    assert_eq!(found.mapped[row] == 1, each.is_some(), "{block}");
                    let each = each.unwrap_or(Mapping {
                        data_block: 0,
                        time: 0,
                        shared: false,
                    });
                    assert_eq!(found.data_blocks[row], each.data_block);
                    assert_eq!(found.times[row], each.time);
                    assert_eq!(found.shared[row], u8::from(each.shared));
                }
                wanted.sort_unstable();
            }
        }
    }

    #[test]
    fn no_blocks_are_no_rows() {
        let (builder, _) = pool(&mut Random::new(1), 10, 0);
        let device = builder.open().device_by_id(1).unwrap();
        let found = device.find_many(&[], &Task::default()).unwrap();
        assert_eq!(found, FoundMappings::default());
    }

    #[test]
    fn a_mapping_past_the_data_device_is_refused() {
        let mut builder = PoolBuilder::new(100);
        let root = builder.tree(&[(5, mapping(99, 0)), (6, mapping(100, 0))], 10);
        builder.device(1, root);
        let device = builder.open().device_by_id(1).unwrap();
        assert!(device.find_many(&[5], &Task::default()).is_ok());
        let answer = device.find_many(&[6], &Task::default());
        assert!(matches!(answer, Err(Error::Damaged(damage)) if damage.check == "data block"));
    }

    #[test]
    fn a_monitor_can_stop_it() {
        struct Stop;
        impl Monitor for Stop {
            fn poll(&self, _done: u64, _total: u64) -> Result<()> {
                Err(Error::Interrupted)
            }
        }
        let (builder, wanted) = pool(&mut Random::new(2), 100, 100);
        let device = builder.open().device_by_id(1).unwrap();
        let task = Task::new(Some(&Stop), None);
        assert!(task.ask().is_err());
        assert!(matches!(
            device.find_many(&wanted, &task),
            Err(Error::Interrupted)
        ));
    }
}
