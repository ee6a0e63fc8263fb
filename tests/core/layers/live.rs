//! A pool in use: block 0 may be read while the kernel writes it.

use std::sync::Arc;

use thinmeta::device::Device;
use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::{OpenOptions, Pool, Snapshot, read_superblock};
use thinmeta::tools::check::{CheckOptions, check_device};

use crate::support::devices::{RecordingDevice, TornDevice};
use crate::support::fixtures;

fn open(device: Arc<dyn Device>, snapshot: Snapshot) -> thinmeta::Result<Pool> {
    let options = OpenOptions {
        snapshot,
        ..OpenOptions::default()
    };
    Pool::from_devices(device, None, &options)
}

#[test]
fn a_torn_block_0_of_a_pool_in_use_is_read_again() {
    let image = fixtures::thin("metadata-snap");
    for torn in 0..4 {
        let pool = open(TornDevice::new(image.clone(), torn), Snapshot::Held).unwrap();
        assert!(pool.snapshot().is_some());
        let (device, options) = (
            TornDevice::new(image.clone(), torn),
            CheckOptions::default(),
        );
        let report = check_device(device, Snapshot::Held, &options, &Task::default()).unwrap();
        assert!(report.is_clean(), "{torn}: {:?}", report.findings);
    }
}

#[test]
fn a_block_0_that_stays_torn_is_damage_after_a_few_tries() {
    let image = fixtures::thin("metadata-snap");
    let answer = open(TornDevice::new(image.clone(), u64::MAX), Snapshot::Held);
    assert!(matches!(answer, Err(Error::Damaged(damage)) if damage.check == "checksum"));
    let mut image = image;
    image.change(0, |block| block[600] ^= 1);
    let device = RecordingDevice::new(image);
    assert!(read_superblock(&*device, true).is_err());
    assert!((2..10).contains(&device.take_reads()));
}

#[test]
fn a_pool_that_nobody_uses_gets_no_second_chance() {
    let image = fixtures::thin("metadata-snap");
    let answer = open(TornDevice::new(image, 1), Snapshot::None);
    assert!(matches!(answer, Err(Error::Damaged(damage)) if damage.check == "checksum"));
}

#[test]
fn two_pools_of_one_device_share_no_cached_block() {
    let device = RecordingDevice::new(fixtures::thin("metadata-snap"));
    let pools = [Snapshot::Held, Snapshot::Held].map(|snapshot| {
        let pool = open(Arc::clone(&device) as Arc<dyn Device>, snapshot).unwrap();
        device.take_reads();
        pool.devices().unwrap();
        assert!(device.take_reads() > 0);
        pool
    });
    assert!(!Arc::ptr_eq(pools[0].blocks(), pools[1].blocks()));
}
