//! A pool and a model of it: maps of numbers, copied for each snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::task::Task;
use thinmeta::thin::{
    CreateOptions, OpenOptions, Pool, PoolTransaction, PoolWriter, Snapshot, WriteOptions,
};
use thinmeta::tools::check::{CheckOptions, Severity, check_pool};

use crate::crash::hold_to_laws;
use crate::crash::judge::{Verdict, equal};
use crate::support::chance::Chance;

/// What a device maps: virtual block to data block and time.
pub type Mappings = BTreeMap<u64, (u64, u32)>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelDevice {
    pub mappings: Mappings,
    pub transaction_id: u64,
    pub creation_time: u32,
    pub snapshotted_time: u32,
}

impl ModelDevice {
    /// A mapping that a snapshot may have too is not made anew.
    fn map(&mut self, at: u64, block: u64, time: u32) {
        let old = self.mappings.get(&at).copied();
        if !old.is_some_and(|old| old.0 == block && old.1 < self.snapshotted_time) {
            self.mappings.insert(at, (block, time));
        }
    }
}

pub type Devices = BTreeMap<u64, ModelDevice>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    pub devices: Devices,
    pub time: u32,
    pub trans_id: u64,
    pub held: Option<Devices>,
    /// A metadata snapshot of what this transaction commits.
    pub to_hold: bool,
    pub data_blocks: u64,
}

pub fn options(data_blocks: u64) -> CreateOptions {
    CreateOptions {
        data_block_size_sectors: 128,
        data_blocks,
        metadata_blocks: None,
        overwrite: false,
        open: checked(),
    }
}

/// Every count is held against plain ones.
pub fn checked() -> WriteOptions {
    cached(1 << 20)
}

/// As [`checked`], with so much cache.
pub fn cached(cache_bytes: u64) -> WriteOptions {
    WriteOptions {
        cache_bytes,
        data: None,
        checked: hold_to_laws(),
    }
}

pub fn memory(blocks: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::writable(vec![0; blocks * 4096]))
}

/// A pool on a device, which may be a recording one.
pub fn create(device: Arc<dyn Device>, data_blocks: u64) -> (Arc<PoolWriter>, Model) {
    let writer = PoolWriter::create_on(device, None, &options(data_blocks)).unwrap();
    let model = Model {
        data_blocks,
        ..Model::default()
    };
    (writer, model)
}

/// Everything that a pool lists.
pub fn listing(pool: &Arc<Pool>) -> Devices {
    read(pool).unwrap()
}

/// As [`listing`], of a pool that may not be whole.
fn read(pool: &Arc<Pool>) -> Verdict<Devices> {
    let mut devices = Devices::new();
    for info in pool.devices().map_err(text)? {
        let device = pool.device_by_id(info.id).map_err(text)?;
        let mut runs = Vec::new();
        let filled = device.runs(0, None).fill(&mut runs, usize::MAX);
        filled.map_err(text)?;
        let blocks = runs.iter().flat_map(|run| {
            (0..run.length_blocks).map(|at| {
                let place = (run.data_begin + at, run.time);
                (run.virtual_begin + at, place)
            })
        });
        let mappings: Mappings = blocks.collect();
        equal("mapped blocks", info.mapped_blocks, mappings.len() as u64)?;
        let model = ModelDevice {
            mappings,
            transaction_id: info.transaction_id,
            creation_time: info.creation_time,
            snapshotted_time: info.snapshotted_time,
        };
        devices.insert(info.id, model);
    }
    Ok(devices)
}

pub fn text(error: Error) -> String {
    error.to_string()
}

/// Whether a check finds nothing.
pub fn clean(pool: &Arc<Pool>) -> Verdict {
    let report = check_pool(pool, &CheckOptions::default(), &Task::default()).map_err(text)?;
    match report.is_clean() {
        true => Ok(()),
        false => Err(format!("a check finds {:#?}", report.findings)),
    }
}

pub fn assert_clean(pool: &Arc<Pool>) {
    clean(pool).unwrap();
}

/// Whether a check finds nothing but blocks that these devices, put in at random, have at
/// two places; and all of those.
pub fn sound(pool: &Arc<Pool>, model: &Model) -> Verdict {
    let report = check_pool(pool, &CheckOptions::default(), &Task::default()).map_err(text)?;
    let (doubled, others): (Vec<_>, Vec<_>) = report
        .findings
        .into_iter()
        .filter(|finding| finding.severity != Severity::Info)
        .partition(|finding| finding.code == "mapping-doubled");
    if !others.is_empty() {
        return Err(format!("a check finds {others:#?}"));
    }
    let found: BTreeSet<u64> = doubled
        .iter()
        .map(|each| each.affected[0].device_id)
        .collect();
    let has_twice = |device: &ModelDevice| {
        let data: BTreeSet<u64> = device.mappings.values().map(|place| place.0).collect();
        data.len() < device.mappings.len()
    };
    let devices = model.devices.iter().chain(model.held.iter().flatten());
    let expected = devices.filter(|(_, device)| has_twice(device));
    equal("doubled", found, expected.map(|(id, _)| *id).collect())
}

/// Says where a pool is not what the model says, or not sound, metadata snapshot and all.
pub fn verdict(pool: &Arc<Pool>, model: &Model) -> Verdict {
    sound(pool, model)?;
    let superblock = pool.superblock();
    let numbers = (
        superblock.time.get(),
        superblock.trans_id.get(),
        superblock.data_blocks(),
        superblock.held_root.get() != 0,
    );
    let expected = (
        model.time,
        model.trans_id,
        model.data_blocks,
        model.held.is_some(),
    );
    equal("numbers", numbers, expected)?;
    same("the listing", &read(pool)?, &model.devices)?;
    let Some(held) = &model.held else {
        return Ok(());
    };
    let options = OpenOptions {
        snapshot: Snapshot::Held,
        ..OpenOptions::default()
    };
    let held_pool = Pool::from_devices(Arc::clone(pool.device()), None, &options);
    let held_pool = Arc::new(held_pool.map_err(text)?);
    same("what is held", &read(&held_pool)?, held)
}

/// Holds listings against each other.
pub fn same(what: &str, found: &Devices, wanted: &Devices) -> Verdict {
    if found == wanted {
        return Ok(());
    }
    let ids = |devices: &Devices| devices.keys().copied().collect::<Vec<u64>>();
    equal(&format!("{what}: devices"), ids(found), ids(wanted))?;
    let other = wanted.iter().find(|(id, device)| found[id] != **device);
    Err(format!(
        "{what} differs in device {:?}",
        other.map(|(id, _)| id)
    ))
}

/// Whether the pool is what the model says, and sound, metadata snapshot and all.
pub fn judge(pool: &Arc<Pool>, model: &Model) {
    verdict(pool, model).unwrap();
}

/// Opens what a device has and judges it.
pub fn judge_device(device: Arc<dyn Device>, model: &Model) {
    let pool = Pool::from_devices(device, None, &OpenOptions::default()).unwrap();
    judge(&Arc::new(pool), model);
}

impl Model {
    /// The transaction was committed.
    pub fn commit(&mut self) {
        if std::mem::take(&mut self.to_hold) {
            self.held = Some(self.devices.clone());
        }
    }

    fn an_id(&self, chance: &mut Chance<'_>) -> Option<u64> {
        let ids: Vec<u64> = self.devices.keys().copied().collect();
        (!ids.is_empty()).then(|| chance.pick(&ids))
    }
}

/// One random change of pool and model. What the pool refuses, the model does not do.
pub fn change(
    txn: &PoolTransaction,
    model: &mut Model,
    chance: &mut Chance<'_>,
) -> thinmeta::Result<()> {
    let an_id = model.an_id(chance);
    let fresh = || 1 + u64::from(model.time) * 7 % 40;
    match (chance.below(16), an_id) {
        (0, _) | (_, None) => {
            let id = if chance.one_in(8) {
                (1 << 24) - 1
            } else {
                fresh()
            };
            if model.devices.contains_key(&id) {
                assert!(matches!(txn.create_thin(id), Err(Error::DeviceExists(_))));
                return Ok(());
            }
            txn.create_thin(id)?;
            let device = ModelDevice {
                transaction_id: model.trans_id,
                creation_time: model.time,
                snapshotted_time: model.time,
                ..ModelDevice::default()
            };
            model.devices.insert(id, device);
        }
        (1 | 2, Some(origin)) => {
            let id = (0..).find(|id| !model.devices.contains_key(id)).unwrap();
            txn.create_snapshot(id, origin)?;
            model.time += 1;
            let mut device = model.devices[&origin].clone();
            device.transaction_id = model.trans_id;
            device.creation_time = model.time;
            device.snapshotted_time = model.time;
            model.devices.insert(id, device);
            model.devices.get_mut(&origin).unwrap().snapshotted_time = model.time;
        }
        (3, Some(id)) => {
            txn.delete(id)?;
            model.devices.remove(&id);
        }
        (4 | 5, Some(id)) => {
            let block = match txn.allocate_data() {
                Err(Error::NoSpace { space: "data", .. }) => return Ok(()),
                answer => answer?,
            };
            let at = chance.below(2000);
            if !chance.one_in(4) {
                txn.insert(id, at, block)?;
                let mappings = &mut model.devices.get_mut(&id).unwrap().mappings;
                mappings.insert(at, (block, model.time));
            }
        }
        (6, Some(id)) => {
            let (at, block) = (chance.below(2000), chance.below(model.data_blocks));
            match txn.insert(id, at, block) {
                // Freed in this transaction, which the model does not know.
                Err(Error::Usage(text)) if text.contains("was freed") => return Ok(()),
                answer => answer?,
            };
            model
                .devices
                .get_mut(&id)
                .unwrap()
                .map(at, block, model.time);
        }
        (7 | 8, Some(id)) => {
            let count = chance.index(900);
            let (keys, data): (Vec<u64>, Vec<u64>) = (0..count)
                .map(|_| (chance.below(4000), chance.below(model.data_blocks)))
                .unzip();
            let rows = &mut |part: std::ops::Range<usize>, k: &mut Vec<u64>, d: &mut Vec<u64>| {
                (*k, *d) = (keys[part.clone()].to_vec(), data[part].to_vec());
                Ok(())
            };
            match txn.insert_many(id, count, rows) {
                Err(Error::Usage(text)) if text.contains("was freed") => return Ok(()),
                answer => {
                    let added = answer?;
                    let device = model.devices.get_mut(&id).unwrap();
                    let before = device.clone();
                    // The last one of a key counts, and what it finds is what was there before.
                    let last: BTreeMap<u64, u64> = keys.into_iter().zip(data).collect();
                    for (key, block) in last {
                        device.map(key, block, model.time);
                    }
                    assert_eq!(
                        added,
                        (device.mappings.len() - before.mappings.len()) as u64
                    );
                }
            }
        }
        (9 | 10, Some(id)) => {
            let mappings = &mut model.devices.get_mut(&id).unwrap().mappings;
            let at = match mappings.keys().nth(chance.index(300)) {
                Some(at) => *at,
                None => chance.below(4000),
            };
            assert_eq!(txn.remove(id, at)?, mappings.remove(&at).is_some());
        }
        (11 | 12, Some(id)) => {
            let mappings = &mut model.devices.get_mut(&id).unwrap().mappings;
            let begin = chance.below(4000);
            let end = begin + chance.below(3000);
            let before = mappings.len();
            mappings.retain(|at, _| *at < begin || *at >= end);
            let removed = (before - mappings.len()) as u64;
            assert_eq!(txn.remove_range(id, begin..end)?, removed);
        }
        (13, Some(_)) => {
            let new = model.trans_id + chance.below(3);
            txn.set_transaction_id(model.trans_id, new)?;
            model.trans_id = new;
        }
        (14, Some(_)) => {
            let held = model.held.is_some() || model.to_hold;
            if held && !chance.one_in(4) {
                txn.release_metadata_snapshot()?;
                (model.held, model.to_hold) = (None, false);
            } else if held {
                let again = txn.reserve_metadata_snapshot();
                assert!(matches!(again, Err(Error::MetadataSnapshotHeld(_))));
            } else {
                txn.reserve_metadata_snapshot()?;
                model.to_hold = true;
            }
        }
        (_, Some(_)) => {
            if chance.one_in(3) {
                let blocks = model.data_blocks + chance.below(20_000);
                txn.grow_data(blocks)?;
                model.data_blocks = blocks;
            } else if chance.one_in(3) {
                let now = txn.writer().current()?.superblock().metadata_blocks();
                match txn.grow_metadata(now + 4 + chance.below(60)) {
                    // It has grown in this transaction, and may not shrink.
                    Err(Error::Usage(text)) if text.contains("shrink") => {}
                    answer => answer?,
                }
            }
        }
    }
    Ok(())
}
