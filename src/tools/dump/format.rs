//! What every format has to say, whatever its words.

use super::text::Text;
use crate::thin::{DeviceInfo, Pool, Run};

/// The pool itself.
#[derive(Clone, Copy, Debug)]
pub(in crate::tools) struct Header {
    pub time: u32,
    pub transaction_id: u64,
    pub flags: u32,
    pub version: u32,
    pub data_block_size_sectors: u32,
    pub nr_data_blocks: u64,
}

impl Header {
    /// Of the roots that are read. A metadata snapshot knows no sizes, so it has
    /// no data blocks.
    pub fn of(pool: &Pool) -> Self {
        let superblock = pool.superblock();
        Self {
            time: superblock.time.get(),
            transaction_id: superblock.trans_id.get(),
            flags: superblock.flags.get(),
            version: superblock.version.get(),
            data_block_size_sectors: superblock.data_block_size.get(),
            nr_data_blocks: match pool.snapshot() {
                None => superblock.data_blocks(),
                Some(_) => 0,
            },
        }
    }
}

/// What mappings are listed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// A thin device.
    Device(DeviceInfo),
    /// A shared node, named by its block.
    Def(u32),
}

/// One way to write a dump. An instance belongs to one thread, and may keep what
/// saves work from line to line.
pub(super) trait Format: Default + Send {
    /// The first words.
    fn begin(&mut self, header: &Header, out: &mut Text);
    /// The begin of a section.
    fn open(&mut self, section: &Section, out: &mut Text);
    /// Goes on with a section whose begin somebody else wrote.
    fn resume(&mut self, section: &Section);
    /// A run of mappings.
    fn run(&mut self, run: &Run, out: &mut Text);
    /// All mappings of a shared node, told before.
    fn reference(&mut self, name: u32, out: &mut Text);
    /// The end of a section.
    fn close(&mut self, section: &Section, out: &mut Text);
    /// The last words.
    fn end(&mut self, out: &mut Text);
}

/// A format's lines for a small dump, for tests.
#[cfg(test)]
pub(super) fn sample<F: Format>() -> String {
    sample_with_flags::<F>(1)
}

/// As [`sample`], of a superblock with these flags.
#[cfg(test)]
pub(super) fn sample_with_flags<F: Format>(flags: u32) -> String {
    let header = Header {
        time: 3,
        transaction_id: 9,
        flags,
        version: 2,
        data_block_size_sectors: 128,
        nr_data_blocks: 1 << 33,
    };
    let device = Section::Device(DeviceInfo {
        id: 7,
        mapped_blocks: 6,
        transaction_id: 1,
        creation_time: 2,
        snapshotted_time: 3,
    });
    let run = |virtual_begin, data_begin, length_blocks, time| Run {
        virtual_begin,
        data_begin,
        length_blocks,
        time,
    };
    let (mut format, mut out) = (F::default(), Text::default());
    format.begin(&header, &mut out);
    format.open(&Section::Def(22), &mut out);
    format.run(&run(0, 5_000_000_000, 1, 0), &mut out);
    format.close(&Section::Def(22), &mut out);
    format.open(&device, &mut out);
    format.reference(22, &mut out);
    format.run(&run(u64::MAX - 5, 10, 4, 16_777_215), &mut out);
    format.run(&run(u64::MAX, 4, 1, 16_777_215), &mut out);
    format.close(&device, &mut out);
    format.end(&mut out);
    String::from_utf8(out.as_bytes().to_vec()).unwrap()
}
