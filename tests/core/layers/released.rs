//! A metadata snapshot that is released while it is read: its blocks may belong to
//! anybody by then, so nothing that was read may be told.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thinmeta::btree::Wait;
use thinmeta::device::Device;
use thinmeta::error::Error;
use thinmeta::task::Task;
use thinmeta::thin::{OpenOptions, Pool, Snapshot, Volume, VolumeOptions};
use thinmeta::tools::check::{CheckOptions, check_pool};
use thinmeta::tools::delta::delta;
use thinmeta::tools::dump::{DumpOptions, dump};
use thinmeta::tools::list::exclusive_blocks;
use thinmeta::tools::stat::statistics;

use crate::model::superblock;
use crate::support::devices::PatternDevice;
use crate::support::fixtures;
use crate::support::image::{Image, Kind, write_field};

/// A device that is written by somebody else at some time.
#[derive(Debug)]
struct Written {
    before: Image,
    after: Image,
    is_after: AtomicBool,
}

impl Device for Written {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        let image = match self.is_after.load(Ordering::SeqCst) {
            false => &self.before,
            true => &self.after,
        };
        image.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.before.size_bytes()
    }

    fn path(&self) -> &Path {
        self.before.path()
    }
}

fn task() -> Task<'static> {
    Task::new(None, Some(2))
}

/// Asks every question of a snapshot after `write` was done to its device.
fn nothing_is_told_after(write: impl Fn(&mut Image, u64)) {
    let before = fixtures::thin("metadata-snap");
    let held = superblock(&before, 0, before.nr_blocks())
        .unwrap()
        .held_root;
    let mut after = before.clone();
    write(&mut after, held);
    for question in 0..9 {
        let device = Arc::new(Written {
            before: before.clone(),
            after: after.clone(),
            is_after: AtomicBool::new(false),
        });
        let options = OpenOptions {
            snapshot: Snapshot::Held,
            ..OpenOptions::default()
        };
        let data = Some(Arc::new(PatternDevice(u64::MAX)) as Arc<dyn Device>);
        let metadata = Arc::clone(&device) as Arc<dyn Device>;
        let pool = Arc::new(Pool::from_devices(metadata, data, &options).unwrap());
        let [left, right] = [0, 1].map(|id| pool.device_by_id(id).unwrap());
        let volume = Volume::new(&left, VolumeOptions::default()).unwrap();
        device.is_after.store(true, Ordering::SeqCst);
        let answer = match question {
            0 => pool.devices().map(|_| ()),
            1 => left.find(7, Wait::Yes).map(|_| ()),
            2 => left.find_many(&[7, 9], &task()).map(|_| ()),
            3 => left.columns(&task()).map(|_| ()),
            4 => delta(&left, &right, true, &task()).map(|_| ()),
            5 => dump(&pool, &DumpOptions::default(), &mut Vec::new(), &task()),
            6 => check_pool(&pool, &CheckOptions::default(), &task()).map(|_| ()),
            7 => statistics(&pool, &task()).map(|_| ()),
            _ => exclusive_blocks(&pool, &task()).map(|_| ()),
        };
        let released = |answer: &thinmeta::Result<()>| matches!(answer, Err(Error::SnapshotReleased { block, .. }) if block.0 == held);
        assert!(released(&answer), "question {question}: {answer:?}");
        let read = volume.read_at(&mut [0; 5000], 100).map(|_| ());
        assert!(released(&read), "a volume: {read:?}");
    }
}

#[test]
fn a_snapshot_that_was_released_answers_nothing() {
    nothing_is_told_after(|image, _| image.set(0, Kind::Superblock, 56, 8, 0));
}

#[test]
fn a_snapshot_whose_block_holds_another_one_answers_nothing() {
    nothing_is_told_after(|image, held| {
        image.reseal(held, Kind::Superblock, |block| {
            write_field(block, 48, 8, 77)
        });
    });
}

#[test]
fn a_snapshot_whose_blocks_were_used_again_is_released_and_not_damaged() {
    nothing_is_told_after(|image, held| {
        image.set(0, Kind::Superblock, 56, 8, 0);
        for at in (1..image.nr_blocks()).filter(|at| *at != held) {
            image.change(at, |block| block.fill(0x77));
        }
    });
}
