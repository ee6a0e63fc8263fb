//! The `human_readable` format of `thin_dump` 0.9.0, to the byte; sections and
//! references of shared nodes in the words of 1.x. And that of 1.1.0, which tells a
//! single mapping as a range.

use super::format::{Format, Header, Section};
use super::text::Text;
use crate::thin::Run;

/// Writes for people; `NEWER`: as 1.1.0 does.
#[derive(Default)]
pub(super) struct Human<const NEWER: bool = false>;

impl<const NEWER: bool> Format for Human<NEWER> {
    fn begin(&mut self, header: &Header, out: &mut Text) {
        out.line(|line| {
            line.put(b"begin superblock: \"\", ");
            line.number(header.time.into());
            for number in [
                header.transaction_id,
                header.flags.into(),
                header.version.into(),
                header.data_block_size_sectors.into(),
                header.nr_data_blocks,
            ] {
                line.put(b", ");
                line.number(number);
            }
            line.put(b"\n");
        });
    }

    fn open(&mut self, section: &Section, out: &mut Text) {
        out.line(|line| match section {
            Section::Device(device) => {
                line.put(b"device: ");
                line.number(device.id);
                line.put(b"\nmapped_blocks: ");
                line.number(device.mapped_blocks);
                line.put(b"\ntransaction: ");
                line.number(device.transaction_id);
                line.put(b"\ncreation time: ");
                line.number(device.creation_time.into());
                line.put(b"\nsnap time: ");
                line.number(device.snapshotted_time.into());
                line.put(b"\n");
            }
            Section::Def(name) => {
                line.put(b"def: ");
                line.number((*name).into());
                line.put(b"\n");
            }
        });
    }

    fn resume(&mut self, _section: &Section) {}

    #[inline]
    fn run(&mut self, run: &Run, out: &mut Text) {
        // The runs come from 64-bit keys, so that the last block is in range.
        let last = run.length_blocks - 1;
        out.line(|line| {
            if last == 0 && !NEWER {
                line.put(b"    ");
                line.number(run.virtual_begin);
                line.put(b" -> ");
                line.number(run.data_begin);
                line.put(b", ");
            } else {
                line.put(b"    (");
                line.number(run.virtual_begin);
                line.put(b"..");
                line.number(run.virtual_begin + last);
                line.put(b") -> (");
                line.number(run.data_begin);
                line.put(b"..");
                line.number(run.data_begin + last);
                line.put(b"), ");
            }
            line.number(run.time.into());
            line.put(b"\n");
        });
    }

    fn reference(&mut self, name: u32, out: &mut Text) {
        out.line(|line| {
            line.put(b"    ref: ");
            line.number(name.into());
            line.put(b"\n");
        });
    }

    fn close(&mut self, _section: &Section, out: &mut Text) {
        out.line(|line| line.put(b"\n"));
    }

    fn end(&mut self, out: &mut Text) {
        out.line(|line| line.put(b"end superblock\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::sample;
    use super::*;

    #[test]
    fn the_words_are_those_of_thin_dump() {
        let expected = r#"begin superblock: "", 3, 9, 1, 2, 128, 8589934592
def: 22
    0 -> 5000000000, 0

device: 7
mapped_blocks: 6
transaction: 1
creation time: 2
snap time: 3
    ref: 22
    (18446744073709551610..18446744073709551613) -> (10..13), 16777215
    18446744073709551615 -> 4, 16777215

end superblock
"#;
        assert_eq!(sample::<Human>(), expected);
        let newer = expected
            .replace(
                "    0 -> 5000000000,",
                "    (0..0) -> (5000000000..5000000000),",
            )
            .replace(
                "    18446744073709551615 -> 4,",
                "    (18446744073709551615..18446744073709551615) -> (4..4),",
            );
        assert_eq!(sample::<Human<true>>(), newer);
    }
}
