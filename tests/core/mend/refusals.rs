//! Pools that are left as they are.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::task::Task;
use thinmeta::tools::check::{MendOptions, Mended, mend_device};

use super::spoil::{Spoil, free_metadata, unused};
use super::{BLOCK, check, wrong};
use crate::support::fixtures::unpacked;
use crate::support::image::{Image, Kind};

fn leaking(name: &str) -> Vec<u8> {
    let whole = unpacked(&format!("thin/{name}/meta.img"));
    let spoil = Spoil {
        data: [(unused(&whole), 1)].into(),
        ..Spoil::default()
    };
    spoil.apply(&whole)
}

fn mend(image: &[u8], options: MendOptions) -> (thinmeta::Result<Mended>, bool) {
    let device = Arc::new(MemoryDevice::writable(image.to_vec()));
    let shared: Arc<dyn Device> = Arc::clone(&device) as _;
    let mended = mend_device(shared, options, &Task::default());
    (mended, device.contents() == image)
}

fn refuses(image: &[u8], options: MendOptions) {
    let (mended, same) = mend(image, options);
    let mended = mended.unwrap();
    assert!(same && mended.refused.is_some() && mended.after.is_none());
}

#[test]
fn a_pool_with_a_damaged_tree_is_left_alone() {
    let image = leaking("discards");
    let mut spoilt = image.clone();
    let root = u64::from_le_bytes(image[320..328].try_into().unwrap()) as usize;
    spoilt[root * BLOCK + 100] ^= 1;
    refuses(&spoilt, MendOptions::default());
    // A superblock that cannot be read.
    let mut spoilt = image.clone();
    spoilt[100] ^= 1;
    refuses(&spoilt, MendOptions::default());
}

#[test]
fn a_pool_with_a_count_that_is_too_low_is_left_alone() {
    let mut image = Image::new(leaking("discards"));
    // The first data bitmap, by the first entry of the index; its first block in use.
    let index = crate::model::node(&image, read(&image, 64 + 16)).unwrap();
    let bitmap = index.child(0);
    let block = image.block(bitmap).unwrap();
    let used = block[16..].iter().position(|byte| *byte != 0).unwrap();
    image.reseal(bitmap, Kind::Bitmap, |block| block[16 + used] = 0);
    let spoilt = bytes(&image);
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(spoilt.clone()));
    assert!(wrong(&check(&device)).contains(&"data-count-low"));
    refuses(&spoilt, MendOptions::default());
}

fn bytes(image: &Image) -> Vec<u8> {
    let blocks = (0..image.nr_blocks()).map(|at| *image.block(at).unwrap());
    blocks.flatten().collect()
}

fn read(image: &Image, at: usize) -> u64 {
    crate::support::image::read_u64(image.block(0).unwrap(), at)
}

#[test]
fn what_1_x_leaves_alone_is_left_where_that_is_wanted() {
    let whole = unpacked("thin/discards/meta.img");
    let like_1_x = MendOptions {
        like_1_x: true,
        ..MendOptions::default()
    };
    let used = Spoil {
        data: [(0, 1), (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)].into(),
        ..Spoil::default()
    };
    let mapped = Spoil {
        mapped: [(first_device(&whole), 9999)].into(),
        ..Spoil::default()
    };
    for spoil in [used, mapped] {
        let spoilt = spoil.apply(&whole);
        refuses(&spoilt, like_1_x);
        let (mended, same) = mend(&spoilt, MendOptions::default());
        assert!(mended.unwrap().after.unwrap().is_clean() && !same);
    }
    let (mended, same) = mend(&leaking("discards"), like_1_x);
    assert!(mended.unwrap().after.unwrap().is_clean() && !same);
}

fn first_device(image: &[u8]) -> u64 {
    let image = Image::new(image.to_vec());
    let mut node = crate::model::node(&image, read(&image, 328)).unwrap();
    while !node.is_leaf {
        node = crate::model::node(&image, node.child(0)).unwrap();
    }
    node.key(0)
}

#[test]
fn a_pool_without_a_free_block_is_left_as_it_is() {
    // Counts of three and more take blocks for themselves, until there are too few.
    let mut spoilt = unpacked("thin/metadata-full/meta.img");
    let mut begin = 0;
    while free_metadata(&spoilt) > 7 {
        let spoil = Spoil {
            data: (begin..begin + 100).map(|block| (block, 3)).collect(),
            ..Spoil::default()
        };
        spoilt = spoil.apply(&spoilt);
        begin += 100;
    }
    // One in each bitmap, all of which have to be copied.
    for bitmap in 1..4 {
        let spoil = Spoil {
            data: [(bitmap * 16_320 + 99, 1)].into(),
            ..Spoil::default()
        };
        spoilt = spoil.apply(&spoilt);
    }
    let (mended, same) = mend(&spoilt, MendOptions::default());
    assert!(same, "{mended:?}");
    assert!(matches!(mended, Err(Error::NoSpace { .. })), "{mended:?}");
}

#[test]
fn features_that_forbid_a_change_are_heeded() {
    let mut image = Image::new(leaking("discards"));
    image.set(0, Kind::Superblock, 356, 4, 1);
    let (mended, same) = mend(&bytes(&image), MendOptions::default());
    assert!(matches!(mended, Err(Error::Unsupported { .. })) && same);
}

#[test]
fn whichever_request_fails_the_pool_is_as_it_was_or_right() {
    let image = leaking("discards");
    let (mut failed, mut begun) = (0, false);
    for request in [Request::Read, Request::Write, Request::Flush] {
        for number in 0.. {
            let inner = Arc::new(MemoryDevice::writable(image.clone()));
            let faulty = Arc::new(FaultyDevice::new(Arc::clone(&inner) as _));
            faulty.set_fault(Fault::once(request, number));
            let shared: Arc<dyn Device> = Arc::clone(&faulty) as _;
            let answer = mend_device(shared, MendOptions::default(), &Task::new(None, Some(1)));
            let after: Arc<dyn Device> = Arc::clone(&inner) as _;
            let left = wrong(&check(&after));
            assert!(
                left.is_empty() || left == ["data-leak"],
                "{request:?} {number}: {left:?}"
            );
            match answer {
                Ok(mended) if mended.refused.is_none() => {
                    assert!(left.is_empty(), "{request:?} {number}");
                    break;
                }
                // What cannot be read is damage, and then nothing is touched.
                Ok(_) => assert_eq!(left, ["data-leak"]),
                Err(_) => failed += 1,
            }
            begun = true;
        }
    }
    assert!(begun && failed > 3, "{failed} of them failed");
}
