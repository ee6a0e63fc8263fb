//! Writing a volume out as a raw image.
//!
//! A regular file becomes sparse: what is not mapped or is all zero is not
//! written. Anything else (a pipe, a block device) is written from front to end.
//! The calling thread reads and writes, a second one hashes; a few chunks pass
//! between them, so that memory does not depend on the volume.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use rustix::fs::{OFlags, fcntl_getfl};
use sha2::{Digest, Sha256};

use crate::device::AlignedBuffer;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Extent, Volume};

/// What is read, written and hashed at once.
const CHUNK_BYTES: usize = 1 << 20;
/// Zeros that are hashed between two reports to the task.
const ZEROS_PER_STEP: u64 = 16 << 20;
/// Chunks that may wait for the hash.
const CHUNKS_AHEAD: usize = 4;
/// What a sparse file leaves out is counted in these.
const PAGE_BYTES: usize = 4096;

static ZEROS: [u8; CHUNK_BYTES] = [0; CHUNK_BYTES];

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extracted {
    /// Of the whole content, holes included, in hexadecimal.
    pub sha256: String,
    /// Size of the volume.
    pub size_bytes: u64,
    /// Bytes of it that are mapped.
    pub mapped_bytes: u64,
}

/// Writes the content of `volume` to `out`. A regular file is emptied first.
///
/// # Errors
/// [`Error::Damaged`], [`Error::Io`], [`Error::Unsupported`] as
/// [`Volume::read_at`]; [`Error::Io`] at the path `<output>` for what `out` reports.
pub fn extract(volume: &Volume, out: &File, task: &Task<'_>) -> Result<Extracted> {
    task.expect(volume.size_bytes());
    let sink = Sink::new(out, volume.size_bytes(), task)?;
    let (pieces, to_hash) = sync_channel(CHUNKS_AHEAD);
    let (empty, recycled) = channel();
    let (mapped_bytes, sha256) = thread::scope(|scope| {
        let hasher = scope.spawn(move || hash(&to_hash, &empty));
        let copier = Copier {
            volume,
            task,
            sink,
            chunk: AlignedBuffer::new(CHUNK_BYTES),
            filled: 0,
            pieces,
            recycled,
            mapped_bytes: 0,
        };
        // Whatever comes of it, the hasher ends with the sender.
        let copied = copier.run();
        match hasher.join() {
            Ok(sha256) => copied.map(|mapped| (mapped, sha256)),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })?;
    volume.confirm()?;
    Ok(Extracted {
        sha256,
        size_bytes: volume.size_bytes(),
        mapped_bytes,
    })
}

/// What comes next in the content.
enum Piece {
    Bytes(AlignedBuffer, usize),
    Zeros(u64),
}

fn hash(pieces: &Receiver<Piece>, empty: &Sender<AlignedBuffer>) -> String {
    let mut sha256 = Sha256::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(buffer, length) => {
                sha256.update(&buffer.as_bytes()[..length]);
                // The copier may be done.
                let _ = empty.send(buffer);
            }
            Piece::Zeros(length) => each_zeros(length, |zeros| sha256.update(zeros)),
        }
    }
    let digest = sha256.finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn each_zeros(mut length: u64, mut each: impl FnMut(&[u8])) {
    while length > 0 {
        let take = length.min(CHUNK_BYTES as u64);
        each(&ZEROS[..usize::try_from(take).unwrap_or(CHUNK_BYTES)]);
        length -= take;
    }
}

/// Reads extents into chunks and passes them on.
struct Copier<'c> {
    volume: &'c Volume,
    task: &'c Task<'c>,
    sink: Sink<'c>,
    chunk: AlignedBuffer,
    filled: usize,
    pieces: SyncSender<Piece>,
    recycled: Receiver<AlignedBuffer>,
    mapped_bytes: u64,
}

impl Copier<'_> {
    /// Copies everything, and says how much of it is mapped.
    fn run(mut self) -> Result<u64> {
        let mut extents = self.volume.extents(0..self.volume.size_bytes());
        while let Some(extent) = extents.next_extent()? {
            if extent.data_offset_bytes.is_some() {
                self.mapped_bytes += extent.bytes.end - extent.bytes.start;
            } else if !self.volume.has_external_origin() {
                self.hole(extent.bytes.end - extent.bytes.start)?;
                continue;
            }
            self.content(extent)?;
        }
        self.pass_on()?;
        Ok(self.mapped_bytes)
    }

    fn content(&mut self, mut rest: Extent) -> Result<()> {
        while !rest.bytes.is_empty() {
            let room = CHUNK_BYTES - self.filled;
            let left = usize::try_from(rest.bytes.end - rest.bytes.start).unwrap_or(usize::MAX);
            let take = left.min(room);
            let middle = rest.bytes.start + take as u64;
            let now = Extent {
                bytes: rest.bytes.start..middle,
                data_offset_bytes: rest.data_offset_bytes,
            };
            let into = &mut self.chunk.as_mut_bytes()[self.filled..self.filled + take];
            self.volume.read_extent(&now, into)?;
            self.filled += take;
            if self.filled == CHUNK_BYTES {
                self.pass_on()?;
            }
            rest.bytes.start = middle;
            rest.data_offset_bytes = rest.data_offset_bytes.map(|offset| offset + take as u64);
        }
        Ok(())
    }

    fn hole(&mut self, mut length: u64) -> Result<()> {
        self.pass_on()?;
        while length > 0 {
            let take = length.min(ZEROS_PER_STEP);
            self.sink.zeros(take)?;
            self.send(Piece::Zeros(take));
            self.task.step(0, take)?;
            length -= take;
        }
        Ok(())
    }

    /// Writes the chunk at hand and leaves it to the hasher.
    fn pass_on(&mut self) -> Result<()> {
        let length = std::mem::take(&mut self.filled);
        if length == 0 {
            return Ok(());
        }
        self.sink.bytes(&self.chunk.as_bytes()[..length])?;
        let next = self.recycled.try_recv();
        let next = next.unwrap_or_else(|_| AlignedBuffer::new(CHUNK_BYTES));
        let full = std::mem::replace(&mut self.chunk, next);
        self.send(Piece::Bytes(full, length));
        self.task.step(0, length as u64)
    }

    fn send(&self, piece: Piece) {
        // Fails only if the hasher panicked, which joining it reports.
        let _ = self.pieces.send(piece);
    }
}

/// Where the content goes.
struct Sink<'s> {
    out: &'s File,
    task: &'s Task<'s>,
    /// The place to write at, in a file that may have holes; `None` for what
    /// takes bytes only one after the other.
    sparse_at: Option<u64>,
}

impl<'s> Sink<'s> {
    fn new(out: &'s File, size_bytes: u64, task: &'s Task<'s>) -> Result<Self> {
        let regular = out.metadata().map_err(failed)?.is_file();
        let flags = fcntl_getfl(out).map_err(|errno| failed(errno.into()))?;
        // In append mode the system ignores where a write is meant to go.
        let sparse = regular && !flags.contains(OFlags::APPEND);
        if sparse {
            out.set_len(0).map_err(failed)?;
            out.set_len(size_bytes).map_err(failed)?;
        }
        Ok(Self {
            out,
            task,
            sparse_at: sparse.then_some(0),
        })
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(at) = &mut self.sparse_at else {
            return self.write(bytes, None);
        };
        let begin = *at;
        *at += bytes.len() as u64;
        let is_zero = |page: &[u8]| *page == ZEROS[..page.len()];
        let mut pages = bytes.chunks(PAGE_BYTES).map(is_zero).enumerate().peekable();
        while let Some((first, zero)) = pages.next() {
            let mut end = first + 1;
            while pages.next_if(|(_, other)| *other == zero).is_some() {
                end += 1;
            }
            if !zero {
                let skip = first * PAGE_BYTES;
                let stretch = &bytes[skip..bytes.len().min(end * PAGE_BYTES)];
                self.write(stretch, Some(begin + skip as u64))?;
            }
        }
        Ok(())
    }

    fn zeros(&mut self, length: u64) -> Result<()> {
        if let Some(at) = &mut self.sparse_at {
            *at += length;
            return Ok(());
        }
        let mut answer = Ok(());
        each_zeros(length, |zeros| {
            if answer.is_ok() {
                answer = self.write(zeros, None);
            }
        });
        answer
    }

    /// A signal ends a write to a full pipe, early or with nothing written; whoever
    /// watches is asked then, since nobody knows when there will be room again.
    fn write(&self, mut bytes: &[u8], mut at: Option<u64>) -> Result<()> {
        while !bytes.is_empty() {
            let mut out = self.out;
            let written = match at {
                Some(at) => out.write_at(bytes, at),
                None => out.write(bytes),
            };
            let count = match written {
                Ok(0) => return Err(failed(io::Error::from(ErrorKind::WriteZero))),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => 0,
                Err(error) => return Err(failed(error)),
            };
            bytes = &bytes[count..];
            at = at.map(|at| at + count as u64);
            if !bytes.is_empty() {
                self.task.ask()?;
            }
        }
        Ok(())
    }
}

fn failed(source: io::Error) -> Error {
    Error::io("<output>", None, source)
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::MetadataExt;
    use std::sync::Arc;

    use super::*;
    use crate::device::{Device, MemoryDevice};
    use crate::task::Monitor;
    use crate::testing::{PoolBuilder, Random, mapping};
    use crate::thin::{OpenOptions, Pool, VolumeOptions};

    const BLOCK: usize = 64 << 10;

    /// Blocks 0 and 1 in one run, a hole, block 3 half zero, block 5 all zero, a
    /// far one; the volume ends inside a block.
    fn volume(external_origin: Option<Vec<u8>>) -> Volume {
        let mut builder = PoolBuilder::new(8);
        let places = [(0, 4), (1, 5), (3, 1), (5, 2), (400, 0)];
        let entries = places.map(|(block, data)| (block, mapping(data, 0)));
        let root = builder.tree(&entries, 3);
        builder.device(1, root);
        let mut random = Random::new(3);
        let mut data: Vec<u8> = (0..8 * BLOCK)
            .map(|_| random.next().to_le_bytes()[0])
            .collect();
        data[BLOCK + BLOCK / 2..3 * BLOCK].fill(0);
        let memory = |bytes| Arc::new(MemoryDevice::new(bytes)) as Arc<dyn Device>;
        let options = OpenOptions::default();
        let pool = Pool::from_devices(memory(builder.image()), Some(memory(data)), &options);
        let device = Arc::new(pool.unwrap()).device_by_id(1).unwrap();
        let options = VolumeOptions {
            size_bytes: Some(401 * BLOCK as u64 - 1000),
            external_origin: external_origin.map(memory),
        };
        Volume::new(&device, options).unwrap()
    }

    fn content(volume: &Volume) -> Vec<u8> {
        let mut bytes = vec![1; usize::try_from(volume.size_bytes()).unwrap()];
        assert_eq!(volume.read_at(&mut bytes, 0).unwrap(), bytes.len());
        bytes
    }

    fn sha256(bytes: &[u8]) -> String {
        let digest = Sha256::digest(bytes);
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn temporary(name: &str) -> (std::path::PathBuf, File) {
        let name = format!("thinmeta-extract-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false);
        let file = file.open(&path).unwrap();
        (path, file)
    }

    #[test]
    fn a_regular_file_is_replaced_by_a_sparse_one() {
        for origin in [None, Some(vec![7; 2 * BLOCK + 100])] {
            let volume = volume(origin);
            let (path, mut file) = temporary("sparse");
            file.write_all(&vec![9; 3 * BLOCK]).unwrap();
            let extracted = extract(&volume, &file, &Task::default()).unwrap();
            let expected = content(&volume);
            assert!(std::fs::read(&path).unwrap() == expected);
            assert_eq!(extracted.sha256, sha256(&expected));
            assert_eq!(extracted.size_bytes, expected.len() as u64);
            assert_eq!(extracted.mapped_bytes, 5 * BLOCK as u64 - 1000);
            let stored = file.metadata().unwrap().blocks() * 512;
            assert!(stored < 10 * BLOCK as u64, "{stored}");
            std::fs::remove_file(path).unwrap();
        }
    }

    #[test]
    fn a_pipe_and_an_appended_file_get_every_byte() {
        let volume = volume(None);
        let expected = content(&volume);
        let (mut reader, writer) = io::pipe().unwrap();
        let got = thread::spawn(move || {
            let mut bytes = Vec::new();
            reader.read_to_end(&mut bytes).map(|_| bytes)
        });
        let out = File::from(OwnedFd::from(writer));
        let extracted = extract(&volume, &out, &Task::default()).unwrap();
        drop(out);
        assert!(got.join().unwrap().unwrap() == expected);
        assert_eq!(extracted.sha256, sha256(&expected));

        let (path, _) = temporary("append");
        std::fs::write(&path, b"before").unwrap();
        let out = File::options().append(true).open(&path).unwrap();
        extract(&volume, &out, &Task::default()).unwrap();
        assert!(std::fs::read(&path).unwrap() == [b"before", &expected[..]].concat());
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_monitor_and_a_closed_pipe_end_it() {
        struct Stop;
        impl Monitor for Stop {
            fn poll(&self, _done: u64, _total: u64) -> Result<()> {
                Err(Error::Interrupted)
            }
        }
        let volume = volume(None);
        let (path, file) = temporary("stop");
        let task = Task::new(Some(&Stop), None);
        // As when the signal had come in a moment before.
        assert!(task.ask().is_err());
        let answer = extract(&volume, &file, &task);
        assert!(matches!(answer, Err(Error::Interrupted)));
        std::fs::remove_file(path).unwrap();

        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let answer = extract(
            &volume,
            &File::from(OwnedFd::from(writer)),
            &Task::default(),
        );
        let broken = |error: &io::Error| error.kind() == ErrorKind::BrokenPipe;
        assert!(matches!(answer, Err(Error::Io { source, .. }) if broken(&source)));
    }
}
