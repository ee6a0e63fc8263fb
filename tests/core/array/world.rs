//! A device with a space map of its own, and a walk that counts every reference on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::array::{ARRAY_VALIDATOR, ArrayBlock, capacity};
use thinmeta::block::BlockManager;
use thinmeta::btree::{NODE_VALIDATOR, Node, ValueType};
use thinmeta::device::MemoryDevice;
use thinmeta::disk_space::{DiskSpaceMap, SpaceMapRoot};
use thinmeta::store::{STORE_VALIDATOR, StoreSuperblock};
use thinmeta::transaction::{Transaction, TransactionManager};

const SUPERBLOCK: BlockNr = BlockNr(0);

/// Elements whose first 8 bytes are a block that they have a reference on.
pub struct Refs(pub usize);

impl Refs {
    fn blocks(&self, values: &[u8]) -> Vec<BlockNr> {
        assert!(!values.is_empty() && values.len().is_multiple_of(self.0));
        values.chunks(self.0).map(target).collect()
    }
}

/// The block that an element refers to.
pub fn target(element: &[u8]) -> BlockNr {
    BlockNr(u64::from_le_bytes(element[..8].try_into().unwrap()))
}

impl ValueType for Refs {
    fn inc(&mut self, txn: &mut Transaction, values: &[u8]) -> thinmeta::Result<()> {
        let mut blocks = self.blocks(values).into_iter();
        blocks.try_for_each(|at| txn.inc(at))
    }

    fn dec(&mut self, txn: &mut Transaction, values: &[u8]) -> thinmeta::Result<()> {
        let mut blocks = self.blocks(values).into_iter();
        blocks.try_for_each(|at| txn.dec(at))
    }

    fn equal(&self, old: &[u8], new: &[u8]) -> bool {
        assert_eq!((old.len(), new.len()), (self.0, self.0));
        old == new
    }
}

/// A device with a transaction on it; every count is checked twice.
pub struct World {
    pub manager: Arc<TransactionManager>,
    pub device: Arc<MemoryDevice>,
}

impl World {
    pub fn new(blocks: usize) -> Self {
        let device = Arc::new(MemoryDevice::writable(vec![0; blocks << 12]));
        let blocks = BlockManager::new(Arc::clone(&device) as _, 64 << 20);
        let manager = TransactionManager::create(&blocks, SUPERBLOCK, true).unwrap();
        let world = Self { manager, device };
        world.commit();
        world
    }

    pub fn blocks(&self) -> &Arc<BlockManager> {
        self.manager.blocks()
    }

    pub fn change<T>(&self, work: impl FnOnce(&mut Transaction) -> thinmeta::Result<T>) -> T {
        self.manager.change(work).unwrap()
    }

    pub fn commit(&self) {
        self.try_commit().unwrap();
    }

    /// Fails where the space map itself finds no room.
    pub fn try_commit(&self) -> thinmeta::Result<()> {
        self.manager.pre_commit()?;
        let root = self.manager.space_root();
        let blocks = self.blocks();
        let mut guard = blocks
            .write_lock_zero(SUPERBLOCK, &STORE_VALIDATOR)
            .unwrap();
        let mut superblock = StoreSuperblock::new(SUPERBLOCK);
        superblock.set_space_root(&root);
        *guard.view_mut() = superblock;
        self.manager.commit(guard)
    }

    /// The same device, read by somebody who shares nothing with this one.
    pub fn read_again(&self) -> Arc<BlockManager> {
        BlockManager::new(Arc::clone(&self.device) as _, 1 << 20)
    }

    fn space_root(&self) -> SpaceMapRoot {
        let block = self.blocks().read(SUPERBLOCK, &STORE_VALIDATOR).unwrap();
        let superblock: &StoreSuperblock = block.view();
        superblock.space_root().unwrap()
    }
}

/// References that were met, and arrays that were walked for them.
pub struct Walk<'w> {
    blocks: &'w Arc<BlockManager>,
    value_bytes: usize,
    counted: bool,
    pub met: BTreeMap<u64, u32>,
}

impl<'w> Walk<'w> {
    /// A walk of arrays whose elements have so many bytes; `counted`: they refer to blocks.
    pub fn new(world: &'w World, value_bytes: usize, counted: bool) -> Self {
        Self {
            blocks: world.blocks(),
            value_bytes,
            counted,
            met: BTreeMap::new(),
        }
    }

    /// Whether this is the first of the references on a block.
    pub fn meet(&mut self, at: BlockNr) -> bool {
        let count = self.met.entry(at.0).or_default();
        *count += 1;
        *count == 1
    }

    /// One reference on an array; its elements, block by block.
    pub fn array(&mut self, root: BlockNr) -> Vec<u8> {
        let mut leaves = Vec::new();
        self.tree(root, &mut leaves, true);
        leaves.sort_unstable();
        let mut elements = Vec::new();
        let last = leaves.len().saturating_sub(1);
        for (place, (key, at)) in leaves.into_iter().enumerate() {
            assert_eq!(key, place as u64, "keys are 0, 1, 2 and so on");
            let block = self.blocks.read(BlockNr(at), &ARRAY_VALIDATOR).unwrap();
            let view = ArrayBlock::parse(BlockNr(at), &block).unwrap();
            let values = view.packed_values(self.value_bytes).unwrap();
            let nr = values.len() / self.value_bytes;
            let full = capacity(self.value_bytes);
            assert!(nr == full || place == last && nr > 0, "block {at}: {nr}");
            elements.extend_from_slice(values);
        }
        elements
    }

    /// The space map's own trees have no array blocks.
    fn tree(&mut self, at: BlockNr, found: &mut Vec<(u64, u64)>, arrays: bool) {
        let is_new = self.meet(at);
        self.node(at, is_new, found, arrays);
    }

    /// Counts what a node points to, if it is new, and lists its leaves' values.
    fn node(&mut self, at: BlockNr, is_new: bool, found: &mut Vec<(u64, u64)>, arrays: bool) {
        let block = self.blocks.read(at, &NODE_VALIDATOR).unwrap();
        let node = Node::parse(at, &block).unwrap();
        if node.is_leaf() && !arrays {
            return;
        }
        let values = if node.is_leaf() {
            node.values::<zerocopy::little_endian::U64>().unwrap()
        } else {
            node.children().unwrap()
        };
        for (key, value) in node.keys().iter().zip(values) {
            let child = BlockNr(value.get());
            let first = is_new && self.meet(child);
            if node.is_leaf() {
                found.push((key.get(), child.0));
                if first && self.counted {
                    self.elements(child);
                }
            } else {
                self.node(child, first, found, arrays);
            }
        }
    }

    fn elements(&mut self, at: BlockNr) {
        let block = self.blocks.read(at, &ARRAY_VALIDATOR).unwrap();
        let view = ArrayBlock::parse(at, &block).unwrap();
        let values = view.packed_values(self.value_bytes).unwrap();
        for element in values.chunks(self.value_bytes) {
            self.meet(target(element));
        }
    }

    /// Whether every count of the map, which was just committed, is what was met.
    pub fn check_counts(mut self, world: &World) {
        let root = world.space_root();
        let map = DiskSpaceMap::metadata(self.blocks, root);
        self.meet(SUPERBLOCK);
        self.meet(BlockNr(root.bitmap_root.get()));
        for bitmap in 0..root.nr_blocks.get().div_ceil(16_320) {
            let entry = map.index_entry(bitmap).unwrap();
            self.meet(BlockNr(entry.blocknr.get()));
        }
        let overflow = BlockNr(root.ref_count_root.get());
        self.tree(overflow, &mut Vec::new(), false);
        let look = |txn: &Transaction| {
            for block in 0..txn.nr_blocks() {
                let met = self.met.get(&block).copied().unwrap_or(0);
                assert_eq!(txn.ref_count(BlockNr(block))?, met, "block {block}");
            }
            Ok(())
        };
        world.manager.look(look).unwrap();
    }
}
