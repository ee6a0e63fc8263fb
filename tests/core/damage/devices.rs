//! Rows 31 to 33 and 35: what the trees say of devices and mappings.

use thinmeta::btree::Wait;
use thinmeta::error::Error;
use thinmeta::thin::Snapshot;

use super::{Root, WHOLE, set_header, set_key, set_value};
use crate::hostile::reading::open;
use crate::hostile::victim::Role;
use crate::support::image::read_u64;

const ROOTS: [Root; 2] = [Root::Live, Root::Held];

#[test]
fn row_31_a_mapping_later_than_the_clock() {
    for root in ROOTS {
        let (leaf, time) = (WHOLE.leaf(root), u64::from(WHOLE.roots(root).time));
        let now = read_u64(leaf.value(5), 0);
        // A snapshot's own clock counts where it is looked at alone.
        let live = u64::from(WHOLE.live.time);
        WHOLE.finds_in_tree(root, &["mapping-time"], |image| {
            set_value(image, &leaf, 5, (0, 8), now & !0xff_ffff | (live + 1));
        });
        if root == Root::Held {
            assert!(time < live);
            WHOLE.finds(root, &[], &["mapping-time"], |image| {
                set_value(image, &leaf, 5, (0, 8), now & !0xff_ffff | (time + 1));
            });
        }
    }
}

#[test]
fn row_31_a_mapping_beyond_the_data_device() {
    for root in ROOTS {
        let leaf = WHOLE.leaf(root);
        let now = read_u64(leaf.value(5), 0);
        for block in [WHOLE.live.data.nr_blocks, (1 << 40) - 1] {
            WHOLE.finds_in_tree(root, &["mapping-beyond-data"], |image| {
                set_value(image, &leaf, 5, (0, 8), block << 24 | now & 0xff_ffff);
            });
        }
    }
}

#[test]
fn a_mapping_past_the_last_byte_of_any_device() {
    for root in ROOTS {
        let leaf = WHOLE.node(root, Role::Mappings, |node| {
            // A root of its own: no parent has a say in its keys.
            node.is_leaf && node.entries > 5 && node.entries < 84
        });
        WHOLE.finds_in_tree(root, &["mapping-beyond-volume"], |image| {
            set_key(image, &leaf, leaf.entries - 1, u64::MAX);
        });
    }
}

#[test]
fn row_32_mapped_blocks_that_are_not_there() {
    for root in ROOTS {
        let details = WHOLE.node(root, Role::Details, |node| node.is_leaf);
        let now = read_u64(details.value(2), 0);
        for count in [0, now + 1, u64::MAX] {
            WHOLE.finds_in_tree(root, &["mapped-blocks-wrong"], |image| {
                set_value(image, &details, 2, (0, 8), count);
            });
        }
    }
}

#[test]
fn row_33_a_device_in_one_of_the_two_trees_only() {
    for root in ROOTS {
        let details = WHOLE.node(root, Role::Details, |node| node.is_leaf);
        let tops = WHOLE.node(root, Role::TopLevel, |node| node.is_leaf);
        let last = details.entries as u64 - 1;
        WHOLE.finds_in_tree(root, &["mappings-without-device"], |image| {
            set_header(image, details.at, 16, last);
        });
        // Without their root the device's nodes may well be counted for nothing.
        WHOLE.finds_in_tree(root, &["device-without-mappings"], |image| {
            set_header(image, tops.at, 16, last);
        });
        let both = ["mappings-without-device", "device-without-mappings"];
        WHOLE.finds_in_tree(root, &both, |image| {
            set_key(image, &tops, tops.entries - 1, 5_000_000);
        });
    }
}

#[test]
fn a_device_id_that_no_device_can_have() {
    for root in ROOTS {
        let details = WHOLE.node(root, Role::Details, |node| node.is_leaf);
        let tops = WHOLE.node(root, Role::TopLevel, |node| node.is_leaf);
        WHOLE.finds_in_tree(root, &["bad-device-id"], |image| {
            set_key(image, &details, details.entries - 1, 1 << 24);
            set_key(image, &tops, tops.entries - 1, 1 << 24);
        });
    }
}

#[test]
fn row_35_what_is_not_there_is_not_found() {
    for snapshot in [Snapshot::None, Snapshot::Held] {
        let pool = open(&WHOLE.image, snapshot, 0).unwrap();
        for id in [2, 1 << 24, u64::MAX] {
            let answer = pool.device_by_id(id);
            assert!(matches!(answer, Err(Error::NoSuchDevice(found)) if found == id));
        }
        let device = pool.device_by_id(1).unwrap();
        assert_eq!(device.find(u64::MAX, Wait::Yes).unwrap(), None);
        assert_eq!(device.find(u64::MAX, Wait::No).unwrap(), None);
    }
}
