//! Space maps on disk: the format's own bytes, and every edge of space.

mod clone;
mod counts;
mod edges;
mod golden;
mod grow;
mod withheld;

use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::Result;
use thinmeta::block::{
    BlockData, BlockManager, Validator, check_location_and_checksum, seal_location_and_checksum,
};
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::disk_space::SpaceMapRoot;
use thinmeta::error::Damage;
use thinmeta::transaction::TransactionManager;

/// A superblock of nothing but a space map root.
pub struct Plain;

pub static PLAIN: Plain = Plain;

/// Where the root is.
pub const ROOT: std::ops::Range<usize> = 64..96;

impl Validator for Plain {
    fn name(&self) -> &'static str {
        "test superblock"
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        check_location_and_checksum("test superblock", 7, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(7, at, block);
    }
}

pub fn memory(blocks: u64) -> Arc<MemoryDevice> {
    let bytes = usize::try_from(blocks).unwrap() * 4096;
    Arc::new(MemoryDevice::writable(vec![0; bytes]))
}

/// A new device, its map committed and every call checked.
pub fn create(device: Arc<dyn Device>) -> Result<Arc<TransactionManager>> {
    let blocks = BlockManager::new(device, 64 << 20);
    let superblock = BlockNr(0);
    let (manager, guard) =
        TransactionManager::create_with_superblock(&blocks, superblock, &PLAIN, true)?;
    guard.discard();
    first_commit(&manager)?;
    Ok(manager)
}

fn first_commit(manager: &Arc<TransactionManager>) -> Result<()> {
    manager.pre_commit()?;
    let mut guard = manager.blocks().write_lock_zero(BlockNr(0), &PLAIN)?;
    store_root(&mut guard, &manager.space_root());
    manager.commit(guard)
}

pub fn commit(manager: &Arc<TransactionManager>) -> Result<()> {
    manager.commit_with(&PLAIN, 0, |guard, root| {
        store_root(guard, root);
        Ok(())
    })
}

fn store_root(block: &mut BlockData, root: &SpaceMapRoot) {
    block.bytes_mut()[ROOT].copy_from_slice(zerocopy::IntoBytes::as_bytes(root));
}

/// Opens what is on a device, and holds every count against a walk of the map's own blocks.
pub fn reopen(device: Arc<dyn Device>) -> Result<Arc<TransactionManager>> {
    let blocks = BlockManager::new(device, 64 << 20);
    let (manager, guard) =
        TransactionManager::open_with_superblock(&blocks, BlockNr(0), &PLAIN, ROOT, true)?;
    guard.discard();
    Ok(manager)
}
