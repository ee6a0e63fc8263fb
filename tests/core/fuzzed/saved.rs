//! Hostile bookmarks, packs and indexes: their checksums right, whatever else is wrong.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use thinmeta::bookmark::{Bookmark, MappingDigest};
use thinmeta::pack::{BlockIndex, ContentHash, PackTable, decompress};
use thinmeta::task::Task;
use thinmeta::thin::Run;
use thinmeta::{Error, Result};

use super::Outcome;
use crate::support::chance::Chance;

/// When the snapshot of every bookmark here was made.
const CREATED: u32 = 1000;

/// One of the four by the first byte.
pub fn run(bytes: &[u8]) -> Outcome {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let answer = match first % 4 {
        0 => bookmark(rest),
        1 => index(rest),
        2 => table(rest),
        _ => decompress(rest, &mut vec![0; usize::from(*first) * 16]),
    };
    match answer {
        Ok(()) => Vec::new(),
        Err(Error::Stream(text) | Error::Unsupported { reason: text, .. }) => {
            // Neither numbers nor the file's name tell outcomes apart.
            let words = text.rsplit('/').next().unwrap_or_default();
            let words = words.split_once(": ").map_or(words, |(_, rest)| rest);
            vec![words.replace(|letter: char| letter.is_ascii_digit(), "")]
        }
        Err(other) => panic!("{other:?}"),
    }
}

/// A file that goes with the value.
struct Scratch(PathBuf);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("thinmeta-saved-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        Self(path)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// The runs that bytes mean, told slowly; `None` where they mean none.
fn decoded(mut bytes: &[u8], runs: u8) -> Option<Vec<Run>> {
    let mut number = || -> Option<u128> {
        let mut found = 0_u128;
        for place in 0..10 {
            let (byte, rest) = bytes.split_first()?;
            bytes = rest;
            found |= u128::from(byte & 0x7f) << (7 * place);
            if byte & 0x80 == 0 {
                return (found < 1 << 64).then_some(found);
            }
        }
        None
    };
    let signed = |number: u128| {
        let half = (number >> 1).cast_signed();
        if number & 1 == 0 { half } else { -half - 1 }
    };
    let (mut virtual_end, mut data_end, mut time) = (0_i128, 0_i128, 0_i128);
    let mut found = Vec::new();
    for _ in 0..runs {
        let gap = number()?.cast_signed();
        let length = number()?.cast_signed();
        let begin = virtual_end + gap;
        let data = data_end + signed(number()?);
        time += signed(number()?);
        let sane = length > 0 && data >= 0 && data + length <= 1 << 40;
        if !sane || begin + length >= 1 << 64 || !(0..i128::from(CREATED)).contains(&time) {
            return None;
        }
        found.push(Run {
            virtual_begin: u64::try_from(begin).ok()?,
            data_begin: u64::try_from(data).ok()?,
            length_blocks: u64::try_from(length).ok()?,
            time: u32::try_from(time).ok()?,
        });
        (virtual_end, data_end) = (begin + length, data + length);
    }
    bytes.is_empty().then_some(found)
}

/// A bookmark whose runs are the fuzzer's bytes.
fn bookmark(bytes: &[u8]) -> Result<()> {
    let (runs, encoded) = bytes.split_first().unwrap_or((&0, &[]));
    let meant = decoded(encoded, *runs);
    let mut digest = MappingDigest::new(128);
    for run in meant.iter().flatten() {
        digest.push(*run);
    }
    digest.flush();
    let (longest, blocks) = digest.counts();
    let payload = zstd::bulk::compress(encoded, 1).unwrap();
    let mut head = vec![0; 256];
    head[..16].copy_from_slice(b"thinmeta-bookmrk");
    let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
    put(16, &1_u32.to_le_bytes());
    put(20, &256_u32.to_le_bytes());
    put(32, &CREATED.to_le_bytes());
    put(36, &CREATED.to_le_bytes());
    put(48, &128_u32.to_le_bytes());
    put(64, &blocks.to_le_bytes());
    put(72, &u64::from(*runs).to_le_bytes());
    put(80, &digest.finish());
    put(240, &(payload.len() as u64).to_le_bytes());
    put(248, &crc_fast::crc32_iscsi(&payload).to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&head[..252]);
    head[252..].copy_from_slice(&crc.to_le_bytes());
    let file = Scratch::new(&[head, payload].concat());
    let opened = Bookmark::open(file.path(), &Task::default());
    // Runs that are cut where they need not be are refused, too: nobody writes such.
    let expected = meant.filter(|_| longest == u64::from(*runs));
    assert_eq!(opened.is_ok(), expected.is_some(), "{opened:?}");
    let opened = opened?;
    let mut left = opened.runs()?;
    for run in expected.unwrap_or_default() {
        assert_eq!(left.next_run()?, Some(run));
    }
    assert_eq!(left.next_run()?, None);
    Ok(())
}

/// An index whose entries are the fuzzer's bytes.
fn index(bytes: &[u8]) -> Result<()> {
    let mut chance = Chance::Bytes(bytes);
    let (packs, entries) = (chance.below(4), chance.below(300));
    let mut file = b"thmindx1".to_vec();
    file.extend((packs as u32).to_le_bytes());
    file.extend(0_u32.to_le_bytes());
    let told = if chance.below(8) == 0 {
        chance.word()
    } else {
        entries
    };
    file.extend(told.to_le_bytes());
    for pack in 0..packs {
        file.extend([pack as u8; 32]);
    }
    let mut hashes = Vec::new();
    for entry in 0..entries {
        let mut hash = [0; 32];
        // Equal beginnings now and then; mostly in order.
        let head = if chance.below(16) == 0 {
            chance.word()
        } else {
            entry / 7
        };
        hash[..8].copy_from_slice(&head.to_be_bytes());
        hash[8..16].copy_from_slice(&entry.to_be_bytes());
        hashes.push(hash);
        file.extend(hash);
        let odd = chance.below(64) == 0;
        for number in [0, 64 * entry, 64, 128] {
            let number = if odd { chance.below(1 << 32) } else { number };
            file.extend((number as u32).to_le_bytes());
        }
    }
    file.extend(blake3::hash(&file).as_bytes());
    let file = Scratch::new(&file);
    let index = BlockIndex::new();
    index.add_file(file.path(), &HashSet::new())?;
    for hash in &hashes {
        let found = index.locate(hash)?;
        assert_eq!(found.map(|at| at.entry.hash), Some(*hash));
        assert!(!index.claim(hash)?);
    }
    assert!(index.locate(&[0xff; 32])?.is_none());
    Ok(())
}

/// The end of a pack as the fuzzer's bytes have it.
fn table(bytes: &[u8]) -> Result<()> {
    let entries = bytes.len() / 44;
    let mut pack = vec![7; 10_000];
    pack.extend(&bytes[..entries * 44]);
    let crc = crc_fast::crc32_iscsi(&bytes[..entries * 44]);
    pack.extend((entries as u32).to_le_bytes());
    pack.extend(crc.to_le_bytes());
    pack.extend(b"thmpack1");
    let whole = pack.len() as u64;
    let table = PackTable::read(&pack, whole)?.expect("the whole pack is enough");
    assert_eq!(table.entries.len(), entries);
    // No piece of sevens has a hash of the fuzzer's making.
    assert_eq!(table.damaged(&pack, &ContentHash::default()).len(), entries);
    let tail = &pack[pack.len() - 16..];
    assert_eq!(
        PackTable::read(tail, whole)?.err(),
        (entries > 0).then_some(entries * 44 + 16)
    );
    Ok(())
}
