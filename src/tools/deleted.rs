//! What deleting devices would really free.
//!
//! A block becomes free when nobody else refers to it: no device that stays, and not the
//! metadata snapshot that the pool holds.

use std::sync::Arc;

use rustc_hash::FxHashSet;

use crate::disk_space::ENTRIES_PER_BITMAP;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Pool, SUPERBLOCK_VALIDATOR, Superblock};
use crate::tools::list::{refuse_damage, usable_root};
use crate::units::{BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::{Counts, Forest, ForestLimits, Reader};

/// What would become free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Data blocks.
    pub data_blocks: u64,
    /// Metadata blocks of the devices' trees. Deleting takes and frees a few others.
    pub metadata_blocks: u64,
}

/// Counts what would become free if all of these devices were deleted.
///
/// # Errors
/// [`Error::NoSuchDevice`]; [`Error::Damaged`]: nothing is counted past damage.
pub fn freed_if_deleted(pool: &Arc<Pool>, ids: &[u64], task: &Task<'_>) -> Result<Freed> {
    pool.confirmed(count(pool, ids, task))
}

fn count(pool: &Arc<Pool>, ids: &[u64], task: &Task<'_>) -> Result<Freed> {
    let roots = pool.device_roots()?;
    let asked: FxHashSet<u64> = ids.iter().copied().collect();
    let known: FxHashSet<u64> = roots.iter().map(|root| root.0).collect();
    if let Some(id) = ids.iter().find(|id| !known.contains(id)) {
        return Err(Error::NoSuchDevice(*id));
    }
    let (gone, mut stay): (Vec<_>, Vec<_>) =
        roots.into_iter().partition(|(id, _)| asked.contains(id));
    stay.extend(held_roots(pool)?);
    let gone = Reached::by(pool, &gone, task)?;
    let stay = Reached::by(pool, &stay, task)?;
    let mut freed = Freed::default();
    let data = (0..gone.data.nr_blocks()).step_by(ENTRIES_PER_BITMAP);
    let mut ours = [0; ENTRIES_PER_BITMAP];
    let mut theirs = [0; ENTRIES_PER_BITMAP];
    for begin in data {
        task.step(0, 0)?;
        gone.data.copy_saturated(begin, &mut ours);
        stay.data.copy_saturated(begin, &mut theirs);
        let both = ours.iter().zip(&theirs);
        freed.data_blocks += both
            .filter(|(own, other)| **own > 0 && **other == 0)
            .count() as u64;
    }
    let limit = u32::try_from(metadata_blocks(pool)).unwrap_or(u32::MAX);
    let alone = |block: &u32| {
        gone.forest.summary(*block).is_some() && stay.forest.summary(*block).is_none()
    };
    freed.metadata_blocks = (0..limit).filter(alone).count() as u64;
    Ok(freed)
}

fn metadata_blocks(pool: &Pool) -> u64 {
    pool.blocks().nr_blocks().min(MAX_METADATA_BLOCKS)
}

/// Devices of the metadata snapshot that the pool holds, unless that is what is read.
fn held_roots(pool: &Pool) -> Result<Vec<(u64, u64)>> {
    let at = BlockNr(pool.live_superblock().held_root.get());
    if at.0 == 0 || pool.snapshot().is_some() {
        return Ok(Vec::new());
    }
    let block = pool.blocks().read(at, &SUPERBLOCK_VALIDATOR)?;
    let held: &Superblock = block.view();
    pool.roots_under(BlockNr(held.data_mapping_root.get()))
}

/// What trees reach.
struct Reached {
    forest: Forest,
    data: Counts,
}

impl Reached {
    fn by(pool: &Pool, roots: &[(u64, u64)], task: &Task<'_>) -> Result<Self> {
        let reader = Reader::new(&**pool.device(), pool.snapshot().is_some());
        let metadata_blocks = metadata_blocks(pool);
        let data_blocks = pool.live_superblock().data_blocks();
        // Every data block has its place in a bitmap, and each bitmap is a metadata block.
        let countable = data_blocks.min(metadata_blocks * ENTRIES_PER_BITMAP as u64);
        let (mut metadata, data) = (Counts::new(metadata_blocks), Counts::new(countable));
        let mut blocks = Vec::with_capacity(roots.len());
        for (_, root) in roots {
            blocks.push(usable_root(*root, metadata_blocks)?);
        }
        blocks.sort_unstable();
        blocks.dedup();
        let limits = ForestLimits {
            metadata_blocks,
            data_blocks,
            virtual_blocks: pool.superblock().virtual_blocks(),
            time: pool.superblock().time.get(),
        };
        let mut forest = Forest::walk(&reader, task, &blocks, limits, &mut metadata, Some(&data))?;
        forest.resolve(&reader, task)?;
        refuse_damage(&forest, data_blocks)?;
        Ok(Self { forest, data })
    }
}
