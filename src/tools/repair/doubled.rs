//! Data blocks that two places of one device claim. Devices that share one have it at the
//! same virtual block; nobody may have it at two, as a write to the one would change the
//! other. One place keeps it: one that the roots lead to before one that was found, that which
//! was written later, or the first.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::leaves::runs;
use super::outlook::TreeSource;
use super::patch::{Patches, of_gap};
use super::plan::{Survey, Wanted};
use super::undelete::Cut;
use super::walk::{Grafts, Step, Walker};
use crate::error::Result;
use crate::task::Task;
use crate::thin::Run;
use crate::tools::dump::nodes::NodeReader;
use crate::walk::{BlockSet, Counts, Forest, Reader};

/// Data blocks that are counted; of more, all runs are kept. A superblock may say anything.
const MOST_COUNTED: u64 = 1 << 34;

/// Blocks that are left out of devices, in all, where these differ. Devices beyond keep
/// what they have twice: whoever makes up metadata can have any number of them.
const MOST_LEFT_OUT: usize = 1 << 22;

/// A mapping of a data block that may be claimed twice.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    data: u64,
    /// Nothing that is sound leads there all the way.
    found: bool,
    time: Reverse<u32>,
    virtual_block: u64,
}

impl Survey {
    /// What to leave out of each device, so that it has no data block twice.
    pub(super) fn doubled(
        &self,
        forest: &Forest,
        grafts: &Grafts,
        patches: &Patches,
        wanted: &[Wanted],
        task: &Task<'_>,
    ) -> Result<FxHashMap<u64, Arc<Cut>>> {
        let mut cuts = FxHashMap::default();
        let (mut made, mut left) = (FxHashMap::<Vec<u64>, Arc<Cut>>::default(), MOST_LEFT_OUT);
        let counts = self.counts(grafts, wanted, task)?;
        let often = |data: u64| counts.as_ref().is_none_or(|counts| counts.get(data) > 1);
        let (mut all, mut seen) = (Vec::new(), BlockSet::new(self.basis.limit));
        for each in wanted {
            self.each_kept_run(
                forest,
                grafts,
                patches,
                each,
                Some(&mut seen),
                task,
                |run, _| {
                    // Most are met once. What takes the place of a lost node was not counted.
                    let may_be = counts.is_none() || !patches.is_empty() || {
                        (run.data_begin..run.data_begin + run.length_blocks).any(often)
                    };
                    if may_be {
                        all.push(*run);
                    }
                },
            )?;
        }
        let doubtful = overlaps(all);
        if doubtful.is_empty() {
            return Ok(cuts);
        }
        for each in wanted
            .iter()
            .filter(|each| each.source != TreeSource::Deleted)
        {
            let mut places: Vec<Place> = Vec::new();
            self.each_kept_run(forest, grafts, patches, each, None, task, |run, found| {
                let end = run.data_begin + run.length_blocks;
                let first = doubtful.partition_point(|range| range.end <= run.data_begin);
                for range in doubtful[first..].iter().take_while(|each| each.start < end) {
                    let both = range.start.max(run.data_begin)..range.end.min(end);
                    places.extend(both.map(|data| Place {
                        data,
                        found,
                        time: Reverse(run.time),
                        virtual_block: run.virtual_begin + (data - run.data_begin),
                    }));
                }
            })?;
            places.sort_unstable();
            let again = places.windows(2).filter(|two| two[0].data == two[1].data);
            let mut out: Vec<u64> = again.map(|two| two[1].virtual_block).collect();
            if !out.is_empty() {
                out.sort_unstable();
                let known = made.get(&out).map(Arc::clone);
                let cut = match (known, left.checked_sub(out.len())) {
                    (Some(cut), _) => cut,
                    (None, None) => continue,
                    (None, Some(rest)) => {
                        left = rest;
                        let cut = Arc::new(Cut::of_blocks(&out));
                        made.insert(out, Arc::clone(&cut));
                        cut
                    }
                };
                cuts.insert(each.info.id, cut);
            }
        }
        Ok(cuts)
    }

    /// How many distinct leaves have a data block, where it is known how many there are.
    fn counts(
        &self,
        grafts: &Grafts,
        wanted: &[Wanted],
        task: &Task<'_>,
    ) -> Result<Option<Counts>> {
        let blocks = self.basis.data_blocks;
        let Some(blocks) = blocks.filter(|blocks| *blocks <= MOST_COUNTED) else {
            return Ok(None);
        };
        let mut roots: Vec<u32> = wanted.iter().filter_map(|each| each.root).collect();
        roots.extend(grafts.values().flatten().map(|graft| graft.block));
        roots.sort_unstable();
        roots.dedup();
        let reader = Reader::new(&*self.device, false);
        let data = Counts::new(blocks);
        let mut nodes = Counts::new(self.basis.limit);
        Forest::walk(&reader, task, &roots, self.limits, &mut nodes, Some(&data))?;
        Ok(Some(data))
    }

    /// The runs of a device that will be there, and whether they were found elsewhere, but
    /// for leaves that are in `seen`.
    #[allow(clippy::too_many_arguments)] // What a walk needs.
    fn each_kept_run(
        &self,
        forest: &Forest,
        grafts: &Grafts,
        patches: &Patches,
        device: &Wanted,
        mut seen: Option<&mut BlockSet>,
        task: &Task<'_>,
        mut visit: impl FnMut(&Run, bool),
    ) -> Result<()> {
        let Some(root) = device.root else {
            return Ok(());
        };
        let below = Arc::clone(&self.device);
        let limit = self.basis.limit;
        let nodes = NodeReader::of_device(&*below, limit);
        let mut reader = NodeReader::of_device(&*below, limit);
        Walker::new(nodes, forest, grafts).each(root, &mut |step| {
            match step {
                Step::Lost(gap) => {
                    of_gap(patches, &gap)
                        .iter()
                        .for_each(|run| visit(run, true));
                }
                Step::Leaf { leaf, grafted } => {
                    if let Some(seen) = &mut seen
                        && !seen.insert(leaf.block.into())
                    {
                        return Ok(());
                    }
                    task.step(0, 0)?;
                    let block = reader.read_one(leaf.block)?;
                    let runs = runs(&leaf.parse(&block)?, self.limits)?;
                    runs.iter().for_each(|run| visit(run, grafted));
                }
            }
            Ok(())
        })
    }
}

/// Ranges of data that runs have at different virtual blocks, ascending.
fn overlaps(mut runs: Vec<Run>) -> Vec<Range<u64>> {
    runs.sort_unstable_by_key(|run| (run.data_begin, run.virtual_begin));
    let mut found: Vec<Range<u64>> = Vec::new();
    // The end of what reaches furthest, and how far its virtual blocks are from its data.
    let mut reach: Option<(u64, u64)> = None;
    for run in &runs {
        let end = run.data_begin + run.length_blocks;
        let apart = run.virtual_begin.wrapping_sub(run.data_begin);
        if let Some((furthest, other)) = reach
            && run.data_begin < furthest
            && apart != other
        {
            let to = end.min(furthest);
            match found.last_mut() {
                Some(last) if run.data_begin <= last.end => last.end = last.end.max(to),
                _ => found.push(run.data_begin..to),
            }
        }
        if reach.is_none_or(|(furthest, _)| furthest < end) {
            reach = Some((end, apart));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use super::*;

    fn run(virtual_begin: u64, data_begin: u64, length_blocks: u64) -> Run {
        Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time: 0,
        }
    }

    #[test]
    fn what_is_at_two_virtual_blocks_is_found_and_what_is_shared_is_not() {
        let shared = vec![run(0, 100, 10), run(5, 105, 20), run(0, 100, 10)];
        assert!(overlaps(shared).is_empty());
        let apart = vec![run(0, 0, 5), run(5, 10, 5), run(10, 5, 5)];
        assert!(overlaps(apart).is_empty());
        let twice = vec![run(0, 0, 100), run(500, 50, 10), run(900, 55, 20)];
        assert_eq!(overlaps(twice).as_slice(), from_ref(&(50..75)));
        let beyond = vec![run(0, 0, 10), run(500, 5, 45), run(502, 7, 1)];
        assert_eq!(overlaps(beyond).as_slice(), from_ref(&(5..10)));
    }
}
