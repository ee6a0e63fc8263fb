//! Every other question that can be asked of a pool, answered from its listing too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::sync::Arc;

use thinmeta::btree::Wait;
use thinmeta::disk_space::DiskSpaceMap;
use thinmeta::error::Error;
use thinmeta::space::SpaceMap;
use thinmeta::task::Task;
use thinmeta::thin::{Pool, ThinDevice, Volume, VolumeOptions};
use thinmeta::tools::delta::{Kind, delta};
use thinmeta::tools::extract::extract;
use thinmeta::tools::list::exclusive_blocks;
use thinmeta::tools::stat::statistics;

use super::law::{Broken, allowed, ensure};
use crate::model::{Device, Listing, Mapping};
use crate::support::chance::Chance;
use crate::support::devices::PatternDevice;

/// Devices looked at closely in one case.
const DEVICES: usize = 2;

/// A call of one thread: what it takes of memory is counted on that.
pub fn one_thread() -> Task<'static> {
    Task::new(None, Some(1))
}

/// Asks everything. `fatal`: the check said so, otherwise nothing may fail.
/// `counted`: and that every data block is mapped as often as its count says.
pub fn agree(
    pool: &Arc<Pool>,
    listing: Option<&Listing>,
    fatal: bool,
    counted: bool,
    chance: &mut Chance<'_>,
) -> Result<(), Broken> {
    counts(pool, fatal, chance)?;
    exclusive(pool, listing, fatal, counted)?;
    described(pool, listing, fatal)?;
    let Some(listing) = listing.filter(|listing| !listing.devices.is_empty()) else {
        return Ok(());
    };
    let mut chosen = Vec::new();
    for _ in 0..DEVICES {
        let device = &listing.devices[chance.index(listing.devices.len())];
        match pool.device_by_id(device.id) {
            Ok(found) => {
                look_up(&found, device, chance)?;
                volume(&found, device, chance)?;
                chosen.push((found, device));
            }
            Err(error) => {
                allowed(&error)?;
                ensure!(device.mappings.is_err(), "no device {}: {error}", device.id);
            }
        }
    }
    match &chosen[..] {
        [left, right] => compare(left, right, fatal),
        _ => Ok(()),
    }
}

/// The counts of a few blocks.
fn counts(pool: &Pool, fatal: bool, chance: &mut Chance<'_>) -> Result<(), Broken> {
    if pool.snapshot().is_some() {
        return Ok(());
    }
    let live = pool.live_superblock();
    let maps = [
        DiskSpaceMap::data(pool.blocks(), live.data_space_map_root.root),
        DiskSpaceMap::metadata(pool.blocks(), live.metadata_space_map_root.root),
    ];
    for map in maps {
        for _ in 0..3 {
            let block = match chance.below(4) {
                0 => chance.word(),
                _ => chance.below(map.nr_blocks().max(1)),
            };
            match map.get_count(block) {
                Ok(_) => ensure!(block < map.nr_blocks(), "a count past the end"),
                Err(Error::Usage(_)) => ensure!(block >= map.nr_blocks(), "count of {block}"),
                Err(error) => {
                    allowed(&error)?;
                    ensure!(fatal, "no count of {block} and no fatal finding: {error}");
                }
            }
        }
    }
    Ok(())
}

fn exclusive(
    pool: &Arc<Pool>,
    listing: Option<&Listing>,
    fatal: bool,
    counted: bool,
) -> Result<(), Broken> {
    let found = match exclusive_blocks(pool, &one_thread()) {
        Ok(found) => found,
        Err(error) => {
            allowed(&error)?;
            ensure!(fatal, "no exclusive blocks and no fatal finding: {error}");
            return Ok(());
        }
    };
    let Some(listing) = listing.filter(|_| counted) else {
        return Ok(());
    };
    let mut owners: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mapped = |device: &Device| device.mappings.clone().unwrap_or_default();
    for device in &listing.devices {
        for (_, data, _) in mapped(device) {
            let owner = owners.entry(data).or_insert(Some(device.id));
            if *owner != Some(device.id) {
                *owner = None;
            }
        }
    }
    for (device, found) in listing.devices.iter().zip(&found) {
        let mappings = mapped(device);
        let own = mappings
            .iter()
            .filter(|mapping| owners[&mapping.1] == Some(device.id));
        let own = own.count() as u64;
        let expected = (device.id, own, mappings.len() as u64 - own);
        ensure!(
            (found.id, found.exclusive_blocks, found.shared_blocks) == expected,
            "exclusive blocks {found:?}, by the listing {expected:?}"
        );
    }
    ensure!(found.len() == listing.devices.len(), "exclusive: {found:?}");
    Ok(())
}

/// What the pool is like: mappings, runs and seeks of every device.
fn described(pool: &Arc<Pool>, listing: Option<&Listing>, fatal: bool) -> Result<(), Broken> {
    let found = match statistics(pool, &one_thread()) {
        Ok(found) => found,
        Err(error) => {
            allowed(&error)?;
            ensure!(fatal, "no statistics and no fatal finding: {error}");
            return Ok(());
        }
    };
    let Some(listing) = listing else {
        return Ok(());
    };
    ensure!(found.devices.len() == listing.devices.len(), "{found:?}");
    for (device, found) in listing.devices.iter().zip(&found.devices) {
        let Ok(mappings) = &device.mappings else {
            ensure!(false, "statistics of device {}, and no listing", device.id);
            continue;
        };
        let goes_on = |two: &&[Mapping]| two[0].1.wrapping_add(1) == two[1].1;
        let side_by_side = |two: &&[Mapping]| two[0].0.wrapping_add(1) == two[1].0;
        let pairs = || mappings.windows(2);
        let seeks = pairs().filter(|two| !goes_on(two)).count();
        let joined = pairs().filter(|two| goes_on(two) && side_by_side(two));
        let runs = mappings.len() - joined.count();
        let expected = (device.id, mappings.len() as u64, seeks as u64, runs as u64);
        let told = found.runs.runs.iter().sum();
        ensure!(
            (found.id, found.mapped_blocks, found.seeks, told) == expected,
            "statistics {found:?}, by the listing {expected:?}"
        );
    }
    Ok(())
}

/// Keys that are there, beside those that are, and any.
fn keys(mappings: &[Mapping], chance: &mut Chance<'_>) -> Vec<u64> {
    let mut keys = vec![0, u64::MAX, chance.word()];
    if !mappings.is_empty() {
        for _ in 0..4 {
            let key = mappings[chance.index(mappings.len())].0;
            keys.extend([key, key.wrapping_add(1), key.wrapping_sub(1)]);
        }
    }
    keys
}

fn look_up(found: &ThinDevice, device: &Device, chance: &mut Chance<'_>) -> Result<(), Broken> {
    let none = Vec::new();
    let mappings = device.mappings.as_ref().unwrap_or(&none);
    let keys = keys(mappings, chance);
    let expected = |key: u64| {
        let index = mappings
            .binary_search_by_key(&key, |mapping| mapping.0)
            .ok()?;
        let (_, data, time) = mappings[index];
        Some((data, time, device.snapshotted_time > time))
    };
    for key in &keys {
        match found.find(*key, Wait::Yes) {
            Ok(mapping) => {
                let mapping = mapping.map(|found| (found.data_block, found.time, found.shared));
                // Of a damaged device the listing knows nothing.
                ensure!(
                    device.mappings.is_err() || mapping == expected(*key),
                    "find {key}: {mapping:?}"
                );
            }
            Err(error) => {
                allowed(&error)?;
                ensure!(device.mappings.is_err(), "find {key}: {error}");
            }
        }
        let tried = found.find(*key, Wait::No);
        let busy = matches!(tried, Err(Error::WouldBlock));
        ensure!(
            busy || tried.is_ok() || device.mappings.is_err(),
            "find {key} without waiting: {tried:?}"
        );
    }
    match found.find_many(&keys, &one_thread()) {
        Ok(many) => {
            for (row, key) in keys.iter().enumerate() {
                let row = (many.mapped[row] == 1).then(|| {
                    (
                        many.data_blocks[row],
                        many.times[row],
                        many.shared[row] == 1,
                    )
                });
                ensure!(
                    device.mappings.is_err() || row == expected(*key),
                    "find_many {key}: {row:?}"
                );
            }
        }
        Err(error) => {
            allowed(&error)?;
            ensure!(device.mappings.is_err(), "find_many: {error}");
        }
    }
    match found.columns(&one_thread()) {
        Ok(columns) => {
            let blocks = columns.virtual_blocks.iter().zip(&columns.data_blocks);
            let rows = blocks.zip(&columns.times);
            let rows: Vec<_> = rows
                .map(|((key, data), time)| (*key, *data, *time))
                .collect();
            ensure!(
                device.mappings.as_ref() == Ok(&rows),
                "columns of {}",
                device.id
            );
        }
        Err(error) => {
            allowed(&error)?;
            ensure!(device.mappings.is_err(), "columns: {error}");
        }
    }
    Ok(())
}

/// A few bytes of the volume.
fn volume(found: &ThinDevice, device: &Device, chance: &mut Chance<'_>) -> Result<(), Broken> {
    let none = Vec::new();
    let mappings = device.mappings.as_ref().unwrap_or(&none);
    let volume = match Volume::new(found, VolumeOptions::default()) {
        Ok(volume) => volume,
        // A block past 2^64 bytes.
        Err(Error::Usage(_)) => return Ok(()),
        Err(error) => {
            allowed(&error)?;
            ensure!(device.mappings.is_err(), "no volume: {error}");
            return Ok(());
        }
    };
    let block = volume.block_bytes();
    if device.mappings.is_ok() {
        let size = mappings.last().map_or(0, |last| (last.0 + 1) * block);
        ensure!(volume.size_bytes() == size, "size {}", volume.size_bytes());
    }
    for key in keys(mappings, chance).into_iter().take(6) {
        let begin = key.saturating_mul(block).saturating_sub(chance.below(600));
        let mut buffer = [0x55; 1200];
        let read = match volume.read_at(&mut buffer, begin) {
            Ok(read) => read,
            Err(error) => {
                allowed(&error)?;
                ensure!(device.mappings.is_err(), "read at {begin}: {error}");
                continue;
            }
        };
        if device.mappings.is_err() {
            continue;
        }
        let left = volume.size_bytes().saturating_sub(begin).min(1200);
        ensure!(read as u64 == left, "{read} bytes at {begin}");
        for (byte, at) in buffer[..read].iter().zip(begin..) {
            let index = mappings.binary_search_by_key(&(at / block), |mapping| mapping.0);
            let expected = index.map_or(0, |index| {
                PatternDevice::byte(mappings[index].1 * block + at % block)
            });
            ensure!(*byte == expected, "byte at {at}: {byte:#x}");
        }
    }
    extracted(&volume, device)
}

/// The whole volume, where that is short.
fn extracted(volume: &Volume, device: &Device) -> Result<(), Broken> {
    if volume.size_bytes() > 1 << 20 {
        return Ok(());
    }
    let null = OpenOptions::new().write(true).open("/dev/null").unwrap();
    match (extract(volume, &null, &one_thread()), &device.mappings) {
        (Ok(found), Ok(mappings)) => {
            let mapped = mappings.len() as u64 * volume.block_bytes();
            let told = (found.size_bytes, found.mapped_bytes);
            ensure!(told == (volume.size_bytes(), mapped), "extracted {found:?}");
        }
        (Ok(found), Err(fault)) => return Err(format!("extracted {found:?}, yet {fault}")),
        (Err(error), mappings) => {
            allowed(&error)?;
            ensure!(mappings.is_err(), "nothing extracted: {error}");
        }
    }
    Ok(())
}

/// What is different between two devices, block by block.
fn compare(
    (left, left_told): &(ThinDevice, &Device),
    (right, right_told): &(ThinDevice, &Device),
    fatal: bool,
) -> Result<(), Broken> {
    let found = match delta(left, right, true, &one_thread()) {
        Ok(found) => found,
        Err(error) => {
            allowed(&error)?;
            let far = |device: &Device| {
                let last = device
                    .mappings
                    .as_ref()
                    .ok()
                    .and_then(|mappings| mappings.last());
                last.is_some_and(|last| last.0 >= u64::MAX >> 30)
            };
            ensure!(
                fatal || far(left_told) || far(right_told),
                "no delta and no fatal finding: {error}"
            );
            return Ok(());
        }
    };
    let (Ok(one), Ok(two)) = (&left_told.mappings, &right_told.mappings) else {
        return Ok(());
    };
    let by_key = |mappings: &[Mapping]| -> BTreeMap<u64, u64> {
        mappings
            .iter()
            .map(|mapping| (mapping.0, mapping.1))
            .collect()
    };
    let (one, two) = (by_key(one), by_key(two));
    let keys: BTreeSet<u64> = one.keys().chain(two.keys()).copied().collect();
    let mut rows = found.rows().flat_map(|row| {
        (0..row.length).map(move |offset| {
            let data = |begin: Option<u64>| begin.map(|begin| begin + offset);
            (
                row.begin + offset,
                row.kind,
                data(row.left_data),
                data(row.right_data),
            )
        })
    });
    for key in keys {
        let (left, right) = (one.get(&key).copied(), two.get(&key).copied());
        let kind = match (left, right) {
            (Some(left), Some(right)) if left == right => Kind::Same,
            (Some(_), Some(_)) => Kind::Changed,
            (Some(_), None) => Kind::LeftOnly,
            _ => Kind::RightOnly,
        };
        let row = rows.next();
        ensure!(
            row == Some((key, kind, left, right)),
            "delta: {row:?} for block {key}: {left:?} and {right:?}"
        );
    }
    let more = rows.next();
    ensure!(more.is_none(), "delta: {more:?} past the end");
    Ok(())
}
