//! The block cache: bounded, and no I/O where none was asked for.

use std::sync::Arc;

use thinmeta::block::{BlockManager, ReadGuard};
use thinmeta::btree::{NODE_VALIDATOR, Wait};
use thinmeta::disk_space::BITMAP_VALIDATOR;
use thinmeta::error::Error;
use thinmeta::thin::{OpenOptions, Pool};
use thinmeta::{BlockNr, device::Device};

use crate::support::allocator;
use crate::support::devices::RecordingDevice;
use crate::support::fixtures;
use crate::support::image::{BLOCK, Image, Kind, read_u64};

/// Slots that a cache has at least.
const FEWEST: usize = 64;

/// Every sound node of an image, reachable or not.
fn nodes(image: &Image) -> Vec<BlockNr> {
    let is_node = |at: &u64| {
        image.kind(*at) == Some(Kind::Node) && read_u64(image.block(*at).unwrap(), 8) == *at
    };
    (0..image.nr_blocks())
        .filter(is_node)
        .map(BlockNr)
        .collect()
}

fn many_nodes() -> (Arc<RecordingDevice>, Vec<BlockNr>) {
    let image = fixtures::thin("random-60k");
    let nodes = nodes(&image);
    assert!(nodes.len() > 4 * FEWEST);
    (RecordingDevice::new(image), nodes)
}

#[test]
fn a_try_lock_never_reads() {
    let (device, nodes) = many_nodes();
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    let refused = |at: &BlockNr| {
        let answer = manager.read_try_lock(*at, &NODE_VALIDATOR);
        assert!(matches!(answer, Err(Error::WouldBlock)), "{at}");
    };
    nodes.iter().for_each(refused);
    [BlockNr(1 << 40), BlockNr(u64::MAX)]
        .iter()
        .for_each(refused);
    assert_eq!(device.take_reads(), 0);

    for at in &nodes[..8] {
        manager.read_lock(*at, &NODE_VALIDATOR).unwrap();
    }
    assert_eq!(device.take_reads(), 8);
    for at in &nodes[..8] {
        let guard = manager.read_try_lock(*at, &NODE_VALIDATOR).unwrap();
        assert_eq!(guard.location(), *at);
        drop(guard);
        let wrong = manager.read_try_lock(*at, &BITMAP_VALIDATOR);
        assert!(matches!(wrong, Err(Error::Damaged(_))));
    }
    nodes[8..].iter().for_each(refused);
    assert_eq!(device.take_reads(), 0);
}

#[test]
fn a_look_up_that_may_not_wait_never_reads() {
    let device = RecordingDevice::new(fixtures::thin("random-60k"));
    let metadata = Arc::clone(&device) as Arc<dyn Device>;
    let pool = Arc::new(Pool::from_devices(metadata, None, &OpenOptions::default()).unwrap());
    let thin = pool.device_by_id(0).unwrap();
    device.take_reads();
    let mut unknown = 0;
    for key in (0..65_536).step_by(97) {
        let early = thin.find(key, Wait::No);
        assert_eq!(device.take_reads(), 0);
        let later = thin.find(key, Wait::Yes).unwrap();
        match early {
            Ok(found) => assert_eq!(found, later),
            Err(Error::WouldBlock) => unknown += 1,
            Err(error) => panic!("{error}"),
        }
        device.take_reads();
        assert_eq!(thin.find(key, Wait::No).unwrap(), later);
        assert_eq!(device.take_reads(), 0);
    }
    assert!(unknown > 1);
}

#[test]
fn the_cache_keeps_to_its_bound_and_keeps_what_fits() {
    let (device, nodes) = many_nodes();
    for slots in [FEWEST, 2 * FEWEST] {
        let metadata = Arc::clone(&device) as Arc<dyn Device>;
        let manager = BlockManager::new(metadata, (slots * BLOCK) as u64);
        let read = |at: &BlockNr| manager.read_lock(*at, &NODE_VALIDATOR).unwrap().location();
        device.take_reads();
        let before = allocator::start();
        for at in &nodes {
            assert_eq!(read(at), *at);
        }
        let taken = allocator::end(before);
        // A block, what holds it, and the one that is just being read.
        assert!(
            taken.peak < (slots + 8) * (BLOCK + 256),
            "{slots} slots: {taken:?}"
        );
        assert_eq!(device.take_reads(), nodes.len() as u64);
        // The last ones fit, the first ones went.
        let last = &nodes[nodes.len() - slots / 2..];
        last.iter().for_each(|at| _ = read(at));
        assert_eq!(device.take_reads(), 0);
        read(&nodes[0]);
        assert_eq!(device.take_reads(), 1);
    }
}

#[test]
fn a_cache_full_of_locks_makes_the_next_reader_wait() {
    let (device, nodes) = many_nodes();
    let manager = BlockManager::new(device as Arc<dyn Device>, 0);
    let lock = |at: &BlockNr| manager.read_lock(*at, &NODE_VALIDATOR).unwrap();
    let mut held: Vec<ReadGuard> = nodes[..FEWEST].iter().map(lock).collect();
    std::thread::scope(|scope| {
        // Those that are there others can lock too, without waiting.
        held.push(scope.spawn(|| lock(&nodes[3])).join().unwrap());
        let waiting = scope.spawn(|| lock(&nodes[FEWEST]).location());
        assert!(!waiting.is_finished());
        held.clear();
        assert_eq!(waiting.join().unwrap(), nodes[FEWEST]);
    });
}

#[test]
fn pinned_bytes_outlive_lock_and_slot() {
    let (device, nodes) = many_nodes();
    let manager = BlockManager::new(device as Arc<dyn Device>, 0);
    let lock = |at: &BlockNr| manager.read_lock(*at, &NODE_VALIDATOR).unwrap();
    let pins: Vec<_> = nodes.iter().map(|at| lock(at).pin()).collect();
    for (at, pin) in nodes.iter().zip(&pins) {
        assert_eq!(read_u64(pin.bytes(), 8), at.0);
    }
}

#[test]
fn a_damaged_block_is_read_again_when_it_is_asked_for_again() {
    let mut image = fixtures::thin("sequential");
    let root = crate::model::superblock(&image, 0, u64::MAX)
        .unwrap()
        .details_root;
    image.change(root, |block| block[100] ^= 1);
    let device = RecordingDevice::new(image);
    let manager = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
    for _ in 0..3 {
        let answer = manager.read_lock(BlockNr(root), &NODE_VALIDATOR);
        assert!(matches!(answer, Err(Error::Damaged(_))));
        assert_eq!(device.take_reads(), 1);
        let tried = manager.read_try_lock(BlockNr(root), &NODE_VALIDATOR);
        assert!(matches!(tried, Err(Error::WouldBlock)));
    }
    for far in [1 << 40, u64::MAX] {
        let answer = manager.read_lock(BlockNr(far), &NODE_VALIDATOR);
        assert!(matches!(answer, Err(Error::Io { .. })));
    }
    assert_eq!(device.take_reads(), 0);
}
