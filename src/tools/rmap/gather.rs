//! Finding the rows: jobs for the threads, and what comes back, in order.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use zerocopy::little_endian::U64;

use super::regions::Regions;
use super::{DEVICE_BITS, Row};
use crate::block::BlockData;
use crate::btree::NODE_NAME;
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::{MAX_DEVICE_ID, MappingValue, Pool};
use crate::tools::dump::nodes::{NodeReader, NodeRef, Reached, TreeWalk, metadata_blocks, usable};
use crate::units::BlockNr;
use crate::walk::BlockSet;

/// Leaves of a job.
const JOB_LEAVES: usize = 128;
/// Jobs whose rows may wait for each thread.
const JOBS_AHEAD: usize = 4;
/// Buckets that rows are sorted in.
const BUCKETS: u64 = 1 << 9;

/// Leaves of one device, in key order.
struct Job {
    number: u64,
    device: u64,
    leaves: Vec<NodeRef>,
}

/// The first and the last row of a job, which its neighbours may go on with.
type Edges = (u64, Option<Row>, Option<Row>);

/// Hands out jobs.
struct Planner<'p> {
    nodes: NodeReader<'p>,
    devices: std::vec::IntoIter<(u64, NodeRef)>,
    walk: Option<(u64, TreeWalk)>,
    /// Leaves that were told, if each is to be told once.
    told: Option<BlockSet>,
    jobs: u64,
}

impl Planner<'_> {
    fn next(&mut self) -> Result<Option<Job>> {
        loop {
            let Some((device, walk)) = &mut self.walk else {
                let Some((device, root)) = self.devices.next() else {
                    return Ok(None);
                };
                self.walk = Some((device, TreeWalk::new(root, None)));
                continue;
            };
            let device = *device;
            let mut leaves = Vec::with_capacity(JOB_LEAVES);
            while leaves.len() < JOB_LEAVES {
                match walk.next(&mut self.nodes, |_| false)? {
                    Some(Reached::Leaf(leaf)) => {
                        let told = &mut self.told;
                        if told
                            .as_mut()
                            .is_none_or(|told| told.insert(leaf.block.into()))
                        {
                            leaves.push(leaf);
                        }
                    }
                    Some(Reached::Stop(_)) => {}
                    None => {
                        self.walk = None;
                        break;
                    }
                }
            }
            if !leaves.is_empty() {
                self.jobs += 1;
                let number = self.jobs;
                return Ok(Some(Job {
                    number,
                    device,
                    leaves,
                }));
            }
        }
    }
}

/// All rows, in buckets that ascend and are sorted.
pub(super) fn gather(
    pool: &Arc<Pool>,
    regions: &Regions,
    shared_once: bool,
    task: &Task<'_>,
) -> Result<Vec<Vec<Row>>> {
    let limit = metadata_blocks(pool);
    let devices = devices(pool, limit)?;
    task.expect(
        pool.devices()?
            .iter()
            .fold(0, |sum, info| sum + info.mapped_blocks),
    );
    let planner = Mutex::new(Planner {
        nodes: NodeReader::new(pool),
        devices: devices.into_iter(),
        walk: None,
        told: shared_once.then(|| BlockSet::new(limit)),
        jobs: 0,
    });
    let threads = task.threads();
    let (sender, edges) = sync_channel(threads * JOBS_AHEAD);
    let buckets = Buckets::new(regions, pool.superblock().data_blocks());
    let mut parts = thread::scope(|scope| {
        let start = |_| {
            let (sender, planner, own) = (sender.clone(), &planner, buckets.clone());
            scope.spawn(move || work(pool, planner, regions, own, &sender))
        };
        let workers: Vec<_> = (0..threads).map(start).collect();
        drop(sender);
        let mut parts = vec![collect(edges, buckets.clone(), task)?];
        for worker in workers {
            match worker.join() {
                Ok(part) => parts.push(part),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok::<_, crate::error::Error>(parts)
    })?;
    task.step(0, 0)?;
    let mut whole = parts.pop().unwrap_or(buckets);
    sort(&mut whole.rows, &mut parts, threads);
    Ok(whole.rows)
}

/// Sorts buckets, each with what the other parts have for it.
fn sort(rows: &mut [Vec<Row>], parts: &mut [Buckets], threads: usize) {
    let each = rows.len().div_ceil(threads).max(1);
    let mut others: Vec<_> = parts
        .iter_mut()
        .map(|part| part.rows.chunks_mut(each))
        .collect();
    thread::scope(|scope| {
        for own in rows.chunks_mut(each) {
            let mut others: Vec<_> = others.iter_mut().filter_map(Iterator::next).collect();
            scope.spawn(move || {
                for (index, bucket) in own.iter_mut().enumerate() {
                    let more = others.iter().map(|other| other[index].len()).sum();
                    bucket.reserve_exact(more);
                    for other in &mut others {
                        bucket.append(&mut std::mem::take(&mut other[index]));
                    }
                    bucket.sort_unstable_by_key(Row::order);
                }
            });
        }
    });
}

fn devices(pool: &Pool, limit: u64) -> Result<Vec<(u64, NodeRef)>> {
    let at = BlockNr(pool.superblock().data_mapping_root.get());
    let roots = pool.device_roots()?.into_iter();
    let devices = roots.map(|(id, root)| {
        if id > MAX_DEVICE_ID {
            let expected = format!("at most {MAX_DEVICE_ID}");
            return Err(Damage::new(at, NODE_NAME, "device id", id, expected).into());
        }
        Ok((id, NodeRef::root(usable(at, root, limit)?)))
    });
    devices.collect()
}

/// Does jobs until there is none, something fails, or nobody takes the edges; the rows
/// between them.
fn work(
    pool: &Pool,
    planner: &Mutex<Planner<'_>>,
    regions: &Regions,
    mut buckets: Buckets,
    edges: &SyncSender<Result<Edges>>,
) -> Buckets {
    let mut nodes = NodeReader::new(pool);
    loop {
        let job = planner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .next();
        let answer = match job {
            Ok(None) => return buckets,
            Ok(Some(job)) => rows(&mut nodes, &job, regions).map(|rows| (job.number, rows)),
            Err(error) => Err(error),
        };
        let failed = answer.is_err();
        let answer = answer.map(|(number, mut rows)| {
            let last = if rows.len() > 1 { rows.pop() } else { None };
            let first = rows.first().copied();
            rows.iter().skip(1).for_each(|row| buckets.put(*row));
            (number, first, last)
        });
        if edges.send(answer).is_err() || failed {
            return buckets;
        }
    }
}

/// The rows of a job's leaves.
fn rows(nodes: &mut NodeReader<'_>, job: &Job, regions: &Regions) -> Result<Vec<Row>> {
    let mut order: Vec<usize> = (0..job.leaves.len()).collect();
    order.sort_unstable_by_key(|index| job.leaves[*index].block);
    let blocks: Vec<u32> = order.iter().map(|index| job.leaves[*index].block).collect();
    let mut found = BlockData::zeroed_blocks(job.leaves.len());
    nodes.read_each(&blocks, |index, block| {
        found[order[index]]
            .bytes_mut()
            .copy_from_slice(block.bytes());
        Ok(())
    })?;
    let mut rows: Vec<Row> = Vec::new();
    for (leaf, block) in job.leaves.iter().zip(&found) {
        let node = leaf.parse(block)?;
        let values = node.values::<U64>()?;
        let mut entries = node.keys().iter().zip(values).peekable();
        while let Some((key, value)) = entries.next() {
            let (key, data) = (key.get(), MappingValue(value.get()).data_block());
            let mut length = 1;
            while let Some((next, value)) = entries.peek()
                && next.get() == key.wrapping_add(length)
                && MappingValue(value.get()).data_block() == data + length
            {
                length += 1;
                entries.next();
            }
            for part in regions.parts(data..data + length) {
                let begin = key + (part.start - data);
                let length = u32::try_from(part.end - part.start).unwrap_or(u32::MAX);
                push(&mut rows, Row::new(part.start, job.device, begin, length));
            }
        }
    }
    Ok(rows)
}

fn push(rows: &mut Vec<Row>, row: Row) {
    if !rows.last_mut().is_some_and(|last| last.join(&row)) {
        rows.push(row);
    }
}

/// Joins the edges of jobs, in their order; rows that are whole. Takes the receiver away
/// from who called, so that after an error nobody waits for room in it.
fn collect(
    edges: Receiver<Result<Edges>>,
    mut buckets: Buckets,
    task: &Task<'_>,
) -> Result<Buckets> {
    let mut early = BTreeMap::new();
    let mut next = 1;
    let mut open: Option<Row> = None;
    for answer in edges {
        let (number, first, last) = answer?;
        early.insert(number, (first, last));
        while let Some((first, last)) = early.remove(&next) {
            next += 1;
            for row in first.into_iter().chain(last) {
                if !open.as_mut().is_some_and(|open| open.join(&row))
                    && let Some(whole) = open.replace(row)
                {
                    buckets.put(whole);
                }
            }
            task.step(0, 1)?;
        }
    }
    open.into_iter().for_each(|row| buckets.put(row));
    Ok(buckets)
}

/// Rows by data block, unsorted.
#[derive(Clone)]
struct Buckets {
    rows: Vec<Vec<Row>>,
    begin: u64,
    shift: u32,
}

impl Buckets {
    fn new(regions: &Regions, data_blocks: u64) -> Self {
        let span = regions.span();
        let begin = span.start.min(data_blocks);
        let blocks = span.end.min(data_blocks).saturating_sub(begin).max(1);
        let each = blocks.div_ceil(BUCKETS).next_power_of_two();
        let buckets = blocks.div_ceil(each);
        Self {
            rows: (0..buckets).map(|_| Vec::new()).collect(),
            begin,
            shift: each.trailing_zeros(),
        }
    }

    fn put(&mut self, row: Row) {
        let index = row.data_begin().saturating_sub(self.begin) >> self.shift;
        // What lies past the end of the data is damage, and yet there.
        let last = self.rows.len() - 1;
        let index = usize::try_from(index).unwrap_or(last).min(last);
        let bucket = &mut self.rows[index];
        if bucket.len() == bucket.capacity() {
            // In small steps: doubling would take twice the memory.
            bucket.reserve_exact((bucket.len() / 4).max(32));
        }
        bucket.push(row);
    }
}

const _: () = assert!(MAX_DEVICE_ID < 1 << DEVICE_BITS);
