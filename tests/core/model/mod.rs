//! A slow and simple reader of thin metadata, written from docs/format.md alone.
//!
//! It shares no code with the crate. What the crate says of a spoiled image is
//! compared with what this one says: the same listing or a refusal, and a clean
//! check exactly where nothing is wrong.

mod judge;
mod listing;
mod tree;

pub use judge::{first_fault, first_fault_held};
pub use listing::{Device, Listing, Mapping, list};
pub use tree::{Node, Walk, node};

use crate::support::image::{Image, Kind, read_u32, read_u64};

/// What is wrong, in words.
pub type Fault = String;

/// A space map's root.
#[derive(Clone, Copy, Debug)]
pub struct MapRoot {
    pub nr_blocks: u64,
    pub nr_allocated: u64,
    pub bitmap_root: u64,
    pub ref_count_root: u64,
}

/// The fields of a superblock that matter.
#[derive(Clone, Copy, Debug)]
pub struct Superblock {
    pub time: u32,
    pub transaction_id: u64,
    pub held_root: u64,
    pub data: MapRoot,
    pub metadata: MapRoot,
    pub mapping_root: u64,
    pub details_root: u64,
    pub data_block_sectors: u32,
}

/// The superblock in block 0, or a metadata snapshot's, sound and usable.
/// `limit`: roots have to be below.
pub fn superblock(image: &Image, at: u64, limit: u64) -> Result<Superblock, Fault> {
    if at == 0 && !image_has_whole_sectors(image) {
        return Err("an odd size".to_owned());
    }
    let block = image.block(at).ok_or("past the end")?;
    let kind = image.kind(at);
    if kind != Some(Kind::Superblock) || read_u64(block, 8) != at {
        return Err(format!("block {at} is {kind:?}, not a superblock"));
    }
    let map = |offset| MapRoot {
        nr_blocks: read_u64(block, offset),
        nr_allocated: read_u64(block, offset + 8),
        bitmap_root: read_u64(block, offset + 16),
        ref_count_root: read_u64(block, offset + 24),
    };
    let read = Superblock {
        time: read_u32(block, 44),
        transaction_id: read_u64(block, 48),
        held_root: read_u64(block, 56),
        data: map(64),
        metadata: map(192),
        mapping_root: read_u64(block, 320),
        details_root: read_u64(block, 328),
        data_block_sectors: read_u32(block, 336),
    };
    let size = read.data_block_sectors;
    let known = read_u64(block, 32) == 27_022_010
        && (1..=2).contains(&read_u32(block, 40))
        && read_u32(block, 360) == 0;
    let sized =
        (128..=2_097_152).contains(&size) && size.is_multiple_of(128) && read_u32(block, 340) == 8;
    if !known || !sized {
        return Err(format!("superblock {at}: version, features or block sizes"));
    }
    let most = image.nr_blocks().min(255 * 16320);
    if at == 0 && !(1..=most).contains(&read.metadata.nr_blocks) {
        return Err(format!("{} metadata blocks", read.metadata.nr_blocks));
    }
    for root in [read.mapping_root, read.details_root] {
        if root == 0 || root >= limit {
            return Err(format!("superblock {at}: root {root}"));
        }
    }
    Ok(read)
}

fn image_has_whole_sectors(image: &Image) -> bool {
    use thinmeta::device::Device;
    image.size_bytes().is_multiple_of(512)
}
