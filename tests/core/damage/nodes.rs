//! Rows 1 to 5 and 14 to 22: blocks that cannot be read, and nodes that are wrong.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use thinmeta::device::Device;
use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta::tools::check::{CheckOptions, check_device};

use super::{Root, WHOLE, set_header, set_key, set_value};
use crate::hostile::victim::Role;
use crate::support::image::{BLOCK, Image, Kind, write_field};

const ROOTS: [Root; 2] = [Root::Live, Root::Held];

/// The trees of a superblock, by the role of their nodes.
const TREES: [Role; 3] = [Role::Details, Role::TopLevel, Role::Mappings];

#[test]
fn row_1_a_pointer_past_the_device() {
    for root in ROOTS {
        for beyond in [1024, 1 << 32, u64::MAX] {
            let top = WHOLE.node(root, Role::TopLevel, |node| node.is_leaf);
            WHOLE.finds_in_tree(root, &["bad-pointer"], |image| {
                set_value(image, &top, 3, (0, 8), beyond);
            });
        }
    }
}

/// An image one of whose blocks cannot be read.
#[derive(Debug)]
struct Unreadable(Image, u64);

impl Device for Unreadable {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        let (bad, block) = (self.1 * BLOCK as u64, BLOCK as u64);
        if offset_bytes < bad + block && offset_bytes + buffer.len() as u64 > bad {
            let source = std::io::Error::other("the disk says no");
            return Err(Error::io(self.path(), Some(offset_bytes), source));
        }
        self.0.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

#[test]
fn row_2_a_block_that_cannot_be_read_is_named_and_its_neighbours_are_not() {
    let (leaf, ..) = WHOLE.leaf_below(Root::Live);
    let index = WHOLE.live.metadata.bitmap_root;
    for (at, code) in [
        (leaf.at, "node-damaged"),
        (WHOLE.live.details_root, "node-damaged"),
        (WHOLE.live.data.ref_count_root, "node-damaged"),
        (index, "space-map-damaged"),
        (WHOLE.live.held_root, "metadata-snapshot-damaged"),
    ] {
        let device = Arc::new(Unreadable(WHOLE.image.clone(), at));
        let (options, task) = (CheckOptions::default(), Task::new(None, Some(2)));
        let report = check_device(device, Snapshot::None, &options, &task).unwrap();
        let told: BTreeSet<_> = report
            .findings
            .iter()
            .map(|finding| (finding.code, finding.block.map(|block| block.0)))
            .collect();
        let expected = BTreeSet::from([(code, Some(at)), ("leaks-not-checked", None)]);
        assert_eq!(told, expected, "{at}");
        assert!(
            report.findings[0].message.contains("the disk says no"),
            "{report:?}"
        );
    }
}

#[test]
fn row_3_a_block_that_belongs_elsewhere() {
    for (root, role) in ROOTS
        .into_iter()
        .flat_map(|root| TREES.map(|role| (root, role)))
    {
        let node = WHOLE.node(root, role, |node| node.is_leaf);
        WHOLE.finds_in_tree(root, &["node-damaged"], |image| {
            image.reseal(node.at, Kind::Node, |block| {
                write_field(block, 8, 8, node.at + 1)
            });
        });
    }
}

#[test]
fn row_5_a_wrong_checksum_and_a_block_of_another_kind() {
    for (root, role) in ROOTS
        .into_iter()
        .flat_map(|root| TREES.map(|role| (root, role)))
    {
        let node = WHOLE.node(root, role, |_| true);
        WHOLE.finds_in_tree(root, &["node-damaged"], |image| {
            image.change(node.at, |block| block[4000] ^= 1);
        });
        let mut image = WHOLE.image.clone();
        image.reseal(node.at, Kind::Bitmap, |_| {});
        let report = super::report(&image, Snapshot::None);
        let message = &report.findings[0].message;
        assert_eq!(report.findings[0].code, "node-damaged");
        assert!(message.contains("space map bitmap"), "{message}");
    }
}

#[test]
fn rows_14_to_17_headers_that_lie() {
    for (root, role) in ROOTS
        .into_iter()
        .flat_map(|root| TREES.map(|role| (root, role)))
    {
        let node = WHOLE.node(root, role, |node| node.is_leaf && node.entries > 0);
        let size = node.value_size as u64;
        let most = (4096 - 32) / (8 + size);
        for (offset, value) in [
            (4, 0),
            (4, 3),
            (4, u64::MAX),
            (20, most + 1),
            (20, u64::MAX),
            (16, node.capacity as u64 + 1),
            (16, u64::MAX),
            (24, size - 4),
            (24, size + 8),
            (24, 0),
            (24, u64::MAX),
        ] {
            WHOLE.finds_in_tree(root, &["node-damaged"], |image| {
                set_header(image, node.at, offset, value);
            });
        }
    }
    for root in ROOTS {
        let internal = WHOLE.node(root, Role::Mappings, |node| !node.is_leaf);
        for (offset, value) in [(16, 0), (24, 4), (24, 16)] {
            WHOLE.finds_in_tree(root, &["node-damaged"], |image| {
                set_header(image, internal.at, offset, value);
            });
        }
    }
}

#[test]
fn row_18_a_capacity_that_is_not_the_usual_one() {
    for (root, role) in ROOTS
        .into_iter()
        .flat_map(|root| TREES.map(|role| (root, role)))
    {
        let node = WHOLE.node(root, role, |node| {
            node.is_leaf && (1..node.capacity).contains(&node.entries)
        });
        WHOLE.finds_in_tree(root, &["node-capacity"], |image| {
            image.reseal(node.at, Kind::Node, |block| {
                // The values begin where the keys end.
                let begin = node.value_offset(0);
                block.copy_within(begin..begin + node.value_size * node.entries, begin - 8);
                write_field(block, 20, 4, node.capacity as u64 - 1);
            });
        });
    }
}

#[test]
fn row_19_a_node_that_holds_too_little() {
    for root in ROOTS {
        let (leaf, ..) = WHOLE.leaf_below(root);
        let codes = ["node-underfull", "mapped-blocks-wrong", "data-leak"];
        WHOLE.finds_in_tree(root, &codes, |image| {
            set_header(image, leaf.at, 16, 83);
        });
        // Of a root nothing is asked.
        let alone = WHOLE.node(root, Role::Details, |_| true);
        assert!(alone.entries < alone.capacity / 3);
    }
}

#[test]
fn row_20_keys_that_do_not_rise() {
    for (root, role) in ROOTS
        .into_iter()
        .flat_map(|root| TREES.map(|role| (root, role)))
    {
        let node = WHOLE.node(root, role, |node| node.is_leaf && node.entries > 5);
        for key in [node.key(3), 0] {
            WHOLE.finds_in_tree(root, &["bad-key-order"], |image| {
                set_key(image, &node, 4, key);
            });
        }
    }
}

#[test]
fn row_20_keys_outside_what_the_parent_allows() {
    for root in ROOTS {
        let (leaf, parent, index) = WHOLE.leaf_below(root);
        WHOLE.finds_in_tree(root, &["bad-key-order"], |image| {
            set_key(image, &parent, index, leaf.key(0) + 1);
        });
        let last = WHOLE.node(root, Role::Mappings, |node| {
            !node.is_leaf && node.entries > 1
        });
        let child = crate::model::node(&WHOLE.image, last.child(0)).unwrap();
        WHOLE.finds_in_tree(root, &["bad-key-order"], |image| {
            set_key(image, &last, 1, child.key(child.entries - 1));
        });
    }
}

#[test]
fn row_20_an_empty_node_below_the_root() {
    for root in ROOTS {
        let (leaf, ..) = WHOLE.leaf_below(root);
        WHOLE.finds_in_tree(root, &["node-damaged"], |image| {
            set_header(image, leaf.at, 16, 0);
        });
    }
}

#[test]
fn row_21_pointers_to_block_0_and_past_the_metadata() {
    for root in ROOTS {
        let (_, parent, index) = WHOLE.leaf_below(root);
        let nr_blocks = WHOLE.live.metadata.nr_blocks;
        for pointer in [0, nr_blocks, nr_blocks + 1, u64::MAX] {
            WHOLE.finds_in_tree(root, &["bad-pointer"], |image| {
                set_value(image, &parent, index, (0, 8), pointer);
            });
        }
    }
}

#[test]
fn row_21_a_pointer_past_the_metadata_and_inside_the_device() {
    // The metadata is said to end before one of its leaves.
    let (leaf, parent, index) = WHOLE.leaf_below(Root::Live);
    let mut image = WHOLE.image.clone();
    let far = *WHOLE.unused().last().unwrap();
    let bytes = *image.block(leaf.at).unwrap();
    image.reseal(far, Kind::Node, |block| {
        *block = bytes;
        write_field(block, 8, 8, far);
    });
    set_value(&mut image, &parent, index, (0, 8), far);
    image.set(0, Kind::Superblock, 192, 8, far);
    let told = super::codes_of(&image, Snapshot::None);
    assert!(told.contains("bad-pointer"), "{told:?}");
}

#[test]
fn row_22_a_node_that_leads_back_to_itself() {
    for root in ROOTS {
        let (_, parent, index) = WHOLE.leaf_below(root);
        WHOLE.finds_in_tree(root, &["tree-loop", "metadata-count-low"], |image| {
            set_value(image, &parent, index, (0, 8), parent.at);
        });
    }
}

#[test]
fn row_22_leaves_at_different_depths() {
    for root in ROOTS {
        let (_, parent, index) = WHOLE.leaf_below(root);
        let place = *WHOLE.unused().last().unwrap();
        let codes = ["tree-loop", "node-underfull", "metadata-count-low"];
        WHOLE.finds_in_tree(root, &codes, |image| {
            chain(image, &[place], parent.key(index), parent.child(index));
            set_value(image, &parent, index, (0, 8), place);
        });
    }
}

#[test]
fn row_22_a_tree_too_deep_to_be_read() {
    for root in ROOTS {
        let top = WHOLE.node(root, Role::TopLevel, |node| node.is_leaf);
        let first = crate::model::node(&WHOLE.image, top.child(0))
            .unwrap()
            .key(0);
        let places = WHOLE.unused();
        for (levels, too_deep) in [(14, false), (16, true), (20, true)] {
            let mut codes = vec!["node-underfull", "metadata-count-low"];
            codes.extend(too_deep.then_some("tree-loop"));
            WHOLE.finds_in_tree(root, &codes, |image| {
                chain(image, &places[..levels], first, top.child(0));
                set_value(image, &top, 0, (0, 8), places[0]);
            });
        }
    }
}

/// Nodes with one child each in these blocks; the last leads to `child`.
pub(super) fn chain(image: &mut Image, places: &[u64], key: u64, child: u64) {
    for (level, at) in places.iter().enumerate() {
        let below = places.get(level + 1).copied().unwrap_or(child);
        image.reseal(*at, Kind::Node, |block| {
            block.fill(0);
            for (offset, value) in [(4, 1), (16, 1), (20, 252), (24, 8)] {
                write_field(block, offset, 4, value);
            }
            write_field(block, 8, 8, *at);
            write_field(block, 32, 8, key);
            write_field(block, 32 + 8 * 252, 8, below);
        });
    }
}
