//! list: what each device has to itself, and what it shares.
//!
//! A data block is exclusive to a device when no other device of the same roots
//! maps it. The stored counts cannot tell: they count leaves, not devices. So
//! all leaves are counted once, and those that only one device reaches are
//! looked at again.

use std::sync::Arc;

use zerocopy::little_endian::U64;

use crate::block::{BlockData, Validator};
use crate::btree::{BTree, MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node};
use crate::disk_space::ENTRIES_PER_BITMAP;
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::{MappingValue, Pool};
use crate::units::{BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::{BadMapping, Counts, Forest, ForestLimits, FrozenCounts, Reader};

/// One device's blocks, by who else maps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exclusive {
    /// The thin device.
    pub id: u64,
    /// Data blocks that no other device maps.
    pub exclusive_blocks: u64,
    /// Mapped blocks that others map too.
    pub shared_blocks: u64,
}

/// Counts exclusive and shared blocks of every device, in ascending id.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged): nothing is counted past damage.
pub fn exclusive_blocks(pool: &Arc<Pool>, task: &Task<'_>) -> Result<Vec<Exclusive>> {
    pool.confirmed(count_blocks(pool, task))
}

/// The highest mapped virtual block of every device, in ascending id: none for a device
/// without mappings.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged), also where only one of the trees of the
/// pool has a device.
pub fn last_mapped(pool: &Arc<Pool>, task: &Task<'_>) -> Result<Vec<(u64, Option<u64>)>> {
    let find = || {
        let roots = pool.device_roots()?;
        refuse_lone_devices(pool, &roots)?;
        task.expect(roots.len() as u64);
        let mut found = Vec::with_capacity(roots.len());
        for (id, root) in roots {
            let tree = BTree::<U64>::new(pool.blocks(), BlockNr(root));
            found.push((id, tree.last_key()?));
            task.step(0, 1)?;
        }
        Ok(found)
    };
    pool.confirmed(find())
}

/// Refuses a pool of which only one tree has a device, as [`exclusive_blocks`] does.
///
/// # Errors
/// [`Error::Damaged`](crate::Error::Damaged).
pub fn same_devices(pool: &Arc<Pool>) -> Result<()> {
    pool.confirmed(
        pool.device_roots()
            .and_then(|roots| refuse_lone_devices(pool, &roots)),
    )
}

fn count_blocks(pool: &Arc<Pool>, task: &Task<'_>) -> Result<Vec<Exclusive>> {
    let reader = Reader::new(&**pool.device(), pool.snapshot().is_some());
    let roots = pool.device_roots()?;
    refuse_lone_devices(pool, &roots)?;
    let metadata_blocks = pool.blocks().nr_blocks().min(MAX_METADATA_BLOCKS);
    let data_blocks = pool.live_superblock().data_blocks();
    // Every data block has its place in a bitmap, and each bitmap is a metadata block.
    let countable = data_blocks.min(metadata_blocks * ENTRIES_PER_BITMAP as u64);
    let (mut metadata, data) = (Counts::new(metadata_blocks), Counts::new(countable));
    let mut blocks = Vec::with_capacity(roots.len());
    for (_, root) in &roots {
        blocks.push(usable_root(*root, metadata_blocks)?);
        metadata.add(*root);
    }
    let devices = blocks.clone();
    blocks.sort_unstable();
    blocks.dedup();
    let time = pool.superblock().time.get();
    let limits = ForestLimits {
        metadata_blocks,
        data_blocks,
        virtual_blocks: pool.superblock().virtual_blocks(),
        time,
    };
    let mut forest = Forest::walk(&reader, task, &blocks, limits, &mut metadata, Some(&data))?;
    forest.resolve(&reader, task)?;
    refuse_damage(&forest, data_blocks)?;
    let data = data.freeze();
    let alone = Alone {
        reader,
        forest: &forest,
        references: metadata.freeze(),
        no_data_shared: data.at_most_one(),
        data,
    };
    let exclusive = alone.count(&devices, task)?;
    let each = roots.iter().zip(&devices).zip(exclusive);
    Ok(each
        .map(|(((id, _), root), exclusive_blocks)| {
            let mapped = forest
                .summary(*root)
                .map_or(0, |summary| summary.entries.into());
            let shared_blocks = u64::saturating_sub(mapped, exclusive_blocks);
            Exclusive {
                id: *id,
                exclusive_blocks,
                shared_blocks,
            }
        })
        .collect())
}

/// Both trees have to know the same devices.
pub(super) fn refuse_lone_devices(pool: &Arc<Pool>, roots: &[(u64, u64)]) -> Result<()> {
    let devices = pool.devices()?;
    let details = devices.iter().map(|device| device.id);
    if details.clone().eq(roots.iter().map(|root| root.0)) {
        return Ok(());
    }
    for id in details {
        pool.device_by_id(id)?;
    }
    let root = BlockNr(pool.superblock().device_details_root.get());
    let found = "devices that only the mapping tree has";
    Err(Damage::new(
        root,
        "device details",
        "device",
        found,
        "details of every device",
    )
    .into())
}

pub(super) fn usable_root(root: u64, metadata_blocks: u64) -> Result<u32, Damage> {
    let usable = u32::try_from(root)
        .ok()
        .filter(|block| *block != 0 && root < metadata_blocks);
    usable.ok_or_else(|| {
        let expected = format!("1 to {}", metadata_blocks.saturating_sub(1));
        Damage::new(BlockNr(root), "mapping tree", "pointer", root, expected)
    })
}

pub(super) fn refuse_damage(forest: &Forest, data_blocks: u64) -> Result<(), Damage> {
    if let Some(damage) = forest.damages.first() {
        return Err(damage.clone());
    }
    let beyond = forest
        .bad_mappings
        .iter()
        .find(|bad| bad.kind == BadMapping::BeyondData);
    beyond.map_or(Ok(()), |bad| {
        let expected = format!("below {data_blocks} for virtual block {}", bad.keys.0);
        Err(Damage::new(
            BlockNr(bad.leaf.into()),
            "mapping",
            "data block",
            bad.found,
            expected,
        ))
    })
}

/// Nodes that one device alone reaches.
struct Alone<'d> {
    reader: Reader<'d>,
    forest: &'d Forest,
    /// References to each node: from distinct parents, and one per device from roots.
    references: FrozenCounts,
    /// Leaves that map each data block.
    data: FrozenCounts,
    /// No two leaves map one data block: then nothing in a leaf need be looked up.
    no_data_shared: bool,
}

/// What one thread made of its share of a level.
#[derive(Default)]
struct Share {
    /// Child and device.
    next: Vec<(u32, u32)>,
    /// Device and exclusive blocks of one leaf.
    found: Vec<(u32, u64)>,
}

impl Alone<'_> {
    /// Exclusive blocks by device, in the order of `roots`.
    fn count(&self, roots: &[u32], task: &Task<'_>) -> Result<Vec<u64>> {
        let mut exclusive = vec![0; roots.len()];
        let numbered = roots.iter().zip(0..).map(|(root, device)| (*root, device));
        let mut level: Vec<(u32, u32)> = numbered
            .filter(|(root, _)| self.references.get((*root).into()) == 1)
            .collect();
        for _ in 0..MAX_DEPTH {
            if level.is_empty() {
                break;
            }
            level.retain(|(block, device)| match self.whole_leaf(*block) {
                Some(blocks) => {
                    exclusive[*device as usize] += blocks;
                    false
                }
                None => true,
            });
            level.sort_unstable();
            let (blocks, owners): (Vec<u32>, Vec<u32>) = level.iter().copied().unzip();
            let (_, shares) = self.reader.visit(
                task,
                &blocks,
                NODE_NAME,
                (),
                Share::default,
                |share, at, block| {
                    let place = blocks.binary_search(&u32::try_from(at.0).unwrap_or(0));
                    let owner = place.ok().and_then(|place| owners.get(place)).copied();
                    Ok(self.node(at, block?, owner.unwrap_or(0), share)?)
                },
            )?;
            level.clear();
            for share in shares {
                level.extend(share.next);
                for (device, blocks) in share.found {
                    exclusive[device as usize] += blocks;
                }
            }
        }
        Ok(exclusive)
    }

    /// The mappings of a leaf that are exclusive as a whole, known from the first walk.
    fn whole_leaf(&self, block: u32) -> Option<u64> {
        let summary = self.forest.summary(block)?;
        (self.no_data_shared && summary.height == 0).then_some(summary.entries.into())
    }

    fn node(
        &self,
        at: BlockNr,
        block: &BlockData,
        device: u32,
        share: &mut Share,
    ) -> Result<(), Damage> {
        NODE_VALIDATOR.check(at, block)?;
        let node = Node::parse(at, block)?;
        if node.is_leaf() {
            let alone = |value: &&U64| self.data.get(MappingValue(value.get()).data_block()) == 1;
            let blocks = node.values::<U64>()?.iter().filter(alone).count() as u64;
            match share.found.last_mut() {
                Some((last, sum)) if *last == device => *sum += blocks,
                _ => share.found.push((device, blocks)),
            }
            return Ok(());
        }
        let children = node.children()?.iter().map(|child| child.get());
        let alone = children.filter(|child| self.references.get(*child) == 1);
        share
            .next
            .extend(alone.filter_map(|child| Some((u32::try_from(child).ok()?, device))));
        Ok(())
    }
}
