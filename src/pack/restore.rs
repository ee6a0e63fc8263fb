//! Pieces back out of packs, by few requests.

use std::fs::File;
use std::os::unix::fs::FileExt;

use super::MAX_PIECE_BYTES;
use super::codec::decompress;
use super::content::ContentHash;
use super::index::{BlockIndex, Located};
use super::table::{HASH_BYTES, Hash};
use crate::error::{Error, Result};

/// What is read in vain between two pieces rather than making two requests.
const MAX_GAP_BYTES: u64 = 128 << 10;
/// Neighbours are written at once up to this.
const MAX_WRITE_BYTES: u64 = 4 << 20;

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
    content: ContentHash,
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
    /// Finds pieces: `hashes` has 32 bytes for each of `offsets` and `lengths`. No request is
    /// longer than `most_bytes`, if more than one piece is in it.
    ///
    /// # Errors
    /// [`Error::Usage`] for columns of different lengths; what `index` reports.
    pub fn locate(
        index: &BlockIndex,
        offsets: &[u64],
        lengths: &[u32],
        hashes: &[u8],
        most_bytes: u64,
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
                        && end <= group.begin.saturating_add(most_bytes) =>
                {
                    group.end = group.end.max(end);
                    group.pieces.push((offset, at));
                }
                _ => wanted.groups.push(Group {
                    pack: at.pack,
                    begin,
                    end,
                    pieces: vec![(offset, at)],
                    content: index.content.clone(),
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
        if self.content.of(bytes) != at.entry.hash {
            return Err(bad("the BLAKE3 of a piece is another one"));
        }
        Ok(bytes)
    }

    /// Writes the pieces out of `part` into a file or device, each at its place and neighbours
    /// at once. Returns how many bytes that were.
    ///
    /// # Errors
    /// [`Error::Stream`] for a damaged piece, [`Error::Io`] at the path `<output>`.
    pub fn write(&self, part: &[u8], out: &File) -> Result<u64> {
        let mut written = 0;
        let mut space = Vec::new();
        let mut rest = &self.pieces[..];
        while !rest.is_empty() {
            let count = neighbours(rest);
            let (run, after) = rest.split_at(count);
            rest = after;
            let offset = run[0].0;
            let bytes = self.joined(part, run, &mut space)?;
            written += bytes.len() as u64;
            out.write_all_at(bytes, offset)
                .map_err(|source| Error::io("<output>", Some(offset), source))?;
        }
        Ok(written)
    }

    /// The content of pieces that follow each other in the volume: where it lies, if they
    /// are stored as they are and follow each other there, too, or put together in `space`.
    fn joined<'b>(
        &self,
        part: &'b [u8],
        run: &[(u64, Located)],
        space: &'b mut Vec<u8>,
    ) -> Result<&'b [u8]> {
        let length = |at: &Located| at.entry.length_bytes.get() as usize;
        let place = |at: &Located| u64::from(at.entry.offset_bytes.get());
        let begin = usize::try_from(place(&run[0].1) - self.begin).unwrap_or(usize::MAX);
        let total = run.iter().map(|(_, at)| length(at)).sum();
        let mut expected = place(&run[0].1);
        let as_they_are = run.iter().all(|(_, at)| {
            let follows = place(at) == expected && at.entry.stored_bytes == at.entry.length_bytes;
            expected += length(at) as u64;
            follows
        });
        if as_they_are {
            for (_, at) in run {
                self.piece(part, at, &mut [])?;
            }
            // Each of them was found there.
            return Ok(&part[begin..begin + total]);
        }
        space.resize(total, 0);
        let mut filled = 0;
        for (_, at) in run {
            let room = &mut space[filled..filled + length(at)];
            if at.entry.stored_bytes == at.entry.length_bytes {
                room.copy_from_slice(self.piece(part, at, &mut [])?);
            } else {
                self.piece(part, at, room)?;
            }
            filled += length(at);
        }
        Ok(space)
    }
}

/// How many of the first pieces follow each other in the volume, within a bound.
fn neighbours(pieces: &[(u64, Located)]) -> usize {
    let (first, _) = pieces[0];
    let mut end = first;
    let follows = |(offset, at): &&(u64, Located)| {
        let length = u64::from(at.entry.length_bytes.get());
        let near = *offset == end && *offset - first + length <= MAX_WRITE_BYTES;
        end = offset.saturating_add(length);
        near
    };
    pieces.iter().take_while(follows).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::PackBuilder;
    use crate::testing::Random;

    /// A volume of pieces that compress and such that do not, some of them equal, and holes.
    fn volume(random: &mut Random) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in 0..200_u64 {
            let content: Vec<u8> = match random.below(4) {
                0 => vec![0; 4096],
                1 => vec![piece as u8 | 1; 4096],
                2 => vec![7; 4096],
                _ => (0..4096).map(|_| random.next().to_le_bytes()[0]).collect(),
            };
            bytes.extend(content);
        }
        bytes
    }

    #[test]
    fn what_is_written_is_what_was_packed_however_it_was_stored() {
        let mut random = Random::new(8);
        for round in 0..20 {
            let content = volume(&mut random);
            let index = BlockIndex::new();
            let mut builder = PackBuilder::new(1).unwrap();
            builder.add(&content, 0, 4096, &index).unwrap();
            let packed = builder.finish();
            index.record(&packed.table);
            let hashes = packed.hashes.concat();
            let wanted =
                Wanted::locate(&index, &packed.offsets, &packed.lengths, &hashes, 50_000).unwrap();
            assert!(wanted.missing.is_empty());
            let name = format!("thinmeta-restore-{}-{round}", std::process::id());
            let path = std::env::temp_dir().join(name);
            let out = File::create(&path).unwrap();
            out.set_len(content.len() as u64).unwrap();
            for group in &wanted.groups {
                let range =
                    usize::try_from(group.begin).unwrap()..usize::try_from(group.end).unwrap();
                group.write(&packed.pack[range.clone()], &out).unwrap();
                let mut part = packed.pack[range].to_vec();
                let at = usize::try_from(random.below(part.len() as u64)).unwrap();
                part[at] ^= 1;
                assert!(
                    group.write(&part, &out).is_err(),
                    "round {round}, byte {at}"
                );
            }
            assert!(std::fs::read(&path).unwrap() == content, "round {round}");
            std::fs::remove_file(path).unwrap();
        }
    }
}
