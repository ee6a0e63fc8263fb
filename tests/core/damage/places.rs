//! Where damage is, and whom it touches.

use thinmeta::BlockNr;
use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta::tools::dump::{DumpOptions, dump};

use super::{Root, WHOLE};
use crate::hostile::reading::{open, read};
use crate::model::{Walk, node, superblock};
use crate::support::image::{Image, Kind, write_field};

#[test]
fn a_damaged_leaf_takes_with_it_what_its_parents_leave_it_and_no_more() {
    for (root, snapshot) in [(Root::Live, Snapshot::None), (Root::Held, Snapshot::Held)] {
        let (leaf, parent, index) = WHOLE.leaf_below(root);
        let mut image = WHOLE.image.clone();
        image.change(leaf.at, |block| block[77] ^= 1);
        let report = super::report(&image, snapshot);
        let finding = &report.findings[0];
        assert_eq!(
            (finding.code, finding.block),
            ("node-damaged", Some(BlockNr(leaf.at)))
        );
        assert_eq!(finding.tree, Some("mappings"));
        assert_eq!(finding.path, [BlockNr(parent.at), BlockNr(leaf.at)]);
        let end = (index + 1 < parent.entries).then(|| parent.key(index + 1));
        let pool = open(&image, snapshot, 0).unwrap();
        for affected in &finding.affected {
            assert_eq!(affected.begin_block, parent.key(index));
            assert_eq!(affected.end_block, end);
            let device = pool.device_by_id(affected.device_id).unwrap();
            let whole = |begin, end| device.runs(begin, end).fill(&mut Vec::new(), usize::MAX);
            assert!(whole(0, Some(affected.begin_block)).is_ok());
            assert!(whole(affected.begin_block, affected.end_block).is_err());
            if let Some(end) = affected.end_block {
                assert!(whole(end, None).is_ok());
            }
        }
        // Nobody else has lost anything, and everybody listed has.
        let lost = read(&pool).unwrap().listing.devices;
        let lost = lost.iter().filter(|device| device.mappings.is_err());
        let told: Vec<u64> = finding
            .affected
            .iter()
            .map(|affected| affected.device_id)
            .collect();
        assert_eq!(lost.map(|device| device.id).collect::<Vec<_>>(), told);
        assert_eq!(finding.affected_total, told.len() as u64);
    }
}

/// Before: each way round the loop was followed, millions of them.
#[test]
fn a_node_that_is_all_its_own_children_is_found_at_once() {
    let mut image = crate::support::fixtures::thin("snap-chain");
    let at = 132;
    image.reseal(at, Kind::Node, |block| loop_of(block, at));
    let begun = std::time::Instant::now();
    let report = super::report(&image, Snapshot::None);
    assert!(
        report
            .findings
            .iter()
            .any(|finding| finding.code == "tree-loop")
    );
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

fn loop_of(block: &mut [u8], at: u64) {
    for (offset, value) in [(4, 1), (16, 252), (20, 252), (24, 8)] {
        write_field(block, offset, 4, value);
    }
    for index in 0..252 {
        write_field(block, 32 + 8 * index, 8, index as u64);
        write_field(block, 32 + 8 * 252 + 8 * index, 8, at);
    }
}

/// Before: a chain that ended in a node met before as a root was never too deep.
#[test]
fn a_chain_down_to_another_devices_root_is_too_deep_too() {
    let mut image = WHOLE.image.clone();
    let held = Root::Held;
    let top = WHOLE.node(held, crate::hostile::victim::Role::TopLevel, |node| {
        node.is_leaf
    });
    // A root that the live pool has as well.
    let (index, root) = (0..top.entries)
        .map(|index| (index, top.child(index)))
        .find(|(_, root)| !WHOLE.own[held as usize].contains_key(root))
        .unwrap();
    let first = crate::model::node(&WHOLE.image, root).unwrap().key(0);
    let places = &WHOLE.unused()[..16];
    super::nodes::chain(&mut image, places, first, root);
    super::set_value(&mut image, &top, index, (0, 8), places[0]);
    let told = super::codes_of(&image, Snapshot::None);
    assert!(told.contains("tree-loop"), "{told:?}");
}

/// Before: with the first child told elsewhere, the second was taken for a node
/// of any height, and what it led to was told without a look at its keys.
#[test]
fn a_dump_of_shared_nodes_refuses_an_internal_node_where_leaves_are() {
    let mut image = crate::support::fixtures::thin("snaps-300");
    let whole = nodes_of_devices(&image);
    let shared = |at: &u64| whole.iter().filter(|root| root.contains(at)).count() > 1;
    let parents = whole.iter().filter(|root| root.len() > 1);
    let (first, second, key) = parents
        .filter_map(|root| {
            let parent = node(&image, root[0])
                .ok()
                .filter(|parent| parent.entries > 1)?;
            Some((parent.child(0), parent.child(1), parent.key(1)))
        })
        .find(|(first, second, _)| shared(first) && !shared(second))
        .unwrap();
    image.reseal(second, Kind::Node, |block| {
        for (offset, value) in [(4, 1), (16, 1)] {
            write_field(block, offset, 4, value);
        }
        write_field(block, 32, 8, key);
        write_field(block, 32 + 8 * 252, 8, first);
    });
    let pool = open(&image, Snapshot::None, 0).unwrap();
    for shared in [false, true] {
        let options = DumpOptions {
            shared,
            ..DumpOptions::default()
        };
        let answer = dump(&pool, &options, &mut Vec::new(), &Task::default());
        assert!(
            matches!(answer, Err(Error::Damaged(_))),
            "shared {shared}: {answer:?}"
        );
    }
}

/// The nodes of each device's tree, its root first.
fn nodes_of_devices(image: &Image) -> Vec<Vec<u64>> {
    let live = superblock(image, 0, image.nr_blocks()).unwrap();
    let mut roots = Vec::new();
    let tops = Walk::lenient(image, 8).visit(live.mapping_root, &mut |node| {
        if node.is_leaf {
            roots.extend((0..node.entries).map(|index| node.child(index)));
        }
    });
    tops.unwrap();
    let nodes = roots.into_iter().map(|root| {
        let mut nodes = Vec::new();
        let walked = Walk::lenient(image, 8).visit(root, &mut |node| nodes.push(node.at));
        walked.map(|()| nodes).unwrap()
    });
    nodes.collect()
}
