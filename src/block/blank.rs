//! Whether something is on a device already, and taking it away.

use std::sync::Arc;

use super::{BlockData, BlockManager, kind_of};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// Says what block 0 holds, unless it is all zero.
///
/// # Errors
/// [`Error::AlreadyFormatted`], [`Error::Io`].
pub fn check_unformatted(device: &dyn Device) -> Result<()> {
    if device.size_bytes() < BLOCK_BYTES as u64 {
        let mut rest = vec![0; usize::try_from(device.size_bytes()).unwrap_or_default()];
        device.read_exact_at(&mut rest, 0)?;
        return match rest.iter().all(|byte| *byte == 0) {
            true => Ok(()),
            false => Err(already_there(device, "it is not empty")),
        };
    }
    let mut block = BlockData::zeroed();
    device.read_exact_at(block.bytes_mut(), 0)?;
    if block.is_zero() {
        return Ok(());
    }
    let what = kind_of(&block).map_or("block 0 is not all zero".to_owned(), |(kind, _)| {
        format!("block 0 is a {kind}")
    });
    Err(already_there(device, &what))
}

fn already_there(device: &dyn Device, what: &str) -> Error {
    Error::AlreadyFormatted {
        path: device.path().to_owned(),
        reason: what.to_owned(),
    }
}

impl BlockManager {
    /// Takes away what the superblock says before anything else is overwritten: a
    /// crash in the middle must not leave the one of what was there before.
    ///
    /// # Errors
    /// As [`Self::wipe`].
    pub fn wipe_used(self: &Arc<Self>, superblock: BlockNr) -> Result<()> {
        let before = self.read_lock_patiently(superblock, None, None)?.pin();
        if before.is_zero() {
            return Ok(());
        }
        self.wipe(superblock)
    }
}
