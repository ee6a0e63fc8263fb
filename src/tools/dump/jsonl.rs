//! JSON lines: one object a line, told apart by `type`, in the order of the XML.
//!
//! | `type` | fields |
//! |---|---|
//! | `superblock` | `time`, `transaction_id`, `flags`, `version`, `data_block_size_sectors`, `nr_data_blocks` |
//! | `def` | `def`: the name of a shared node; its runs follow |
//! | `device` | `device_id`, `mapped_blocks`, `transaction_id`, `creation_time`, `snapshotted_time`; its runs follow |
//! | `run` | `device_id` or `def`: what it belongs to; `virtual_begin`, `data_begin`, `length_blocks`, `time` |
//! | `ref` | `device_id`; `def`: all runs of that node stand here in the device |
//! | `end` | none; a dump without it is not whole |
//!
//! `def` and `ref` come only when shared nodes are told once. Numbers are whole
//! and go up to 2^64 - 1.

use super::format::{Format, Header, Section};
use super::text::{Line, Piece, Text};
use crate::thin::Run;

/// Writes JSON lines.
pub(super) struct JsonLines {
    /// What a run begins with in the section.
    owner: Piece,
}

impl Default for JsonLines {
    fn default() -> Self {
        Self {
            owner: Piece::new(|_| {}),
        }
    }
}

fn put_owner(line: &mut Line<'_>, section: &Section) {
    match section {
        Section::Device(device) => {
            line.put(b",\"device_id\":");
            line.number(device.id);
        }
        Section::Def(name) => {
            line.put(b",\"def\":");
            line.number((*name).into());
        }
    }
}

impl Format for JsonLines {
    fn begin(&mut self, header: &Header, out: &mut Text) {
        out.line(|line| {
            line.put(b"{\"type\":\"superblock\",\"time\":");
            line.number(header.time.into());
            line.put(b",\"transaction_id\":");
            line.number(header.transaction_id);
            line.put(b",\"flags\":");
            line.number(header.flags.into());
            line.put(b",\"version\":");
            line.number(header.version.into());
            line.put(b",\"data_block_size_sectors\":");
            line.number(header.data_block_size_sectors.into());
            line.put(b",\"nr_data_blocks\":");
            line.number(header.nr_data_blocks);
            line.put(b"}\n");
        });
    }

    fn open(&mut self, section: &Section, out: &mut Text) {
        self.resume(section);
        out.line(|line| {
            let Section::Device(device) = section else {
                line.put(b"{\"type\":\"def\"");
                put_owner(line, section);
                line.put(b"}\n");
                return;
            };
            line.put(b"{\"type\":\"device\"");
            put_owner(line, section);
            line.put(b",\"mapped_blocks\":");
            line.number(device.mapped_blocks);
            line.put(b",\"transaction_id\":");
            line.number(device.transaction_id);
            line.put(b",\"creation_time\":");
            line.number(device.creation_time.into());
            line.put(b",\"snapshotted_time\":");
            line.number(device.snapshotted_time.into());
            line.put(b"}\n");
        });
    }

    fn resume(&mut self, section: &Section) {
        self.owner = Piece::new(|line| put_owner(line, section));
    }

    #[inline]
    fn run(&mut self, run: &Run, out: &mut Text) {
        out.line(|line| {
            line.put(b"{\"type\":\"run\"");
            line.put_piece(&self.owner);
            line.put(b",\"virtual_begin\":");
            line.number(run.virtual_begin);
            line.put(b",\"data_begin\":");
            line.number(run.data_begin);
            line.put(b",\"length_blocks\":");
            line.number(run.length_blocks);
            line.put(b",\"time\":");
            line.number(run.time.into());
            line.put(b"}\n");
        });
    }

    fn reference(&mut self, name: u32, out: &mut Text) {
        out.line(|line| {
            line.put(b"{\"type\":\"ref\"");
            line.put_piece(&self.owner);
            line.put(b",\"def\":");
            line.number(name.into());
            line.put(b"}\n");
        });
    }

    fn close(&mut self, _section: &Section, _out: &mut Text) {}

    fn end(&mut self, out: &mut Text) {
        out.line(|line| line.put(b"{\"type\":\"end\"}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::sample;
    use super::*;

    #[test]
    fn every_line_is_an_object_that_says_what_it_belongs_to() {
        let expected = r#"{"type":"superblock","time":3,"transaction_id":9,"flags":1,"version":2,"data_block_size_sectors":128,"nr_data_blocks":8589934592}
{"type":"def","def":22}
{"type":"run","def":22,"virtual_begin":0,"data_begin":5000000000,"length_blocks":1,"time":0}
{"type":"device","device_id":7,"mapped_blocks":6,"transaction_id":1,"creation_time":2,"snapshotted_time":3}
{"type":"ref","device_id":7,"def":22}
{"type":"run","device_id":7,"virtual_begin":18446744073709551610,"data_begin":10,"length_blocks":4,"time":16777215}
{"type":"run","device_id":7,"virtual_begin":18446744073709551615,"data_begin":4,"length_blocks":1,"time":16777215}
{"type":"end"}
"#;
        assert_eq!(sample::<JsonLines>(), expected);
    }
}
