//! How few blocks a pool takes: nodes are ended early only where that makes fewer.

use std::collections::BTreeMap;

use super::tests::{Mappings, build, builder, device, judge, memory, runs};
use crate::task::Task;

/// Mappings of virtual blocks, all at the same distance from their data blocks.
fn stretch(keys: std::ops::Range<u64>, distance: u64) -> Mappings {
    keys.map(|key| (key, (key + distance) << 24 | 1)).collect()
}

fn joined(stretches: &[Mappings]) -> Mappings {
    stretches.iter().flatten().map(|(k, v)| (*k, *v)).collect()
}

/// Builds devices 0, 1, ...; the nodes of their trees.
fn nodes_of(devices: &[Mappings]) -> u64 {
    let devices: BTreeMap<u64, Mappings> = (0..).zip(devices.iter().cloned()).collect();
    let (target, built) = build(&devices, 300);
    judge(&target, &devices, &built);
    built.metadata_blocks_used - blocks_of_no_device()
}

fn blocks_of_no_device() -> u64 {
    build(&BTreeMap::new(), 300).1.metadata_blocks_used
}

#[test]
fn devices_without_mappings_have_one_leaf_in_common() {
    let empty = Mappings::new();
    assert_eq!(nodes_of(std::slice::from_ref(&empty)), 1);
    let some = stretch(0..10, 5);
    assert_eq!(nodes_of(&vec![empty.clone(); 100]), 1);
    assert_eq!(nodes_of(&[empty.clone(), some, empty.clone(), empty]), 2);
}

#[test]
fn a_leaf_is_not_ended_for_a_shared_one_that_is_too_much() {
    // Two leaves of 130, and a root.
    let origin = stretch(1000..1260, 0);
    let (first, second) = (stretch(1000..1130, 0), stretch(1130..1260, 0));
    let own = |keys: std::ops::Range<u64>| stretch(keys, 5000);
    let cases = [
        // All is one leaf, whether few or more come after the one that is known.
        (joined(&[own(100..203), second.clone(), own(1400..1401)]), 1),
        (joined(&[own(100..184), second.clone(), own(1400..1438)]), 1),
        // A leaf that is known and a root take no fewer.
        (joined(&[own(100..203), second.clone()]), 1),
        // Those after it are too few without it: what is before was not ended for it.
        (joined(&[own(100..399), first.clone(), own(1400..1464)]), 3),
        (joined(&[own(100..500), first, own(1400..1464)]), 4),
        // It is worth it: the leaves beside it and the root are all that is new.
        (joined(&[own(100..330), second.clone()]), 2),
        (joined(&[own(100..330), second, own(1400..1600)]), 3),
    ];
    for (at, (mappings, more)) in cases.into_iter().enumerate() {
        assert_eq!(nodes_of(&[origin.clone(), mappings]), 3 + more, "case {at}");
    }
}

#[test]
fn a_part_is_not_needed_where_it_fits_into_what_is_beside_it() {
    let parts = [stretch(0..88, 0), stretch(100..189, 0)];
    let target = memory(300);
    let mut builder = builder(&target);
    let mut ids = Vec::new();
    for part in &parts {
        builder.begin_part().unwrap();
        builder.runs(&runs(part)).unwrap();
        ids.push(builder.end_part().unwrap());
    }
    let mut devices = BTreeMap::new();
    for id in 0..6 {
        builder.begin_device(&device(id)).unwrap();
        builder.use_part(ids[0]).unwrap();
        let rest = match id {
            // Both of them, one leaf for the three devices.
            0..=2 => {
                builder.use_part(ids[1]).unwrap();
                parts[1].clone()
            }
            // One, and something of the device's own.
            _ => {
                let rest = stretch(300..390, id * 1000);
                builder.runs(&runs(&rest)).unwrap();
                rest
            }
        };
        builder.end_device().unwrap();
        devices.insert(id, joined(&[parts[0].clone(), rest]));
    }
    let built = builder.finish(&Task::default()).unwrap();
    judge(&target, &devices, &built);
    assert_eq!(built.metadata_blocks_used, blocks_of_no_device() + 1 + 3);
}

#[test]
fn what_is_shared_stays_so_where_it_makes_fewer_nodes() {
    let part = stretch(0..1000, 0);
    let target = memory(300);
    let mut builder = builder(&target);
    builder.begin_part().unwrap();
    builder.runs(&runs(&part)).unwrap();
    let id = builder.end_part().unwrap();
    let mut devices = BTreeMap::new();
    for number in 0..10 {
        let own = stretch(2000..2200, number * 1000);
        builder.begin_device(&device(number)).unwrap();
        builder.use_part(id).unwrap();
        builder.runs(&runs(&own)).unwrap();
        builder.end_device().unwrap();
        devices.insert(number, joined(&[part.clone(), own]));
    }
    let built = builder.finish(&Task::default()).unwrap();
    judge(&target, &devices, &built);
    // The part's four leaves; a leaf and a root for each.
    assert_eq!(built.metadata_blocks_used, blocks_of_no_device() + 4 + 20);
}
