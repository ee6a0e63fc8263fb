//! Packing: blocks are read, made into instructions and compressed, by all threads.

use std::io::Write;
use std::sync::Arc;

use flate2::{Compress, Compression, FlushCompress, Status};

use super::{HEADER_BYTES, MAGIC, MOST_BLOCKS, VERSION, encode};
use crate::block::kind_of;
use crate::device::{AlignedBuffer, Device};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::units::BLOCK_BYTES;
use crate::walk::Reader;

/// Blocks that are compressed together.
const CHUNK_BLOCKS: usize = 1024;
/// Chunks for each thread between two writes.
const CHUNKS_A_THREAD: usize = 2;
/// As zlib counts levels: what 1.x takes.
const LEVEL: u32 = 6;

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Blocks of the device.
    pub metadata_blocks: u64,
    /// Blocks that were packed.
    pub packed_blocks: u64,
    /// Blocks that are not zeros and whose checksum is that of no kind of metadata: they are
    /// not in there.
    pub left_out_blocks: u64,
    /// Bytes of the result.
    pub packed_bytes: u64,
}

/// Packs what is on `device` into `out`.
///
/// # Errors
/// [`Error::Usage`] for a device that is empty or larger than any metadata; [`Error::Io`] at
/// the path `<output>` for what `out` reports; [`Error::Interrupted`].
pub fn pack(device: &Arc<dyn Device>, out: &mut dyn Write, task: &Task<'_>) -> Result<Packed> {
    let metadata_blocks = device.current_size_bytes()? / BLOCK_BYTES as u64;
    if metadata_blocks == 0 || metadata_blocks > MOST_BLOCKS {
        let path = device.path().display();
        return Err(Error::usage(format!(
            "{path} has {metadata_blocks} blocks of {BLOCK_BYTES} bytes: metadata have 1 to \
             {MOST_BLOCKS}"
        )));
    }
    let mut packed = Packed {
        metadata_blocks,
        packed_bytes: HEADER_BYTES as u64,
        ..Packed::default()
    };
    for word in [MAGIC, VERSION, BLOCK_BYTES as u64, metadata_blocks] {
        write(out, &word.to_le_bytes())?;
    }
    let reader = Reader::new(&**device, false);
    let mut blocks = Blocks::new(&**device, metadata_blocks);
    let round = CHUNK_BLOCKS * CHUNKS_A_THREAD * task.threads();
    loop {
        let now = blocks.next(round);
        if now.is_empty() {
            return Ok(packed);
        }
        task.expect(now.len() as u64);
        let jobs: Vec<&[u32]> = now.chunks(CHUNK_BLOCKS).collect();
        let workers = task.share_out(jobs.len(), Worker::new, |worker, thread, job| {
            worker.pack(job, &reader, jobs[job])?;
            task.step(thread, jobs[job].len() as u64)
        })?;
        let mut chunks: Vec<Chunk> = workers.into_iter().flat_map(|worker| worker.done).collect();
        chunks.sort_unstable_by_key(|chunk| chunk.job);
        for chunk in chunks {
            packed.packed_blocks += chunk.packed;
            packed.left_out_blocks += chunk.left_out;
            if chunk.packed > 0 {
                write(out, &(chunk.bytes.len() as u64).to_le_bytes())?;
                write(out, &chunk.bytes)?;
                packed.packed_bytes += 8 + chunk.bytes.len() as u64;
            }
        }
    }
}

fn write(out: &mut dyn Write, bytes: &[u8]) -> Result<()> {
    let written = out.write_all(bytes);
    written.map_err(|source| Error::io("<output>", None, source))
}

/// The blocks of a device that are no holes, some at a time.
struct Blocks<'d> {
    device: &'d dyn Device,
    /// Where to look for more.
    at: u64,
    /// What was found, and is still to be given out.
    found: std::ops::Range<u64>,
    limit: u64,
}

impl<'d> Blocks<'d> {
    fn new(device: &'d dyn Device, limit: u64) -> Self {
        Self {
            device,
            at: 0,
            found: 0..0,
            limit,
        }
    }

    fn next(&mut self, most: usize) -> Vec<u32> {
        let mut blocks = Vec::new();
        while blocks.len() < most {
            if self.found.is_empty() {
                let Some(data) = self.device.next_data(self.at) else {
                    break;
                };
                self.at = data.end.max(self.at + 1);
                let begin = (data.start / BLOCK_BYTES as u64).max(self.found.end);
                let end = data.end.div_ceil(BLOCK_BYTES as u64).min(self.limit);
                self.found = begin..end.max(begin);
                continue;
            }
            let room = (most - blocks.len()) as u64;
            let end = self.found.end.min(self.found.start + room);
            let numbers = (self.found.start..end).filter_map(|block| u32::try_from(block).ok());
            blocks.extend(numbers);
            self.found.start = end;
        }
        blocks
    }
}

/// Blocks that were compressed together.
struct Chunk {
    job: usize,
    packed: u64,
    left_out: u64,
    bytes: Vec<u8>,
}

struct Worker {
    window: AlignedBuffer,
    plain: Vec<u8>,
    compress: Compress,
    done: Vec<Chunk>,
}

impl Worker {
    fn new() -> Self {
        Self {
            window: AlignedBuffer::new(0),
            plain: Vec::new(),
            compress: Compress::new(Compression::new(LEVEL), true),
            done: Vec::new(),
        }
    }

    fn pack(&mut self, job: usize, reader: &Reader<'_>, blocks: &[u32]) -> Result<()> {
        let (plain, mut packed, mut left_out) = (&mut self.plain, 0, 0);
        plain.clear();
        reader.read(blocks, "metadata", &mut self.window, |place, block| {
            match block.ok().map(|block| (block, kind_of(block))) {
                Some((block, Some((kind, _)))) => {
                    encode::block(blocks[place].into(), kind, block, plain);
                    packed += 1;
                }
                Some((block, None)) => {
                    left_out += u64::from(block.bytes().iter().any(|byte| *byte != 0));
                }
                None => left_out += 1,
            }
            Ok(())
        })?;
        let bytes = self.compress()?;
        self.done.push(Chunk {
            job,
            packed,
            left_out,
            bytes,
        });
        Ok(())
    }

    fn compress(&mut self) -> Result<Vec<u8>> {
        self.compress.reset();
        let mut out = Vec::with_capacity(self.plain.len() / 2 + 1024);
        loop {
            let done = usize::try_from(self.compress.total_in()).unwrap_or(usize::MAX);
            let rest = self.plain.get(done..).unwrap_or_default();
            let answer = self
                .compress
                .compress_vec(rest, &mut out, FlushCompress::Finish);
            match answer {
                Ok(Status::StreamEnd) => return Ok(out),
                Ok(_) => out.reserve(out.len().max(1024)),
                Err(error) => return Err(Error::usage(format!("zlib: {error}"))),
            }
        }
    }
}
