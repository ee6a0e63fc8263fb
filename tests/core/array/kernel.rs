//! Arrays and bitsets that a kernel wrote, beside what cache_dump and era_dump print of them.

use std::sync::Arc;

use thinmeta::array::Array;
use thinmeta::bitset::BitsetView;
use thinmeta::block::BlockManager;
use thinmeta::btree::{self, Wait};
use thinmeta::{BlockNr, Result};

use crate::support::fixtures;
use crate::support::image::{Image, read_u32, read_u64};

struct Opened {
    blocks: Arc<BlockManager>,
    superblock: Vec<u8>,
}

impl Opened {
    fn new(name: &str) -> Self {
        let image = Image::new(fixtures::unpacked(&format!("{name}/meta.img")));
        let superblock = image.block(0).unwrap().to_vec();
        let blocks = BlockManager::new(Arc::new(image), 1 << 20);
        Self { blocks, superblock }
    }

    fn root(&self, offset: usize) -> BlockNr {
        BlockNr(read_u64(&self.superblock, offset))
    }

    /// All elements, read in every way there is.
    fn elements(&self, offset: usize, value_bytes: usize, len: u64) -> Vec<u64> {
        let array = Array::new(&self.blocks, self.root(offset), value_bytes, len).unwrap();
        let number = |bytes: &[u8]| {
            let mut word = [0; 8];
            word[..value_bytes].copy_from_slice(bytes);
            u64::from_le_bytes(word)
        };
        let mut walked = Vec::new();
        let visit = |index, element: &[u8]| -> Result<()> {
            assert_eq!(index, walked.len() as u64);
            walked.push(number(element));
            Ok(())
        };
        array.walk(visit).unwrap();
        let mut bulk = vec![0; len as usize * value_bytes];
        array.read(0, &mut bulk).unwrap();
        let bulk: Vec<u64> = bulk.chunks(value_bytes).map(number).collect();
        assert_eq!(bulk, walked);
        let mut cursor = array.cursor().unwrap();
        for (index, expected) in walked.iter().enumerate() {
            let mut out = vec![0; value_bytes];
            array.get(index as u64, &mut out, Wait::Yes).unwrap();
            assert_eq!(number(&out), *expected);
            assert_eq!(number(cursor.get().unwrap()), *expected);
            assert_eq!(cursor.next_element().unwrap(), index + 1 < walked.len());
        }
        walked
    }

    fn ones(&self, root: BlockNr, bits: u64) -> Vec<u64> {
        let view = BitsetView::new(&self.blocks, root, bits).unwrap();
        let mut ones = Vec::new();
        let visit = |bit| {
            ones.push(bit);
            Ok(())
        };
        view.for_each_one(0..bits, visit).unwrap();
        assert_eq!(view.count_ones(0..bits).unwrap(), ones.len() as u64);
        let mut cursor = view.cursor().unwrap();
        for bit in 0..bits {
            let expected = ones.binary_search(&bit).is_ok();
            assert_eq!(view.test(bit, Wait::Yes).unwrap(), expected);
            assert_eq!(cursor.get().unwrap(), expected);
            assert_eq!(cursor.next_bit().unwrap(), bit + 1 < bits);
        }
        ones
    }
}

/// The attributes of every element of one name, in the order of `names`.
fn listed<const N: usize>(xml: &str, element: &str, names: [&str; N]) -> Vec<[String; N]> {
    let opening = format!("<{element} ");
    let lines = xml.lines().filter(|line| line.trim().starts_with(&opening));
    let attribute = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    };
    lines
        .map(|line| names.map(|name| attribute(line, name)))
        .collect()
}

fn number(text: &str) -> u64 {
    text.parse().unwrap()
}

/// A hint as it is printed: 4 bytes in base64.
fn hint(text: &str) -> u64 {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let bits = text
        .trim_end_matches('=')
        .chars()
        .fold(0_u64, |bits, digit| {
            bits << 6 | DIGITS.find(digit).unwrap() as u64
        });
    u64::from(((bits >> 4) as u32).swap_bytes())
}

#[test]
fn what_a_kernel_cached_is_what_cache_dump_prints() {
    for (name, version, hinted) in [
        ("cache-crashed", "0.9.0", 0),
        ("cache-smq-clean", "1.1.0", 40),
        ("cache-smq-dirty", "1.1.0", 40),
    ] {
        let opened = Opened::new(&format!("cache/{name}"));
        let listing = format!("cache/{name}/cache_dump-{version}.xml");
        let xml = String::from_utf8(fixtures::unpacked(&listing)).unwrap();
        let len = u64::from(read_u32(&opened.superblock, 240));
        assert_eq!(len, 256);
        let format = read_u32(&opened.superblock, 40);
        let mappings = opened.elements(192, 8, len);
        let dirty = match format {
            2 => opened.ones(opened.root(284), len),
            _ => Vec::new(),
        };
        let valid = (0_u64..)
            .zip(&mappings)
            .filter(|(_, mapping)| *mapping & 1 == 1);
        let found: Vec<_> = valid
            .map(|(block, mapping)| {
                let is_dirty = mapping & 2 == 2 || dirty.binary_search(&block).is_ok();
                [
                    block.to_string(),
                    (mapping >> 16).to_string(),
                    is_dirty.to_string(),
                ]
            })
            .collect();
        let names = ["cache_block", "origin_block", "dirty"];
        assert_eq!(found, listed(&xml, "mapping", names), "{name}");
        assert_eq!(found.len(), 40);
        let hints = listed(&xml, "hint", ["cache_block", "data"]);
        assert_eq!(hints.len(), hinted);
        if hinted > 0 {
            let found = opened.elements(200, 4, len);
            for [block, data] in hints {
                assert_eq!(
                    found[number(&block) as usize],
                    hint(&data),
                    "{name}, {block}"
                );
            }
        }
        // A bitset whose length the superblock has in 64 bits.
        let discard_bits = read_u64(&opened.superblock, 224);
        let discards = opened.root(208);
        assert_eq!(discard_bits, if hinted > 0 { 2048 } else { 0 }, "{name}");
        if discard_bits > 0 {
            opened.ones(discards, discard_bits);
        }
    }
}

#[test]
fn what_a_kernel_marked_in_eras_is_what_era_dump_prints() {
    for name in ["era-basic", "era-snap"] {
        let opened = Opened::new(&format!("era/{name}"));
        let listing = format!("era/{name}/era_dump-1.1.0.xml");
        let xml = String::from_utf8(fixtures::unpacked(&listing)).unwrap();
        let len = u64::from(read_u32(&opened.superblock, 180));
        let eras = (0..).zip(opened.elements(208, 4, len));
        let eras: Vec<_> = eras
            .map(|(block, era): (u64, u64)| [block.to_string(), era.to_string()])
            .collect();
        assert_eq!(eras, listed(&xml, "era", ["block", "era"]), "{name}");
        assert_eq!(eras.len(), 4096);
        // None is current; the one that waits to be folded into the eras is printed.
        assert_eq!(opened.root(192), BlockNr(0));
        let sets = opened.root(200);
        let (era, set) = btree::last(&opened.blocks, sets, 12).unwrap().unwrap();
        let known = listed(&xml, "writeset", ["era", "nr_bits"]);
        let bits = u64::from(read_u32(&set, 0));
        assert_eq!(known, [[era.to_string(), bits.to_string()]]);
        let ones = opened.ones(BlockNr(read_u64(&set, 4)), bits);
        let printed = listed(&xml, "bit", ["block", "value"]);
        assert_eq!(printed.len() as u64, bits);
        let printed: Vec<u64> = printed
            .iter()
            .filter(|[_, value]| value == "true")
            .map(|[block, _]| number(block))
            .collect();
        assert_eq!(ones, printed, "{name}");
        assert!(!ones.is_empty());
    }
}

#[test]
fn a_snapshot_held_by_a_kernel_has_an_era_array_of_its_own() {
    let opened = Opened::new("era/era-snap");
    let held = read_u64(&opened.superblock, 216);
    let image = Image::new(fixtures::unpacked("era/era-snap/meta.img"));
    let snapshot = Opened {
        blocks: Arc::clone(&opened.blocks),
        superblock: image.block(held).unwrap().to_vec(),
    };
    let [then, now] = [&snapshot, &opened].map(|of| of.elements(208, 4, 4096));
    assert_ne!(snapshot.root(208), opened.root(208));
    // Eras only grow, and blocks were written since.
    assert!(then.iter().zip(&now).all(|(then, now)| then <= now));
    assert_ne!(then, now);
}
