//! What a pool is like: runs of mappings, what devices share, how data are strewn, the shapes of
//! trees, and runs of what is free.
//!
//! All nodes are read once to be found sound, leaves a second time for their runs and to count who
//! has each data block, and, where blocks are shared, those of one device alone a third time. What is
//! known of a node is joined to what is known of its parents, so that nodes that many devices share
//! cost what they cost once. Memory: 72 bytes for each leaf, and one byte for each data block.

mod free;
mod lengths;
mod trees;
mod volumes;

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};

pub use lengths::{BINS, Lengths};

use super::list::{refuse_damage, refuse_lone_devices, usable_root};
use crate::btree::max_entries;
use crate::disk_space::{
    ENTRIES_PER_BITMAP, INDEX_NAME, INDEX_VALIDATOR, IndexEntry, MAX_METADATA_BITMAPS,
    MetadataIndex, SpaceMapRoot,
};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::{DeviceDetails, Pool};
use crate::units::{BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::{Counts, Forest, ForestLimits, Reader};

/// The shape of a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TreeStat {
    /// Levels of nodes: one, if the root is a leaf.
    pub levels: u64,
    /// All nodes.
    pub nodes: u64,
    /// Leaves among them.
    pub leaves: u64,
    /// Entries in the leaves.
    pub entries: u64,
    /// Entries that a leaf can have.
    pub capacity: u64,
    /// Entries of the emptiest leaf, and of the fullest.
    pub least: u64,
    pub most: u64,
    /// Leaves by how full they are, in tenths of their capacity; of a device's tree it is not known.
    pub fill: [u64; 10],
}

/// What a device is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStat {
    /// The thin device.
    pub id: u64,
    /// Mapped blocks.
    pub mapped_blocks: u64,
    /// Those whose data block nobody else has.
    pub exclusive_blocks: u64,
    /// How often data do not go on where they ended, when the volume is read in order.
    pub seeks: u64,
    /// Runs of blocks that lie side by side in the volume and in the data.
    pub runs: Lengths,
    /// Its tree.
    pub tree: TreeStat,
}

/// Free blocks of a space map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeStat {
    /// All blocks.
    pub blocks: u64,
    /// Free ones.
    pub free: u64,
    /// Runs of them.
    pub runs: Lengths,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// Devices, in ascending id.
    pub devices: Vec<DeviceStat>,
    /// Data blocks by how many mappings have them: 1, 2, 3 to 4, 5 to 8 and so on.
    pub owners: Vec<u64>,
    /// The mappings of all devices, nodes that they share counted once. The levels are those
    /// of the highest.
    pub mappings: TreeStat,
    /// The other trees, with names.
    pub trees: Vec<(&'static str, TreeStat)>,
    /// Of the data, and of the metadata; only the live metadata say so.
    pub free: Option<[FreeStat; 2]>,
}

/// Looks at a whole pool.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged): nothing is said past damage.
pub fn statistics(pool: &Arc<Pool>, task: &Task<'_>) -> Result<Statistics> {
    pool.confirmed(look(pool, task))
}

fn look(pool: &Arc<Pool>, task: &Task<'_>) -> Result<Statistics> {
    let reader = Reader::new(&**pool.device(), pool.snapshot().is_some());
    let roots = pool.device_roots()?;
    refuse_lone_devices(pool, &roots)?;
    let metadata_blocks = pool.blocks().nr_blocks().min(MAX_METADATA_BLOCKS);
    let data_blocks = pool.live_superblock().data_blocks();
    let blocks = roots
        .iter()
        .map(|(_, root)| usable_root(*root, metadata_blocks))
        .collect::<Result<Vec<u32>, Damage>>()?;
    let forest = forest(pool, &reader, task, &blocks, metadata_blocks)?;
    refuse_damage(&forest, data_blocks)?;
    // Every data block has its place in a bitmap, and each bitmap is a metadata block.
    let countable = data_blocks.min(metadata_blocks * ENTRIES_PER_BITMAP as u64);
    let capacity = max_entries(size_of::<U64>()) as u64;
    let found = volumes::volumes(
        &reader,
        task,
        &forest,
        &blocks,
        metadata_blocks,
        countable,
        capacity,
    )?;
    let levels = |block: u32| forest.summary(block).map_or(0, |found| found.height.into()) + 1_u64;
    let devices: Vec<DeviceStat> = roots
        .iter()
        .zip(&blocks)
        .zip(&found.each)
        .map(|(((id, _), block), volume)| DeviceStat {
            id: *id,
            mapped_blocks: volume.entries,
            exclusive_blocks: volume.exclusive,
            seeks: volume.seeks,
            runs: volume.lengths(),
            tree: TreeStat {
                levels: levels(*block),
                nodes: volume.nodes,
                leaves: volume.leaves,
                entries: volume.entries,
                capacity,
                least: volume.least,
                most: volume.most,
                fill: [0; 10],
            },
        })
        .collect();
    let (trees, free) = others(pool, &reader, task, metadata_blocks)?;
    Ok(Statistics {
        owners: found.owners,
        mappings: TreeStat {
            levels: blocks.iter().map(|block| levels(*block)).max().unwrap_or(0),
            nodes: found.nodes,
            leaves: found.leaves,
            entries: found.entries,
            capacity,
            least: devices
                .iter()
                .map(|each| each.tree.least)
                .min()
                .unwrap_or(0),
            most: devices.iter().map(|each| each.tree.most).max().unwrap_or(0),
            fill: found.fill,
        },
        devices,
        trees,
        free,
    })
}

/// All mappings, found sound.
fn forest(
    pool: &Arc<Pool>,
    reader: &Reader<'_>,
    task: &Task<'_>,
    roots: &[u32],
    metadata_blocks: u64,
) -> Result<Forest> {
    let limits = ForestLimits {
        metadata_blocks,
        data_blocks: pool.live_superblock().data_blocks(),
        virtual_blocks: pool.superblock().virtual_blocks(),
        time: pool.superblock().time.get(),
    };
    let mut distinct = roots.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    let mut metadata = Counts::new(metadata_blocks);
    let mut forest = Forest::walk(reader, task, &distinct, limits, &mut metadata, None)?;
    forest.resolve(reader, task)?;
    Ok(forest)
}

type Others = (Vec<(&'static str, TreeStat)>, Option<[FreeStat; 2]>);

/// The other trees, and what is free.
fn others(pool: &Arc<Pool>, reader: &Reader<'_>, task: &Task<'_>, limit: u64) -> Result<Others> {
    let superblock = pool.superblock();
    let top = superblock.data_mapping_root.get();
    let details = superblock.device_details_root.get();
    let mut trees = vec![
        (
            "devices",
            trees::measure::<U64>(reader, task, top, limit, |_, _| Ok(()))?,
        ),
        (
            "details",
            trees::measure::<DeviceDetails>(reader, task, details, limit, |_, _| Ok(()))?,
        ),
    ];
    // Those of a metadata snapshot are nobody's any more.
    if pool.snapshot().is_some() {
        return Ok((trees, None));
    }
    let live = pool.live_superblock();
    let (data, metadata) = (
        live.data_space_map_root.root,
        live.metadata_space_map_root.root,
    );
    let (index, bitmaps) = data_bitmaps(reader, task, &data, limit)?;
    trees.push(("data-index", index));
    let mut overflow = |name, root: &SpaceMapRoot| -> Result<()> {
        let root = root.ref_count_root.get();
        let shape = trees::measure::<U32>(reader, task, root, limit, |_, _| Ok(()))?;
        trees.push((name, shape));
        Ok(())
    };
    overflow("data-counts", &data)?;
    overflow("metadata-counts", &metadata)?;
    let free = |root: &SpaceMapRoot, bitmaps: &[u32]| -> Result<FreeStat> {
        let blocks = root.nr_blocks.get();
        let (free, runs) = free::free_runs(reader, task, bitmaps, blocks)?;
        Ok(FreeStat { blocks, free, runs })
    };
    let own = metadata_bitmaps(reader, &metadata, limit)?;
    Ok((
        trees,
        Some([free(&data, &bitmaps)?, free(&metadata, &own)?]),
    ))
}

/// Where the bitmaps of the data map are, and the tree that says so.
fn data_bitmaps(
    reader: &Reader<'_>,
    task: &Task<'_>,
    root: &SpaceMapRoot,
    limit: u64,
) -> Result<(TreeStat, Vec<u32>)> {
    let at = BlockNr(root.bitmap_root.get());
    let wanted = root.nr_blocks.get().div_ceil(ENTRIES_PER_BITMAP as u64);
    let mut bitmaps = Vec::new();
    let shape = trees::measure::<IndexEntry>(reader, task, at.0, limit, |keys, entries| {
        for (key, entry) in keys.iter().zip(entries) {
            if key.get() != bitmaps.len() as u64 {
                let expected = bitmaps.len() as u64;
                return Err(Damage::new(at, INDEX_NAME, "key", key.get(), expected).into());
            }
            // More than are needed may be left over of a larger pool.
            bitmaps.push(usable_root(entry.blocknr.get(), limit)?);
        }
        Ok(())
    })?;
    if (bitmaps.len() as u64) < wanted {
        let found = bitmaps.len() as u64;
        return Err(Damage::new(at, INDEX_NAME, "bitmaps", found, wanted).into());
    }
    bitmaps.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
    Ok((shape, bitmaps))
}

/// Where the bitmaps of the metadata map are.
fn metadata_bitmaps(reader: &Reader<'_>, root: &SpaceMapRoot, limit: u64) -> Result<Vec<u32>> {
    let at = BlockNr(root.bitmap_root.get());
    let block = reader.read_block(at, INDEX_NAME, &INDEX_VALIDATOR)?;
    let wanted = root.nr_blocks.get().div_ceil(ENTRIES_PER_BITMAP as u64);
    if wanted > MAX_METADATA_BITMAPS as u64 {
        let expected = MAX_METADATA_BITMAPS as u64;
        return Err(Damage::new(at, INDEX_NAME, "bitmaps", wanted, expected).into());
    }
    let entries = &block.view::<MetadataIndex>().entries;
    let entries = entries.iter().take(usize::try_from(wanted).unwrap_or(0));
    entries
        .map(|entry| Ok(usable_root(entry.blocknr.get(), limit)?))
        .collect()
}
