//! Bytes of the XML, and where in it they are.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::Error;

/// What is read at once.
const BUFFER_BYTES: usize = 256 << 10;
/// The most bytes from one `<` to its `>`: nothing in a dump comes near it, and they
/// are kept in memory.
const MARKUP_BYTES: u64 = 1 << 20;
/// How long to wait for a pipe before asking whether to stop.
const PATIENCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 50_000_000,
};

/// A place in the XML, both from 1 on; columns are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    pub line: u64,
    pub column: u64,
}

pub(super) struct Input<'s> {
    file: File,
    name: PathBuf,
    stop: &'s AtomicBool,
    /// A pipe or a terminal, which may let one wait.
    waits: bool,
    buffer: Box<[u8]>,
    begin: usize,
    end: usize,
    /// Bytes that were consumed, and how many of them before the present line.
    offset: u64,
    line_offset: u64,
    line: u64,
    /// Where the present markup began.
    mark: u64,
}

impl<'s> Input<'s> {
    pub fn new(file: File, name: &Path, stop: &'s AtomicBool) -> Self {
        let waits = !file.metadata().is_ok_and(|metadata| metadata.is_file());
        Self {
            file,
            name: name.to_owned(),
            stop,
            waits,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            begin: 0,
            end: 0,
            offset: 0,
            line_offset: 0,
            line: 1,
            mark: 0,
        }
    }

    /// Bytes that were consumed.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn position(&self) -> Position {
        self.position_after(0)
    }

    /// The place so many bytes from here on, all of which are in the buffer.
    pub fn position_after(&self, bytes: usize) -> Position {
        let passed = &self.buffer[self.begin..self.end.min(self.begin + bytes)];
        let lines = memchr::memchr_iter(b'\n', passed).count() as u64;
        let column = match memchr::memrchr(b'\n', passed) {
            Some(last) => passed.len() - last - 1,
            None => usize::try_from(self.offset - self.line_offset).unwrap_or(0) + passed.len(),
        };
        Position {
            line: self.line + lines,
            column: column as u64 + 1,
        }
    }

    /// A markup begins here.
    pub fn mark(&mut self) {
        self.mark = self.offset;
    }

    /// Something is wrong at a place.
    pub fn error(&self, at: Position, reason: impl Into<String>) -> Error {
        Error::Xml {
            path: self.name.clone(),
            line: at.line,
            column: at.column,
            reason: reason.into(),
        }
    }

    /// Reading failed.
    pub fn io_error(&self, source: io::Error) -> Error {
        Error::io(&self.name, Some(self.offset), source)
    }

    /// Waits until there is something to read, or nobody wants it any more.
    fn wait(&self) -> io::Result<()> {
        if !self.waits {
            return Ok(());
        }
        loop {
            let mut ready = [PollFd::new(&self.file, PollFlags::IN)];
            match poll(&mut ready, Some(&PATIENCE)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
            if self.stop.load(Ordering::Relaxed) {
                return Err(io::Error::other("stopped"));
            }
        }
    }
}

impl Read for Input<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let filled = self.fill_buf()?;
        let count = filled.len().min(out.len());
        out[..count].copy_from_slice(&filled[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for Input<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.begin == self.end {
            if self.offset - self.mark > MARKUP_BYTES {
                let text = format!("more than {MARKUP_BYTES} bytes without an end of markup");
                return Err(io::Error::new(ErrorKind::FileTooLarge, text));
            }
            self.wait()?;
            match self.file.read(&mut self.buffer) {
                Ok(count) => {
                    (self.begin, self.end) = (0, count);
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&self.buffer[self.begin..self.end])
    }

    fn consume(&mut self, count: usize) {
        let at = self.position_after(count);
        let count = count.min(self.end - self.begin);
        self.begin += count;
        self.offset += count as u64;
        self.line = at.line;
        self.line_offset = self.offset - (at.column - 1);
    }
}
