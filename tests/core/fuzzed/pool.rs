//! Pools that lie are opened and changed, by every method that there is.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};

use thinmeta::device::{Device, MemoryDevice};
use thinmeta::task::Task;
use thinmeta::thin::{
    PoolState, PoolTransaction, PoolWriter, Snapshot, VolumeOptions, WritableVolume, WriteOptions,
};
use thinmeta::tools::check::{CheckOptions, Severity, check_device};

use super::Outcome;
use super::base::note;
use crate::hostile::mutation;
use crate::hostile::victim::Victim;
use crate::support::chance::Chance;
use crate::support::fixtures;
use crate::support::image::Image;

/// Data blocks of more are not written: they take their time.
const MOST_BYTES: u64 = 1 << 20;

/// The smallest pool of each shape.
pub fn victims() -> Vec<Victim> {
    let names = [
        "metadata-snap",
        "kernel-7.2",
        "sparse-keys",
        "restored-0.9.0",
        "metadata-full",
        "snap-chain",
        "transaction-id",
        "discards",
    ];
    let victim = |name| Victim::new(name, fixtures::thin(name));
    names.map(victim).into()
}

static VICTIMS: LazyLock<Vec<Victim>> = LazyLock::new(victims);

/// A case by a fuzzer's bytes: which image, what is done to it, and how it is changed.
pub fn run(bytes: &[u8]) -> Outcome {
    let mut chance = Chance::Bytes(bytes);
    let victim = &VICTIMS[chance.index(VICTIMS.len())];
    let mut image = victim.image.clone();
    for _ in 0..chance.below(3) {
        mutation::any(victim, &mut chance, &mut image);
    }
    change(&image, &mut chance)
}

/// A data device of any size that keeps nothing, and sees to it that no byte past the
/// pool's is written.
#[derive(Debug)]
struct Sink {
    end: AtomicU64,
}

impl Device for Sink {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        self.write_all_at(buffer, offset_bytes)?;
        buffer.fill(0);
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        u64::MAX
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> thinmeta::Result<()> {
        let end = offset_bytes.checked_add(bytes.len() as u64).unwrap();
        assert!(end <= self.end.load(Ordering::Relaxed), "past the data");
        Ok(())
    }

    fn flush(&self) -> thinmeta::Result<()> {
        Ok(())
    }

    fn path(&self) -> &Path {
        Path::new("<sink>")
    }
}

/// Whether a check finds nothing but blocks that a device, changed at random, has at two
/// places; or what it finds.
fn checked(image: Arc<dyn Device>) -> Result<(), String> {
    let task = Task::new(None, Some(1));
    let report = check_device(image, Snapshot::None, &CheckOptions::default(), &task);
    match report {
        Ok(report) => {
            let mut wrong = report.findings.iter().filter(|finding| {
                finding.severity != Severity::Info && finding.code != "mapping-doubled"
            });
            wrong
                .next()
                .map_or(Ok(()), |wrong| Err(format!("{wrong:?}")))
        }
        Err(error) => Err(error.to_string()),
    }
}

fn bytes_of(image: &Image) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(image.nr_blocks()).unwrap() << 12];
    image.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

/// Opens a pool and changes it as chance says. What is clean stays so. The errors that
/// were met; the last one is "not opened" where it was not.
pub fn change(image: &Image, chance: &mut Chance<'_>) -> Outcome {
    let mut outcome = Outcome::new();
    let was_clean = checked(Arc::new(image.clone())).is_ok();
    let device = Arc::new(MemoryDevice::writable(bytes_of(image)));
    let options = WriteOptions {
        cache_bytes: chance.pick(&[0, 1 << 20]),
        ..WriteOptions::default()
    };
    let sink = Arc::new(Sink {
        end: AtomicU64::new(0),
    });
    let data = Some(Arc::clone(&sink) as Arc<dyn Device>);
    let writer = PoolWriter::from_devices(device.clone(), data, &options);
    let Some(writer) = note(writer, &mut outcome) else {
        // Some may be read alone.
        let known = ["unsupported", "thin superblock: time"];
        let is_fine = !was_clean || known.contains(&outcome[0].as_str());
        assert!(is_fine, "a sound pool was not opened: {outcome:?}");
        outcome.push("not opened".to_owned());
        return outcome;
    };
    for _ in 0..1 + chance.below(3) {
        grown(&writer, &sink);
        if chance.one_in(4) {
            write_volumes(&writer, chance, &mut outcome);
        } else if let Some(txn) = note(writer.transaction(), &mut outcome) {
            for _ in 0..1 + chance.below(6) {
                step(&txn, chance, &mut outcome);
            }
            let ended = match chance.one_in(6) {
                true => txn.abort(),
                false => txn.commit(),
            };
            note(ended, &mut outcome);
        }
        if was_clean {
            let wrong = [
                "aborted",
                "no space",
                "usage",
                "no such",
                "read-only",
                "no metadata",
            ];
            let is_fine = |complaint: &String| {
                let complaint = complaint.trim_start_matches("in a commit: ");
                wrong.iter().any(|start| complaint.starts_with(start))
            };
            assert!(outcome.iter().all(is_fine), "{outcome:?}");
            let now = Image::new(device.contents());
            let now = checked(Arc::new(now));
            now.unwrap_or_else(|found| panic!("a sound pool is not any more: {found}"));
        }
        if writer.state() == PoolState::Failed {
            assert!(writer.current().is_err());
        }
    }
    note(writer.close(), &mut outcome);
    outcome
}

/// The data device ends where the pool's does.
fn grown(writer: &Arc<PoolWriter>, sink: &Sink) {
    if let Ok(pool) = writer.current() {
        let superblock = pool.superblock();
        let end = superblock
            .data_blocks()
            .saturating_mul(superblock.data_block_bytes());
        sink.end.store(end, Ordering::Relaxed);
    }
}

fn an_id(txn: &PoolTransaction, chance: &mut Chance<'_>, outcome: &mut Outcome) -> u64 {
    let ids = note(txn.device_ids(), outcome).unwrap_or_default();
    match ids.as_slice() {
        [] => chance.below(4),
        ids => chance.pick(ids),
    }
}

fn step(txn: &PoolTransaction, chance: &mut Chance<'_>, outcome: &mut Outcome) {
    let id = an_id(txn, chance, outcome);
    let new = chance.below(1 << 10);
    let (at, length) = (chance.below(3000), chance.below(1 << 16));
    let current = txn.writer().current();
    let data_blocks = current.map_or(0, |pool| pool.superblock().data_blocks());
    let block = chance.below(data_blocks.saturating_add(1).max(1));
    let done = match chance.below(20) {
        0 => txn.create_thin(new),
        1 | 2 => txn.create_snapshot(new, id),
        3 => txn.delete(id),
        4 | 5 => txn.insert(id, at, block).map(drop),
        6 | 7 => txn
            .allocate_data()
            .and_then(|block| txn.insert(id, at, block).map(drop)),
        8 | 9 => many(txn, id, at, block, chance),
        10 => txn.remove(id, at).map(drop),
        11 | 12 => txn.remove_range(id, at..at + length).map(drop),
        13 => txn.reserve_metadata_snapshot().map(drop),
        14 => txn.release_metadata_snapshot(),
        15 => {
            let more = chance.pick(&[10, 20_000, 1 << 30]);
            txn.grow_data(data_blocks.saturating_add(more))
        }
        16 => txn.writer().current().and_then(|pool| {
            let now = pool.superblock().metadata_space_map_root.root.nr_blocks;
            txn.grow_metadata(now.get().min(1 << 14) + chance.below(200))
        }),
        17 => {
            // What is held in the end has leaked.
            let held = block..block + chance.below(40);
            txn.inc_data(held.clone()).and_then(|()| txn.dec_data(held))
        }
        18 => txn
            .numbers()
            .and_then(|(number, ..)| txn.set_transaction_id(number, number.wrapping_add(1))),
        _ => txn
            .data_count(block)
            .and_then(|_| txn.block_is_shared(block))
            .and_then(|_| txn.device(id))
            .and_then(|_| txn.find(id, at))
            .and_then(|_| txn.is_changed(id))
            .and_then(|_| txn.free_blocks())
            .map(drop),
    };
    note(done, outcome);
}

fn many(
    txn: &PoolTransaction,
    id: u64,
    at: u64,
    block: u64,
    chance: &mut Chance<'_>,
) -> thinmeta::Result<()> {
    let (count, step) = (chance.index(300), chance.pick(&[1, 7]));
    let rows = &mut |part: std::ops::Range<usize>, keys: &mut Vec<u64>, data: &mut Vec<u64>| {
        *keys = part.clone().map(|row| at + step * row as u64).collect();
        *data = part
            .map(|row| block.saturating_sub(row as u64 % 9))
            .collect();
        Ok(())
    };
    txn.insert_many(id, count, rows).map(drop)
}

fn write_volumes(writer: &Arc<PoolWriter>, chance: &mut Chance<'_>, outcome: &mut Outcome) {
    let Some(pool) = writer
        .current()
        .ok()
        .filter(|pool| pool.superblock().data_block_bytes() <= MOST_BYTES)
    else {
        return;
    };
    let devices = note(pool.devices(), outcome).unwrap_or_default();
    let Some(info) = devices.get(chance.index(devices.len().max(1))) else {
        return;
    };
    let options = VolumeOptions {
        size_bytes: Some(1 << 30),
        external_origin: None,
    };
    let Some(volume) = note(WritableVolume::open(writer, info.id, options), outcome) else {
        return;
    };
    for _ in 0..1 + chance.below(4) {
        let at = chance.below(1 << 28);
        let done = match chance.below(3) {
            0 => volume.discard(at..at + (1 << 26)).map(drop),
            1 => volume.read_at(&mut vec![0; 200_000], at).map(drop),
            _ => volume
                .write_at(&vec![7; 1 + chance.index(200_000)], at)
                .map(drop),
        };
        note(done, outcome);
    }
    note(volume.flush(), outcome);
}
