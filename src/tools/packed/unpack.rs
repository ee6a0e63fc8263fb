//! Unpacking: chunks are found first, and then written to their places by all threads.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use flate2::read::ZlibDecoder;
use zerocopy::IntoBytes;

use super::decode::{self, Input, broken};
use super::whole::Whole;
use super::{HEADER_BYTES, MAGIC, MOST_BLOCKS, MOST_PACKED, VERSION};
use crate::block::{BlockData, kind_of};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::units::BLOCK_BYTES;
use crate::walk::BlockSet;

/// Blocks that are written together: a thread's fit its core's cache.
const BATCH: usize = 64;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unpacked {
    /// Blocks of the device that was packed.
    pub metadata_blocks: u64,
    /// Blocks that were written.
    pub unpacked_blocks: u64,
    /// One past the last of them.
    pub end_block: u64,
}

/// How many blocks the device had that was packed into `file`, called `name`.
///
/// # Errors
/// [`Error::Unsupported`] for what is no such file, or of another version; [`Error::Io`].
pub fn packed_blocks(file: &File, name: &Path) -> Result<u64> {
    let unsupported = |reason: String| Error::Unsupported {
        path: name.to_owned(),
        reason,
    };
    let mut header = [0; HEADER_BYTES];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(unsupported(
                "it is too short for packed metadata".to_owned(),
            ));
        }
        Err(error) => return Err(Error::io(name, Some(0), error)),
    }
    let mut words = header.chunks_exact(8);
    let mut word = || {
        let bytes = words.next().and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_le_bytes)
    };
    let [magic, version, block_bytes, blocks] = [word(), word(), word(), word()];
    if magic != MAGIC {
        return Err(unsupported(
            "it does not begin as packed metadata do".to_owned(),
        ));
    }
    if version != VERSION || block_bytes != BLOCK_BYTES as u64 {
        return Err(unsupported(format!(
            "metadata packed in version {version}, in blocks of {block_bytes} bytes: version \
             {VERSION} and blocks of {BLOCK_BYTES} bytes are known"
        )));
    }
    if blocks == 0 || blocks > MOST_BLOCKS {
        return Err(unsupported(format!(
            "it says that the metadata had {blocks} blocks: they have 1 to {MOST_BLOCKS}"
        )));
    }
    Ok(blocks)
}

/// A chunk's compressed bytes in the file.
#[derive(Clone, Copy)]
struct Place {
    begin: u64,
    length: u64,
}

/// Unpacks `file`, called `name`, to `target`, which is as large as the device was that was
/// packed. Places of blocks that are not in there are left as they are.
///
/// # Errors
/// As [`packed_blocks`]; [`Error::Stream`] for damage, which says where; then `target` is
/// of no use. [`Error::Io`]; [`Error::Interrupted`].
pub fn unpack(file: &File, name: &Path, target: &dyn Device, task: &Task<'_>) -> Result<Unpacked> {
    let metadata_blocks = packed_blocks(file, name)?;
    let places = find_chunks(file, name, metadata_blocks.min(MOST_PACKED))?;
    task.expect(places.iter().map(|place| place.length).sum());
    let there = There {
        blocks: Mutex::new(BlockSet::new(metadata_blocks)),
        limit: metadata_blocks,
        count: AtomicU64::new(0),
    };
    let workers = task.share_out(
        places.len(),
        || Worker::new(target, &there),
        |worker, thread, job| {
            let place = places[job];
            let done = worker.chunk(file, place, || task.step(thread, 0));
            done.map_err(|error| placed(error, name, place.begin, job + 1))?;
            task.step(thread, place.length)
        },
    )?;
    Ok(Unpacked {
        metadata_blocks,
        unpacked_blocks: there.count.load(Ordering::Relaxed),
        end_block: workers.iter().map(|worker| worker.end).max().unwrap_or(0),
    })
}

/// An error of a chunk, with its place in the file.
fn placed(error: Error, name: &Path, begin: u64, number: usize) -> Error {
    match error {
        Error::Stream(text) => {
            let path = name.display();
            Error::Stream(format!("{path}, chunk {number} at byte {begin}: {text}"))
        }
        Error::Io { path, source, .. } if path == Path::new(decode::INPUT) => {
            Error::io(name, Some(begin), source)
        }
        other => other,
    }
}

/// Goes from one chunk's length to the next, up to the end or to zeros: a device is longer
/// than what is packed on it.
fn find_chunks(file: &File, name: &Path, most: u64) -> Result<Vec<Place>> {
    let failed = |at| move |source| Error::io(name, at, source);
    let mut reader = file;
    let size = reader.seek(SeekFrom::End(0)).map_err(failed(None))?;
    let is_file = file.metadata().map_err(failed(None))?.is_file();
    let mut places = Vec::new();
    let mut at = HEADER_BYTES as u64;
    while at < size {
        let mut length = [0; 8];
        let here = &mut length[..usize::try_from(size - at).unwrap_or(8).min(8)];
        file.read_exact_at(here, at).map_err(failed(Some(at)))?;
        let is_cut = here.len() < 8;
        let length = u64::from_le_bytes(length);
        if length == 0 {
            if is_file && !is_zero_from(file, at, size).map_err(failed(Some(at)))? {
                return Err(broken_at(name, at, "zeros, and something behind them"));
            }
            break;
        }
        let end = (at + 8).checked_add(length);
        let Some(end) = end.filter(|end| !is_cut && *end <= size) else {
            return Err(broken_at(name, at, "they are cut off"));
        };
        // A chunk has a block at least.
        if places.len() as u64 == most {
            return Err(broken_at(
                name,
                at,
                "more chunks than the metadata had blocks",
            ));
        }
        let begin = at + 8;
        places.push(Place { begin, length });
        at = end;
    }
    Ok(places)
}

fn is_zero_from(file: &File, mut at: u64, size: u64) -> std::io::Result<bool> {
    let mut buffer = vec![0; 1 << 16];
    while at < size {
        let rest = usize::try_from(size - at).unwrap_or(usize::MAX);
        let part = &mut buffer[..rest.min(1 << 16)];
        file.read_exact_at(part, at)?;
        if part.iter().any(|byte| *byte != 0) {
            return Ok(false);
        }
        at += part.len() as u64;
    }
    Ok(true)
}

fn broken_at(name: &Path, at: u64, what: &str) -> Error {
    let path = name.display();
    Error::Stream(format!(
        "{path}, chunk at byte {at}: packed metadata are damaged: {what}"
    ))
}

/// What was found so far, by all threads.
struct There {
    blocks: Mutex<BlockSet>,
    limit: u64,
    count: AtomicU64,
}

impl There {
    /// Takes note of a block that may be there, and is not there yet: or a small file would
    /// be written for ever.
    fn add(&self, at: u64) -> Result<()> {
        if at >= self.limit {
            return Err(broken(&format!("block {at} of {}", self.limit)));
        }
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if !blocks.insert(at) {
            return Err(broken(&format!("block {at} comes twice")));
        }
        drop(blocks);
        if self.count.fetch_add(1, Ordering::Relaxed) >= MOST_PACKED {
            return Err(broken("more blocks than metadata have"));
        }
        Ok(())
    }
}

/// Bytes of a file from a place on, for one of several threads.
struct Section<'f> {
    file: &'f File,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let rest = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let length = buffer.len().min(rest);
        let read = self.file.read_at(&mut buffer[..length], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

struct Worker<'d> {
    target: &'d dyn Device,
    there: &'d There,
    whole: Whole,
    /// Blocks side by side that are not written yet, and how many there are.
    batch: Vec<BlockData>,
    begin: u64,
    filled: usize,
    end: u64,
}

impl<'d> Worker<'d> {
    fn new(target: &'d dyn Device, there: &'d There) -> Self {
        Self {
            target,
            there,
            whole: Whole::new(),
            batch: BlockData::zeroed_blocks(BATCH),
            begin: 0,
            filled: 0,
            end: 0,
        }
    }

    fn chunk(
        &mut self,
        file: &File,
        place: Place,
        mut step: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        if let Some(mut input) = self.whole.inflate(file, place.begin, place.length) {
            self.blocks(&mut input, &mut step)?;
            self.whole.done(input);
            return Ok(());
        }
        let section = Section {
            file,
            at: place.begin,
            end: place.begin + place.length,
        };
        let mut input = Input::new(ZlibDecoder::new(section));
        self.blocks(&mut input, &mut step)?;
        let decoder = input.into_source();
        if decoder.total_in() != place.length {
            return Err(broken("there is something behind the end of a chunk"));
        }
        Ok(())
    }

    /// All blocks of a chunk.
    fn blocks(
        &mut self,
        input: &mut Input<impl Read>,
        step: &mut impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let mut count = 0_usize;
        while !input.is_empty()? {
            let at = input.number()?;
            self.block(at, input)?;
            count += 1;
            if count.is_multiple_of(BATCH) {
                step()?;
            }
        }
        self.write()?;
        if count == 0 {
            return Err(broken("a chunk without a block"));
        }
        Ok(())
    }

    fn block(&mut self, at: u64, input: &mut Input<impl Read>) -> Result<()> {
        self.there.add(at)?;
        if self.filled == BATCH || at != self.begin + self.filled as u64 {
            self.write()?;
            self.begin = at;
        }
        let block = &mut self.batch[self.filled];
        decode::block(input, block)?;
        if kind_of(block).is_none() {
            return Err(broken(&format!(
                "block {at} has the checksum of no metadata"
            )));
        }
        self.filled += 1;
        self.end = self.end.max(at + 1);
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let bytes = self.batch[..self.filled].as_bytes();
        if !bytes.is_empty() {
            let offset = self.begin * BLOCK_BYTES as u64;
            self.target.write_all_at(bytes, offset)?;
        }
        self.filled = 0;
        Ok(())
    }
}
