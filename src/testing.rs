//! Test support: small pools put together by hand, node by node, so that a test
//! decides which nodes are shared, how full they are and what is wrong with them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::block::{BlockData, checksum};
use crate::btree::{NodeHeader, max_entries};
use crate::device::{Device, MemoryDevice};
use crate::error::Result;
use crate::thin::{DeviceDetails, OpenOptions, Pool, Snapshot, Superblock};
use crate::units::{BLOCK_BYTES, BlockNr};

const SUPERBLOCK_SALT: u32 = 160_774;
const NODE_SALT: u32 = 121_107;
const INTERNAL: u32 = 1;
const LEAF: u32 = 2;

/// Sectors in a data block of the pools made here.
const DATA_BLOCK_SECTORS: u32 = 128;

/// A mapping as it lies in a leaf.
pub fn mapping(data_block: u64, time: u64) -> u64 {
    data_block << 24 | time
}

/// A pool's metadata in the making. Its space maps know their sizes and nothing else.
#[derive(Clone)]
pub struct PoolBuilder {
    blocks: Vec<BlockData>,
    data_blocks: u64,
    /// Id, root of the mappings, when it was made.
    devices: Vec<(u64, BlockNr, u32)>,
}

impl PoolBuilder {
    pub fn new(data_blocks: u64) -> Self {
        Self {
            // The superblock's place.
            blocks: vec![BlockData::zeroed()],
            data_blocks,
            devices: Vec::new(),
        }
    }

    /// A leaf of any tree. Nothing is checked but that it fits.
    pub fn leaf<V: IntoBytes + Immutable>(&mut self, entries: &[(u64, V)]) -> BlockNr {
        self.node(LEAF, entries)
    }

    /// An internal node.
    pub fn internal(&mut self, children: &[(u64, BlockNr)]) -> BlockNr {
        let entries: Vec<_> = children
            .iter()
            .map(|(key, child)| (*key, child.0))
            .collect();
        self.node(INTERNAL, &entries)
    }

    /// A whole tree with so many entries in every leaf but the last.
    pub fn tree<V: IntoBytes + Immutable>(
        &mut self,
        entries: &[(u64, V)],
        per_leaf: usize,
    ) -> BlockNr {
        if entries.is_empty() {
            return self.leaf(entries);
        }
        let leaves = entries.chunks(per_leaf);
        let leaves = leaves.map(|leaf| (leaf[0].0, self.leaf(leaf))).collect();
        self.tree_over(leaves, max_entries(8))
    }

    /// The internal nodes above nodes that are there already.
    pub fn tree_over(&mut self, mut nodes: Vec<(u64, BlockNr)>, fan_out: usize) -> BlockNr {
        while nodes.len() > 1 {
            let parents = nodes.chunks(fan_out);
            nodes = parents
                .map(|parent| (parent[0].0, self.internal(parent)))
                .collect();
        }
        nodes[0].1
    }

    /// Makes `root` a thin device's tree.
    pub fn device(&mut self, id: u64, root: BlockNr) {
        self.snapshot(id, root, 0);
    }

    /// Makes `root` the tree of a device that was made when the pool's clock came to `time`.
    pub fn snapshot(&mut self, id: u64, root: BlockNr, time: u32) {
        self.devices.push((id, root, time));
    }

    fn node<V: IntoBytes + Immutable>(&mut self, flags: u32, entries: &[(u64, V)]) -> BlockNr {
        let capacity = max_entries(size_of::<V>());
        assert!(entries.len() <= capacity, "{} entries", entries.len());
        let mut header = NodeHeader::new_zeroed();
        let small = |number: usize| u32::try_from(number).unwrap().into();
        header.flags = flags.into();
        header.nr_entries = small(entries.len());
        header.max_entries = small(capacity);
        header.value_size = small(size_of::<V>());
        let at = self.add(header.as_bytes());
        let (keys, values) = self.blocks[block(at)].bytes_mut()[size_of::<NodeHeader>()..]
            .split_at_mut(8 * capacity);
        let slots = keys.chunks_mut(8).zip(values.chunks_mut(size_of::<V>()));
        for ((key, value), entry) in slots.zip(entries) {
            key.copy_from_slice(&entry.0.to_le_bytes());
            value.copy_from_slice(entry.1.as_bytes());
        }
        self.seal(at, NODE_SALT);
        at
    }

    fn add(&mut self, start: &[u8]) -> BlockNr {
        let mut data = BlockData::zeroed();
        data.bytes_mut()[..start.len()].copy_from_slice(start);
        self.blocks.push(data);
        BlockNr(self.blocks.len() as u64 - 1)
    }

    /// Changes a node's bytes and makes its checksum right again.
    pub fn change(&mut self, at: BlockNr, change: impl FnOnce(&mut [u8; BLOCK_BYTES])) {
        change(self.blocks[block(at)].bytes_mut());
        self.seal(at, NODE_SALT);
    }

    /// Makes a block unreadable.
    pub fn ruin(&mut self, at: BlockNr) {
        self.blocks[block(at)].bytes_mut()[100] ^= 1;
    }

    /// Blocks so far, the superblock included.
    pub fn nr_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    fn seal(&mut self, at: BlockNr, salt: u32) {
        let data = &mut self.blocks[block(at)];
        data.bytes_mut()[8..16].copy_from_slice(&at.0.to_le_bytes());
        let sum = checksum(data) ^ salt;
        data.bytes_mut()[..4].copy_from_slice(&sum.to_le_bytes());
    }

    /// The whole metadata device. Its last block is a metadata snapshot that the
    /// superblock does not name.
    pub fn image(&self) -> Vec<u8> {
        let mut whole = self.clone();
        whole.devices.sort_unstable_by_key(|device| device.0);
        let devices = std::mem::take(&mut whole.devices);
        let details: Vec<_> = devices
            .iter()
            .map(|(id, _, time)| {
                let mut details = DeviceDetails::new_zeroed();
                details.creation_time = (*time).into();
                details.snapshotted_time = (*time).into();
                (*id, details)
            })
            .collect();
        let roots: Vec<_> = devices.iter().map(|(id, root, _)| (*id, root.0)).collect();
        let details = whole.tree(&details, max_entries(size_of::<DeviceDetails>()));
        let mapping = whole.tree(&roots, max_entries(8));
        let superblock = self.superblock(whole.nr_blocks() + 1, mapping, details);
        whole.add(superblock.as_bytes());
        whole.blocks[0].bytes_mut()[..size_of::<Superblock>()]
            .copy_from_slice(superblock.as_bytes());
        for at in [0, whole.nr_blocks() - 1] {
            whole.seal(BlockNr(at), SUPERBLOCK_SALT);
        }
        whole.blocks.as_bytes().to_vec()
    }

    fn superblock(&self, nr_blocks: u64, mapping: BlockNr, details: BlockNr) -> Superblock {
        let mut superblock = Superblock::new_zeroed();
        superblock.magic = 27_022_010.into();
        superblock.version = 2.into();
        let times = self.devices.iter().map(|(_, _, time)| *time);
        superblock.time = times.max().unwrap_or(0).into();
        superblock.data_space_map_root.root.nr_blocks = self.data_blocks.into();
        superblock.metadata_space_map_root.root.nr_blocks = nr_blocks.into();
        superblock.data_mapping_root = mapping.0.into();
        superblock.device_details_root = details.0.into();
        superblock.data_block_size = DATA_BLOCK_SECTORS.into();
        superblock.metadata_block_size = 8.into();
        superblock
    }

    /// The pool, on a device in memory.
    pub fn open(&self) -> Arc<Pool> {
        let device = Arc::new(MemoryDevice::new(self.image()));
        let pool = Pool::from_devices(device, None, &OpenOptions::default());
        Arc::new(pool.unwrap())
    }

    /// The pool as its metadata snapshot has it, so that nothing else is read,
    /// and a count of what is.
    pub fn open_counted(&self) -> (Arc<Pool>, Arc<CountingDevice>) {
        let image = self.image();
        let last = (image.len() / BLOCK_BYTES) as u64 - 1;
        let device = Arc::new(CountingDevice {
            memory: MemoryDevice::new(image),
            blocks_read: AtomicU64::new(0),
        });
        let options = OpenOptions {
            snapshot: Snapshot::At(BlockNr(last)),
            ..OpenOptions::default()
        };
        let pool = Pool::from_devices(Arc::clone(&device) as _, None, &options).unwrap();
        (Arc::new(pool), device)
    }
}

fn block(at: BlockNr) -> usize {
    usize::try_from(at.0).unwrap()
}

/// A device in memory that counts what is read from it.
#[derive(Debug)]
pub struct CountingDevice {
    memory: MemoryDevice,
    blocks_read: AtomicU64,
}

impl CountingDevice {
    /// Metadata blocks read since the last call.
    pub fn take_blocks_read(&self) -> u64 {
        self.blocks_read.swap(0, Ordering::Relaxed)
    }
}

impl Device for CountingDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let blocks = buffer.len() / BLOCK_BYTES;
        self.blocks_read.fetch_add(blocks as u64, Ordering::Relaxed);
        self.memory.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.memory.size_bytes()
    }

    fn path(&self) -> &Path {
        self.memory.path()
    }
}

/// Numbers that look random and are the same every time: splitmix64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// One of `begin..=last`.
    pub fn within(&mut self, begin: u64, last: u64) -> u64 {
        begin + self.below(last - begin + 1)
    }

    /// True so often in a hundred.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}
