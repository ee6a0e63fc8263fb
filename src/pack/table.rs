//! The table at the end of a pack.
//!
//! ```text
//! pack   := stored pieces, one after the other; table; footer
//! table  := entries in the order of their offsets
//! entry  := hash (32 bytes), offset u32, stored length u32, length u32
//! footer := entries u32, CRC-32C of the table u32, magic "thmpack1"
//! ```
//!
//! All numbers are little-endian. A piece whose stored length is its length is stored as it
//! is; a shorter one is a zstd frame. A pack is named by the BLAKE3 of its table.

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::MAX_PIECE_BYTES;
use super::codec::decompress;
use super::content::ContentHash;
use crate::error::{Error, Result};

/// Bytes of a hash.
pub const HASH_BYTES: usize = 32;

/// BLAKE3 of something.
pub type Hash = [u8; HASH_BYTES];

const MAGIC: [u8; 8] = *b"thmpack1";
const FOOTER_BYTES: usize = size_of::<Footer>();
/// More do not come into one pack: tables stay small.
const MAX_ENTRIES: usize = 1 << 20;

/// Where one piece is in its pack.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Entry {
    /// BLAKE3 of the piece, as [`ContentHash`] has it.
    pub hash: Hash,
    /// Where it begins in the pack, in bytes.
    pub offset_bytes: U32,
    /// How long it is there.
    pub stored_bytes: U32,
    /// How long it is.
    pub length_bytes: U32,
}

const _: () = assert!(size_of::<Entry>() == 44);

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Footer {
    entries: U32,
    crc: U32,
    magic: [u8; 8],
}

impl Entry {
    /// Whether its numbers can be: within `0..end` of the pack, and of a possible length.
    pub(super) fn is_sane(&self, end: u64) -> bool {
        let (stored, length) = (self.stored_bytes.get(), self.length_bytes.get());
        let reach = u64::from(self.offset_bytes.get()) + u64::from(stored);
        stored > 0 && stored <= length && length as usize <= MAX_PIECE_BYTES && reach <= end
    }
}

impl Entry {
    /// Its bytes as a whole pack stores them; `None` where it ends early.
    pub(super) fn stored_in<'p>(&self, pack: &'p [u8]) -> Option<&'p [u8]> {
        let begin = self.offset_bytes.get() as usize;
        pack.get(begin..begin.checked_add(self.stored_bytes.get() as usize)?)
    }
}

/// What is in a pack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackTable {
    /// In the order of their offsets.
    pub entries: Vec<Entry>,
}

impl PackTable {
    /// The pack's name.
    #[must_use]
    pub fn name(&self) -> Hash {
        *blake3::hash(self.entries.as_bytes()).as_bytes()
    }

    /// Hashes of the pieces that are not in `pack`, which is the whole of it, as they should.
    #[must_use]
    pub fn damaged(&self, pack: &[u8], content: &ContentHash) -> Vec<Hash> {
        let mut space = vec![0; MAX_PIECE_BYTES];
        let sound = |entry: &Entry, space: &mut [u8]| {
            let bytes = entry.stored_in(pack)?;
            let length = entry.length_bytes.get() as usize;
            if bytes.len() == length {
                return Some(content.of(bytes) == entry.hash);
            }
            let space = space.get_mut(..length)?;
            decompress(bytes, space).ok()?;
            Some(content.of(space) == entry.hash)
        };
        let entries = self.entries.iter();
        let damaged = entries.filter(|entry| sound(entry, &mut space) != Some(true));
        damaged.map(|entry| entry.hash).collect()
    }

    /// Appends table and footer to the pieces.
    pub(super) fn append_to(&self, pack: &mut Vec<u8>) {
        let table = self.entries.as_bytes();
        pack.extend_from_slice(table);
        let footer = Footer {
            entries: u32::try_from(self.entries.len()).unwrap_or(u32::MAX).into(),
            crc: crc_fast::crc32_iscsi(table).into(),
            magic: MAGIC,
        };
        pack.extend_from_slice(footer.as_bytes());
    }

    /// Reads the table of a pack of `pack_bytes` from its last bytes, `tail`.
    ///
    /// # Errors
    /// `Ok(Err(n))`: the last `n` bytes are needed. [`Error::Stream`] for what is no pack.
    pub fn read(tail: &[u8], pack_bytes: u64) -> Result<std::result::Result<Self, usize>> {
        let Some((before, footer)) = tail.split_last_chunk::<FOOTER_BYTES>() else {
            if pack_bytes < FOOTER_BYTES as u64 || tail.len() as u64 >= pack_bytes {
                return Err(bad("it is too short"));
            }
            return Ok(Err(FOOTER_BYTES));
        };
        let footer = Footer::ref_from_bytes(footer).map_err(|_| bad("it has no footer"))?;
        let entries = footer.entries.get() as usize;
        if footer.magic != MAGIC || entries > MAX_ENTRIES {
            return Err(bad("its end is not that of a pack"));
        }
        let table_bytes = entries * size_of::<Entry>();
        let needed = table_bytes + FOOTER_BYTES;
        if needed as u64 > pack_bytes {
            return Err(bad("its table is longer than it"));
        }
        if before.len() < table_bytes {
            return Ok(Err(needed));
        }
        let table = &before[before.len() - table_bytes..];
        if crc_fast::crc32_iscsi(table) != footer.crc.get() {
            return Err(bad("its table has a wrong checksum"));
        }
        let entries = <[Entry]>::ref_from_bytes(table).map_err(|_| bad("its table"))?;
        let end = pack_bytes - needed as u64;
        if !entries.iter().all(|entry| entry.is_sane(end)) {
            return Err(bad("its table has an impossible entry"));
        }
        let entries = entries.to_vec();
        Ok(Ok(Self { entries }))
    }
}

fn bad(what: &str) -> Error {
    Error::Stream(format!("damaged pack: {what}"))
}
