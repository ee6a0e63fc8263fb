//! Reads one block as every kind of block there is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use thinmeta::BlockNr;
use thinmeta::block::{BlockData, Validator, kind_of};
use thinmeta::btree::{NODE_VALIDATOR, Node};
use thinmeta::disk_space::{BITMAP_VALIDATOR, Bitmap, INDEX_VALIDATOR, IndexEntry};
use thinmeta::thin::{DeviceDetails, SUPERBLOCK_VALIDATOR, Superblock, describe_foreign};
use thinmeta_fuzz::support::image::Kind;
use zerocopy::little_endian::{U32, U64};

fuzz_target!(|bytes: &[u8]| {
    let mut block = BlockData::zeroed();
    let length = bytes.len().min(4096);
    block.bytes_mut()[..length].copy_from_slice(&bytes[..length]);
    let at = BlockNr(block.bytes()[8].into());
    let _ = describe_foreign(&block);
    for (kind, validator) in [
        (Kind::Node, &NODE_VALIDATOR as &dyn Validator),
        (Kind::Superblock, &SUPERBLOCK_VALIDATOR),
        (Kind::Bitmap, &BITMAP_VALIDATOR),
        (Kind::Index, &INDEX_VALIDATOR),
    ] {
        block.bytes_mut()[8..16].copy_from_slice(&at.0.to_le_bytes());
        kind.seal(block.bytes_mut());
        assert_eq!(kind_of(&block).map(|found| found.0), Some(validator.name()));
        let _ = validator.check(at, &block);
    }
    let superblock: &Superblock = block.view();
    let _ = superblock.check_geometry(at, 1024);
    let bitmap: &Bitmap = block.view();
    assert!((0..16_320).all(|index| bitmap.entry(index) <= 3));
    if let Ok(node) = Node::parse(at, &block) {
        let keys = node.keys();
        assert!(keys.len() <= 508);
        for key in keys.iter().map(|key| key.get()).chain([0, 1, u64::MAX]) {
            let sorted = NODE_VALIDATOR.check(at, &block).is_ok();
            let found = node.search(key);
            let expected = keys.iter().rposition(|known| known.get() <= key);
            assert!(!sorted || found == expected);
            assert!(node.search_at_least(key) <= keys.len());
        }
        let lengths = [
            node.children().map(<[U64]>::len),
            node.values::<U32>().map(<[U32]>::len),
            node.values::<U64>().map(<[U64]>::len),
            node.values::<IndexEntry>().map(<[IndexEntry]>::len),
            node.values::<DeviceDetails>().map(<[DeviceDetails]>::len),
        ];
        let whole = |length: &usize| *length == keys.len();
        assert!(lengths.iter().flatten().all(whole));
    }
});
