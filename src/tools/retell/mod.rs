//! A sound pool, told again: what [`shrink`](super::shrink) and [`merge`](super::merge)
//! have in common.
//!
//! A [`Sound`] pool was read once as a whole, so that nothing is made of damage. Then its
//! devices are told to a [`PoolBuilder`], with leaves that several of them have told once.

mod leaves;

use std::sync::Arc;

use rustc_hash::FxHashMap;
use zerocopy::little_endian::U64;

use self::leaves::Leaves;
use crate::block::BlockData;
use crate::build::{BuildOptions, Built, Output, PartId, PoolBuilder};
use crate::disk_space::ENTRIES_PER_BITMAP;
use crate::error::{Damage, Error, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, Pool, Run};
use crate::tools::dump::nodes::{NodeReader, NodeRef, metadata_blocks};
use crate::tools::list::{refuse_damage, refuse_lone_devices, usable_root};
use crate::units::BlockNr;
use crate::walk::{BadMapping, BlockSet, Counts, Forest, ForestLimits, FrozenCounts, Reader};

/// A pool that nobody uses, and of which all that is read was found sound.
pub(super) struct Sound {
    pub pool: Arc<Pool>,
    /// Devices in ascending id, and the roots of their trees.
    pub devices: Vec<(DeviceInfo, u32)>,
    /// Leaves that map each data block.
    pub data: FrozenCounts,
    /// Leaves that several devices have, in ascending order.
    joint: Vec<u32>,
}

/// What becomes of runs on their way.
pub(super) type Change<'c> = &'c dyn Fn(&Run, &mut Vec<Run>);

impl Sound {
    /// Looks at all of a pool.
    ///
    /// # Errors
    /// [`Error::MetadataSnapshotHeld`]: what it shows would be lost. [`Error::ReadOnly`]
    /// for a pool that has to be checked first. [`Error::Damaged`].
    pub fn read(pool: Arc<Pool>, task: &Task<'_>) -> Result<Self> {
        refuse_marks(&pool)?;
        let latest = pool.superblock().time.get();
        Self::read_all(pool, latest, task)
    }

    /// The same, whatever the superblock says of a metadata snapshot, of a check that is
    /// due and of the time: neither of the two will be in what is made of it, and its clock
    /// will be that of its latest mapping at the least.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn read_marked(pool: Arc<Pool>, task: &Task<'_>) -> Result<Self> {
        Self::read_all(pool, u32::MAX, task)
    }

    fn read_all(pool: Arc<Pool>, latest: u32, task: &Task<'_>) -> Result<Self> {
        refuse_kind(&pool)?;
        let roots = pool.device_roots()?;
        refuse_lone_devices(&pool, &roots)?;
        let limit = metadata_blocks(&pool);
        let infos = pool.devices()?;
        let mut devices = Vec::with_capacity(infos.len());
        for (info, (_, root)) in infos.into_iter().zip(&roots) {
            devices.push((info, usable_root(*root, limit)?));
        }
        let (data, nodes_shared) = walk(&pool, devices.iter().map(|each| each.1), latest, task)?;
        let mut own = Self {
            pool,
            devices,
            data,
            joint: Vec::new(),
        };
        if nodes_shared {
            own.find_joint(limit, task)?;
        }
        Ok(own)
    }

    /// The device of this id.
    pub fn device(&self, id: u64) -> Result<&(DeviceInfo, u32)> {
        let found = self.devices.binary_search_by_key(&id, |each| each.0.id);
        found
            .map(|at| &self.devices[at])
            .map_err(|_| Error::NoSuchDevice(id))
    }

    /// Data blocks that some device maps.
    pub fn used_blocks(&self) -> u64 {
        used_blocks(&self.data)
    }

    /// Which leaves come up in two devices.
    fn find_joint(&mut self, limit: u64, task: &Task<'_>) -> Result<()> {
        let (mut seen, mut again) = (BlockSet::new(limit), BlockSet::new(limit));
        let mut roots: Vec<u32> = self.devices.iter().map(|each| each.1).collect();
        roots.sort_unstable();
        for root in roots {
            let mut leaves = Leaves::new(&self.pool, root);
            while let Some(leaf) = leaves.next()? {
                let block = leaf.block.into();
                if !seen.insert(block) && again.insert(block) {
                    self.joint.push(leaf.block);
                }
                task.step(0, 0)?;
            }
        }
        self.joint.sort_unstable();
        Ok(())
    }

    /// Makes a new pool: `tell` tells the devices. Its superblock says what this one's
    /// does, but for what `alter` changes.
    pub fn build(
        &self,
        output: Output,
        alter: impl FnOnce(&mut BuildOptions),
        change: Change<'_>,
        task: &Task<'_>,
        tell: impl FnOnce(&mut Teller<'_>) -> Result<()>,
    ) -> Result<Built> {
        let superblock = self.pool.superblock();
        let mut options = BuildOptions {
            uuid: superblock.uuid,
            time: superblock.time.get(),
            transaction_id: superblock.trans_id.get(),
            // Who has read it all knows that nothing has to be checked.
            flags: 0,
            version: superblock.version.get(),
            data_block_size_sectors: superblock.data_block_size.get(),
            data_blocks: superblock.data_blocks(),
        };
        alter(&mut options);
        let builder = PoolBuilder::new(output, &options)?;
        let mut teller = Teller {
            sound: self,
            builder,
            nodes: NodeReader::new(&self.pool),
            parts: FxHashMap::default(),
            change,
            changed: Vec::new(),
            task,
        };
        teller.tell_joint()?;
        tell(&mut teller)?;
        teller.builder.finish(task)
    }
}

/// Refuses what cannot be written anew.
fn refuse_kind(pool: &Pool) -> Result<()> {
    if pool.snapshot().is_some() {
        return Err(Error::usage("a metadata snapshot is no pool of its own"));
    }
    match pool.superblock().unwritable() {
        Some(reason) => Err(Error::Unsupported {
            path: pool.path().to_owned(),
            reason,
        }),
        None => Ok(()),
    }
}

fn refuse_marks(pool: &Pool) -> Result<()> {
    let superblock = pool.superblock();
    let held = superblock.held_root.get();
    if held != 0 {
        return Err(Error::MetadataSnapshotHeld(BlockNr(held)));
    }
    if superblock.needs_check() {
        return Err(Error::ReadOnly(format!(
            "{}: needs_check is set in the superblock: the pool has to be checked and repaired first",
            pool.path().display()
        )));
    }
    Ok(())
}

/// Counts the leaves that map each data block, and refuses whatever is not sound, as a
/// mapping later than `latest` is; says whether a node has two parents.
pub(super) fn walk(
    pool: &Pool,
    roots: impl Iterator<Item = u32>,
    latest: u32,
    task: &Task<'_>,
) -> Result<(FrozenCounts, bool)> {
    let (metadata_blocks, superblock) = (metadata_blocks(pool), pool.superblock());
    let limits = ForestLimits {
        metadata_blocks,
        data_blocks: superblock.data_blocks(),
        virtual_blocks: superblock.virtual_blocks(),
        time: latest,
    };
    // Every data block has its place in a bitmap, and each bitmap is a metadata block.
    let countable = metadata_blocks * ENTRIES_PER_BITMAP as u64;
    let data = Counts::new(limits.data_blocks.min(countable));
    let mut metadata = Counts::new(metadata_blocks);
    let mut roots: Vec<u32> = roots.collect();
    roots.iter().for_each(|root| metadata.add((*root).into()));
    roots.sort_unstable();
    roots.dedup();
    let reader = Reader::new(&**pool.device(), false);
    let mut forest = Forest::walk(&reader, task, &roots, limits, &mut metadata, Some(&data))?;
    forest.resolve(&reader, task)?;
    refuse_damage(&forest, limits.data_blocks)?;
    if let Some(bad) = forest.bad_mappings.first() {
        let (check, expected) = match bad.kind {
            BadMapping::FutureTime => ("time", limits.time.into()),
            BadMapping::BeyondVolume => ("virtual block", limits.virtual_blocks),
            BadMapping::BeyondData => ("data block", limits.data_blocks),
        };
        let at = BlockNr(bad.leaf.into());
        let expected = format!("at most {expected}");
        return Err(Damage::new(at, "mapping", check, bad.found, expected).into());
    }
    Ok((data.freeze(), !metadata.freeze().at_most_one()))
}

/// Blocks with a reference.
pub(super) fn used_blocks(data: &FrozenCounts) -> u64 {
    data.used(0..data.nr_blocks())
        .map(|range| range.end - range.start)
        .sum()
}

/// Tells devices to a builder.
pub(super) struct Teller<'t> {
    sound: &'t Sound,
    pub builder: PoolBuilder,
    nodes: NodeReader<'t>,
    parts: FxHashMap<u32, PartId>,
    change: Change<'t>,
    changed: Vec<Run>,
    task: &'t Task<'t>,
}

/// Leaves that are read at once.
const LEAVES: usize = 256;

impl Teller<'_> {
    /// Tells each joint leaf once.
    fn tell_joint(&mut self) -> Result<()> {
        let sound = self.sound;
        for blocks in sound.joint.chunks(LEAVES) {
            let leaves: Vec<NodeRef> = blocks.iter().map(|block| NodeRef::root(*block)).collect();
            for (leaf, block) in leaves.iter().zip(&self.read(&leaves)?) {
                self.builder.begin_part()?;
                self.tell_leaf(leaf, block)?;
                self.parts.insert(leaf.block, self.builder.end_part()?);
            }
        }
        Ok(())
    }

    /// Tells a device whose mappings are those of a tree.
    pub fn device(&mut self, info: &DeviceInfo, root: u32) -> Result<()> {
        self.builder.begin_device(info)?;
        let mut leaves = Leaves::new(&self.sound.pool, root);
        let mut waiting: Vec<NodeRef> = Vec::with_capacity(LEAVES);
        while let Some(leaf) = leaves.next()? {
            let part = self.parts.get(&leaf.block).copied();
            if part.is_none() {
                waiting.push(leaf);
            }
            if part.is_some() || waiting.len() == LEAVES {
                self.leaves(&waiting)?;
                waiting.clear();
            }
            if let Some(part) = part {
                self.builder.use_part(part)?;
                self.task.step(0, 0)?;
            }
        }
        self.leaves(&waiting)?;
        self.builder.end_device()
    }

    /// Tells runs of a device that was begun.
    pub fn runs(&mut self, runs: &[Run]) -> Result<()> {
        self.changed.clear();
        for run in runs {
            (self.change)(run, &mut self.changed);
        }
        self.builder.runs(&self.changed)
    }

    fn leaves(&mut self, leaves: &[NodeRef]) -> Result<()> {
        for (leaf, block) in leaves.iter().zip(&self.read(leaves)?) {
            self.tell_leaf(leaf, block)?;
        }
        Ok(())
    }

    /// Nodes, in the order asked for, read in the order of their places.
    fn read(&mut self, leaves: &[NodeRef]) -> Result<Vec<BlockData>> {
        let mut order: Vec<usize> = (0..leaves.len()).collect();
        order.sort_unstable_by_key(|index| leaves[*index].block);
        let blocks: Vec<u32> = order.iter().map(|index| leaves[*index].block).collect();
        let mut found = BlockData::zeroed_blocks(leaves.len());
        self.nodes.read_each(&blocks, |index, block| {
            found[order[index]]
                .bytes_mut()
                .copy_from_slice(block.bytes());
            Ok(())
        })?;
        Ok(found)
    }

    fn tell_leaf(&mut self, leaf: &NodeRef, block: &BlockData) -> Result<()> {
        let node = leaf.parse(block)?;
        let (keys, values) = (node.keys(), node.values::<U64>()?);
        let limits = self.sound.pool.limits();
        let mut runs: Vec<Run> = Vec::new();
        for (key, value) in keys.iter().zip(values) {
            limits.check(leaf.at(), key.get(), value.get())?;
            let single = Run::single(key.get(), value.get());
            if !runs.last_mut().is_some_and(|last| last.join(&single)) {
                runs.push(single);
            }
        }
        self.runs(&runs)?;
        self.task.step(0, keys.len() as u64)
    }
}
