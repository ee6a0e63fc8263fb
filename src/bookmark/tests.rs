//! Files of bookmarks, and what is refused.

use std::fs::File;
use std::path::PathBuf;

use super::*;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::testing::{PoolBuilder, mapping};
use crate::thin::{Run, ThinDevice};

/// Blocks in runs of 7 at times 0 to 4; the snapshot was made at `created`.
fn snapshot(created: u32) -> ThinDevice {
    let mut builder = PoolBuilder::new(100_000);
    let entry = |block: u64| {
        (
            block + block / 7 * 2,
            mapping(block * 3 / 2, block / 100 % 5),
        )
    };
    let entries: Vec<_> = (0..3000).map(entry).collect();
    let root = builder.tree(&entries, 50);
    builder.snapshot(9, root, created);
    builder.open().device_by_id(9).unwrap()
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("thinmeta-bookmark-{}-{name}", std::process::id()))
}

fn saved(name: &str, device: &ThinDevice) -> (PathBuf, Result<Head>) {
    let path = path(name);
    let out = File::create(&path).unwrap();
    let head = save(device, Some(1 << 40), "LVM-abc", &out, &Task::default());
    (path, head)
}

#[test]
fn what_was_saved_comes_back() {
    let device = snapshot(5);
    let (path, head) = saved("whole", &device);
    let bookmark = Bookmark::open(&path, &Task::default()).unwrap();
    assert_eq!(bookmark.head(), &head.unwrap());
    assert_eq!(bookmark.head().pool_uuid, "LVM-abc");
    assert_eq!(
        (bookmark.head().mapped_blocks, bookmark.head().size_bytes),
        (3000, Some(1 << 40))
    );
    let summary = summary_of(&device, &Task::default()).unwrap();
    assert_eq!(summary.digest, bookmark.head().digest);
    assert_eq!(summary.end_blocks, bookmark.end_blocks());
    assert!(summary.is_snapshot);
    let mut expected = Vec::new();
    device
        .runs(0, None)
        .fill(&mut expected, usize::MAX)
        .unwrap();
    let mut runs = bookmark.runs().unwrap();
    let mut found: Vec<Run> = Vec::new();
    while let Some(run) = runs.next_run().unwrap() {
        found.push(run);
    }
    assert_eq!(found, expected);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_volume_that_was_written_since_it_was_made_is_refused() {
    for created in [0, 4] {
        let device = snapshot(created);
        let (path, head) = saved("written", &device);
        assert!(matches!(head, Err(Error::Usage(_))), "{head:?}");
        assert!(!summary_of(&device, &Task::default()).unwrap().is_snapshot);
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn any_byte_that_is_not_as_it_was_is_noticed() {
    let (sound, head) = saved("sound", &snapshot(5));
    head.unwrap();
    let bytes = std::fs::read(&sound).unwrap();
    let damaged = path("damaged");
    let refused = |bytes: &[u8]| {
        std::fs::write(&damaged, bytes).unwrap();
        match Bookmark::open(&damaged, &Task::default()) {
            Err(Error::Stream(_) | Error::Unsupported { .. }) => true,
            Err(other) => panic!("{other:?}"),
            Ok(_) => false,
        }
    };
    assert!(!refused(&bytes));
    for at in 0..bytes.len() {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        assert!(refused(&bytes), "byte {at}");
    }
    for length in 0..bytes.len() {
        assert!(refused(&bytes[..length]), "{length} bytes");
    }
    let longer = [&bytes[..], b"x"].concat();
    assert!(refused(&longer));
    for path in [sound, damaged] {
        std::fs::remove_file(path).unwrap();
    }
}
