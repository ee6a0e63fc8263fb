//! Runs as few bytes, and back.
//!
//! Each run is four numbers, as LEB128: blocks since the end of the run before, length, where
//! its data begins relative to the end of the data of the run before (zigzag), and how its
//! time differs from the one before (zigzag). All of them go through zstd.

use std::io::{self, ErrorKind, Read, Write};

use crate::error::{Error, Result};
use crate::thin::{MAX_TIME, Run};

/// One past the last data block that a mapping can hold.
const DATA_BLOCKS: u64 = 1 << 40;

/// What the numbers are relative to.
#[derive(Clone, Copy, Default)]
struct Before {
    virtual_end: u64,
    data_end: u64,
    time: u32,
}

impl Before {
    fn after(run: &Run) -> Self {
        Self {
            // A mapping of block 2^64 - 1 is the last one.
            virtual_end: run.virtual_begin.saturating_add(run.length_blocks),
            data_end: run.data_begin + run.length_blocks,
            time: run.time,
        }
    }
}

/// Writes runs, which have to come in ascending order.
pub(super) struct RunWriter<W> {
    out: W,
    before: Before,
}

impl<W: Write> RunWriter<W> {
    pub fn new(out: W) -> Self {
        Self {
            out,
            before: Before::default(),
        }
    }

    pub fn push(&mut self, run: &Run) -> io::Result<()> {
        let mut bytes = [0; 40];
        let mut length = 0;
        let data = zigzag(run.data_begin.cast_signed() - self.before.data_end.cast_signed());
        let time = zigzag(i64::from(run.time) - i64::from(self.before.time));
        let gap = run.virtual_begin - self.before.virtual_end;
        for mut number in [gap, run.length_blocks, data, time] {
            loop {
                let low = (number & 0x7f) as u8;
                number >>= 7;
                bytes[length] = if number > 0 { low | 0x80 } else { low };
                length += 1;
                if number == 0 {
                    break;
                }
            }
        }
        self.before = Before::after(run);
        self.out.write_all(&bytes[..length])
    }

    pub fn into_inner(self) -> W {
        self.out
    }
}

/// Reads runs back; whatever the bytes are, runs ascend and hold only numbers that can be.
pub struct SavedRuns {
    from: Box<dyn Read + Send>,
    before: Before,
    left: u64,
}

impl SavedRuns {
    pub(super) fn new(from: Box<dyn Read + Send>, runs: u64) -> Self {
        Self {
            from,
            before: Before::default(),
            left: runs,
        }
    }

    /// The next run; `None` at the end.
    ///
    /// # Errors
    /// [`Error::Stream`] for bytes that are no runs.
    pub fn next_run(&mut self) -> Result<Option<Run>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let [gap, length_blocks, data, time] = [
            self.number()?,
            self.number()?,
            self.number()?,
            self.number()?,
        ];
        let bad = || Error::Stream("damaged bookmark: a run that cannot be".to_owned());
        let virtual_begin = self.before.virtual_end.checked_add(gap).ok_or_else(bad)?;
        let data_begin = self.before.data_end.checked_add_signed(unzigzag(data));
        let data_begin = data_begin.ok_or_else(bad)?;
        let time = i64::from(self.before.time).checked_add(unzigzag(time));
        let time = time
            .and_then(|time| u32::try_from(time).ok())
            .ok_or_else(bad)?;
        let data_end = data_begin.checked_add(length_blocks).ok_or_else(bad)?;
        let virtual_end = virtual_begin.checked_add(length_blocks);
        if length_blocks == 0 || data_end > DATA_BLOCKS || time > MAX_TIME || virtual_end.is_none()
        {
            return Err(bad());
        }
        let run = Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time,
        };
        self.before = Before::after(&run);
        Ok(Some(run))
    }

    /// Whether nothing follows the last run.
    pub(super) fn at_end(&mut self) -> Result<bool> {
        let mut byte = [0];
        Ok(self.left == 0 && self.from.read(&mut byte).map_err(broken)? == 0)
    }

    fn number(&mut self) -> Result<u64> {
        let mut number = 0_u64;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.from.read_exact(&mut byte).map_err(broken)?;
            let low = u64::from(byte[0] & 0x7f);
            if low << shift >> shift != low {
                break;
            }
            number |= low << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(number);
            }
        }
        let text = "damaged bookmark: a number of more than 64 bits";
        Err(Error::Stream(text.to_owned()))
    }
}

fn broken(error: io::Error) -> Error {
    let what = match error.kind() {
        ErrorKind::UnexpectedEof => "it ends early".to_owned(),
        _ => error.to_string(),
    };
    Error::Stream(format!("damaged bookmark: {what}"))
}

fn zigzag(number: i64) -> u64 {
    (number << 1 ^ number >> 63).cast_unsigned()
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1).cast_signed() ^ -(number & 1).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn saved(runs: &[Run]) -> Vec<u8> {
        let mut writer = RunWriter::new(Vec::new());
        for run in runs {
            writer.push(run).unwrap();
        }
        writer.into_inner()
    }

    #[test]
    fn runs_come_back() {
        let mut random = Random::new(4);
        let mut runs = Vec::new();
        let mut at = 0;
        for index in 0..1000 {
            let length_blocks = 1 + random.next() % 100;
            at += random.next() % 5 + u64::from(index % 100 == 0) * (1 << 40);
            runs.push(Run {
                virtual_begin: at,
                data_begin: random.next() % (DATA_BLOCKS - 100),
                length_blocks,
                time: u32::try_from(random.next() % 1000).unwrap(),
            });
            at += length_blocks;
        }
        let bytes = saved(&runs);
        let mut back = SavedRuns::new(Box::new(io::Cursor::new(bytes)), 1000);
        for run in &runs {
            assert_eq!(back.next_run().unwrap().as_ref(), Some(run));
        }
        assert!(back.at_end().unwrap());
        assert!(back.next_run().unwrap().is_none());
    }

    #[test]
    fn rubbish_gives_errors_or_runs_that_ascend() {
        let mut random = Random::new(9);
        for _ in 0..10_000 {
            let bytes: Vec<u8> = (0..40).map(|_| random.next().to_le_bytes()[0]).collect();
            let mut runs = SavedRuns::new(Box::new(io::Cursor::new(bytes)), 100);
            let mut end = 0;
            while let Ok(Some(run)) = runs.next_run() {
                assert!(run.virtual_begin >= end && run.length_blocks > 0);
                end = run.virtual_begin + run.length_blocks;
                assert!(run.data_begin + run.length_blocks <= DATA_BLOCKS);
            }
        }
    }
}
