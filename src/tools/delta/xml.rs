//! The XML of `thin_delta` 1.1.0, to the byte.

use std::io::Write;

use super::table::{Delta, Kind, Row};
use crate::error::{Error, Result};
use crate::thin::Pool;
use crate::tools::dump::{Header, Line, Text};
use crate::units::BlockNr;

/// What is written at once, about.
const CHUNK_BYTES: usize = 1 << 20;

/// How a side of a comparison was named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// By a device's id.
    Device(u64),
    /// By the root of a tree of mappings.
    Root(BlockNr),
}

/// Writes a comparison of two volumes of `pool`, which has to list what is the same.
///
/// Ranges of one kind that follow each other are joined wherever their data lie. With
/// `verbose`, each tells the data block of its first block: as `thin_delta` 1.1.0 does,
/// and unlike 0.9.0, which begins a new range where the data block does not follow.
///
/// # Errors
/// [`Error::Io`] at the path `<output>` for what `out` reports.
pub(super) fn write_xml(
    delta: &Delta,
    pool: &Pool,
    sides: [Named; 2],
    verbose: bool,
    out: &mut dyn Write,
) -> Result<()> {
    let mut words = Words {
        text: Text::default(),
        verbose,
        group: None,
        out,
    };
    words.begin(&Header::of(pool), sides);
    let mut joined: Option<Row> = None;
    for row in delta.rows() {
        match &mut joined {
            // No sum that could pass 2^64: rows ascend.
            Some(last) if last.kind == row.kind && row.begin - last.begin == last.length => {
                last.length += row.length;
            }
            _ => {
                if let Some(last) = joined.replace(row) {
                    words.range(&last)?;
                }
            }
        }
    }
    if let Some(last) = joined {
        words.range(&last)?;
    }
    words.end()
}

struct Words<'o> {
    text: Text,
    verbose: bool,
    /// The kind whose ranges are being listed.
    group: Option<Kind>,
    out: &'o mut dyn Write,
}

impl Words<'_> {
    fn begin(&mut self, header: &Header, sides: [Named; 2]) {
        self.text.line(|line| {
            line.put(b"<superblock uuid=\"\" time=\"");
            line.number(header.time.into());
            line.put(b"\" transaction=\"");
            line.number(header.transaction_id);
            if header.flags != 0 {
                line.put(b"\" flags=\"");
                line.number(header.flags.into());
            }
            line.put(b"\" data_block_size=\"");
            line.number(header.data_block_size_sectors.into());
            line.put(b"\" nr_data_blocks=\"");
            line.number(header.nr_data_blocks);
            line.put(b"\">\n");
        });
        self.text.line(|line| {
            line.put(b"  <diff left");
            put_side(line, sides[0]);
            line.put(b" right");
            put_side(line, sides[1]);
            line.put(b">\n");
        });
    }

    fn range(&mut self, row: &Row) -> Result<()> {
        if self.verbose {
            self.placed(row);
        } else {
            self.text.line(|line| {
                line.put(b"    <");
                put_kind(line, row.kind);
                line.put(b" begin=\"");
                line.number(row.begin);
                line.put(b"\" length=\"");
                line.number(row.length);
                line.put(b"\"/>\n");
            });
        }
        if self.text.as_bytes().len() < CHUNK_BYTES {
            return Ok(());
        }
        self.flush()
    }

    /// A range with its place on the data device.
    fn placed(&mut self, row: &Row) {
        if self.group != Some(row.kind) {
            self.close_group();
            self.group = Some(row.kind);
            self.text.line(|line| {
                line.put(b"    <");
                put_kind(line, row.kind);
                line.put(b">\n");
            });
        }
        self.text.line(|line| {
            line.put(b"      <range begin=\"");
            line.number(row.begin);
            match (row.kind, row.left_data, row.right_data) {
                (Kind::Changed, Some(left), Some(right)) => {
                    line.put(b"\" left_data_begin=\"");
                    line.number(left);
                    line.put(b"\" right_data_begin=\"");
                    line.number(right);
                }
                (_, left, right) => {
                    line.put(b"\" data_begin=\"");
                    line.number(left.or(right).unwrap_or_default());
                }
            }
            line.put(b"\" length=\"");
            line.number(row.length);
            line.put(b"\"/>\n");
        });
    }

    fn close_group(&mut self) {
        if let Some(kind) = self.group.take() {
            self.text.line(|line| {
                line.put(b"    </");
                put_kind(line, kind);
                line.put(b">\n");
            });
        }
    }

    fn end(mut self) -> Result<()> {
        self.close_group();
        self.text.line(|line| line.put(b"  </diff>\n</superblock>"));
        self.flush()?;
        self.out.flush().map_err(failed)
    }

    fn flush(&mut self) -> Result<()> {
        let answer = self.out.write_all(self.text.as_bytes()).map_err(failed);
        self.text.clear();
        answer
    }
}

fn put_side(line: &mut Line<'_>, side: Named) {
    match side {
        Named::Device(id) => {
            line.put(b"=\"");
            line.number(id);
        }
        Named::Root(root) => {
            line.put(b"_root=\"");
            line.number(root.0);
        }
    }
    line.put(b"\"");
}

fn put_kind(line: &mut Line<'_>, kind: Kind) {
    match kind {
        Kind::Changed => line.put(b"different"),
        Kind::LeftOnly => line.put(b"left_only"),
        Kind::RightOnly => line.put(b"right_only"),
        Kind::Same => line.put(b"same"),
    }
}

fn failed(source: std::io::Error) -> Error {
    Error::io("<output>", None, source)
}
