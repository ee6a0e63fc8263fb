//! Devices that watch their readers, or trouble them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use thinmeta::Error;
use thinmeta::device::Device;

use super::image::{BLOCK, Image};

/// A data device of any size whose bytes tell where they lie: takes no memory.
#[derive(Debug)]
pub struct PatternDevice(pub u64);

impl PatternDevice {
    /// The byte at an offset.
    pub fn byte(offset: u64) -> u8 {
        let word = (offset / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.to_be_bytes()[usize::try_from(offset % 8).unwrap()] | 1
    }
}

impl Device for PatternDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        let end = offset_bytes.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.0) {
            let eof = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::io(self.path(), Some(offset_bytes), eof));
        }
        for (byte, offset) in buffer.iter_mut().zip(offset_bytes..) {
            *byte = Self::byte(offset);
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.0
    }

    fn path(&self) -> &Path {
        Path::new("<pattern>")
    }
}

/// An image whose reads are counted, and the blocks they touch noted.
#[derive(Debug)]
pub struct RecordingDevice {
    image: Image,
    reads: AtomicU64,
    touched: Mutex<BTreeSet<u64>>,
}

impl RecordingDevice {
    pub fn new(image: Image) -> Arc<Self> {
        Arc::new(Self {
            image,
            reads: AtomicU64::new(0),
            touched: Mutex::new(BTreeSet::new()),
        })
    }

    /// Reads since the last call.
    pub fn take_reads(&self) -> u64 {
        self.reads.swap(0, Ordering::SeqCst)
    }

    /// Blocks read since the last call.
    pub fn take_touched(&self) -> BTreeSet<u64> {
        std::mem::take(&mut self.touched.lock().unwrap())
    }
}

impl Device for RecordingDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        let block = BLOCK as u64;
        let end = (offset_bytes + buffer.len() as u64).div_ceil(block);
        self.touched
            .lock()
            .unwrap()
            .extend(offset_bytes / block..end);
        self.image.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn path(&self) -> &Path {
        self.image.path()
    }
}

/// An image whose block 0 is torn a few times, as it is while the kernel writes it.
#[derive(Debug)]
pub struct TornDevice {
    image: Image,
    torn_reads: AtomicU64,
}

impl TornDevice {
    pub fn new(image: Image, torn_reads: u64) -> Arc<Self> {
        Arc::new(Self {
            image,
            torn_reads: AtomicU64::new(torn_reads),
        })
    }
}

impl Device for TornDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        self.image.read_exact_at(buffer, offset_bytes)?;
        let less_one = |left: u64| left.checked_sub(1);
        let count = &self.torn_reads;
        if offset_bytes == 0
            && count
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, less_one)
                .is_ok()
        {
            // The first sector is of one commit, the rest of another.
            buffer[512..1024].iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.image.size_bytes()
    }

    fn path(&self) -> &Path {
        self.image.path()
    }
}
