//! In which pack a piece is: many sorted files, asked with little memory.
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

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::table::{Entry, HASH_BYTES, Hash, PackTable};
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
struct Item {
    hash: Hash,
    pack: U32,
    offset_bytes: U32,
    stored_bytes: U32,
    length_bytes: U32,
}

const ITEM_BYTES: usize = size_of::<Item>();
const _: () = assert!(ITEM_BYTES == 48);

impl Item {
    fn new(entry: &Entry, pack: u32) -> Self {
        Self {
            hash: entry.hash,
            pack: pack.into(),
            offset_bytes: entry.offset_bytes,
            stored_bytes: entry.stored_bytes,
            length_bytes: entry.length_bytes,
        }
    }

    fn entry(&self) -> Entry {
        Entry {
            hash: self.hash,
            offset_bytes: self.offset_bytes,
            stored_bytes: self.stored_bytes,
            length_bytes: self.length_bytes,
        }
    }
}

/// Where a piece is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// The pack's name.
    pub pack: Hash,
    /// Where it is in there.
    pub entry: Entry,
}

/// What is stored, and what is being stored now.
#[derive(Default)]
pub struct BlockIndex {
    files: RwLock<Vec<IndexFile>>,
    fresh: Mutex<Fresh>,
}

/// Pieces of this run that no file has yet.
#[derive(Default)]
struct Fresh {
    packs: Vec<Hash>,
    /// How often pieces went from here to a file.
    settled: u64,
    /// `None`: somebody stores it at this moment.
    pieces: HashMap<Hash, Option<(u32, Entry)>>,
}

impl BlockIndex {
    /// Nothing is stored.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in an index file, but for what is in packs of `without`.
    ///
    /// # Errors
    /// [`Error::Stream`] for what is no index or a damaged one, [`Error::Io`].
    pub fn add_file(&self, path: &Path, without: &HashSet<Hash>) -> Result<()> {
        let file = IndexFile::open(path, without)?;
        self.files_mut().push(file);
        Ok(())
    }

    /// Whether the caller has to store this piece: `false` where it is stored already, or
    /// somebody else has claimed it.
    pub fn claim(&self, hash: &Hash) -> Result<bool> {
        if self.in_files(hash)?.is_some() {
            return Ok(false);
        }
        let mut fresh = self.fresh();
        if fresh.pieces.contains_key(hash) {
            return Ok(false);
        }
        // It may have gone from memory to a file between the two looks; not any more now.
        if fresh.settled > 0 && self.in_files(hash)?.is_some() {
            return Ok(false);
        }
        fresh.pieces.insert(*hash, None);
        Ok(true)
    }

    /// Takes notice that the pack of this table is stored, and gives its name.
    pub fn record(&self, table: &PackTable) -> Hash {
        let name = table.name();
        let mut fresh = self.fresh();
        let ordinal = u32::try_from(fresh.packs.len()).unwrap_or(u32::MAX);
        fresh.packs.push(name);
        for entry in &table.entries {
            fresh.pieces.insert(entry.hash, Some((ordinal, *entry)));
        }
        name
    }

    /// Pieces that no file has yet.
    #[must_use]
    pub fn fresh_pieces(&self) -> usize {
        self.fresh().pieces.len()
    }

    /// An index file of the packs that were recorded; `None` without any.
    #[must_use]
    pub fn export(&self) -> Option<Vec<u8>> {
        let fresh = self.fresh();
        let stored = fresh.pieces.values().flatten();
        let mut items: Vec<Item> = stored
            .map(|(pack, entry)| Item::new(entry, *pack))
            .collect();
        (!items.is_empty()).then(|| encode(&fresh.packs, &mut items))
    }

    /// As [`Self::add_file`] of what [`Self::export`] gave: what it has need not be kept.
    pub fn settle(&self, path: &Path) -> Result<()> {
        let file = IndexFile::open(path, &HashSet::new())?;
        let packs: HashSet<Hash> = file.packs.iter().copied().collect();
        // Each piece is in one place at least, whoever looks meanwhile.
        self.files_mut().push(file);
        let mut fresh = self.fresh();
        fresh.settled += 1;
        let names = std::mem::take(&mut fresh.packs);
        let mut kept = HashMap::new();
        for (ordinal, name) in (0_u32..).zip(&names) {
            if !packs.contains(name) {
                kept.insert(
                    ordinal,
                    u32::try_from(fresh.packs.len()).unwrap_or(u32::MAX),
                );
                fresh.packs.push(*name);
            }
        }
        fresh.pieces.retain(|_, at| match at {
            Some((pack, _)) => match kept.get(pack) {
                Some(ordinal) => {
                    *pack = *ordinal;
                    true
                }
                None => false,
            },
            None => true,
        });
        Ok(())
    }

    /// Where a piece is.
    pub fn locate(&self, hash: &Hash) -> Result<Option<Located>> {
        if let Some(found) = self.in_files(hash)? {
            return Ok(Some(found));
        }
        let fresh = self.fresh();
        match fresh.pieces.get(hash).copied().flatten() {
            Some((pack, entry)) => Ok(Some(Located {
                pack: fresh.packs[pack as usize],
                entry,
            })),
            None if fresh.settled > 0 => self.in_files(hash),
            None => Ok(None),
        }
    }

    /// Notes that a piece is needed; `false` where no file has it in a pack that counts.
    pub fn mark(&self, hash: &Hash) -> Result<bool> {
        let files = self.files();
        for file in &*files {
            if let Some((place, item)) = file.find(hash)?
                && !file.without[item.pack.get() as usize]
            {
                lock(&file.marks).insert(place);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a piece was marked.
    pub fn is_marked(&self, hash: &Hash, pack: &Hash) -> Result<bool> {
        let files = self.files();
        for file in &*files {
            if let Some((place, item)) = file.find(hash)?
                && !file.without[item.pack.get() as usize]
            {
                let here = file.packs.get(item.pack.get() as usize) == Some(pack);
                return Ok(here && lock(&file.marks).contains(place));
            }
        }
        Ok(false)
    }

    /// Each pack that the files name, with the bytes it stores and those of marked pieces.
    pub fn usage(&self) -> Result<Vec<(Hash, u64, u64)>> {
        let mut found: HashMap<Hash, (u64, u64)> = HashMap::new();
        let mut order = Vec::new();
        for file in &*self.files() {
            for name in &file.packs {
                found.entry(*name).or_insert_with(|| {
                    order.push(*name);
                    (0, 0)
                });
            }
            file.each(|place, item| {
                let stored = u64::from(item.stored_bytes.get());
                if let Some(name) = file.packs.get(item.pack.get() as usize)
                    && let Some((all, marked)) = found.get_mut(name)
                {
                    *all += stored;
                    if lock(&file.marks).contains(place) {
                        *marked += stored;
                    }
                }
            })?;
        }
        let usage = order
            .iter()
            .map(|name| (*name, found[name].0, found[name].1));
        Ok(usage.collect())
    }

    fn in_files(&self, hash: &Hash) -> Result<Option<Located>> {
        for file in &*self.files() {
            if let Some((_, item)) = file.find(hash)? {
                let pack = item.pack.get() as usize;
                if !file.without[pack] {
                    let (pack, entry) = (file.packs[pack], item.entry());
                    return Ok(Some(Located { pack, entry }));
                }
            }
        }
        Ok(None)
    }

    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        lock(&self.fresh)
    }

    fn files(&self) -> std::sync::RwLockReadGuard<'_, Vec<IndexFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<IndexFile>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn encode(packs: &[Hash], items: &mut [Item]) -> Vec<u8> {
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
struct IndexFile {
    file: File,
    path: std::path::PathBuf,
    packs: Vec<Hash>,
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
    fn open(path: &Path, without: &HashSet<Hash>) -> Result<Self> {
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

    /// The entry of a hash and its place.
    fn find(&self, hash: &Hash) -> Result<Option<(u64, Item)>> {
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

    fn each(&self, mut take: impl FnMut(u64, &Item)) -> Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::PackBuilder;
    use crate::testing::Random;

    fn hash_of(number: u64) -> Hash {
        *blake3::hash(&number.to_le_bytes()).as_bytes()
    }

    fn table(numbers: std::ops::Range<u64>) -> PackTable {
        let entry = |(index, number): (u32, u64)| Entry {
            hash: hash_of(number),
            offset_bytes: (index * 10).into(),
            stored_bytes: 10.into(),
            length_bytes: 20.into(),
        };
        PackTable {
            entries: (0..).zip(numbers).map(entry).collect(),
        }
    }

    fn file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path =
            std::env::temp_dir().join(format!("thinmeta-index-{}-{name}", std::process::id()));
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn what_was_recorded_is_found_before_and_after_it_goes_to_a_file() {
        let index = BlockIndex::new();
        let first = index.record(&table(0..1000));
        let second = index.record(&table(1000..1500));
        let check = |index: &BlockIndex| {
            for number in 0..1500 {
                let found = index.locate(&hash_of(number)).unwrap().unwrap();
                let (pack, place) = if number < 1000 {
                    (first, number)
                } else {
                    (second, number - 1000)
                };
                assert_eq!(found.pack, pack);
                assert_eq!(u64::from(found.entry.offset_bytes.get()), place * 10);
            }
            for number in 1500..3000 {
                assert!(index.locate(&hash_of(number)).unwrap().is_none());
            }
        };
        check(&index);
        let path = file("found", &index.export().unwrap());
        index.settle(&path).unwrap();
        assert_eq!(index.fresh_pieces(), 0);
        assert!(index.export().is_none());
        check(&index);
        let other = BlockIndex::new();
        other.add_file(&path, &HashSet::from([second])).unwrap();
        assert!(other.locate(&hash_of(999)).unwrap().is_some());
        assert!(other.locate(&hash_of(1000)).unwrap().is_none());
        assert!(other.claim(&hash_of(1000)).unwrap());
        assert!(!other.claim(&hash_of(1000)).unwrap());
        assert!(!other.claim(&hash_of(999)).unwrap());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_recorded_after_an_export_stays_when_that_is_settled() {
        let index = BlockIndex::new();
        index.record(&table(0..10));
        let path = file("after", &index.export().unwrap());
        let later = index.record(&table(10..20));
        assert!(index.claim(&hash_of(77)).unwrap());
        index.settle(&path).unwrap();
        assert_eq!(index.fresh_pieces(), 11);
        assert_eq!(index.locate(&hash_of(15)).unwrap().unwrap().pack, later);
        assert!(index.locate(&hash_of(5)).unwrap().is_some());
        assert!(!index.claim(&hash_of(77)).unwrap());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn marks_tell_how_much_of_a_pack_is_needed() {
        let index = BlockIndex::new();
        let first = index.record(&table(0..100));
        let second = index.record(&table(100..110));
        let path = file("marks", &index.export().unwrap());
        index.settle(&path).unwrap();
        for number in 0..40 {
            assert!(index.mark(&hash_of(number)).unwrap());
        }
        assert!(!index.mark(&hash_of(5000)).unwrap());
        assert_eq!(
            index.usage().unwrap(),
            [(first, 1000, 400), (second, 100, 0)]
        );
        assert!(index.is_marked(&hash_of(39), &first).unwrap());
        assert!(!index.is_marked(&hash_of(40), &first).unwrap());
        assert!(!index.is_marked(&hash_of(39), &second).unwrap());
        let other = BlockIndex::new();
        other.add_file(&path, &HashSet::from([first])).unwrap();
        assert!(!other.mark(&hash_of(5)).unwrap());
        assert!(!other.is_marked(&hash_of(5), &first).unwrap());
        assert!(other.mark(&hash_of(105)).unwrap());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn any_byte_that_is_not_as_it_was_is_noticed() {
        let index = BlockIndex::new();
        index.record(&table(0..3));
        let sound = index.export().unwrap();
        for at in 0..sound.len() {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x40;
            let path = file("flipped", &bytes);
            assert!(
                BlockIndex::new().add_file(&path, &HashSet::new()).is_err(),
                "byte {at}"
            );
        }
        for length in 0..sound.len() {
            let path = file("flipped", &sound[..length]);
            assert!(BlockIndex::new().add_file(&path, &HashSet::new()).is_err());
        }
        std::fs::remove_file(file("flipped", b"")).unwrap();
    }

    #[test]
    fn a_pack_explains_itself_and_has_each_piece_once() {
        let mut random = Random::new(5);
        let mut bytes: Vec<u8> = (0..10_000)
            .map(|_| random.next().to_le_bytes()[0])
            .collect();
        bytes[4000..5000].fill(0); // two pieces of 500 that are holes
        bytes.copy_within(0..500, 9_000);
        let index = BlockIndex::new();
        let mut builder = PackBuilder::new(1).unwrap();
        builder.add(&bytes, 1 << 40, 500, &index).unwrap();
        let packed = builder.finish();
        assert_eq!(packed.offsets.len(), 18);
        assert_eq!(packed.table.entries.len(), 17);
        assert_eq!(packed.hashes[17 - 1], packed.hashes[0]);
        let whole = packed.pack.len() as u64;
        let needed = PackTable::read(&packed.pack[packed.pack.len() - 16..], whole).unwrap();
        let needed = needed.unwrap_err();
        let tail = &packed.pack[packed.pack.len() - needed..];
        let table = PackTable::read(tail, whole).unwrap().unwrap();
        assert_eq!(table, packed.table);
        for flipped in 0..tail.len() {
            let mut tail = tail.to_vec();
            tail[flipped] ^= 1;
            let read = PackTable::read(&tail, whole);
            assert!(!matches!(read, Ok(Ok(_))), "byte {flipped}");
        }
        index.record(&packed.table);
        builder.add(&bytes, 0, 500, &index).unwrap();
        assert!(builder.finish().pack.is_empty());
    }
}
