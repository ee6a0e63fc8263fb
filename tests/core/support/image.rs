//! A metadata image that cases spoil without copying it, and the checksums of its
//! blocks, written from docs/format.md and not with the crate's own code.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::Device;

/// Bytes in a block.
pub const BLOCK: usize = 4096;

/// A block's bytes.
pub type Bytes = [u8; BLOCK];

/// The kinds of block that thin metadata is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Superblock,
    Node,
    Bitmap,
    Index,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Superblock, Self::Node, Self::Bitmap, Self::Index];

    fn salt(self) -> u32 {
        match self {
            Self::Superblock => 160_774,
            Self::Node => 121_107,
            Self::Bitmap => 240_779,
            Self::Index => 160_478,
        }
    }

    /// The kind whose checksum `block` bears.
    pub fn of(block: &Bytes) -> Option<Self> {
        let salt = read_u32(block, 0) ^ crc(&block[4..]);
        Self::ALL.into_iter().find(|kind| kind.salt() == salt)
    }

    /// Makes the checksum right.
    pub fn seal(self, block: &mut Bytes) {
        let sum = crc(&block[4..]) ^ self.salt();
        block[..4].copy_from_slice(&sum.to_le_bytes());
    }
}

/// CRC-32C without the final inversion.
fn crc(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0_u32; 256];
        let mut byte = 0;
        while byte < 256 {
            let (mut rest, mut bit) = (byte as u32, 0);
            while bit < 8 {
                rest = rest >> 1 ^ (0x82f6_3b78 & 0_u32.wrapping_sub(rest & 1));
                bit += 1;
            }
            table[byte] = rest;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(u32::MAX, |register, byte| {
        register >> 8 ^ TABLE[usize::from(register as u8 ^ *byte)]
    })
}

pub fn read_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

pub fn read_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// A field of 4 or 8 bytes.
pub fn read_field(bytes: &[u8], at: usize, size: usize) -> u64 {
    match size {
        4 => read_u32(bytes, at).into(),
        _ => read_u64(bytes, at),
    }
}

/// Sets a field of 4 or 8 bytes; what does not fit is cut off.
pub fn write_field(bytes: &mut [u8], at: usize, size: usize, value: u64) {
    bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
}

/// A whole image that many cases share.
#[derive(Debug)]
struct Base {
    bytes: Vec<u8>,
    kinds: Vec<Option<Kind>>,
}

/// A block that differs from the base.
#[derive(Clone, Debug)]
struct Changed {
    bytes: Box<Bytes>,
    kind: Option<Kind>,
}

/// A metadata device: a shared base, and the blocks that differ from it.
#[derive(Clone, Debug)]
pub struct Image {
    base: Arc<Base>,
    changed: BTreeMap<u64, Changed>,
    size_bytes: u64,
}

impl Image {
    pub fn new(bytes: Vec<u8>) -> Self {
        let blocks = bytes.chunks_exact(BLOCK);
        let kinds = blocks
            .map(|block| Kind::of(block.try_into().unwrap()))
            .collect();
        Self {
            size_bytes: bytes.len() as u64,
            base: Arc::new(Base { bytes, kinds }),
            changed: BTreeMap::new(),
        }
    }

    /// Whole blocks.
    pub fn nr_blocks(&self) -> u64 {
        self.size_bytes / BLOCK as u64
    }

    /// A block, if the image has it whole.
    pub fn block(&self, at: u64) -> Option<&Bytes> {
        if at >= self.nr_blocks() {
            return None;
        }
        if let Some(changed) = self.changed.get(&at) {
            return Some(&changed.bytes);
        }
        let begin = usize::try_from(at).ok()? * BLOCK;
        self.base.bytes.get(begin..begin + BLOCK)?.try_into().ok()
    }

    /// The kind whose checksum a block bears.
    pub fn kind(&self, at: u64) -> Option<Kind> {
        match self.changed.get(&at) {
            _ if at >= self.nr_blocks() => None,
            Some(changed) => changed.kind,
            None => *self.base.kinds.get(usize::try_from(at).ok()?)?,
        }
    }

    /// Changes a block's bytes and leaves its checksum as it was.
    pub fn change(&mut self, at: u64, change: impl FnOnce(&mut Bytes)) {
        if let Some(now) = self.block(at) {
            let mut bytes = Box::new(*now);
            change(&mut bytes);
            let kind = Kind::of(&bytes);
            self.changed.insert(at, Changed { bytes, kind });
        }
    }

    /// Changes a block's bytes and makes the checksum of its kind right again.
    pub fn reseal(&mut self, at: u64, kind: Kind, change: impl FnOnce(&mut Bytes)) {
        self.change(at, |block| {
            change(block);
            kind.seal(block);
        });
    }

    /// Sets a field under a valid checksum of the kind that the block has.
    pub fn set(&mut self, at: u64, kind: Kind, offset: usize, size: usize, value: u64) {
        self.reseal(at, kind, |block| write_field(block, offset, size, value));
    }

    /// Cuts the image off.
    pub fn truncate(&mut self, size_bytes: u64) {
        self.size_bytes = size_bytes.min(self.base.bytes.len() as u64);
    }
}

impl Device for Image {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        let end = offset_bytes.checked_add(buffer.len() as u64);
        if end.is_none_or(|end| end > self.size_bytes) {
            let eof = std::io::ErrorKind::UnexpectedEof.into();
            return Err(Error::io(self.path(), Some(offset_bytes), eof));
        }
        let begin = usize::try_from(offset_bytes).unwrap();
        let length = buffer.len();
        buffer.copy_from_slice(&self.base.bytes[begin..begin + length]);
        let blocks = offset_bytes / BLOCK as u64..(begin + length).div_ceil(BLOCK) as u64;
        for (at, block) in self.changed.range(blocks) {
            let there = usize::try_from(*at).unwrap() * BLOCK;
            let (from, to) = (there.max(begin), (there + BLOCK).min(begin + length));
            let bytes = &block.bytes[from - there..to - there];
            buffer[from - begin..to - begin].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn path(&self) -> &Path {
        Path::new("<image>")
    }
}
