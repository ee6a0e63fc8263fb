//! What went wrong once, by what was seen of it.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::thin::PoolWriter;

use super::script::{Op, abort, commit, scattered, transact};
use super::world::{Model, assert_clean, checked, create, judge, judge_device, memory};
use crate::support::fixtures;
use crate::support::image::{Image, Kind};

fn done(writer: &Arc<PoolWriter>, model: &mut Model, ops: Vec<Op>) {
    assert!(transact(&writer.transaction().unwrap(), &commit(ops), model).unwrap());
    judge(&writer.current().unwrap(), model);
}

#[test]
fn metadata_blocks_of_a_growth_that_was_taken_back_are_not_handed_out() {
    let device = memory(24);
    let (writer, mut model) = create(device.clone(), 5000);
    done(&writer, &mut model, vec![Op::Create(1..2)]);
    let large = vec![Op::GrowMetadata(40), Op::MapMany(1, scattered(2500))];
    transact(&writer.transaction().unwrap(), &abort(large), &mut model).unwrap();
    // Space runs out at the old end.
    let more = commit(vec![Op::MapMany(1, scattered(4000))]);
    let committed = transact(&writer.transaction().unwrap(), &more, &mut model).unwrap();
    assert!(!committed);
    done(&writer, &mut model, vec![Op::Map(1, vec![3])]);
    judge_device(device, &model);
}

#[test]
fn data_blocks_of_a_growth_that_was_taken_back_are_not_handed_out() {
    let device = memory(200);
    let (writer, mut model) = create(device.clone(), 20);
    done(&writer, &mut model, vec![Op::Create(1..2)]);
    let large = vec![Op::GrowData(400), Op::Map(1, (0..300).collect())];
    transact(&writer.transaction().unwrap(), &abort(large), &mut model).unwrap();
    let txn = writer.transaction().unwrap();
    let mut blocks = Vec::new();
    let full = loop {
        match txn.allocate_data() {
            Ok(block) => blocks.push(block),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(full, Error::NoSpace { space: "data", .. }),
        "{full}"
    );
    blocks.sort_unstable();
    assert_eq!(blocks, (0..20).collect::<Vec<u64>>());
    txn.abort().unwrap();
    done(&writer, &mut model, vec![Op::Map(1, (0..20).collect())]);
    judge_device(device, &model);
}

/// thin_restore 0.9.0 leaves what lies past the end out of the last bitmap's sum.
#[test]
fn blocks_that_a_restored_pool_is_grown_by_are_counted_and_handed_out() {
    let image = fixtures::unpacked("thin/restored-0.9.0/meta.img");
    let device = Arc::new(MemoryDevice::writable(image));
    let writer = PoolWriter::from_devices(device, None, &checked()).unwrap();
    let (data_blocks, now) = {
        let pool = writer.current().unwrap();
        let superblock = pool.superblock();
        (
            superblock.data_blocks(),
            superblock.metadata_space_map_root.root.nr_blocks.get(),
        )
    };
    let txn = writer.transaction().unwrap();
    let free = txn.free_blocks().unwrap().0;
    txn.grow_data(data_blocks + 100).unwrap();
    txn.grow_metadata(now + 50).unwrap();
    txn.commit().unwrap();
    assert_clean(&writer.current().unwrap());
    let txn = writer.transaction().unwrap();
    for _ in 0..free + 100 {
        txn.allocate_data().unwrap();
    }
    assert!(txn.allocate_data().is_err());
}

/// A mapping has 24 bits for the time, and the data block above them.
#[test]
fn a_pool_whose_clock_has_no_room_in_a_mapping_is_not_changed() {
    let device = memory(64);
    create(device.clone(), 100);
    let mut image = Image::new(device.contents());
    image.set(0, Kind::Superblock, 44, 4, 1 << 24);
    let mut block = *image.block(0).unwrap();
    device.write_all_at(&block, 0).unwrap();
    let opened = PoolWriter::from_devices(device.clone(), None, &checked());
    assert!(matches!(opened, Err(Error::Damaged(damage)) if damage.check == "time"));
    image.set(0, Kind::Superblock, 44, 4, (1 << 24) - 1);
    block.copy_from_slice(image.block(0).unwrap());
    device.write_all_at(&block, 0).unwrap();
    let writer = PoolWriter::from_devices(device, None, &checked()).unwrap();
    let txn = writer.transaction().unwrap();
    txn.create_thin(1).unwrap();
    let full = txn.create_snapshot(2, 1);
    assert!(matches!(full, Err(Error::Usage(text)) if text.contains("clock")));
}
