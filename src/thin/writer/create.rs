//! Making a pool.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::work::Work;
use super::{PoolWriter, SUPERBLOCK, WriteOptions, check_data_size};
use crate::block::{BlockData, BlockManager, check_unformatted};
use crate::btree;
use crate::device::{Device, FileDevice};
use crate::disk_space::{self, DataMap, ENTRIES_PER_BITMAP, MAX_DATA_BLOCKS};
use crate::error::{Error, Result};
use crate::thin::superblock::{MAGIC, METADATA_BLOCK, RootArea, check_data_block_size};
use crate::thin::{DeviceDetails, SUPERBLOCK_VALIDATOR, Superblock};
use crate::transaction::TransactionManager;
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};

/// The version that is written.
const VERSION: u32 = 2;

/// Blocks of a pool without data, but for bitmaps: superblock, index, overflow
/// trees, index tree, mappings, details.
const FIXED_BLOCKS: u64 = 7;

/// What a new pool is like.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Sectors of 512 bytes in a data block.
    pub data_block_size_sectors: u32,
    /// Blocks of the data device.
    pub data_blocks: u64,
    /// Makes a metadata file, or makes it larger; `None` takes the file or device as it is.
    pub metadata_blocks: Option<u64>,
    /// Make a pool though there is something already.
    pub overwrite: bool,
    /// How it is opened.
    pub open: WriteOptions,
}

impl CreateOptions {
    fn check(&self) -> Result<()> {
        check_data_block_size(self.data_block_size_sectors)?;
        if self.data_blocks > MAX_DATA_BLOCKS {
            let text = format!(
                "a data device has at most {MAX_DATA_BLOCKS} blocks, not {}",
                self.data_blocks
            );
            return Err(Error::Usage(text));
        }
        match self.metadata_blocks {
            Some(blocks) if blocks > MAX_METADATA_BLOCKS => Err(Error::usage(format!(
                "metadata has at most {MAX_METADATA_BLOCKS} blocks, not {blocks}"
            ))),
            Some(blocks) => self.check_room(blocks),
            None => Ok(()),
        }
    }

    /// Whether so many metadata blocks hold the pool, and a change of it. Asked
    /// before anything is overwritten.
    fn check_room(&self, blocks: u64) -> Result<()> {
        let bitmaps = blocks.div_ceil(ENTRIES_PER_BITMAP as u64);
        let data = disk_space::metadata_blocks_for(self.data_blocks);
        let needed = FIXED_BLOCKS + bitmaps + data;
        if blocks >= needed {
            return Ok(());
        }
        let reason = format!(
            "a pool of {} data blocks takes {needed} metadata blocks of {BLOCK_BYTES} bytes, and \
             there are {blocks}",
            self.data_blocks
        );
        Err(Error::no_metadata_space(reason))
    }
}

impl PoolWriter {
    /// Makes a pool without devices.
    ///
    /// # Errors
    /// [`Error::AlreadyFormatted`] when block 0 holds something and `overwrite` is
    /// not set; [`Error::InUse`]; [`Error::NoSpace`]; [`Error::Usage`] for sizes
    /// that cannot be; [`Error::Io`].
    pub fn create(path: impl Into<PathBuf>, options: &CreateOptions) -> Result<Arc<Self>> {
        let path: PathBuf = path.into();
        options.check()?;
        let data = match &options.open.data {
            Some(path) => Some(Arc::new(FileDevice::open_writable(path)?) as Arc<dyn Device>),
            None => None,
        };
        let device = Arc::new(FileDevice::open_or_make(&path)?);
        let made = Self::create_file(&device, data, options);
        if made.is_err() && device.was_made() {
            remove(&path);
        }
        made
    }

    fn create_file(
        device: &Arc<FileDevice>,
        data: Option<Arc<dyn Device>>,
        options: &CreateOptions,
    ) -> Result<Arc<Self>> {
        if device.was_made() && options.metadata_blocks.is_none() {
            let path = device.path().display();
            return Err(Error::usage(format!(
                "there is no file {path}: say how large a new one is to be (metadata_blocks)"
            )));
        }
        if !options.overwrite {
            check_unformatted(&**device)?;
        }
        // Before the file is made longer.
        if let Some(data) = &data {
            check_data_size(&**data, &new_superblock(options), options.data_blocks)?;
        }
        let bytes = options.metadata_blocks.unwrap_or_default() * BLOCK_BYTES as u64;
        device.grow(bytes)?;
        if device.was_made() {
            device.flush_name()?;
        }
        Self::create_on(Arc::clone(device) as Arc<dyn Device>, data, options)
    }

    /// As [`Self::create`], on devices that are open.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_on(
        device: Arc<dyn Device>,
        data: Option<Arc<dyn Device>>,
        options: &CreateOptions,
    ) -> Result<Arc<Self>> {
        options.check()?;
        if !options.overwrite {
            check_unformatted(&*device)?;
        }
        let blocks = BlockManager::new(device, options.open.cache_bytes);
        options.check_room(blocks.nr_blocks().min(MAX_METADATA_BLOCKS))?;
        let superblock = new_superblock(options);
        if let Some(data) = &data {
            check_data_size(&**data, &superblock, options.data_blocks)?;
        }
        let in_superblock = |error: Error| error.in_step("superblock");
        blocks.wipe_used(SUPERBLOCK).map_err(in_superblock)?;
        let manager = TransactionManager::create(&blocks, SUPERBLOCK, options.open.checked)?;
        // The order of allocation is the format's: index, overflow tree and bitmaps of
        // the metadata, then these.
        let (mut map, mapping, details) = manager.change(|txn| {
            let map = DataMap::create(txn, options.open.checked)
                .map_err(|error| error.in_step("space map create"))?;
            let mapping = btree::empty(txn, size_of::<u64>())?;
            let details = btree::empty(txn, size_of::<DeviceDetails>())?;
            Ok((map, mapping, details))
        })?;
        manager.change(|txn| {
            map.extend(txn, options.data_blocks)?;
            map.commit(txn)
        })?;
        let committed = write_first(&manager, superblock, &map, mapping, details);
        let committed = committed.map_err(in_superblock)?;
        map.committed()?;
        Ok(Self::over(manager, data, Work::new(map, committed)))
    }
}

fn new_superblock(options: &CreateOptions) -> Superblock {
    let mut block = BlockData::zeroed();
    let superblock: &mut Superblock = block.view_mut();
    superblock.magic = MAGIC.into();
    superblock.version = VERSION.into();
    superblock.data_block_size = options.data_block_size_sectors.into();
    superblock.metadata_block_size = METADATA_BLOCK.into();
    *superblock
}

/// The first commit; the block that it wrote.
fn write_first(
    manager: &Arc<TransactionManager>,
    mut superblock: Superblock,
    map: &DataMap,
    mapping: BlockNr,
    details: BlockNr,
) -> Result<Box<BlockData>> {
    manager.pre_commit()?;
    let space = manager.space_root();
    superblock.metadata_nr_blocks = space.nr_blocks;
    superblock.data_space_map_root = RootArea::new(map.root());
    superblock.metadata_space_map_root = RootArea::new(space);
    superblock.data_mapping_root = mapping.0.into();
    superblock.device_details_root = details.0.into();
    let blocks = manager.blocks();
    let mut guard = blocks.write_lock_zero(SUPERBLOCK, &SUPERBLOCK_VALIDATOR)?;
    *guard.view_mut() = superblock;
    let mut block = Box::new(BlockData::zeroed());
    block.bytes_mut().copy_from_slice(guard.bytes());
    manager.commit(guard)?;
    Ok(block)
}

/// Removes a file that was made for nothing. Nobody else had it: its lock is ours.
fn remove(path: &Path) {
    // What cannot be removed stays empty.
    let _ = std::fs::remove_file(path);
}
