//! Growth: from a whole number of bitmaps, when full, and to the limit.

use std::sync::Arc;

use thinmeta::btree::NODE_VALIDATOR;
use thinmeta::device::{Device, FileDevice};
use thinmeta::disk_space::{DataMap, INDEX_VALIDATOR, MetadataIndex};
use thinmeta::transaction::TransactionManager;
use thinmeta::units::MAX_METADATA_BLOCKS;
use thinmeta::{BlockNr, Error};

use super::{commit, create, memory, reopen};

fn first_new_bitmap(manager: &Arc<TransactionManager>, number: usize) -> u64 {
    let root = manager.space_root();
    let at = BlockNr(root.bitmap_root.get());
    let block = manager.blocks().read(at, &INDEX_VALIDATOR).unwrap();
    block.view::<MetadataIndex>().entries[number].blocknr.get()
}

#[test]
fn a_full_device_grows_from_its_new_blocks_alone() {
    let device = memory(2048);
    let manager = create(device.clone()).unwrap();
    let fill = |manager: &Arc<TransactionManager>, keep: u64| {
        manager.change(|txn| {
            while txn.nr_free() > keep {
                txn.new_block(&NODE_VALIDATOR)?;
            }
            Ok(())
        })
    };
    // What is left are the two blocks that the commit itself copies.
    fill(&manager, 1).unwrap();
    commit(&manager).unwrap();
    device.grow(32_768 * 4096);
    manager.change(|txn| txn.extend(32_768 - 2048)).unwrap();
    commit(&manager).unwrap();
    assert_eq!(first_new_bitmap(&manager, 1), 2048);
    drop(manager);
    let manager = reopen(device).unwrap();
    assert_eq!(manager.look(|txn| Ok(txn.nr_blocks())).unwrap(), 32_768);
    fill(&manager, 4).unwrap();
    commit(&manager).unwrap();
}

#[test]
fn growth_works_from_every_size_near_a_whole_number_of_bitmaps() {
    for (old, new) in [
        (16_319, 16_320),
        (16_320, 16_330),
        (16_320, 16_321 + 16_320),
        (16_321, 40_000),
        (100, 108),
    ] {
        let device = memory(old);
        let manager = create(device.clone()).unwrap();
        device.grow(usize::try_from(new * 4096).unwrap());
        manager
            .change(|txn| txn.extend(new - old))
            .unwrap_or_else(|error| panic!("{old} to {new}: {error}"));
        commit(&manager).unwrap();
        drop(manager);
        let manager = reopen(device).unwrap();
        let (size, free) = manager
            .look(|txn| Ok((txn.nr_blocks(), txn.nr_free())))
            .unwrap();
        let own = 3 + new.div_ceil(16_320);
        assert_eq!((size, free), (new, new - own), "{old} to {new}");
    }
}

#[test]
fn growth_that_cannot_hold_its_own_counts_is_no_space_and_can_be_aborted() {
    // A new bitmap, a copy of the old one and a copy of the index do not fit two blocks.
    let device = memory(16_320);
    let manager = create(device.clone()).unwrap();
    device.grow(16_322 * 4096);
    let answer = manager.change(|txn| txn.extend(2));
    assert!(matches!(answer, Err(Error::NoSpace { .. })), "{answer:?}");
    assert!(matches!(
        manager.change(|txn| txn.extend(0)),
        Err(Error::Aborted(_))
    ));
    manager.abort().unwrap();
    assert_eq!(manager.look(|txn| Ok(txn.nr_blocks())).unwrap(), 16_320);
    manager
        .change(|txn| txn.new_block(&NODE_VALIDATOR).map(drop))
        .unwrap();
    commit(&manager).unwrap();
}

#[test]
fn growth_past_the_device_or_the_limit_is_refused_without_a_trace() {
    let manager = create(memory(64)).unwrap();
    let before = manager.look(|txn| Ok(txn.side_effects())).unwrap();
    for more in [1, MAX_METADATA_BLOCKS, u64::MAX] {
        assert!(matches!(
            manager.change(|txn| txn.extend(more)),
            Err(Error::Usage(_))
        ));
    }
    manager.change(|txn| txn.extend(0)).unwrap();
    assert_eq!(manager.look(|txn| Ok(txn.side_effects())).unwrap(), before);
}

/// The largest device, and one a little larger, of which the rest is not used.
#[test]
fn the_largest_device_is_used_to_its_last_block() {
    let path = std::env::temp_dir().join(format!("thinmeta-largest-{}", std::process::id()));
    let device = Arc::new(FileDevice::open_or_make(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    device.grow((MAX_METADATA_BLOCKS + 5) * 4096).unwrap();
    let blocks = thinmeta::block::BlockManager::new(device.clone(), 64 << 20);
    let manager = TransactionManager::create(&blocks, BlockNr(0), false).unwrap();
    assert_eq!(
        manager.look(|txn| Ok(txn.nr_blocks())).unwrap(),
        MAX_METADATA_BLOCKS
    );
    super::first_commit(&manager).unwrap();
    let last = BlockNr(MAX_METADATA_BLOCKS - 1);
    manager.change(|txn| txn.inc(last)).unwrap();
    assert!(manager.change(|txn| txn.inc(BlockNr(last.0 + 1))).is_err());
    // All of the last bitmap but one block, then that one.
    let begin = MAX_METADATA_BLOCKS - 16_320;
    manager
        .change(|txn| txn.inc_range(begin..last.0 - 1))
        .unwrap();
    commit(&manager).unwrap();
    manager.change(|txn| txn.inc_range(300..begin)).unwrap();
    let mut taken = Vec::new();
    while let Ok(block) =
        manager.change(|txn| txn.new_block(&NODE_VALIDATOR).map(|guard| guard.location()))
    {
        taken.push(block.0);
    }
    assert!(taken.contains(&(last.0 - 1)), "{taken:?}");
    assert_eq!(device.size_bytes(), (MAX_METADATA_BLOCKS + 5) * 4096);
}

#[test]
fn a_data_map_that_the_metadata_cannot_hold_is_refused_before_any_change() {
    let manager = create(memory(64)).unwrap();
    let mut data = manager.change(|txn| DataMap::create(txn, true)).unwrap();
    let before = manager
        .look(|txn| Ok((txn.side_effects(), txn.nr_free())))
        .unwrap();
    for more in [16_320 * 70, 1 << 40] {
        let answer = manager.change(|txn| data.extend(txn, more));
        assert!(
            matches!(
                answer,
                Err(Error::NoSpace {
                    space: "metadata",
                    ..
                })
            ),
            "{answer:?}"
        );
    }
    let answer = manager.change(|txn| data.extend(txn, (1 << 40) + 1));
    assert!(matches!(answer, Err(Error::Usage(_))));
    let after = manager
        .look(|txn| Ok((txn.side_effects(), txn.nr_free())))
        .unwrap();
    assert_eq!((before, data.nr_blocks()), (after, 0));
    manager.change(|txn| data.extend(txn, 16_320 * 20)).unwrap();
}
