//! Hostile XML: an error with a place in it, or a pool with nothing wrong.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use thinmeta::Error;
use thinmeta::build::Output;
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta::tools::check::{CheckOptions, check_device};
use thinmeta::tools::restore::{RestoreOptions, restore};

use super::Outcome;

/// What the XML of a dump is made of; each byte of an input is one of these.
const WORDS: [&str; 48] = [
    "<superblock uuid=\"\" time=\"3\" transaction=\"1\" version=\"2\" data_block_size=\"128\" nr_data_blocks=\"600\">",
    "</superblock>",
    "<device dev_id=\"1\" mapped_blocks=\"0\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">",
    "<device dev_id=\"2\" mapped_blocks=\"0\" transaction=\"0\" creation_time=\"0\" snap_time=\"1\">",
    "</device>",
    "<def name=\"a\">",
    "<def name=\"b\">",
    "</def>",
    "<ref name=\"a\"/>",
    "<ref name=\"b\"/>",
    "<single_mapping origin_block=\"0\" data_block=\"0\" time=\"0\"/>",
    "<single_mapping origin_block=\"7\" data_block=\"599\" time=\"1\"/>",
    "<single_mapping origin_block=\"300\" data_block=\"600\" time=\"1\"/>",
    "<range_mapping origin_begin=\"10\" data_begin=\"0\" length=\"90\" time=\"1\"/>",
    "<range_mapping origin_begin=\"100\" data_begin=\"100\" length=\"400\" time=\"2\"/>",
    "<range_mapping origin_begin=\"500\" data_begin=\"0\" length=\"0\" time=\"2\"/>",
    "<single_mapping origin_block='8' data_block='8' time='1' />",
    "<single_mapping time=\"1\" origin_block=\"9\" data_block=\"8\">",
    "</single_mapping>",
    "<!-- words -->",
    "<!DOCTYPE x>",
    "<?xml version=\"1.0\"?>",
    "<![CDATA[x]]>",
    "&amp;",
    "<",
    ">",
    "/>",
    "\"",
    "'",
    "=",
    " ",
    "\n",
    "1",
    "18446744073709551615",
    "99999999999999999999999",
    "-",
    "name",
    "time",
    "origin_block",
    "<single_mapping",
    "<range_mapping",
    "<device",
    "<ref",
    "--",
    "!",
    "?",
    "x",
    "\u{fffd}",
];

/// The first byte says whether the rest is XML or picks words of it.
pub fn run(bytes: &[u8]) -> Outcome {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let text: Vec<u8> = match first % 4 {
        0 => rest.to_vec(),
        kind => {
            // Otherwise hardly anything gets past the superblock.
            let head = if kind == 1 { "" } else { WORDS[0] };
            let words = rest
                .iter()
                .map(|byte| WORDS[usize::from(*byte) % WORDS.len()]);
            let words = words.flat_map(str::bytes);
            head.bytes().chain(words).collect()
        }
    };
    let target = Arc::new(MemoryDevice::writable(vec![0xA5; 64 * 4096]));
    let output = Output::Fixed(Arc::clone(&target) as Arc<dyn Device>);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let answer = std::thread::scope(|scope| {
        scope.spawn(move || {
            // Whoever reads may have seen enough.
            let _ = writer.write_all(&text);
        });
        let input = File::from(OwnedFd::from(reader));
        let options = RestoreOptions::default();
        restore(input, Path::new("xml"), output, &options, &Task::default())
    });
    match answer {
        Ok(built) => {
            let device = Arc::clone(&target) as Arc<dyn Device>;
            let report = check_device(
                device,
                Snapshot::None,
                &CheckOptions::default(),
                &Task::default(),
            );
            let report = report.unwrap();
            assert!(report.is_clean(), "{:?}", report.findings);
            assert_eq!(report.devices, built.devices);
            Vec::new()
        }
        Err(Error::Xml {
            line,
            column,
            reason,
            ..
        }) => {
            assert!(line > 0 && column > 0);
            // Words, and not the numbers and names in them, tell outcomes apart.
            let words = reason.split(|letter: char| !letter.is_ascii_alphabetic());
            let words: Vec<&str> = words.filter(|word| word.len() > 3).take(3).collect();
            vec![words.join(" ")]
        }
        Err(Error::NoSpace { .. }) => vec!["no space".to_owned()],
        Err(other) => panic!("{other:?}"),
    }
}
