//! Pieces back out of packs, by few requests.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::MAX_PIECE_BYTES;
use super::codec::decompress;
use super::index::{BlockIndex, Located};
use super::table::{HASH_BYTES, Hash};
use crate::error::{Error, Result};

/// A request is not longer than this, if more than one piece is in it.
const MAX_REQUEST_BYTES: u64 = 16 << 20;
/// What is read in vain between two pieces rather than making two requests.
const MAX_GAP_BYTES: u64 = 128 << 10;

/// A part of one pack, and the pieces that are wanted from it.
#[derive(Clone, Debug)]
pub struct Group {
    /// The pack's name.
    pub pack: Hash,
    /// Where the part begins in the pack, in bytes.
    pub begin: u64,
    /// One past its end.
    pub end: u64,
    /// Where each piece goes in the volume, in bytes, and where it is.
    pieces: Vec<(u64, Located)>,
}

/// Pieces that are wanted, where they are known to be.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// What to read, pack by pack.
    pub groups: Vec<Group>,
    /// Place and length, in bytes, of pieces that no index knows.
    pub missing: Vec<(u64, u32)>,
}

impl Wanted {
    /// Finds pieces: `hashes` has 32 bytes for each of `offsets` and `lengths`.
    ///
    /// # Errors
    /// [`Error::Usage`] for columns of different lengths; what `index` reports.
    pub fn locate(
        index: &BlockIndex,
        offsets: &[u64],
        lengths: &[u32],
        hashes: &[u8],
    ) -> Result<Self> {
        let (hashes, rest) = hashes.as_chunks::<HASH_BYTES>();
        if offsets.len() != lengths.len() || offsets.len() != hashes.len() || !rest.is_empty() {
            return Err(Error::usage("columns of different lengths"));
        }
        let mut wanted = Self::default();
        let mut found = Vec::with_capacity(offsets.len());
        for ((offset, length), hash) in offsets.iter().zip(lengths).zip(hashes) {
            match index.locate(hash)? {
                // One hash and two lengths cannot be.
                Some(located) if located.entry.length_bytes.get() == *length => {
                    found.push((*offset, located));
                }
                _ => wanted.missing.push((*offset, *length)),
            }
        }
        found.sort_by_key(|(offset, at)| (at.pack, at.entry.offset_bytes.get(), *offset));
        for (offset, at) in found {
            let begin = u64::from(at.entry.offset_bytes.get());
            let end = begin + u64::from(at.entry.stored_bytes.get());
            match wanted.groups.last_mut() {
                Some(group)
                    if group.pack == at.pack
                        && begin <= group.end + MAX_GAP_BYTES
                        && end <= group.begin + MAX_REQUEST_BYTES =>
                {
                    group.end = group.end.max(end);
                    group.pieces.push((offset, at));
                }
                _ => wanted.groups.push(Group {
                    pack: at.pack,
                    begin,
                    end,
                    pieces: vec![(offset, at)],
                }),
            }
        }
        Ok(wanted)
    }
}

impl Group {
    /// Pieces in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pieces.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Takes the pieces out of `part`, which is the pack from `begin` to `end`, and gives each
    /// one that is sound, with its place in the volume.
    ///
    /// # Errors
    /// [`Error::Stream`] for a piece that is not what its hash says, but for those that
    /// `damaged` answers `Ok` for; what `take` and `damaged` report.
    pub fn each(
        &self,
        part: &[u8],
        mut take: impl FnMut(u64, &[u8]) -> Result<()>,
        mut damaged: impl FnMut(u64, u32, Error) -> Result<()>,
    ) -> Result<()> {
        let mut space = vec![0; MAX_PIECE_BYTES];
        for (offset, at) in &self.pieces {
            match self.piece(part, at, &mut space) {
                Ok(bytes) => take(*offset, bytes)?,
                Err(error) => damaged(*offset, at.entry.length_bytes.get(), error)?,
            }
        }
        Ok(())
    }

    fn piece<'b>(&self, part: &'b [u8], at: &Located, space: &'b mut [u8]) -> Result<&'b [u8]> {
        let bad = |what: &str| {
            let (pack, offset) = (blake3::Hash::from(at.pack), at.entry.offset_bytes);
            Error::Stream(format!("damaged pack {pack}: at byte {offset}: {what}"))
        };
        let begin = u64::from(at.entry.offset_bytes.get()) - self.begin;
        let begin = usize::try_from(begin).unwrap_or(usize::MAX);
        let length = at.entry.length_bytes.get() as usize;
        let end = begin.saturating_add(at.entry.stored_bytes.get() as usize);
        let stored = part
            .get(begin..end)
            .ok_or_else(|| bad("the pack ends early"))?;
        let bytes = if stored.len() == length {
            stored
        } else {
            let space = space
                .get_mut(..length)
                .ok_or_else(|| bad("too long a piece"))?;
            decompress(stored, space).map_err(|error| bad(&error.to_string()))?;
            &*space
        };
        if blake3::hash(bytes) != at.entry.hash {
            return Err(bad("the BLAKE3 of a piece is another one"));
        }
        Ok(bytes)
    }

    /// Writes the pieces out of `part` into a file or device, each at its place. Returns how
    /// many bytes that were.
    ///
    /// # Errors
    /// [`Error::Stream`] for a damaged piece, [`Error::Io`] at the path `<output>`.
    pub fn write(&self, part: &[u8], out: &File) -> Result<u64> {
        let mut written = 0;
        let take = |offset: u64, bytes: &[u8]| {
            written += bytes.len() as u64;
            out.write_all_at(bytes, offset)
                .map_err(|source| Error::io("<output>", Some(offset), source))
        };
        self.each(part, take, |_, _, error| Err(error))?;
        Ok(written)
    }
}
