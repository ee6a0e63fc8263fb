//! The XML of `thin_dump` 0.9.0, to the byte; sections and references of shared
//! nodes as `thin_restore` 1.x reads them. And that of 1.1.0, which leaves flags
//! out that are 0, and does not end its last line.

use super::format::{Format, Header, Section};
use super::text::{Piece, Text};
use crate::thin::Run;

/// Writes XML; `NEWER`: as 1.1.0 does.
pub(super) struct Xml<const NEWER: bool = false> {
    time: u32,
    /// The end of a mapping's line, as long as the time stays the same.
    tail: Piece,
}

impl<const NEWER: bool> Default for Xml<NEWER> {
    fn default() -> Self {
        Self {
            time: 0,
            tail: tail(0),
        }
    }
}

fn tail(time: u32) -> Piece {
    Piece::new(|line| {
        line.put(b"\" time=\"");
        line.number(time.into());
        line.put(b"\"/>\n");
    })
}

impl<const NEWER: bool> Format for Xml<NEWER> {
    fn begin(&mut self, header: &Header, out: &mut Text) {
        out.line(|line| {
            line.put(b"<superblock uuid=\"\" time=\"");
            line.number(header.time.into());
            line.put(b"\" transaction=\"");
            line.number(header.transaction_id);
            if !NEWER || header.flags != 0 {
                line.put(b"\" flags=\"");
                line.number(header.flags.into());
            }
            line.put(b"\" version=\"");
            line.number(header.version.into());
            line.put(b"\" data_block_size=\"");
            line.number(header.data_block_size_sectors.into());
            line.put(b"\" nr_data_blocks=\"");
            line.number(header.nr_data_blocks);
            line.put(b"\">\n");
        });
    }

    fn open(&mut self, section: &Section, out: &mut Text) {
        out.line(|line| match section {
            Section::Device(device) => {
                line.put(b"  <device dev_id=\"");
                line.number(device.id);
                line.put(b"\" mapped_blocks=\"");
                line.number(device.mapped_blocks);
                line.put(b"\" transaction=\"");
                line.number(device.transaction_id);
                line.put(b"\" creation_time=\"");
                line.number(device.creation_time.into());
                line.put(b"\" snap_time=\"");
                line.number(device.snapshotted_time.into());
                line.put(b"\">\n");
            }
            Section::Def(name) => {
                line.put(b"  <def name=\"");
                line.number((*name).into());
                line.put(b"\">\n");
            }
        });
    }

    fn resume(&mut self, _section: &Section) {}

    #[inline]
    fn run(&mut self, run: &Run, out: &mut Text) {
        if run.time != self.time {
            (self.time, self.tail) = (run.time, tail(run.time));
        }
        out.line(|line| {
            if run.length_blocks == 1 {
                line.put(b"    <single_mapping origin_block=\"");
                line.number(run.virtual_begin);
                line.put(b"\" data_block=\"");
                line.number(run.data_begin);
            } else {
                line.put(b"    <range_mapping origin_begin=\"");
                line.number(run.virtual_begin);
                line.put(b"\" data_begin=\"");
                line.number(run.data_begin);
                line.put(b"\" length=\"");
                line.number(run.length_blocks);
            }
            line.put_piece(&self.tail);
        });
    }

    fn reference(&mut self, name: u32, out: &mut Text) {
        out.line(|line| {
            line.put(b"    <ref name=\"");
            line.number(name.into());
            line.put(b"\"/>\n");
        });
    }

    fn close(&mut self, section: &Section, out: &mut Text) {
        out.line(|line| match section {
            Section::Device(_) => line.put(b"  </device>\n"),
            Section::Def(_) => line.put(b"  </def>\n"),
        });
    }

    fn end(&mut self, out: &mut Text) {
        out.line(|line| {
            line.put(b"</superblock>");
            if !NEWER {
                line.put(b"\n");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::{sample, sample_with_flags};
    use super::*;

    #[test]
    fn the_words_are_those_of_thin_dump() {
        let expected = r#"<superblock uuid="" time="3" transaction="9" flags="1" version="2" data_block_size="128" nr_data_blocks="8589934592">
  <def name="22">
    <single_mapping origin_block="0" data_block="5000000000" time="0"/>
  </def>
  <device dev_id="7" mapped_blocks="6" transaction="1" creation_time="2" snap_time="3">
    <ref name="22"/>
    <range_mapping origin_begin="18446744073709551610" data_begin="10" length="4" time="16777215"/>
    <single_mapping origin_block="18446744073709551615" data_block="4" time="16777215"/>
  </device>
</superblock>
"#;
        assert_eq!(sample::<Xml>(), expected);
        let newer = expected.trim_end();
        assert_eq!(sample::<Xml<true>>(), newer);
        let without = newer.replace(r#" flags="1""#, "");
        assert_eq!(sample_with_flags::<Xml<true>>(0), without);
    }
}
