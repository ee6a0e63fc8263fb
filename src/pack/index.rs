//! In which pack a piece is: many files, and what has been stored since they were written.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use super::content::ContentHash;
use super::index_file::{IndexFile, Item, encode};
use super::table::{Entry, Hash, PackTable};
use crate::error::Result;

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
    /// What its pieces are known by.
    pub(super) content: ContentHash,
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

    /// The same, of pieces that are known by that.
    #[must_use]
    pub fn of(content: ContentHash) -> Self {
        Self {
            content,
            ..Self::default()
        }
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
                && file.counts(&item)
            {
                file.mark(place);
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
                && file.counts(&item)
            {
                let here = file.packs.get(item.pack.get() as usize) == Some(pack);
                return Ok(here && file.is_marked(place));
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
                    if file.is_marked(place) {
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
            if let Some((_, item)) = file.find(hash)?
                && file.counts(&item)
            {
                let pack = file.packs[item.pack.get() as usize];
                let entry = item.entry();
                return Ok(Some(Located { pack, entry }));
            }
        }
        Ok(None)
    }

    fn fresh(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn files(&self) -> std::sync::RwLockReadGuard<'_, Vec<IndexFile>> {
        self.files.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn files_mut(&self) -> std::sync::RwLockWriteGuard<'_, Vec<IndexFile>> {
        self.files.write().unwrap_or_else(PoisonError::into_inner)
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
