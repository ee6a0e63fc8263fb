//! Crash images as files, for whoever wants to hold a kernel against them.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use crate::crash::images::judge_some;
use crate::crash::number;
use crate::pool::history::{History, State, random, scripted};
use crate::pool::world::{Devices, Model};
use crate::support::chance::Chance;

/// Not a test: writes `NNNN.img`, the metadata after a crash, and `NNNN.json`, what has
/// to be on it and the states around the crash, into THINMETA_CRASH_IMAGES_DIR.
/// THINMETA_CRASH_IMAGES says how many (100), THINMETA_CRASH_SEED which.
#[test]
#[ignore = "writes files"]
fn write_crash_images() {
    let folder = std::env::var_os("THINMETA_CRASH_IMAGES_DIR");
    let folder = PathBuf::from(folder.expect("THINMETA_CRASH_IMAGES_DIR says where to"));
    fs::create_dir_all(&folder).unwrap();
    let wanted = number("THINMETA_CRASH_IMAGES", 100);
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    let known = scripted();
    let share = wanted.div_ceil(known.len() * 2).max(1);
    let unknown = (0..).map(|number| random(seed << 32 | number));
    let mut images = 0;
    for history in known.into_iter().chain(unknown) {
        if images >= wanted {
            break;
        }
        images = write_some(&history, images..wanted.min(images + share), seed, &folder);
    }
    println!("{images} crash images in {}", folder.display());
}

fn write_some(
    history: &History,
    numbers: std::ops::Range<usize>,
    seed: u64,
    folder: &std::path::Path,
) -> usize {
    let recorded = history.run().unwrap();
    judge_some(&recorded, numbers.len(), seed, super::judge_pool).unwrap();
    let mut chance = Chance::of_case(seed, &recorded.name, 1);
    let mut crashes = recorded.crashes(&mut chance);
    let (mut number, mut passed_over) = (numbers.start, 0);
    while number < numbers.end && !crashes.is_empty() {
        let crash = crashes.swap_remove(chance.index(crashes.len()));
        let (before, after) = recorded.around(&crash);
        let State::Pool(_) = recorded.expected(&crash) else {
            // Nothing that a kernel could open.
            continue;
        };
        let is_new = std::ptr::eq(after, recorded.expected(&crash));
        // As many of either, as far as there are any.
        if is_new == number.is_multiple_of(2) && passed_over < 300 {
            passed_over += 1;
            continue;
        }
        let json = format!(
            "{{\"history\": {:?}, \"expected\": {:?}, \"old\": {}, \"new\": {}}}\n",
            recorded.name,
            if is_new { "new" } else { "old" },
            state(before),
            state(after),
        );
        fs::write(
            folder.join(format!("{number:04}.img")),
            recorded.log.image(&crash),
        )
        .unwrap();
        fs::write(folder.join(format!("{number:04}.json")), json).unwrap();
        number += 1;
    }
    number
}

/// A state as JSON; `null` where there is no pool.
fn state(state: &State) -> String {
    let State::Pool(model) = state else {
        return "null".to_owned();
    };
    let Model {
        time,
        trans_id,
        data_blocks,
        ..
    } = model;
    let held = model.held.as_ref().map_or("null".to_owned(), devices);
    format!(
        "{{\"time\": {time}, \"transaction_id\": {trans_id}, \"data_block_sectors\": 128, \
         \"data_blocks\": {data_blocks}, \"devices\": {}, \"metadata_snapshot\": {held}}}",
        devices(&model.devices)
    )
}

/// Devices by id: `"mappings"` has runs of virtual block, data block, length, time.
fn devices(devices: &Devices) -> String {
    let each = devices.iter().map(|(id, device)| {
        let mut runs: Vec<[u64; 4]> = Vec::new();
        for (at, (block, time)) in &device.mappings {
            let time = u64::from(*time);
            match runs.last_mut() {
                Some([begin, data, length, of])
                    if *begin + *length == *at && *data + *length == *block && *of == time =>
                {
                    *length += 1;
                }
                _ => runs.push([*at, *block, 1, time]),
            }
        }
        let mut text = String::new();
        write!(
            text,
            "\"{id}\": {{\"mapped_blocks\": {}, \"transaction_id\": {}, \"creation_time\": {}, \
             \"snapshotted_time\": {}, \"mappings\": {runs:?}}}",
            device.mappings.len(),
            device.transaction_id,
            device.creation_time,
            device.snapshotted_time,
        )
        .unwrap();
        text
    });
    format!("{{{}}}", each.collect::<Vec<String>>().join(", "))
}
