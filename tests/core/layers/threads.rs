//! Many threads on one small cache.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use thinmeta::BlockNr;
use thinmeta::block::{BlockManager, ReadGuard};
use thinmeta::btree::{NODE_VALIDATOR, Wait};
use thinmeta::device::Device;
use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::{OpenOptions, Pool};
use thinmeta::tools::list::exclusive_blocks;

use crate::model::list;
use crate::support::chance::Chance;
use crate::support::fixtures;
use crate::support::image::{Kind, read_u64};

const THREADS: u64 = 8;

/// Far more than the work takes: only a deadlock reaches it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `work` on all threads, and fails rather than hang.
fn on_all_threads(work: impl Fn(u64) + Send + Sync + 'static) {
    let (done, finished) = channel();
    let work = Arc::new(work);
    let threads = (0..THREADS).map(|number| {
        let (work, done) = (Arc::clone(&work), done.clone());
        std::thread::spawn(move || {
            work(number);
            let _ = done.send(());
        })
    });
    let threads: Vec<_> = threads.collect();
    drop(done);
    for _ in &threads {
        match finished.recv_timeout(PATIENCE) {
            Ok(()) => {}
            // One panicked: joining tells.
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(timeout) => panic!("{timeout}: a deadlock"),
        }
    }
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
}

#[test]
fn readers_with_fewer_slots_than_blocks_see_the_right_bytes() {
    let mut image = fixtures::thin("random-60k");
    // Some are damaged: their readers must not be in the others' way.
    for at in (0..image.nr_blocks()).step_by(7) {
        image.change(at, |block| block[2000] ^= 1);
    }
    let whole = image.clone();
    let blocks: Vec<u64> = (0..image.nr_blocks())
        .filter(|at| image.kind(*at).is_none_or(|kind| kind == Kind::Node))
        .collect();
    let manager = BlockManager::new(Arc::new(image), 0);
    on_all_threads(move |number| {
        let mut chance = Chance::of_case(1, "threads", number);
        let mut held: Vec<ReadGuard> = Vec::new();
        for _ in 0..3000 {
            let at = chance.pick(&blocks);
            // What a thread holds it may not lock again.
            held.retain(|guard| guard.location().0 != at);
            let sound =
                whole.kind(at) == Some(Kind::Node) && read_u64(whole.block(at).unwrap(), 8) == at;
            let locked = match chance.one_in(3) {
                true => manager.read_try_lock(BlockNr(at), &NODE_VALIDATOR),
                false => manager.read_lock(BlockNr(at), &NODE_VALIDATOR),
            };
            match locked {
                Ok(guard) => {
                    assert!(sound, "{at}");
                    assert!(guard.bytes() == whole.block(at).unwrap(), "{at}");
                    held.push(guard);
                }
                Err(Error::Damaged(_)) => assert!(!sound, "{at}"),
                Err(Error::WouldBlock) => {}
                Err(error) => panic!("{at}: {error}"),
            }
            // Together fewer than there are slots, or all might wait for ever.
            while held.len() > chance.index(7) {
                held.swap_remove(chance.index(held.len()));
            }
        }
    });
}

#[test]
fn pools_and_devices_are_shared_by_threads() {
    let image = fixtures::thin("snap-chain");
    let listing = list(&image, 0).unwrap();
    let options = OpenOptions {
        cache_bytes: 0,
        ..OpenOptions::default()
    };
    let metadata = Arc::new(image) as Arc<dyn Device>;
    let pool = Arc::new(Pool::from_devices(metadata, None, &options).unwrap());
    on_all_threads(move |number| {
        let mut chance = Chance::of_case(2, "pools", number);
        for _ in 0..6 {
            let known = &listing.devices[chance.index(listing.devices.len())];
            let mappings = known.mappings.as_ref().unwrap();
            let device = pool.device_by_id(known.id).unwrap();
            for (key, data, time) in mappings.iter().step_by(11) {
                let found = device.find(*key, Wait::Yes).unwrap().unwrap();
                assert_eq!((found.data_block, found.time), (*data, *time));
            }
            let columns = device.columns(&Task::new(None, Some(2))).unwrap();
            assert_eq!(columns.virtual_blocks.len(), mappings.len());
        }
        let exclusive = exclusive_blocks(&pool, &Task::new(None, Some(3))).unwrap();
        assert_eq!(exclusive.len(), listing.devices.len());
    });
}
