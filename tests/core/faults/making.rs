//! Making and opening a store, or a space map alone, while requests fail.

use std::sync::Arc;

use thinmeta::BlockNr;
use thinmeta::Error;
use thinmeta::block::BlockManager;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::store::{STORE_VALIDATOR, Store, StoreOptions, StoreSuperblock};
use thinmeta::transaction::TransactionManager;

use super::cases::{cases, options};
use crate::crash::judge::judge;
use crate::crash::state::{Content, State, Trees};

const REQUESTS: [Request; 3] = [Request::Read, Request::Write, Request::Flush];

fn faulty(image: Vec<u8>, fault: Fault) -> (Arc<MemoryDevice>, Arc<FaultyDevice>) {
    let memory = Arc::new(MemoryDevice::writable(image));
    let faulty = Arc::new(FaultyDevice::new(Arc::clone(&memory) as Arc<dyn Device>));
    faulty.set_fault(fault);
    (memory, faulty)
}

fn step(error: &Error) -> &'static str {
    match error {
        Error::Step { step, .. } => step,
        other => panic!("no step is named: {other}"),
    }
}

/// Superblock, space map root and catalogue of an image, as bytes.
fn image() -> Vec<u8> {
    cases().swap_remove(0).image
}

#[test]
fn making_a_store_that_fails_names_the_step_and_leaves_none_or_a_whole_one() {
    let over = StoreOptions {
        overwrite: true,
        ..options()
    };
    let mut steps = Vec::new();
    for (request, before) in REQUESTS
        .into_iter()
        .flat_map(|request| [(request, 0), (request, 1)])
    {
        for after in 0.. {
            let (memory, device) = faulty(vec![before; 40 * 4096], Fault::once(request, after));
            let made = Store::create_on(Arc::clone(&device) as Arc<dyn Device>, &over);
            if device.failed() == 0 {
                made.unwrap();
                break;
            }
            let error = made.err().unwrap();
            steps.push(step(&error));
            let written = device.count(Request::Write);
            drop(error);
            assert_eq!(device.count(Request::Write), written);
            // A superblock whose flush failed is there all the same, on this device.
            let empty = || State::Store(Content::new(1, &Trees::new()));
            let memory = memory as Arc<dyn Device>;
            let whole = judge(&memory, &State::Nothing).or_else(|_| judge(&memory, &empty()));
            whole.unwrap_or_else(|problem| panic!("{request:?} {after}: {problem}"));
            Store::create_on(Arc::clone(&memory), &over).unwrap();
            judge(&memory, &empty()).unwrap();
        }
    }
    for step in ["superblock", "catalogue create"] {
        assert!(steps.contains(&step), "{step}: only {steps:?}");
    }
}

#[test]
fn opening_a_store_that_fails_names_the_step_and_changes_nothing() {
    let image = image();
    let mut steps = Vec::new();
    for after in 0.. {
        let (memory, device) = faulty(image.clone(), Fault::once(Request::Read, after));
        let opened = Store::open_on(Arc::clone(&device) as Arc<dyn Device>, &options());
        if device.failed() == 0 {
            drop(opened.unwrap());
            break;
        }
        steps.push(step(&opened.err().unwrap()));
        assert!(memory.contents() == image);
        assert_eq!(
            device.count(Request::Write) + device.count(Request::Flush),
            0
        );
    }
    for step in ["superblock", "space map open"] {
        assert!(steps.contains(&step), "{step}: only {steps:?}");
    }
}

#[test]
fn the_forms_of_2012_release_their_locks_when_they_fail() {
    let image = image();
    let at = BlockNr(0);
    let area = std::mem::offset_of!(StoreSuperblock, metadata_space_map_root);
    let mut steps = Vec::new();
    for after in 0..4 {
        let (_, device) = faulty(image.clone(), Fault::once(Request::Read, after));
        let blocks = BlockManager::new(Arc::clone(&device) as Arc<dyn Device>, 0);
        let opened = TransactionManager::open_with_superblock(
            &blocks,
            at,
            &STORE_VALIDATOR,
            area..area + 128,
            false,
        );
        if device.failed() > 0 {
            steps.push(step(&opened.err().unwrap()));
            // This thread would be told if it held the lock still.
            drop(blocks.write_lock(at, &STORE_VALIDATOR).unwrap());
        }
    }
    assert_eq!(steps, ["superblock", "space map open"]);
    for size in 1..5 {
        let memory = Arc::new(MemoryDevice::writable(vec![0; size * 4096]));
        let blocks = BlockManager::new(memory as Arc<dyn Device>, 0);
        let made = TransactionManager::create_with_superblock(&blocks, at, &STORE_VALIDATOR, false);
        if let Err(error) = made {
            assert_eq!(step(&error), "space map create");
            drop(blocks.write_lock_zero(at, &STORE_VALIDATOR).unwrap());
        } else {
            assert_eq!(size, 4);
        }
    }
}
