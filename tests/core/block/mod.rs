//! The write side of the block manager: locks, write-back, and what an error
//! leaves behind.

mod faults;
mod locks;
mod prepared;
mod threads;
mod writeback;

use std::sync::Arc;

use thinmeta::block::{
    BlockData, BlockManager, Validator, check_location_and_checksum, seal_location_and_checksum,
};
use thinmeta::device::{Device, RecordingDevice};
use thinmeta::{BlockNr, Damage};

/// A kind of block of these tests' own.
pub struct Kind(&'static str, u32);

pub static KIND: Kind = Kind("test block", 77);
pub static OTHER_KIND: Kind = Kind("other test block", 78);

impl Validator for Kind {
    fn name(&self) -> &str {
        self.0
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        check_location_and_checksum(self.0, self.1, at, block)
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        seal_location_and_checksum(self.1, at, block);
    }
}

/// What a test block says.
pub fn word(block: &BlockData) -> u64 {
    u64::from_le_bytes(block.bytes()[16..24].try_into().unwrap())
}

pub fn set_word(block: &mut BlockData, word: u64) {
    block.bytes_mut()[16..24].copy_from_slice(&word.to_le_bytes());
    // At the end too, so that a block that was torn says two things.
    block.bytes_mut()[4088..].copy_from_slice(&word.to_le_bytes());
}

/// Blocks that say 1000 and their number.
pub fn image(blocks: u64) -> Vec<u8> {
    let mut image = Vec::new();
    for at in 0..blocks {
        let mut block = BlockData::zeroed();
        set_word(&mut block, 1000 + at);
        KIND.seal(BlockNr(at), &mut block);
        image.extend_from_slice(block.bytes());
    }
    image
}

/// What block `at` of an image says, if it is whole.
pub fn word_in(image: &[u8], at: u64) -> Result<u64, Damage> {
    let begin = usize::try_from(at).unwrap() * 4096;
    let mut block = BlockData::zeroed();
    let bytes = &image[begin..begin + 4096];
    block.bytes_mut().copy_from_slice(bytes);
    KIND.check(BlockNr(at), &block)?;
    assert_eq!(bytes[16..24], bytes[4088..]);
    Ok(word(&block))
}

/// A manager with as few slots as can be.
pub fn small(blocks: u64) -> (Arc<RecordingDevice>, Arc<BlockManager>) {
    let device = Arc::new(RecordingDevice::new(image(blocks)));
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    (device, manager)
}

pub fn change(manager: &Arc<BlockManager>, at: u64, to: u64) -> thinmeta::Result<()> {
    set_word(&mut *manager.write_lock(BlockNr(at), &KIND)?, to);
    Ok(())
}
