//! Rows 4, 6 to 13 and 34: superblocks that cannot be used.

use std::collections::BTreeSet;

use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;

use super::{Root, WHOLE, Whole};
use crate::hostile::law::check;
use crate::hostile::reading::open;
use crate::support::fixtures;
use crate::support::image::{Image, Kind, write_field};

/// A copy with one field set in the superblock of `root`.
fn with(root: Root, offset: usize, size: usize, value: u64) -> Image {
    let mut image = WHOLE.image.clone();
    image.set(
        WHOLE.superblock_at(root),
        Kind::Superblock,
        offset,
        size,
        value,
    );
    image
}

/// Only block 0 is spoiled, and that so that nothing else is looked at.
fn live_finds(code: &'static str, image: &Image) {
    assert_eq!(
        super::codes_of(image, Snapshot::None),
        BTreeSet::from([code])
    );
    assert!(matches!(
        open(image, Snapshot::None, 0),
        Err(Error::Damaged(_))
    ));
}

/// The metadata snapshot is spoiled: the live pool is as it was, but for what only
/// the snapshot referred to.
fn held_finds(image: &Image) {
    let told = super::codes_of(image, Snapshot::None);
    assert_eq!(told, BTreeSet::from(["metadata-snapshot-damaged"]));
    assert!(open(image, Snapshot::None, 0).is_ok());
    assert!(open(image, Snapshot::Held, 0).is_err());
}

#[test]
fn row_4_a_wrong_magic() {
    live_finds("superblock-damaged", &with(Root::Live, 32, 8, 27_022_011));
    held_finds(&with(Root::Held, 32, 8, 27_022_011));
}

#[test]
fn rows_3_and_5_a_superblock_that_belongs_elsewhere_or_has_a_wrong_checksum() {
    live_finds("superblock-damaged", &with(Root::Live, 8, 8, 7));
    held_finds(&with(Root::Held, 8, 8, 0));
    for (root, at) in [(Root::Live, 0), (Root::Held, WHOLE.live.held_root)] {
        let mut image = WHOLE.image.clone();
        image.change(at, |block| block[4095] ^= 1);
        match root {
            Root::Live => live_finds("superblock-damaged", &image),
            Root::Held => held_finds(&image),
        }
    }
}

#[test]
fn row_6_an_unformatted_device() {
    let image = Image::new(vec![0; 1 << 16]);
    let answer = check(&image, Snapshot::None, &Task::default());
    assert!(matches!(answer, Err(Error::NotFormatted(_))));
}

#[test]
fn row_7_metadata_of_another_target_is_named() {
    for (name, kind) in [("cache/cache-smq-clean", "cache"), ("era/era-basic", "era")] {
        let image = Image::new(fixtures::unpacked(&format!("{name}/meta.img")));
        match check(&image, Snapshot::None, &Task::default()) {
            Err(Error::Unsupported { reason, .. }) => assert!(reason.contains(kind), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn rows_8_and_9_an_unknown_version_or_incompatible_feature() {
    for (offset, value) in [(40, 0), (40, 3), (40, u64::MAX), (360, 1), (360, u64::MAX)] {
        let image = with(Root::Live, offset, 4, value);
        let answer = check(&image, Snapshot::None, &Task::default());
        assert!(
            matches!(answer, Err(Error::Unsupported { .. })),
            "{answer:?}"
        );
        let image = with(Root::Held, offset, 4, value);
        held_finds(&image);
        let answer = check(&image, Snapshot::Held, &Task::default());
        assert!(
            matches!(answer, Err(Error::Unsupported { .. })),
            "{answer:?}"
        );
    }
    // Version 1 is as good, and these features forbid nothing to a reader.
    for (offset, value) in [(40, 1), (352, u64::MAX), (356, u64::MAX)] {
        for root in [Root::Live, Root::Held] {
            let image = with(root, offset, 4, value);
            assert!(super::codes_of(&image, Snapshot::None).is_empty());
            assert!(super::codes_of(&image, Snapshot::Held).is_empty());
        }
    }
}

#[test]
fn rows_10_and_11_block_sizes() {
    let data = [0, 1, 64, 127, 129, 2_097_152 + 128, u64::MAX].map(|size| (336, size));
    let metadata = [0, 1, 7, 9, 16, u64::MAX].map(|size| (340, size));
    for (offset, size) in data.into_iter().chain(metadata) {
        live_finds("bad-geometry", &with(Root::Live, offset, 4, size));
        let image = with(Root::Held, offset, 4, size);
        held_finds(&image);
        let told = super::codes_of(&image, Snapshot::Held);
        assert_eq!(told, BTreeSet::from(["metadata-snapshot-damaged"]));
    }
}

#[test]
fn row_13_a_metadata_size_that_the_device_has_not() {
    for blocks in [0, 1025, 4_161_601, 1 << 40, u64::MAX] {
        let image = with(Root::Live, 192, 8, blocks);
        let told = super::codes_of(&image, Snapshot::None);
        assert!(told.contains("bad-geometry"), "{blocks}: {told:?}");
    }
}

#[test]
fn row_21_roots_of_block_0_and_past_the_device() {
    for (offset, root) in [(320, 0), (320, 1024), (328, 0), (328, u64::MAX)] {
        let image = with(Root::Live, offset, 8, root);
        let told = super::codes_of(&image, Snapshot::None);
        assert!(
            told.contains("bad-geometry") || told.contains("bad-pointer"),
            "{told:?}"
        );
        held_finds(&with(Root::Held, offset, 8, root));
    }
}

#[test]
fn row_34_a_held_root_that_is_no_metadata_snapshot() {
    for at in [
        1,
        WHOLE.live.mapping_root,
        WHOLE.live.metadata.bitmap_root,
        1023,
        1024,
        u64::MAX,
    ] {
        let image = with(Root::Live, 56, 8, at);
        let told = super::codes_of(&image, Snapshot::None);
        assert!(told.contains("metadata-snapshot-damaged"), "{at}: {told:?}");
        let told = super::codes_of(&image, Snapshot::Held);
        assert_eq!(told, BTreeSet::from(["metadata-snapshot-damaged"]), "{at}");
        assert!(
            matches!(open(&image, Snapshot::Held, 0), Err(Error::Damaged(_))),
            "{at}"
        );
    }
    // Block 0 is sound and no snapshot of itself.
    let mut image = WHOLE.image.clone();
    image.set(0, Kind::Superblock, 56, 8, 0);
    assert!(matches!(
        open(&image, Snapshot::Held, 0),
        Err(Error::NoMetadataSnapshot(_))
    ));
}

#[test]
fn needs_check_is_worth_knowing_and_leaves_the_pool_clean() {
    let image = with(Root::Live, 4, 4, 1);
    assert_eq!(
        super::codes_of(&image, Snapshot::None),
        BTreeSet::from(["needs-check"])
    );
    let image = with(Root::Held, 4, 4, 1);
    assert_eq!(
        super::codes_of(&image, Snapshot::Held),
        BTreeSet::from(["needs-check"])
    );
}

#[test]
fn stray_bytes_where_nothing_is_kept_are_no_damage() {
    for at in [0, WHOLE.live.held_root] {
        let mut image = WHOLE.image.clone();
        image.reseal(at, Kind::Superblock, |block| {
            block[16..32].fill(0xaa);
            block[96..192].fill(0x55);
            block[224..320].fill(0x55);
            block[364..].fill(0xff);
            // When formatted: never brought up to date.
            write_field(block, 344, 8, 3);
        });
        assert!(super::codes_of(&image, Snapshot::None).is_empty());
        assert!(super::codes_of(&image, Snapshot::Held).is_empty());
    }
}

#[test]
fn other_whole_pools_with_snapshots_are_as_good() {
    for name in fixtures::HELD {
        let whole = Whole::of(name);
        for root in [Root::Live, Root::Held] {
            assert!(whole.roots(root).mapping_root != 0);
            assert!(!whole.own[root as usize].is_empty(), "{name}");
        }
    }
}
