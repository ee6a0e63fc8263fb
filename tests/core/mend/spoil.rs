//! Making counts too high, and sums wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::block::{BlockData, BlockManager, Validator};
use thinmeta::btree::{self, BTree, Plain, TreeType, Wait};
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::disk_space::{DataMap, DiskSpaceMap, INDEX_VALIDATOR, IndexEntry, MetadataIndex};
use thinmeta::space::SpaceMap;
use thinmeta::thin::{
    DeviceDetails, NEEDS_CHECK, SUPERBLOCK_VALIDATOR, Superblock, read_superblock,
};
use thinmeta::transaction::TransactionManager;
use zerocopy::IntoBytes;

use super::BLOCK;
use crate::support::chance::Chance;

const SUPERBLOCK: BlockNr = BlockNr(0);

/// What to spoil.
#[derive(Clone, Debug, Default)]
pub struct Spoil {
    /// How much is added to the counts of data blocks.
    pub data: BTreeMap<u64, u32>,
    /// The same of metadata blocks.
    pub metadata: BTreeMap<u64, u32>,
    /// What details say of how many blocks are mapped.
    pub mapped: BTreeMap<u64, u64>,
    /// `nr_free` and `none_free_before` of the first data and metadata bitmaps.
    pub sums: [Option<(u32, u32)>; 2],
    /// Added to `nr_allocated` of both maps.
    pub allocated: [u64; 2],
    pub needs_check: bool,
}

impl Spoil {
    /// Some of everything.
    pub fn random(image: &[u8], chance: &mut Chance<'_>) -> Self {
        let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image.to_vec()));
        let superblock = read_superblock(&*device, false).unwrap();
        let mut spoil = Self::default();
        let (data, metadata) = (superblock.data_blocks(), superblock.metadata_blocks());
        let kinds = chance.below(31) + 1;
        if kinds & 1 != 0 && data > 0 {
            spoil.data = counts(data, chance);
        }
        if kinds & 2 != 0 {
            spoil.metadata = counts(metadata, chance);
        }
        if kinds & 4 != 0 {
            for id in ids(&device, &superblock) {
                if chance.one_in(2) {
                    spoil.mapped.insert(id, chance.below(1 << 40));
                }
            }
        }
        if kinds & 8 != 0 {
            let mut sums = || {
                chance
                    .one_in(2)
                    .then(|| (chance.below(16_000) as u32, 16_320))
            };
            spoil.sums = [sums().filter(|_| data > 0), sums()];
            spoil.allocated = [chance.below(3), chance.below(3)];
        }
        spoil.needs_check = kinds & 16 != 0;
        spoil
    }

    /// Whether there is something to put right but the flag.
    pub fn is_something(&self) -> bool {
        !self.data.is_empty()
            || !self.metadata.is_empty()
            || !self.mapped.is_empty()
            || self.sums.iter().any(Option::is_some)
            || self.allocated != [0, 0]
    }

    /// The image with all that wrong.
    pub fn apply(&self, image: &[u8]) -> Vec<u8> {
        let device = Arc::new(MemoryDevice::writable(image.to_vec()));
        let shared: Arc<dyn Device> = Arc::clone(&device) as _;
        let superblock = self.change(&shared);
        let mut block = BlockData::zeroed();
        device.read_exact_at(block.bytes_mut(), 0).unwrap();
        *block.view_mut::<Superblock>() = superblock;
        SUPERBLOCK_VALIDATOR.seal(SUPERBLOCK, &mut block);
        device.write_all_at(block.bytes(), 0).unwrap();
        device.contents()
    }

    fn change(&self, device: &Arc<dyn Device>) -> Superblock {
        let mut superblock = read_superblock(&**device, false).unwrap();
        let blocks = BlockManager::new(Arc::clone(device), 1 << 20);
        let space = superblock.metadata_space_map_root.root;
        let manager = TransactionManager::open(&blocks, SUPERBLOCK, &space, false).unwrap();
        let root = superblock.data_space_map_root.root;
        let mut map = DataMap::open(&blocks, &root, false).unwrap();
        manager
            .change(|txn| {
                let mut details = BlockNr(superblock.device_details_root.get());
                for (id, mapped) in &self.mapped {
                    let tree: BTree<DeviceDetails> = BTree::new(&blocks, details);
                    let mut value = tree.lookup(*id, Wait::Yes)?.unwrap();
                    value.mapped_blocks = (*mapped).into();
                    details =
                        btree::insert(txn, &mut plain(24), details, &[*id], value.as_bytes())?.root;
                }
                superblock.device_details_root = details.0.into();
                for (block, more) in &self.data {
                    let count = map.get_count(txn, *block)?;
                    map.set_count(txn, *block, count + more)?;
                }
                map.commit(txn)?;
                let mut root = map.root();
                if let Some((free, hint)) = self.sums[0] {
                    let at = BlockNr(root.bitmap_root.get());
                    let tree: BTree<IndexEntry> = BTree::new(&blocks, at);
                    let entry = spoilt(tree.lookup(0, Wait::Yes)?.unwrap(), free, hint);
                    let at = btree::insert(txn, &mut plain(16), at, &[0], entry.as_bytes())?.root;
                    root.bitmap_root = at.0.into();
                }
                // After all else has been allocated: what is leaked may be what is free now.
                for (block, more) in &self.metadata {
                    let count = txn.ref_count(BlockNr(*block))?;
                    txn.set_count(BlockNr(*block), count + more)?;
                }
                root.nr_allocated = (root.nr_allocated.get() + self.allocated[0]).into();
                superblock.data_space_map_root.root = root;
                Ok(())
            })
            .unwrap();
        manager.pre_commit().unwrap();
        let mut root = manager.space_root();
        root.nr_allocated = (root.nr_allocated.get() + self.allocated[1]).into();
        if let Some((free, hint)) = self.sums[1] {
            let at = BlockNr(root.bitmap_root.get());
            let mut index = BlockData::zeroed();
            let offset = at.0 * BLOCK as u64;
            device.read_exact_at(index.bytes_mut(), offset).unwrap();
            let entries = &mut index.view_mut::<MetadataIndex>().entries;
            entries[0] = spoilt(entries[0], free, hint);
            INDEX_VALIDATOR.seal(at, &mut index);
            device.write_all_at(index.bytes(), offset).unwrap();
        }
        superblock.metadata_space_map_root.root = root;
        if self.needs_check {
            superblock.flags = (superblock.flags.get() | NEEDS_CHECK).into();
        }
        superblock
    }
}

fn spoilt(entry: IndexEntry, free: u32, hint: u32) -> IndexEntry {
    IndexEntry {
        nr_free: free.into(),
        none_free_before: hint.into(),
        ..entry
    }
}

fn plain(value_bytes: usize) -> TreeType<'static> {
    TreeType {
        levels: 1,
        value_bytes,
        values: Box::leak(Box::new(Plain)),
    }
}

/// Runs of blocks with something added to their counts.
fn counts(nr_blocks: u64, chance: &mut Chance<'_>) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..1 + chance.below(8) {
        let begin = chance.below(nr_blocks);
        let length = chance.pick(&[1, 1, 1, 2, 9, 60]);
        let more = chance.pick(&[1, 1, 1, 2, 3, 4, 300, 70_000]);
        for block in begin..nr_blocks.min(begin + length) {
            counts.insert(block, more);
        }
    }
    counts
}

fn ids(device: &Arc<dyn Device>, superblock: &Superblock) -> Vec<u64> {
    let blocks = BlockManager::new(Arc::clone(device), 1 << 20);
    let root = BlockNr(superblock.device_details_root.get());
    let tree: BTree<DeviceDetails> = BTree::new(&blocks, root);
    let mut cursor = tree.range(0, None);
    let mut ids = Vec::new();
    while let Some(leaf) = cursor.next_leaf().unwrap() {
        let (keys, _) = leaf.entries::<DeviceDetails>().unwrap();
        ids.extend(keys.iter().map(|key| key.get()));
    }
    ids
}

/// A data block that nothing refers to.
pub fn unused(image: &[u8]) -> u64 {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image.to_vec()));
    let superblock = read_superblock(&*device, false).unwrap();
    let blocks = BlockManager::new(device, 1 << 20);
    let map = DiskSpaceMap::data(&blocks, superblock.data_space_map_root.root);
    let unused = |block: &u64| map.get_count(*block).unwrap() == 0;
    (0..superblock.data_blocks()).find(unused).unwrap()
}

/// Metadata blocks that nothing refers to.
pub fn free_metadata(image: &[u8]) -> u64 {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image.to_vec()));
    let root = read_superblock(&*device, false)
        .unwrap()
        .metadata_space_map_root
        .root;
    root.nr_blocks.get() - root.nr_allocated.get()
}
