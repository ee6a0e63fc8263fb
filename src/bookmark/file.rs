//! The file: a head of 256 bytes, and runs.
//!
//! ```text
//!   0  magic "thinmeta-bookmrk"       16 bytes
//!  16  version, 1                     u32
//!  20  length of the head, 256        u32
//!  24  device id                      u64
//!  32  the device's creation time, T  u32
//!  36  the pool's clock               u32
//!  40  the pool's transaction id      u64
//!  48  data block size in sectors     u32
//!  52  flags: 1 the size is known     u32
//!  56  size of the volume in bytes    u64
//!  64  mapped blocks                  u64
//!  72  runs                           u64
//!  80  digest of the mappings         32 bytes
//! 112  uuid of the pool, NUL-padded   128 bytes
//! 240  length of what follows         u64
//! 248  CRC-32C of what follows        u32
//! 252  CRC-32C of bytes 0 to 251      u32
//! 256  runs, compressed by zstd
//! ```

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::digest::{Digest, MappingDigest, each_run};
use super::runs::{RunWriter, SavedRuns};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{MAX_TIME, ThinDevice};

const MAGIC: [u8; 16] = *b"thinmeta-bookmrk";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = size_of::<RawHead>();
const UUID_BYTES: usize = 128;
const SIZE_IS_KNOWN: u32 = 1;
const LEVEL: i32 = 3;
/// No file makes a reader set aside more than 2 to this power bytes.
const MAX_WINDOW_LOG: u32 = 23;

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHead {
    magic: [u8; 16],
    version: U32,
    head_bytes: U32,
    device_id: U64,
    creation_time: U32,
    pool_time: U32,
    transaction_id: U64,
    data_block_size_sectors: U32,
    flags: U32,
    size_bytes: U64,
    mapped_blocks: U64,
    runs: U64,
    digest: Digest,
    pool_uuid: [u8; UUID_BYTES],
    payload_bytes: U64,
    payload_crc: U32,
    crc: U32,
}

const _: () = assert!(HEAD_BYTES == 256);

/// What a bookmark says of the snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The snapshot's id.
    pub device_id: u64,
    /// T: the pool's clock when the snapshot was made.
    pub creation_time: u32,
    /// The pool's clock when the bookmark was saved.
    pub pool_time: u32,
    /// The pool's transaction id then.
    pub transaction_id: u64,
    /// Size of a data block in sectors of 512 bytes.
    pub data_block_size_sectors: u32,
    /// Size of the volume in bytes, where it was known.
    pub size_bytes: Option<u64>,
    /// Blocks that are mapped.
    pub mapped_blocks: u64,
    /// Longest runs of them.
    pub runs: u64,
    /// Of all mappings.
    pub digest: Digest,
    /// The pool's uuid from device-mapper or LVM; empty where none is known.
    pub pool_uuid: String,
}

/// Saves a snapshot's mappings into `out`, which has to be an empty file.
///
/// # Errors
/// [`Error::Usage`] for a volume that was written since it was made, or a uuid that is too
/// long; [`Error::Io`] at the path `<output>`, and what reading the mappings reports.
pub fn save(
    device: &ThinDevice,
    size_bytes: Option<u64>,
    pool_uuid: &str,
    mut out: &File,
    task: &Task<'_>,
) -> Result<Head> {
    let failed = |source| Error::io("<output>", None, source);
    if pool_uuid.len() > UUID_BYTES || pool_uuid.contains('\0') {
        return Err(Error::usage(
            "no uuid has more than 128 bytes, or a zero byte",
        ));
    }
    out.seek(SeekFrom::Start(HEAD_BYTES as u64))
        .map_err(failed)?;
    let superblock = device.pool().superblock();
    let info = device.info();
    let mut digest = MappingDigest::new(superblock.data_block_size.get());
    let summing = Summing {
        out: BufWriter::new(out),
        crc: new_crc(),
        bytes: 0,
    };
    let encoder = zstd::Encoder::new(summing, LEVEL).map_err(failed)?;
    let mut writer = RunWriter::new(BufWriter::new(encoder));
    each_run(device, task, |run| {
        if run.time >= info.creation_time {
            return Err(written_since(info.id));
        }
        match digest.push(run) {
            Some(done) => writer.push(&done).map_err(failed),
            None => Ok(()),
        }
    })?;
    if let Some(last) = digest.flush() {
        writer.push(&last).map_err(failed)?;
    }
    let unwrapped = |error: std::io::IntoInnerError<_>| failed(error.into_error());
    let encoder = writer.into_inner().into_inner().map_err(unwrapped)?;
    let mut summing = encoder.finish().map_err(failed)?;
    summing.flush().map_err(failed)?;
    let (payload_bytes, payload_crc) = (summing.bytes, finished(&summing.crc));
    let (runs, mapped_blocks) = digest.counts();
    let head = Head {
        device_id: info.id,
        creation_time: info.creation_time,
        pool_time: superblock.time.get(),
        transaction_id: superblock.trans_id.get(),
        data_block_size_sectors: superblock.data_block_size.get(),
        size_bytes,
        mapped_blocks,
        runs,
        digest: digest.finish(),
        pool_uuid: pool_uuid.to_owned(),
    };
    out.seek(SeekFrom::Start(0)).map_err(failed)?;
    let raw = head.to_raw(payload_bytes, payload_crc);
    out.write_all(raw.as_bytes()).map_err(failed)?;
    Ok(head)
}

fn new_crc() -> crc_fast::Digest {
    crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi)
}

fn finished(crc: &crc_fast::Digest) -> u32 {
    u32::try_from(crc.finalize()).unwrap_or_default()
}

/// Passes on what is written, counts it and sums it up.
struct Summing<W> {
    out: W,
    crc: crc_fast::Digest,
    bytes: u64,
}

impl<W: Write> Write for Summing<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.crc.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

fn written_since(id: u64) -> Error {
    Error::usage(format!(
        "device {id} was written since it was made, and its blocks are overwritten in place: \
         make a snapshot of it, and save that one's mappings"
    ))
}

impl Head {
    fn to_raw(&self, payload_bytes: u64, payload_crc: u32) -> RawHead {
        let mut pool_uuid = [0; UUID_BYTES];
        pool_uuid[..self.pool_uuid.len()].copy_from_slice(self.pool_uuid.as_bytes());
        let mut raw = RawHead {
            magic: MAGIC,
            version: VERSION.into(),
            head_bytes: u32::try_from(HEAD_BYTES).unwrap_or_default().into(),
            device_id: self.device_id.into(),
            creation_time: self.creation_time.into(),
            pool_time: self.pool_time.into(),
            transaction_id: self.transaction_id.into(),
            data_block_size_sectors: self.data_block_size_sectors.into(),
            flags: self.size_bytes.map_or(0, |_| SIZE_IS_KNOWN).into(),
            size_bytes: self.size_bytes.unwrap_or(0).into(),
            mapped_blocks: self.mapped_blocks.into(),
            runs: self.runs.into(),
            digest: self.digest,
            pool_uuid,
            payload_bytes: payload_bytes.into(),
            payload_crc: payload_crc.into(),
            crc: 0.into(),
        };
        raw.crc = raw.checksum().into();
        raw
    }

    fn of_raw(raw: &RawHead) -> Option<Self> {
        let uuid = raw.pool_uuid.split(|byte| *byte == 0).next()?;
        Some(Self {
            device_id: raw.device_id.get(),
            creation_time: raw.creation_time.get(),
            pool_time: raw.pool_time.get(),
            transaction_id: raw.transaction_id.get(),
            data_block_size_sectors: raw.data_block_size_sectors.get(),
            size_bytes: (raw.flags.get() & SIZE_IS_KNOWN != 0).then(|| raw.size_bytes.get()),
            mapped_blocks: raw.mapped_blocks.get(),
            runs: raw.runs.get(),
            digest: raw.digest,
            pool_uuid: std::str::from_utf8(uuid).ok()?.to_owned(),
        })
    }
}

impl RawHead {
    fn checksum(&self) -> u32 {
        crc_fast::crc32_iscsi(&self.as_bytes()[..HEAD_BYTES - 4])
    }
}

/// A bookmark that was read once, whole, and found sound.
#[derive(Clone, Debug)]
pub struct Bookmark {
    path: PathBuf,
    head: Head,
    payload_bytes: u64,
    end_blocks: u64,
}

impl Bookmark {
    /// Opens a bookmark.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for what is none, or of a newer version; [`Error::Stream`] for
    /// one that is damaged; [`Error::Io`].
    pub fn open(path: &Path, task: &Task<'_>) -> Result<Self> {
        let failed = |source| Error::io(path, None, source);
        let unsupported = |reason: String| Error::Unsupported {
            path: path.to_owned(),
            reason,
        };
        let bad =
            |what: &str| Error::Stream(format!("{}: damaged bookmark: {what}", path.display()));
        // Opening a pipe would wait.
        if !std::fs::metadata(path).map_err(failed)?.is_file() {
            return Err(unsupported("not a bookmark: it is no file".to_owned()));
        }
        let mut raw = [0; HEAD_BYTES];
        let mut file = File::open(path).map_err(failed)?;
        match file.read_exact(&mut raw) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(unsupported("not a bookmark: it is too short".to_owned()));
            }
            Err(error) => return Err(failed(error)),
        }
        let raw = RawHead::ref_from_bytes(&raw).map_err(|_| bad("its head"))?;
        if raw.magic != MAGIC {
            return Err(unsupported("not a bookmark of thinmeta".to_owned()));
        }
        if raw.version.get() != VERSION {
            let version = raw.version.get();
            let reason = format!("a bookmark of version {version}; this program reads {VERSION}");
            return Err(unsupported(reason));
        }
        if raw.checksum() != raw.crc.get() {
            return Err(bad("the checksum of its head is wrong"));
        }
        let head = Head::of_raw(raw).ok_or_else(|| bad("its uuid is no text"))?;
        if head.creation_time > MAX_TIME || head.data_block_size_sectors == 0 {
            return Err(bad("its head has an impossible number"));
        }
        let payload_bytes = raw.payload_bytes.get();
        let length = file.metadata().map_err(failed)?.len();
        if length.checked_sub(HEAD_BYTES as u64) != Some(payload_bytes) {
            return Err(bad("its length is not what it says"));
        }
        let mut crc = new_crc();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = file.read(&mut buffer).map_err(failed)?;
            if count == 0 {
                break;
            }
            crc.update(&buffer[..count]);
        }
        if finished(&crc) != raw.payload_crc.get() {
            return Err(bad("its checksum is wrong"));
        }
        let mut bookmark = Self {
            path: path.to_owned(),
            head,
            payload_bytes,
            end_blocks: 0,
        };
        let verified = bookmark.verify(task).map_err(|error| match error {
            Error::Stream(text) => Error::Stream(format!("{}: {text}", path.display())),
            other => other,
        });
        bookmark.end_blocks = verified?;
        Ok(bookmark)
    }

    /// What it says of the snapshot.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// One past the last mapped block.
    #[must_use]
    pub fn end_blocks(&self) -> u64 {
        self.end_blocks
    }

    /// Its runs, read anew.
    pub fn runs(&self) -> Result<SavedRuns> {
        let failed = |source| Error::io(&self.path, None, source);
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(HEAD_BYTES as u64))
            .map_err(failed)?;
        let payload = BufReader::new(file).take(self.payload_bytes);
        let mut decoder = zstd::Decoder::with_buffer(BufReader::new(payload)).map_err(failed)?;
        decoder.window_log_max(MAX_WINDOW_LOG).map_err(failed)?;
        let runs = Box::new(BufReader::new(decoder));
        Ok(SavedRuns::new(runs, self.head.runs))
    }

    /// Reads all of it, and says where the last mapping ends.
    fn verify(&self, task: &Task<'_>) -> Result<u64> {
        let bad = |what: &str| Error::Stream(format!("damaged bookmark: {what}"));
        let mut digest = MappingDigest::new(self.head.data_block_size_sectors);
        let mut runs = self.runs()?;
        task.expect(self.head.mapped_blocks);
        let (mut pending, mut end_blocks) = (0_u64, 0);
        while let Some(run) = runs.next_run()? {
            if run.time >= self.head.creation_time {
                return Err(bad("a mapping that is newer than the snapshot"));
            }
            pending = pending.saturating_add(run.length_blocks);
            end_blocks = run.virtual_begin.saturating_add(run.length_blocks);
            digest.push(run);
            if pending >= 1 << 16 {
                task.step(0, std::mem::take(&mut pending))?;
            }
        }
        digest.flush();
        let counts = (self.head.runs, self.head.mapped_blocks);
        if !runs.at_end()? || digest.counts() != counts {
            return Err(bad("it has another number of mappings than it says"));
        }
        if digest.finish() != self.head.digest {
            return Err(bad("its digest is another one"));
        }
        Ok(end_blocks)
    }
}
