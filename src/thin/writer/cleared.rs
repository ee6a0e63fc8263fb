//! Taking back that a pool has to be checked.

use super::SUPERBLOCK;
use crate::block::{BlockData, Validator};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::thin::{NEEDS_CHECK, SUPERBLOCK_VALIDATOR, Superblock, read_superblock};

/// Clears `needs_check` in the superblock on `device`, which nobody else may use; says
/// whether it was set. Whoever calls has checked the pool, and knows that it is sound.
///
/// One block is written and nothing else changes, as at the end of every commit: after a
/// crash the flag is set or it is not.
///
/// # Errors
/// Those of [`read_superblock`]; [`Error::Unsupported`] for features that forbid a
/// change; [`Error::ReadOnly`], [`Error::Io`].
pub fn clear_needs_check(device: &dyn Device) -> Result<bool> {
    let mut superblock = read_superblock(device, false)?;
    if let Some(reason) = superblock.unwritable() {
        let path = device.path().to_owned();
        return Err(Error::Unsupported { path, reason });
    }
    if !superblock.needs_check() {
        return Ok(false);
    }
    superblock.flags = (superblock.flags.get() & !NEEDS_CHECK).into();
    // What lies behind the fields stays as it is.
    let mut block = BlockData::zeroed();
    device.read_exact_at(block.bytes_mut(), 0)?;
    SUPERBLOCK_VALIDATOR.check(SUPERBLOCK, &block)?;
    *block.view_mut::<Superblock>() = superblock;
    SUPERBLOCK_VALIDATOR.seal(SUPERBLOCK, &mut block);
    device.write_all_at(block.bytes(), 0)?;
    device.flush()?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    /// A superblock with the flags, and something behind its fields.
    fn device(flags: u32) -> MemoryDevice {
        let mut block = BlockData::zeroed();
        block.bytes_mut()[4000] = 7;
        let superblock: &mut Superblock = block.view_mut();
        superblock.magic = crate::thin::superblock::MAGIC.into();
        superblock.version = 2.into();
        superblock.flags = flags.into();
        superblock.trans_id = 9.into();
        SUPERBLOCK_VALIDATOR.seal(SUPERBLOCK, &mut block);
        let device = MemoryDevice::writable(vec![0; 4 << 12]);
        device.write_all_at(block.bytes(), 0).unwrap();
        device
    }

    fn bytes(device: &MemoryDevice) -> Vec<u8> {
        let mut bytes = vec![0; 4 << 12];
        device.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn the_flag_alone_changes() {
        let found = device(NEEDS_CHECK);
        assert!(clear_needs_check(&found).unwrap());
        assert_eq!(bytes(&found), bytes(&device(0)));
        assert!(!clear_needs_check(&found).unwrap());
    }

    #[test]
    fn features_that_forbid_a_change_are_heeded() {
        let found = device(NEEDS_CHECK);
        let mut block = BlockData::zeroed();
        found.read_exact_at(block.bytes_mut(), 0).unwrap();
        block.view_mut::<Superblock>().compat_ro_flags = 1.into();
        SUPERBLOCK_VALIDATOR.seal(SUPERBLOCK, &mut block);
        found.write_all_at(block.bytes(), 0).unwrap();
        let before = bytes(&found);
        let answer = clear_needs_check(&found);
        assert!(matches!(answer, Err(Error::Unsupported { .. })));
        assert_eq!(bytes(&found), before);
    }
}
