//! An index file: pieces in the order of their hashes, asked with little memory.
//!
//! ```text
//! index  := head; pack names (32 bytes each); entries in the order of their hashes; BLAKE3
//! head   := magic "thmindx1", packs u32, zero u32, entries u64
//! entry  := hash (32 bytes), pack u32 (its place in the list), offset u32, stored length u32,
//!           length u32
//! BLAKE3 := of everything before it
//! ```
//!
//! Of each file two things are kept in memory: the first eight bytes of every 64th hash, which
//! say where to read, and one bit in eight for each entry, which says of most hashes that are
//! not in it that they are not, without reading. That is a little more than a byte an entry.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::table::{Entry, HASH_BYTES, Hash};
use crate::error::{Error, Result};

const MAGIC: [u8; 8] = *b"thmindx1";
/// Entries between two hashes that are kept in memory.
const STRIDE: usize = 64;
/// Bits of the filter for each entry.
const BITS_PER_ENTRY: u64 = 8;
/// A filter is not larger, however many entries there are: it only answers less often.
const MAX_FILTER_BITS: u64 = 1 << 28;
/// Read at once while a file is opened; whole entries.
const READ_ENTRIES: usize = 1 << 14;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Head {
    magic: [u8; 8],
    packs: U32,
    zero: U32,
    entries: U64,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct Item {
    hash: Hash,
    pub pack: U32,
    offset_bytes: U32,
    pub stored_bytes: U32,
    length_bytes: U32,
}

const ITEM_BYTES: usize = size_of::<Item>();
const _: () = assert!(ITEM_BYTES == 48);

impl Item {
    pub fn new(entry: &Entry, pack: u32) -> Self {
        Self {
            hash: entry.hash,
            pack: pack.into(),
            offset_bytes: entry.offset_bytes,
            stored_bytes: entry.stored_bytes,
            length_bytes: entry.length_bytes,
        }
    }

    pub fn entry(&self) -> Entry {
        Entry {
            hash: self.hash,
            offset_bytes: self.offset_bytes,
            stored_bytes: self.stored_bytes,
            length_bytes: self.length_bytes,
        }
    }
}

/// The bytes of a file of these packs and pieces.
pub(super) fn encode(packs: &[Hash], items: &mut [Item]) -> Vec<u8> {
    items.sort_unstable_by_key(|item| item.hash);
    let head = Head {
        magic: MAGIC,
        packs: u32::try_from(packs.len()).unwrap_or(u32::MAX).into(),
        zero: 0.into(),
        entries: (items.len() as u64).into(),
    };
    let mut bytes = head.as_bytes().to_vec();
    bytes.extend_from_slice(packs.as_bytes());
    bytes.extend_from_slice(items.as_bytes());
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// One bit for each entry of a file.
#[derive(Default)]
struct Marks(Vec<u64>);

impl Marks {
    fn insert(&mut self, place: u64) {
        let word = usize::try_from(place / 64).unwrap_or(usize::MAX);
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (place % 64);
    }

    fn contains(&self, place: u64) -> bool {
        let word = usize::try_from(place / 64).unwrap_or(usize::MAX);
        self.0
            .get(word)
            .is_some_and(|bits| bits >> (place % 64) & 1 == 1)
    }
}

/// A file that was read once, from its first byte to its last, and found sound.
pub(super) struct IndexFile {
    file: File,
    path: std::path::PathBuf,
    pub packs: Vec<Hash>,
    /// Packs that count as not there.
    without: Vec<bool>,
    items_at: u64,
    items: u64,
    /// The beginning of every [`STRIDE`]th hash.
    samples: Vec<u64>,
    filter: Filter,
    marks: Mutex<Marks>,
}

impl IndexFile {
    /// Reads a file, whose packs in `without` count as not there.
    pub fn open(path: &Path, without: &HashSet<Hash>) -> Result<Self> {
        let failed = |source| Error::io(path, None, source);
        let bad = |what: &str| Error::Stream(format!("{}: damaged index: {what}", path.display()));
        let mut file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut hasher = blake3::Hasher::new();
        let mut read = |into: &mut [u8], hasher: &mut blake3::Hasher| -> Result<()> {
            file.read_exact(into).map_err(failed)?;
            hasher.update(into);
            Ok(())
        };
        let mut head = [0; size_of::<Head>()];
        if length < (head.len() + HASH_BYTES) as u64 {
            return Err(bad("it is too short"));
        }
        read(&mut head, &mut hasher)?;
        let head = Head::ref_from_bytes(&head).map_err(|_| bad("its head"))?;
        if head.magic != MAGIC {
            return Err(bad("it does not begin like one"));
        }
        let (packs, items) = (u64::from(head.packs.get()), head.entries.get());
        let items_at = size_of::<Head>() as u64 + packs * HASH_BYTES as u64;
        let end = items.checked_mul(ITEM_BYTES as u64);
        let end = end.and_then(|bytes| bytes.checked_add(items_at + HASH_BYTES as u64));
        if end != Some(length) {
            return Err(bad("its length is not what it says"));
        }
        // The file has that much, so that this cannot be more than it is worth.
        let mut names = vec![[0; HASH_BYTES]; usize::try_from(packs).unwrap_or(0)];
        read(names.as_mut_bytes(), &mut hasher)?;
        let mut filter = Filter::new(items);
        let mut samples = Vec::new();
        let mut buffer = vec![0; READ_ENTRIES * ITEM_BYTES];
        let (mut done, mut last) = (0_u64, None);
        while done < items {
            let count = usize::try_from(items - done)
                .unwrap_or(READ_ENTRIES)
                .min(READ_ENTRIES);
            let bytes = &mut buffer[..count * ITEM_BYTES];
            read(bytes, &mut hasher)?;
            let part = <[Item]>::ref_from_bytes(bytes).map_err(|_| bad("its entries"))?;
            for (place, item) in (done..).zip(part) {
                if last.is_some_and(|last| last >= item.hash) {
                    return Err(bad("its entries are out of order"));
                }
                if u64::from(item.pack.get()) >= packs || !item.entry().is_sane(1 << 32) {
                    return Err(bad("it has an impossible entry"));
                }
                if place.is_multiple_of(STRIDE as u64) {
                    samples.push(beginning(&item.hash));
                }
                filter.insert(&item.hash);
                last = Some(item.hash);
            }
            done += count as u64;
        }
        let expected = hasher.finalize();
        let mut found = [0; HASH_BYTES];
        file.read_exact(&mut found).map_err(failed)?;
        if expected != found {
            return Err(bad("its BLAKE3 is another one"));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            without: names.iter().map(|name| without.contains(name)).collect(),
            packs: names,
            items_at,
            items,
            samples,
            filter,
            marks: Mutex::default(),
        })
    }

    /// Whether what an entry names counts as there.
    pub fn counts(&self, item: &Item) -> bool {
        !self.without[item.pack.get() as usize]
    }

    /// Notes that the entry at a place is needed.
    pub fn mark(&self, place: u64) {
        self.marks().insert(place);
    }

    /// Whether that was noted.
    pub fn is_marked(&self, place: u64) -> bool {
        self.marks().contains(place)
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry of a hash and its place.
    pub fn find(&self, hash: &Hash) -> Result<Option<(u64, Item)>> {
        if !self.filter.may_have(hash) {
            return Ok(None);
        }
        // Equal beginnings: entries may stand before the sample that begins the same.
        let key = beginning(hash);
        let first = self
            .samples
            .partition_point(|sample| *sample < key)
            .saturating_sub(1);
        let end = self.samples.partition_point(|sample| *sample <= key);
        let mut items = [[0_u8; ITEM_BYTES]; STRIDE];
        for stretch in first..end.max(first + 1) {
            let begin = (stretch * STRIDE) as u64;
            let count = usize::try_from(self.items - begin)
                .unwrap_or(STRIDE)
                .min(STRIDE);
            let items = self.read(begin, items[..count].as_mut_bytes())?;
            if let Ok(index) = items.binary_search_by_key(hash, |item| item.hash) {
                return Ok(Some((begin + index as u64, items[index])));
            }
        }
        Ok(None)
    }

    fn read<'b>(&self, begin: u64, bytes: &'b mut [u8]) -> Result<&'b [Item]> {
        let at = self.items_at + begin * ITEM_BYTES as u64;
        let read = self.file.read_exact_at(bytes, at);
        read.map_err(|source| Error::io(&self.path, Some(at), source))?;
        let bad = || Error::Stream(format!("{}: damaged index", self.path.display()));
        let items = <[Item]>::ref_from_bytes(bytes).map_err(|_| bad())?;
        // It was sound when it was opened; whoever has changed it since must not lead us astray.
        let packs = self.packs.len();
        if items
            .iter()
            .any(|item| item.pack.get() as usize >= packs || !item.entry().is_sane(1 << 32))
        {
            return Err(bad());
        }
        Ok(items)
    }

    /// Every entry, with its place.
    pub fn each(&self, mut take: impl FnMut(u64, &Item)) -> Result<()> {
        let mut buffer = vec![0; READ_ENTRIES * ITEM_BYTES];
        let mut done = 0;
        while done < self.items {
            let count = usize::try_from(self.items - done)
                .unwrap_or(READ_ENTRIES)
                .min(READ_ENTRIES);
            let items = self.read(done, &mut buffer[..count * ITEM_BYTES])?;
            for (place, item) in (done..).zip(items) {
                take(place, item);
            }
            done += count as u64;
        }
        Ok(())
    }
}

fn beginning(hash: &Hash) -> u64 {
    hash.first_chunk()
        .map_or(0, |first| u64::from_be_bytes(*first))
}

/// Says of most hashes that are not there that they are not.
struct Filter {
    words: Vec<u64>,
    bits: u64,
}

impl Filter {
    fn new(items: u64) -> Self {
        let bits = (items.saturating_mul(BITS_PER_ENTRY)).clamp(64, MAX_FILTER_BITS);
        let words = usize::try_from(bits.div_ceil(64)).unwrap_or(1);
        Self {
            words: vec![0; words],
            bits,
        }
    }

    fn place(&self, hash: &Hash) -> (usize, u64) {
        // Other bytes than those that the order of entries is by.
        let word = hash
            .last_chunk()
            .map_or(0, |last| u64::from_le_bytes(*last));
        let bit = word % self.bits;
        (usize::try_from(bit / 64).unwrap_or(0), 1 << (bit % 64))
    }

    fn insert(&mut self, hash: &Hash) {
        let (word, bit) = self.place(hash);
        self.words[word] |= bit;
    }

    fn may_have(&self, hash: &Hash) -> bool {
        let (word, bit) = self.place(hash);
        self.words[word] & bit != 0
    }
}
