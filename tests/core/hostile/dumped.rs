//! Dumps, held against the listing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use thinmeta::thin::Pool;
use thinmeta::tools::dump::{DumpFormat, DumpOptions, dump};

use super::answers::one_thread;
use super::law::{Broken, allowed, ensure};
use crate::model::{Listing, Mapping};
use crate::support::chance::Chance;

/// Dumps in full, and by shared nodes. `truth`: what may be told at all.
pub fn dumps(
    pool: &Arc<Pool>,
    listing: Option<&Listing>,
    truth: Option<&Listing>,
    fatal: bool,
    chance: &mut Chance<'_>,
) -> Result<(), Broken> {
    let mut text = Vec::new();
    match dump(pool, &DumpOptions::default(), &mut text, &one_thread()) {
        Ok(()) => {
            let listing = listing.ok_or("a dump without a listing")?;
            let expected = xml(pool, listing).ok_or("a dump of a damaged device")?;
            ensure!(
                expected.as_bytes() == text,
                "the dump differs from the listing"
            );
        }
        Err(error) => {
            allowed(&error)?;
            ensure!(fatal, "no dump and no fatal finding: {error}");
            if let Some(truth) = truth.and_then(|truth| xml(pool, truth)) {
                ensure!(
                    truth.as_bytes().starts_with(&text),
                    "a dump of what is not there"
                );
            }
        }
    }
    let format = chance.pick(&[DumpFormat::Human, DumpFormat::JsonLines]);
    let device_ids = chance.one_in(2).then(|| vec![0, chance.below(8)]);
    let options = DumpOptions {
        format,
        device_ids,
        ..DumpOptions::default()
    };
    if let Err(error) = dump(pool, &options, &mut Vec::new(), &one_thread()) {
        allowed(&error)?;
        ensure!(fatal, "no dump as {format:?} and no fatal finding: {error}");
    }
    by_shared_nodes(pool, listing, fatal)
}

/// The XML of thin_dump 0.9.0, if every device can be read.
fn xml(pool: &Pool, listing: &Listing) -> Option<String> {
    let superblock = pool.superblock();
    let blocks = match pool.snapshot() {
        None => listing.data_blocks,
        Some(_) => 0,
    };
    let mut text = format!(
        "<superblock uuid=\"\" time=\"{}\" transaction=\"{}\" flags=\"{}\" version=\"{}\" \
         data_block_size=\"{}\" nr_data_blocks=\"{blocks}\">\n",
        listing.time,
        listing.transaction_id,
        superblock.flags.get(),
        superblock.version.get(),
        listing.data_block_sectors,
    );
    for device in &listing.devices {
        let [id, mapped, transaction, creation, snapshotted] = device.details();
        writeln!(
            text,
            "  <device dev_id=\"{id}\" mapped_blocks=\"{mapped}\" transaction=\"{transaction}\" \
             creation_time=\"{creation}\" snap_time=\"{snapshotted}\">"
        )
        .ok()?;
        let mut rest = &device.mappings.as_ref().ok()?[..];
        while let Some((begin, data, time)) = rest.first().copied() {
            let follows = |(offset, next): (usize, &Mapping)| {
                let offset = offset as u64;
                *next == (begin.wrapping_add(offset), data + offset, time)
            };
            let length = rest
                .iter()
                .enumerate()
                .take_while(|next| follows(*next))
                .count();
            match length {
                1 => writeln!(
                    text,
                    "    <single_mapping origin_block=\"{begin}\" data_block=\"{data}\" time=\"{time}\"/>"
                ),
                _ => writeln!(
                    text,
                    "    <range_mapping origin_begin=\"{begin}\" data_begin=\"{data}\" \
                     length=\"{length}\" time=\"{time}\"/>"
                ),
            }
            .ok()?;
            rest = &rest[length..];
        }
        text.push_str("  </device>\n");
    }
    text.push_str("</superblock>\n");
    Some(text)
}

/// Definitions and references mean the same as every device in full.
fn by_shared_nodes(pool: &Arc<Pool>, listing: Option<&Listing>, fatal: bool) -> Result<(), Broken> {
    let options = DumpOptions {
        shared: true,
        ..DumpOptions::default()
    };
    let mut text = Vec::new();
    if let Err(error) = dump(pool, &options, &mut text, &one_thread()) {
        allowed(&error)?;
        ensure!(fatal, "no shared dump and no fatal finding: {error}");
        return Ok(());
    }
    let text = String::from_utf8(text).map_err(|error| error.to_string())?;
    let mut defs: BTreeMap<u64, Vec<Mapping>> = BTreeMap::new();
    let mut devices: Vec<(u64, Vec<Mapping>)> = Vec::new();
    let mut section: (u64, Vec<Mapping>) = (0, Vec::new());
    for line in text.lines().map(str::trim_start) {
        let number = |name: &str| -> Option<u64> {
            let value = line.split_once(&format!(" {name}=\""))?.1;
            value.split_once('"')?.0.parse().ok()
        };
        let numbers = |names: [&str; 3]| names.map(|name| number(name).unwrap_or(u64::MAX));
        let (single, several) = (
            ["origin_block", "data_block", "time"],
            ["origin_begin", "data_begin", "time"],
        );
        match line.split([' ', '>', '/']).next() {
            Some("<def") => section = (number("name").unwrap_or(0), Vec::new()),
            Some("<device") => section = (number("dev_id").unwrap_or(0), Vec::new()),
            Some("<ref") => {
                let def = number("name").and_then(|name| defs.get(&name));
                section.1.extend(def.ok_or("a reference to nothing")?);
            }
            Some("<single_mapping") => {
                let [key, data, time] = numbers(single);
                section.1.push((key, data, time as u32));
            }
            Some("<range_mapping") => {
                let [key, data, time] = numbers(several);
                let length = number("length").unwrap_or(0);
                let blocks = (0..length).map(|offset| (key + offset, data + offset, time as u32));
                section.1.extend(blocks);
            }
            Some("<") if line == "</def>" => _ = defs.insert(section.0, section.1.clone()),
            Some("<") if line == "</device>" => devices.push(section.clone()),
            _ => {}
        }
    }
    let listing = listing.ok_or("a shared dump without a listing")?;
    ensure!(
        devices.len() == listing.devices.len(),
        "a shared dump of {} devices",
        devices.len()
    );
    for (told, device) in devices.iter().zip(&listing.devices) {
        let same = told.0 == device.id && device.mappings.as_ref() == Ok(&told.1);
        ensure!(
            same,
            "the shared dump of device {} has {} mappings, the listing {:?}",
            told.0,
            told.1.len(),
            device.mappings.as_ref().map(Vec::len)
        );
    }
    Ok(())
}
