//! Makes packs of pieces that are not stored yet.

use super::codec::{Codec, is_zero};
use super::index::BlockIndex;
use super::table::{Entry, Hash, PackTable};
use crate::error::{Error, Result};

/// A pack under way, and what the pieces that came are.
pub struct PackBuilder {
    codec: Codec,
    pack: Vec<u8>,
    table: PackTable,
    offsets: Vec<u64>,
    lengths: Vec<u32>,
    hashes: Vec<Hash>,
    stored_anew: u64,
}

/// What came of the pieces that were added.
pub struct Packed {
    /// The pack with its table; empty where every piece was stored already.
    pub pack: Vec<u8>,
    /// What is in it.
    pub table: PackTable,
    /// Where each piece is in the volume, in bytes, in the order they came.
    pub offsets: Vec<u64>,
    /// How long each is, in bytes.
    pub lengths: Vec<u32>,
    /// What each is.
    pub hashes: Vec<Hash>,
    /// Bytes of pieces, not compressed, that the pack has.
    pub stored_anew: u64,
}

impl PackBuilder {
    /// An empty pack; `level` as zstd counts.
    ///
    /// # Errors
    /// [`Error::Usage`] for a level that zstd does not have.
    pub fn new(level: i32) -> Result<Self> {
        Ok(Self {
            codec: Codec::new(level)?,
            pack: Vec::new(),
            table: PackTable {
                entries: Vec::new(),
            },
            offsets: Vec::new(),
            lengths: Vec::new(),
            hashes: Vec::new(),
            stored_anew: 0,
        })
    }

    /// Bytes of the pack up to now.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.pack.len()
    }

    /// Pieces that came since the pack was begun and are not all zero.
    #[must_use]
    pub fn pieces(&self) -> usize {
        self.offsets.len()
    }

    /// Adds what the volume has at `offset_bytes`, cut into pieces of `piece_bytes`; the last
    /// may be shorter. What is all zero is left out: holes show the same. Pieces that `index`
    /// has, or that somebody else is storing for it now, are not stored again.
    ///
    /// # Errors
    /// [`Error::Usage`] for pieces that are too long; what looking up in `index` reports.
    pub fn add(
        &mut self,
        bytes: &[u8],
        offset_bytes: u64,
        piece_bytes: usize,
        index: &BlockIndex,
    ) -> Result<()> {
        if !(1..=super::MAX_PIECE_BYTES).contains(&piece_bytes) {
            return Err(Error::usage(format!("pieces of {piece_bytes} bytes")));
        }
        let mut at = offset_bytes;
        for piece in bytes.chunks(piece_bytes) {
            let here = at;
            at = at.saturating_add(piece.len() as u64);
            if is_zero(piece) {
                continue;
            }
            let hash = index.content.of(piece);
            if index.claim(&hash)? {
                self.store(piece, hash)?;
            }
            self.offsets.push(here);
            // No piece is longer than MAX_PIECE_BYTES.
            self.lengths
                .push(u32::try_from(piece.len()).unwrap_or_default());
            self.hashes.push(hash);
        }
        Ok(())
    }

    fn store(&mut self, piece: &[u8], hash: Hash) -> Result<()> {
        let begin = self.pack.len();
        if !self.codec.append(piece, &mut self.pack) {
            self.pack.extend_from_slice(piece);
        }
        let number = |count: usize| {
            let number = u32::try_from(count).map(Into::into);
            number.map_err(|_| Error::usage("a pack cannot have more than 4 GiB"))
        };
        self.table.entries.push(Entry {
            hash,
            offset_bytes: number(begin)?,
            stored_bytes: number(self.pack.len() - begin)?,
            length_bytes: number(piece.len())?,
        });
        self.stored_anew += piece.len() as u64;
        Ok(())
    }

    /// Takes over, as it is stored, each marked piece of another pack, whole in `pack`.
    ///
    /// # Errors
    /// [`Error::Stream`] for a pack that is not as long as its table says; [`Error::Usage`]
    /// where the new one would be too long; what `index` reports.
    pub fn take_over_marked(
        &mut self,
        table: &PackTable,
        pack: &[u8],
        index: &BlockIndex,
    ) -> Result<()> {
        let name = table.name();
        for entry in &table.entries {
            if !index.is_marked(&entry.hash, &name)? {
                continue;
            }
            let stored = entry.stored_in(pack);
            let stored = stored.ok_or_else(|| Error::Stream("a pack ends early".to_owned()))?;
            let begin = u32::try_from(self.pack.len());
            let begin = begin.map_err(|_| Error::usage("a pack of more than 4 GiB"))?;
            self.pack.extend_from_slice(stored);
            self.table.entries.push(Entry {
                offset_bytes: begin.into(),
                ..*entry
            });
        }
        Ok(())
    }

    /// The pack, whole; another one begins.
    pub fn finish(&mut self) -> Packed {
        let mut pack = std::mem::take(&mut self.pack);
        let empty = PackTable {
            entries: Vec::new(),
        };
        let table = std::mem::replace(&mut self.table, empty);
        if !table.entries.is_empty() {
            table.append_to(&mut pack);
        }
        Packed {
            pack,
            table,
            offsets: std::mem::take(&mut self.offsets),
            lengths: std::mem::take(&mut self.lengths),
            hashes: std::mem::take(&mut self.hashes),
            stored_anew: std::mem::take(&mut self.stored_anew),
        }
    }
}
