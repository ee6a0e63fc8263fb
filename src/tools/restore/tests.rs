//! XML that arrives in pieces, and where errors are found.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use super::{RestoreOptions, restore};
use crate::build::{Built, Output};
use crate::device::{Device, MemoryDevice};
use crate::error::{Error, Result};
use crate::task::{Monitor, Task};
use crate::testing::Random;
use crate::thin::{Pool, Run};
use crate::tools::dump::{DumpOptions, dump};
use crate::units::BLOCK_BYTES;

const HEAD: &str = r#"<superblock uuid="" time="5" transaction="7" flags="0" version="2" data_block_size="128" nr_data_blocks="100000">"#;

fn memory(blocks: usize) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::writable(vec![0xA5; blocks * BLOCK_BYTES]))
}

/// A file without a name that holds the text.
fn file(text: &[u8]) -> File {
    let folder = std::env::temp_dir();
    let path = folder.join(format!("thinmeta-{}-{text:p}", std::process::id()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(text).unwrap();
    file.rewind().unwrap();
    file
}

fn restore_from(input: File, to: &Arc<MemoryDevice>, task: &Task<'_>) -> Result<Built> {
    let output = Output::Fixed(Arc::clone(to) as Arc<dyn Device>);
    let options = RestoreOptions::default();
    restore(input, Path::new("pool.xml"), output, &options, task)
}

fn dumped(device: &Arc<MemoryDevice>) -> String {
    let device = Arc::clone(device) as Arc<dyn Device>;
    let pool = Pool::from_devices(device, None, &Default::default()).unwrap();
    let mut out = Vec::new();
    dump(
        &Arc::new(pool),
        &DumpOptions::default(),
        &mut out,
        &Task::default(),
    )
    .unwrap();
    String::from_utf8(out).unwrap()
}

/// A listing of one device, as a dump writes it.
fn listing(random: &mut Random, lines: usize) -> String {
    let mut text = String::new();
    let (mut key, mut mapped) = (0, 0);
    for _ in 0..lines {
        key += random.within(1, 50);
        let run = Run {
            virtual_begin: key,
            data_begin: random.below(90_000),
            length_blocks: if random.chance(50) {
                1
            } else {
                random.within(2, 90)
            },
            time: u32::try_from(random.below(6)).unwrap(),
        };
        let Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time,
        } = run;
        text += &if length_blocks == 1 {
            format!(
                "    <single_mapping origin_block=\"{virtual_begin}\" data_block=\"{data_begin}\" \
                 time=\"{time}\"/>\n"
            )
        } else {
            format!(
                "    <range_mapping origin_begin=\"{virtual_begin}\" data_begin=\"{data_begin}\" \
                 length=\"{length_blocks}\" time=\"{time}\"/>\n"
            )
        };
        key += length_blocks;
        mapped += length_blocks;
    }
    format!(
        "{HEAD}\n  <device dev_id=\"1\" mapped_blocks=\"{mapped}\" transaction=\"0\" \
         creation_time=\"0\" snap_time=\"5\">\n{text}  </device>\n</superblock>\n"
    )
}

#[test]
fn a_listing_of_many_buffers_is_read_whole() {
    let mut random = Random::new(3);
    let text = listing(&mut random, 40_000);
    assert!(text.len() > 8 * (256 << 10));
    let device = memory(20_000);
    restore_from(file(text.as_bytes()), &device, &Task::default()).unwrap();
    assert!(dumped(&device) == text);
}

#[test]
fn a_pipe_may_break_it_anywhere() {
    let mut random = Random::new(4);
    let text = listing(&mut random, 400);
    for seed in 0..30 {
        let mut random = Random::new(seed);
        let (reader, mut writer) = std::io::pipe().unwrap();
        let device = memory(200);
        thread::scope(|scope| {
            let text = &text;
            scope.spawn(move || {
                let mut rest = text.as_bytes();
                while !rest.is_empty() {
                    let count = random.within(1, 200).min(rest.len() as u64);
                    let (now, later) = rest.split_at(usize::try_from(count).unwrap());
                    writer.write_all(now).unwrap();
                    rest = later;
                }
            });
            let input = File::from(OwnedFd::from(reader));
            restore_from(input, &device, &Task::default()).unwrap();
        });
        assert!(dumped(&device) == text);
    }
}

#[test]
fn an_error_is_where_it_is_however_far_in() {
    let mut random = Random::new(5);
    let text = listing(&mut random, 20_000);
    let lines: Vec<&str> = text.lines().collect();
    for _ in 0..40 {
        let line = random.within(3, lines.len() as u64 - 3);
        let index = usize::try_from(line).unwrap();
        // The line before comes once more, after as many spaces.
        let spaces = random.below(70);
        let mut broken = lines[..index].join("\n");
        broken += &format!(
            "\n{}{}\n",
            " ".repeat(usize::try_from(spaces).unwrap()),
            lines[index - 1].trim()
        );
        broken += &lines[index..].join("\n");
        let answer = restore_from(file(broken.as_bytes()), &memory(20_000), &Task::default());
        match answer {
            Err(Error::Xml {
                line: at, column, ..
            }) => {
                assert_eq!((at, column), (line + 1, spaces + 1));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_interrupted_one_ends_though_its_pipe_stays_open() {
    struct Impatient;
    impl Monitor for Impatient {
        fn poll(&self, _: u64, _: u64) -> Result<()> {
            Err(Error::Interrupted)
        }
    }
    let (reader, mut writer) = std::io::pipe().unwrap();
    writer.write_all(HEAD.as_bytes()).unwrap();
    let input = File::from(OwnedFd::from(reader));
    let device = memory(20);
    let answer = restore_from(input, &device, &Task::new(Some(&Impatient), None));
    assert!(matches!(answer, Err(Error::Interrupted)));
    drop(writer);
}
