//! The format itself: a pool put together by hand from docs/format.md, and what
//! thin_dump printed of the kernel's.

use std::sync::Arc;

use thinmeta::block::{BlockData, checksum};
use thinmeta::task::Task;
use thinmeta::thin::{OpenOptions, Pool, Snapshot};
use thinmeta::tools::dump::{DumpOptions, dump};

use crate::hostile::law::check;
use crate::support::fixtures;
use crate::support::fresh::fresh_pool;
use crate::support::image::{Kind, read_u32};

#[test]
fn checksums_are_the_kernels() {
    const SUMS: [u32; 8] = [
        0x069a_c8d3,
        0x18e0_660a,
        0xc360_e452,
        0xa19f_6375,
        0x787f_52c8,
        0x41bf_aa04,
        0xcb3d_da35,
        0xb1c8_1346,
    ];
    let image = fresh_pool(2048);
    for (at, expected) in (0..).zip(SUMS) {
        let bytes = image.block(at).unwrap();
        assert_eq!(read_u32(bytes, 0), expected, "block {at}, by the tests");
        let mut block = BlockData::zeroed();
        block.bytes_mut().copy_from_slice(bytes);
        let salt = match image.kind(at).unwrap() {
            Kind::Superblock => 160_774,
            Kind::Node => 121_107,
            Kind::Bitmap => 240_779,
            Kind::Index => 160_478,
        };
        assert_eq!(checksum(&block) ^ salt, expected, "block {at}");
    }
}

#[test]
fn a_pool_made_by_hand_is_clean_and_empty() {
    let image = fresh_pool(2048);
    let report = check(&image, Snapshot::None, &Task::default()).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let pool = Pool::from_devices(Arc::new(image), None, &OpenOptions::default()).unwrap();
    assert_eq!(pool.devices().unwrap(), []);
    assert_eq!(pool.superblock().metadata_blocks(), 2048);
}

#[test]
fn dumps_are_those_of_thin_dump_to_the_byte() {
    for name in fixtures::THIN {
        let image = Arc::new(fixtures::thin(name));
        let held = fixtures::HELD.contains(&name);
        for (snapshot, suffix) in [(Snapshot::None, ""), (Snapshot::Held, "-held")] {
            if snapshot == Snapshot::Held && !held {
                continue;
            }
            let options = OpenOptions {
                snapshot,
                ..OpenOptions::default()
            };
            let device = Arc::clone(&image);
            let pool = Arc::new(Pool::from_devices(device, None, &options).unwrap());
            let expected = fixtures::unpacked(&format!("thin/{name}/thin_dump-0.9.0{suffix}.xml"));
            let mut printed = Vec::new();
            let task = Task::new(None, Some(2));
            dump(&pool, &DumpOptions::default(), &mut printed, &task).unwrap();
            assert!(printed == expected, "{name}{suffix}");
        }
    }
}
