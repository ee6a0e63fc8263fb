//! Through a metadata snapshot nothing of a pool in use is read but block 0, the
//! snapshot's block and what that reaches: all else may change at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thinmeta::btree::Wait;
use thinmeta::device::Device;
use thinmeta::task::Task;
use thinmeta::thin::{OpenOptions, Pool, Snapshot, Volume, VolumeOptions};
use thinmeta::tools::check::{CheckOptions, check_device};
use thinmeta::tools::delta::delta;
use thinmeta::tools::dump::{DumpFormat, DumpOptions, dump};
use thinmeta::tools::list::exclusive_blocks;
use thinmeta::tools::stat::statistics;

use crate::hostile::victim::name_roots;
use crate::model::superblock;
use crate::support::devices::{PatternDevice, RecordingDevice};
use crate::support::fixtures;
use crate::support::image::Image;

/// Block 0, the metadata snapshot, and what it reaches.
fn allowed(image: &Image) -> BTreeSet<u64> {
    let live = superblock(image, 0, image.nr_blocks()).unwrap();
    let held = superblock(image, live.held_root, image.nr_blocks()).unwrap();
    let mut reached = BTreeMap::new();
    name_roots(image, live.held_root, &held, &mut reached);
    reached.into_keys().chain([0]).collect()
}

/// A device of the image, and what may be read of it.
struct Watched {
    name: &'static str,
    device: Arc<RecordingDevice>,
    allowed: BTreeSet<u64>,
}

impl Watched {
    fn new(name: &'static str) -> Self {
        let image = fixtures::thin(name);
        Self {
            name,
            allowed: allowed(&image),
            device: RecordingDevice::new(image),
        }
    }

    fn open(&self) -> Arc<Pool> {
        let options = OpenOptions {
            snapshot: Snapshot::Held,
            ..OpenOptions::default()
        };
        let data = Some(Arc::new(PatternDevice(u64::MAX)) as Arc<dyn Device>);
        let metadata = Arc::clone(&self.device) as Arc<dyn Device>;
        Arc::new(Pool::from_devices(metadata, data, &options).unwrap())
    }

    /// What was read since the last call, all of it allowed.
    fn read(&self, by: &str) -> BTreeSet<u64> {
        let touched = self.device.take_touched();
        let strays: Vec<_> = touched.difference(&self.allowed).collect();
        assert!(strays.is_empty(), "{}: {by} reads {strays:?}", self.name);
        touched
    }
}

fn task() -> Task<'static> {
    Task::new(None, Some(2))
}

#[test]
fn every_question_reads_only_what_the_snapshot_reaches() {
    for name in fixtures::HELD {
        let watched = Watched::new(name);
        let pool = watched.open();
        watched.read("opening");
        let devices = pool.devices().unwrap();
        watched.read("the list of devices");
        for info in &devices {
            let device = pool.device_by_id(info.id).unwrap();
            let mut runs = Vec::new();
            device.runs(0, None).fill(&mut runs, usize::MAX).unwrap();
            watched.read("runs");
            let keys: Vec<u64> = (0..2000).step_by(13).collect();
            keys.iter()
                .for_each(|key| _ = device.find(*key, Wait::Yes).unwrap());
            device.find_many(&keys, &task()).unwrap();
            device.columns(&task()).unwrap();
            watched.read("look-ups");
            let volume = Volume::new(&device, VolumeOptions::default()).unwrap();
            volume.read_at(&mut [0; 100_000], 1000).unwrap();
            watched.read("a volume");
        }
        for pair in devices.windows(2) {
            // With a cache of its own, so that everything is read anew.
            let pool = watched.open();
            let [left, right] = [0, 1].map(|side| pool.device_by_id(pair[side].id).unwrap());
            delta(&left, &right, true, &task()).unwrap();
            watched.read("a delta");
        }
        exclusive_blocks(&watched.open(), &task()).unwrap();
        watched.read("counting exclusive blocks");
        statistics(&watched.open(), &task()).unwrap();
        watched.read("statistics");
    }
}

#[test]
fn dumps_read_only_what_the_snapshot_reaches() {
    for name in fixtures::HELD {
        let watched = Watched::new(name);
        for format in [DumpFormat::Xml, DumpFormat::Human, DumpFormat::JsonLines] {
            for shared in [false, true] {
                let options = DumpOptions {
                    format,
                    shared,
                    ..DumpOptions::default()
                };
                dump(&watched.open(), &options, &mut Vec::new(), &task()).unwrap();
                watched.read("a dump");
            }
        }
    }
}

#[test]
fn a_check_reads_all_that_the_snapshot_reaches_and_nothing_else() {
    for name in fixtures::HELD {
        let watched = Watched::new(name);
        let device = Arc::clone(&watched.device) as Arc<dyn Device>;
        let options = CheckOptions::default();
        let report = check_device(device, Snapshot::Held, &options, &task()).unwrap();
        assert!(report.is_clean());
        assert_eq!(watched.read("a check"), watched.allowed, "{name}");
    }
}
