//! Rows 25 to 30: indices, bitmaps and counts.

use thinmeta::disk_space::DiskSpaceMap;
use thinmeta::error::Error;
use thinmeta::space::SpaceMap;
use thinmeta::thin::Snapshot;

use super::{Root, WHOLE, set_header, set_key, set_value};
use crate::hostile::reading::open;
use crate::model::{MapRoot, Node, node};
use crate::support::image::{Image, Kind, read_u32, read_u64};

/// The data map's only index leaf, and the metadata map's index block.
fn data_index() -> Node<'static> {
    node(&WHOLE.image, WHOLE.live.data.bitmap_root).unwrap()
}

fn first_bitmap(map: &MapRoot) -> u64 {
    match map.bitmap_root == WHOLE.live.data.bitmap_root {
        true => data_index().child(0),
        false => read_u64(WHOLE.image.block(map.bitmap_root).unwrap(), 16),
    }
}

/// The first leaf of a map's overflow tree, and the last.
fn overflow_leaves(map: &MapRoot) -> [Node<'static>; 2] {
    let leaf = |last: bool| {
        let mut at = node(&WHOLE.image, map.ref_count_root).unwrap();
        while !at.is_leaf {
            let child = at.child(if last { at.entries - 1 } else { 0 });
            at = node(&WHOLE.image, child).unwrap();
        }
        assert!(at.entries > 0);
        at
    };
    [leaf(false), leaf(true)]
}

/// Sets the count that a bitmap stores of an entry.
fn set_entry(image: &mut Image, bitmap: u64, index: usize, count: u8) {
    let pair = (count & 1) << 1 | count >> 1;
    image.reseal(bitmap, Kind::Bitmap, |block| {
        let byte = &mut block[16 + index / 4];
        *byte = *byte & !(3 << (2 * (index % 4))) | pair << (2 * (index % 4));
    });
}

/// The first entry whose stored count is this.
fn entry_of(bitmap: u64, count: u8) -> usize {
    let pair = (count & 1) << 1 | count >> 1;
    let block = WHOLE.image.block(bitmap).unwrap();
    let stored = |index: &usize| block[16 + index / 4] >> (2 * (index % 4)) & 3;
    (0..16_320).find(|index| stored(index) == pair).unwrap()
}

/// Both maps, and the names of what may be wrong with their counts.
fn maps() -> [(&'static MapRoot, &'static str, &'static str); 2] {
    [
        (&WHOLE.live.data, "data-count-low", "data-leak"),
        (&WHOLE.live.metadata, "metadata-count-low", "metadata-leak"),
    ]
}

/// Spoils the space maps, of which a look at the snapshot alone sees nothing.
fn finds(codes: &[&str], spoil: impl Fn(&mut Image)) {
    WHOLE.finds(Root::Live, codes, &[], spoil);
}

#[test]
fn row_5_bitmaps_and_indices_with_wrong_checksums() {
    for (map, ..) in maps() {
        let bitmap = first_bitmap(map);
        finds(&["space-map-damaged"], |image| {
            image.change(bitmap, |block| block[100] ^= 1)
        });
        finds(&["space-map-damaged"], |image| {
            image.reseal(bitmap, Kind::Index, |_| {})
        });
        finds(&["node-damaged"], |image| {
            image.change(map.ref_count_root, |block| block[100] ^= 1);
        });
    }
    let index = WHOLE.live.metadata.bitmap_root;
    finds(&["space-map-damaged"], |image| {
        image.change(index, |block| block[100] ^= 1)
    });
    finds(&["node-damaged"], |image| {
        image.change(data_index().at, |block| block[100] ^= 1);
    });
}

#[test]
fn row_25_index_keys_with_a_gap_too_few_and_too_many() {
    let index = data_index();
    let codes = ["space-map-damaged"];
    finds(&codes, |image| {
        set_key(image, &index, index.entries - 1, index.entries as u64)
    });
    // The bitmap that nothing leads to any more is leaked.
    finds(&["space-map-damaged", "metadata-leak"], |image| {
        set_header(image, index.at, 16, index.entries as u64 - 1);
    });
    // A size for which one bitmap fewer would do.
    finds(&["space-map-damaged"], |image| {
        let blocks = 16_320 * (index.entries as u64 - 1);
        assert!(WHOLE.live.data.nr_blocks > blocks);
        image.set(0, Kind::Superblock, 64, 8, blocks);
    });
}

#[test]
fn row_25_an_index_that_leads_nowhere() {
    let index = data_index();
    for block in [0, 1024, u64::MAX] {
        finds(&["space-map-damaged"], |image| {
            set_value(image, &index, 0, (0, 8), block)
        });
    }
    // One block cannot be two bitmaps.
    finds(&["space-map-damaged", "metadata-count-low"], |image| {
        set_value(image, &index, 1, (0, 8), index.child(0));
    });
    for block in [0, 1024, u64::MAX] {
        finds(&["space-map-damaged"], |image| {
            image.set(WHOLE.live.metadata.bitmap_root, Kind::Index, 16, 8, block);
        });
    }
}

#[test]
fn row_26_counts_of_three_and_more_that_are_missing_or_stray() {
    for (map, ..) in maps() {
        let [first, last] = overflow_leaves(map);
        let (bitmap, key) = (first_bitmap(map), first.key(0));
        assert!(key < 16_320);
        // The bitmap says less, and the entry is still there.
        let index = usize::try_from(key).unwrap();
        finds(&["space-map-overflow"], |image| {
            set_entry(image, bitmap, index, 2)
        });
        // An entry below three.
        for count in [0, 2] {
            finds(&["space-map-overflow"], |image| {
                set_value(image, &first, 0, (0, 4), count);
            });
        }
        // No entry where the bitmap asks for one.
        finds(&["space-map-overflow"], |image| {
            set_header(image, last.at, 16, last.entries as u64 - 1);
        });
        // An entry past the end.
        for key in [map.nr_blocks, 16_320 * 3, u64::MAX] {
            finds(&["space-map-overflow"], |image| {
                set_key(image, &last, last.entries - 1, key);
            });
        }
        // A bitmap asks for an entry that is not there.
        let used = entry_of(bitmap, 1);
        finds(&["space-map-overflow"], |image| {
            set_entry(image, bitmap, used, 3)
        });
    }
    let (used, mut image) = (entry_of(data_index().child(0), 1), WHOLE.image.clone());
    set_entry(&mut image, data_index().child(0), used, 3);
    let pool = open(&image, Snapshot::None, 0).unwrap();
    let root = pool.live_superblock().data_space_map_root.root;
    let count = DiskSpaceMap::data(pool.blocks(), root).get_count(used as u64);
    assert!(matches!(count, Err(Error::Damaged(_))), "{count:?}");
}

#[test]
fn row_27_a_count_past_the_end_is_the_callers_mistake() {
    let pool = open(&WHOLE.image, Snapshot::None, 0).unwrap();
    let live = pool.live_superblock();
    for map in [
        DiskSpaceMap::data(pool.blocks(), live.data_space_map_root.root),
        DiskSpaceMap::metadata(pool.blocks(), live.metadata_space_map_root.root),
    ] {
        assert!(map.get_count(map.nr_blocks() - 1).is_ok());
        for block in [map.nr_blocks(), u64::MAX] {
            assert!(matches!(map.get_count(block), Err(Error::Usage(_))));
        }
    }
}

#[test]
fn row_28_a_count_below_the_references() {
    for (map, low, _) in maps() {
        let bitmap = first_bitmap(map);
        let (once, twice) = (entry_of(bitmap, 1), entry_of(bitmap, 2));
        finds(&[low], |image| set_entry(image, bitmap, twice, 1));
        // A block in use that is called free makes the sums wrong as well.
        finds(&[low, "space-map-summary"], |image| {
            set_entry(image, bitmap, once, 0)
        });
        let [leaf, _] = overflow_leaves(map);
        if let Some(big) = (0..leaf.entries).find(|index| count(&leaf, *index) > 3) {
            finds(&[low], |image| set_value(image, &leaf, big, (0, 4), 3));
        }
    }
}

fn count(leaf: &Node<'_>, index: usize) -> u32 {
    read_u32(leaf.value(index), 0)
}

#[test]
fn row_29_a_count_above_the_references() {
    for (map, _, leak) in maps() {
        let bitmap = first_bitmap(map);
        let (free, once) = (entry_of(bitmap, 0), entry_of(bitmap, 1));
        finds(&[leak], |image| set_entry(image, bitmap, once, 2));
        finds(&[leak, "space-map-summary"], |image| {
            set_entry(image, bitmap, free, 1)
        });
        let [leaf, _] = overflow_leaves(map);
        for count in [count(&leaf, 0) + 1, u32::MAX] {
            finds(&[leak], |image| {
                set_value(image, &leaf, 0, (0, 4), count.into())
            });
        }
    }
}

#[test]
fn row_30_summaries_that_differ_from_the_bitmaps() {
    let codes = ["space-map-summary"];
    for (offset, root) in [(72, WHOLE.live.data), (200, WHOLE.live.metadata)] {
        for allocated in [0, root.nr_allocated - 1, root.nr_allocated + 1, u64::MAX] {
            finds(&codes, |image| {
                image.set(0, Kind::Superblock, offset, 8, allocated)
            });
        }
    }
    let index = data_index();
    let at = WHOLE.live.metadata.bitmap_root;
    let nr_free: u64 = read_u32(index.value(0), 8).into();
    for wrong in [0, 1, 16_320, u64::MAX] {
        assert_ne!(wrong, nr_free);
        finds(&codes, |image| set_value(image, &index, 0, (8, 4), wrong));
        finds(&codes, |image| image.set(at, Kind::Index, 24, 4, wrong));
    }
    let free = entry_of(index.child(0), 0) as u64;
    finds(&codes, |image| {
        set_value(image, &index, 0, (12, 4), free + 1)
    });
    finds(&codes, |image| image.set(at, Kind::Index, 28, 4, 16_320));
    // A hint may be too small, and the last bitmap may count real blocks alone.
    finds(&[], |image| set_value(image, &index, 0, (12, 4), 0));
    finds(&[], |image| {
        let last = index.entries - 1;
        let past = 16_320 * index.entries as u64 - WHOLE.live.data.nr_blocks;
        let free = u64::from(read_u32(index.value(last), 8)) - past;
        set_value(image, &index, last, (8, 4), free);
    });
}

#[test]
fn entries_that_nobody_needs_are_not_looked_at() {
    let at = WHOLE.live.metadata.bitmap_root;
    finds(&[], |image| {
        image.reseal(at, Kind::Index, |block| block[32..].fill(0xee));
    });
}

/// Before: every flipped byte of the data map's index made the check panic.
#[test]
fn a_data_map_without_bitmaps_is_damage_and_no_panic() {
    for name in ["sequential", "snap-chain", "kernel-7.2"] {
        let mut image = crate::support::fixtures::thin(name);
        let live = crate::model::superblock(&image, 0, image.nr_blocks()).unwrap();
        image.change(live.data.bitmap_root, |block| block[941] ^= 0x61);
        let told = super::codes_of(&image, Snapshot::None);
        assert_eq!(told, ["node-damaged"].into());
    }
}
