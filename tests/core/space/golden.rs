//! The layout that a kernel gives a new pool. Source: docs/format.md, "Reference layouts".

use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::block::{BlockManager, kind_of};
use thinmeta::btree;
use thinmeta::device::MemoryDevice;
use thinmeta::disk_space::{DataMap, IndexEntry, MetadataIndex};
use thinmeta::transaction::TransactionManager;

use super::{PLAIN, commit, memory};

const CHECKSUMS: [u32; 7] = [
    0x18E0_660A,
    0xC360_E452,
    0xA19F_6375,
    0x787F_52C8,
    0x41BF_AA04,
    0xCB3D_DA35,
    0xB1C8_1346,
];

fn format(device: &Arc<MemoryDevice>) -> (Arc<TransactionManager>, DataMap) {
    let blocks = BlockManager::new(device.clone(), 1 << 20);
    let (manager, superblock) =
        TransactionManager::create_with_superblock(&blocks, BlockNr(0), &PLAIN, true).unwrap();
    let mut data = manager.change(|txn| DataMap::create(txn, true)).unwrap();
    manager.change(|txn| btree::empty(txn, 8)).unwrap();
    manager.change(|txn| btree::empty(txn, 24)).unwrap();
    manager.change(|txn| data.commit(txn)).unwrap();
    manager.pre_commit().unwrap();
    manager.commit(superblock).unwrap();
    data.committed().unwrap();
    (manager, data)
}

#[test]
fn a_new_map_is_the_kernels_byte_for_byte() {
    let device = memory(2048);
    let (manager, data) = format(&device);
    let root = manager.space_root();
    let numbers = |root: &thinmeta::disk_space::SpaceMapRoot| {
        [
            root.nr_blocks,
            root.nr_allocated,
            root.bitmap_root,
            root.ref_count_root,
        ]
        .map(|n| n.get())
    };
    assert_eq!(numbers(&root), [2048, 8, 1, 2]);
    assert_eq!(numbers(&data.root()), [0, 0, 4, 5]);
    let image = device.contents();
    for (number, expected) in (1..).zip(CHECKSUMS) {
        let block = &image[number * 4096..][..4];
        let found = u32::from_le_bytes(block.try_into().unwrap());
        assert_eq!(found, expected, "block {number}");
    }
}

/// A data map of 131072 blocks takes nine bitmaps: 17 blocks in all.
#[test]
fn a_data_map_extended_takes_the_blocks_that_the_kernel_takes() {
    let device = memory(2048);
    let (manager, mut data) = format(&device);
    manager.change(|txn| data.extend(txn, 131_072)).unwrap();
    manager.change(|txn| data.commit(txn)).unwrap();
    commit(&manager).unwrap();
    data.committed().unwrap();
    assert_eq!(manager.space_root().nr_allocated.get(), 17);
    assert_eq!((data.nr_blocks(), data.nr_free()), (131_072, 131_072));
    manager
        .change(|txn| {
            assert_eq!(data.new_block(txn)?, 0);
            assert_eq!(data.new_block(txn)?, 1);
            data.inc(txn, 0..2)?;
            data.inc(txn, 1..2)?;
            assert_eq!((data.get_count(txn, 0)?, data.get_count(txn, 1)?), (2, 3));
            data.commit(txn)
        })
        .unwrap();
    commit(&manager).unwrap();
}

#[test]
fn larger_devices_put_their_bitmaps_after_the_overflow_tree() {
    let device = memory(40_000);
    let (manager, _) = format(&device);
    let block = manager
        .blocks()
        .read(BlockNr(1), &thinmeta::disk_space::INDEX_VALIDATOR)
        .unwrap();
    let entries: &[IndexEntry] = &block.view::<MetadataIndex>().entries;
    let places: Vec<u64> = entries[..4]
        .iter()
        .map(|entry| entry.blocknr.get())
        .collect();
    assert_eq!(places, [3, 4, 5, 0]);
    // Every bitmap says 16320, those of blocks past the end as well.
    assert_eq!(entries[2].nr_free.get(), 16320);
    assert_eq!(manager.space_root().nr_allocated.get(), 10);
    let image = device.contents();
    assert!(kind_of_block(&image, 9).is_some() && kind_of_block(&image, 10).is_none());
}

fn kind_of_block(image: &[u8], number: usize) -> Option<&'static str> {
    let mut block = thinmeta::block::BlockData::zeroed();
    block
        .bytes_mut()
        .copy_from_slice(&image[number * 4096..][..4096]);
    kind_of(&block).map(|(kind, _)| kind)
}
