//! What the new pool's superblock will say, and where that comes from.

use super::RepairOptions;
use super::scan::Scan;
use crate::build::has_room;
use crate::device::Device;
use crate::disk_space::SpaceMapRoot;
use crate::error::{Error, Result};
use crate::thin::{Superblock, check_data_block_size, read_superblock};
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS, SECTOR_BYTES};

/// Where the superblock's fields come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasisSource {
    /// Block 0.
    Superblock,
    /// A copy of it in this block: what a metadata snapshot is or was.
    Copy(BlockNr),
    /// Options, and what nodes show.
    Options,
}

/// What is known of the pool as a whole.
#[derive(Clone, Debug)]
pub struct Basis {
    /// Where that comes from.
    pub source: BasisSource,
    /// The pool's clock.
    pub time: u32,
    /// Userspace's own number.
    pub transaction_id: u64,
    /// Sectors in a data block.
    pub data_block_size_sectors: u32,
    /// Blocks of the data device; `None`: as many as mappings need.
    pub data_blocks: Option<u64>,
    /// At least so many, where mappings need fewer.
    pub(super) least_data_blocks: u64,
    /// What the superblock says of them, if that cannot be.
    pub(super) impossible_data_blocks: Option<u64>,
    /// The transaction id that was given is the least one.
    pub(super) only_raise: bool,
    pub(super) uuid: [u8; 16],
    pub(super) version: u32,
    /// Metadata blocks that may be pointed to.
    pub(super) limit: u64,
    /// Roots of the mappings and of the details.
    pub(super) roots: Option<(u64, u64)>,
    pub(super) held_root: u64,
    pub(super) metadata_space: Option<SpaceMapRoot>,
    pub(super) data_space: Option<SpaceMapRoot>,
}

impl Basis {
    /// From block 0, if that is sound.
    pub(super) fn of_superblock(device: &dyn Device, options: &RepairOptions) -> Result<Self> {
        let superblock = read_superblock(device, false)?;
        let device_blocks = device_blocks(device);
        let mut own = Self::new(&superblock, BasisSource::Superblock, options);
        own.limit = device_blocks.min(superblock.metadata_blocks().max(1));
        own.data_blocks = Some(match options.nr_data_blocks {
            Some(blocks) if !options.only_raise => blocks,
            least => superblock.data_blocks().max(least.unwrap_or(0)),
        });
        // No metadata has room for so many: that number is wrong, and those in use tell.
        own.impossible_data_blocks = own.data_blocks.filter(|blocks| !has_room(*blocks));
        own.data_blocks = own.data_blocks.filter(|blocks| has_room(*blocks));
        if let (None, Some(blocks)) = (own.data_blocks, options.nr_data_blocks)
            && !has_room(blocks)
        {
            return Err(Error::usage(format!(
                "no metadata has room for {blocks} data blocks"
            )));
        }
        own.roots = Some((
            superblock.data_mapping_root.get(),
            superblock.device_details_root.get(),
        ));
        own.held_root = superblock.held_root.get();
        own.metadata_space = Some(superblock.metadata_space_map_root.root);
        own.data_space = Some(superblock.data_space_map_root.root);
        check_data_block_size(own.data_block_size_sectors)?;
        Ok(own)
    }

    /// Without block 0.
    pub(super) fn of_scan(
        device: &dyn Device,
        scan: &Scan,
        options: &RepairOptions,
    ) -> Result<Self> {
        let newest = scan
            .superblocks
            .iter()
            .max_by_key(|(at, copy)| (copy.trans_id.get(), copy.time.get(), *at));
        let mut own = match newest {
            Some((at, copy)) => Self::new(copy, BasisSource::Copy(BlockNr((*at).into())), options),
            None => Self {
                source: BasisSource::Options,
                time: 0,
                transaction_id: options.transaction_id.unwrap_or(0),
                data_block_size_sectors: options.data_block_size_sectors.ok_or_else(|| {
                    Error::Unsound {
                        path: device.path().to_owned(),
                        code: "superblock-damaged",
                        reason: "the superblock is lost, and nothing else tells the size of data \
                                 blocks: say it with --data-block-size, in sectors"
                            .to_owned(),
                    }
                })?,
                data_blocks: None,
                least_data_blocks: 0,
                only_raise: false,
                impossible_data_blocks: None,
                uuid: [0; 16],
                version: 2,
                limit: 0,
                roots: None,
                held_root: 0,
                metadata_space: None,
                data_space: None,
            },
        };
        own.limit = device_blocks(device);
        own.data_blocks = options.nr_data_blocks.filter(|_| !options.only_raise);
        own.least_data_blocks = options.nr_data_blocks.unwrap_or(0);
        own.only_raise = options.only_raise;
        check_data_block_size(own.data_block_size_sectors)?;
        Ok(own)
    }

    fn new(superblock: &Superblock, source: BasisSource, options: &RepairOptions) -> Self {
        let own = superblock.data_block_size.get();
        Self {
            source,
            time: superblock.time.get(),
            transaction_id: match options.transaction_id {
                Some(id) if !options.only_raise => id,
                least => superblock.trans_id.get().max(least.unwrap_or(0)),
            },
            data_block_size_sectors: options.data_block_size_sectors.unwrap_or(own),
            data_blocks: None,
            least_data_blocks: 0,
            only_raise: false,
            impossible_data_blocks: None,
            uuid: superblock.uuid,
            version: superblock.version.get(),
            limit: 0,
            roots: None,
            held_root: 0,
            metadata_space: None,
            data_space: None,
        }
    }

    /// Data blocks that a volume of 2^64 bytes has.
    pub(super) fn virtual_blocks(&self) -> u64 {
        u64::MAX / (u64::from(self.data_block_size_sectors) * SECTOR_BYTES).max(1)
    }
}

fn device_blocks(device: &dyn Device) -> u64 {
    (device.size_bytes() / BLOCK_BYTES as u64).min(MAX_METADATA_BLOCKS)
}
