//! Stores whose superblock lies are opened, read and written.

use std::sync::Arc;

use thinmeta::btree;
use thinmeta::device::MemoryDevice;
use thinmeta::store::{Store, StoreOptions};

use super::Outcome;
use super::base::{BASE, note};
use crate::support::chance::Chance;

pub fn run(bytes: &[u8]) -> Outcome {
    let (mut chance, mut outcome) = (Chance::Bytes(bytes), Outcome::new());
    let mut image = match chance.below(4) {
        // The catalogue and what is under it, too.
        0 => BASE.patched(&mut chance, &["store superblock", "btree node"]),
        _ => BASE.patched(&mut chance, &["store superblock"]),
    };
    if chance.one_in(4) {
        // A torn write, or anything else, that no checksum covers.
        let begin = chance.index(8) * 512;
        for byte in &mut image[begin..begin + 512] {
            *byte = chance.below(256) as u8;
        }
    }
    if chance.one_in(8) {
        image.truncate(chance.index(image.len() + 1));
    }
    let device = Arc::new(MemoryDevice::writable(image));
    let options = StoreOptions::default();
    let Some(store) = note(Store::open_on(device.clone(), &options), &mut outcome) else {
        return outcome;
    };
    let Some(view) = note(store.view(), &mut outcome) else {
        return outcome;
    };
    let names = note(view.names(), &mut outcome).unwrap_or_default();
    for name in &names {
        let Some(tree) = note(view.tree(name), &mut outcome) else {
            continue;
        };
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let all = (0, None);
        let blocks = view.blocks();
        let scanned = btree::scan(
            blocks,
            tree.root,
            tree.value_bytes,
            all,
            &mut keys,
            &mut values,
        );
        note(scanned, &mut outcome);
        assert_eq!(values.len(), keys.len() * tree.value_bytes);
    }
    drop(view);
    let written = store.transaction(None).and_then(|txn| {
        let tree = txn.tree_or_new("new", 8)?;
        txn.insert(tree, 1, &[9; 8])?;
        if let Some(name) = names.first() {
            txn.snapshot(name, "copy")?;
        }
        txn.commit()
    });
    let written = note(written, &mut outcome).is_some();
    BASE.check_unlocked(store.manager().blocks());
    drop(store);
    if written {
        // What was committed is there, for everybody else as well.
        let again = Store::open_on(device, &options).unwrap();
        let view = again.view().unwrap();
        let tree = view.tree("new").unwrap();
        let mut out = [0; 8];
        assert!(view.get(tree, 1, &mut out, btree::Wait::Yes).unwrap());
        assert_eq!(out, [9; 8]);
    }
    outcome
}
