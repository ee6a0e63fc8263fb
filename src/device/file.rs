//! Files and block devices, through pread, pwrite and fdatasync.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{FlockOperation, OFlags, flock, seek};
use rustix::io::Errno;

use super::poisoned::{self, Identity};
use super::{Device, direct, discard, in_use::loop_device_on};
use crate::error::{Error, Result};
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

/// What the opener says about other users of the device or file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Nobody may be using it: block devices are opened exclusively, files are
    /// locked (shared) and must not back a loop device.
    Unused,
    /// A pool in use, read beside it (through a metadata snapshot).
    BesideItsUser,
}

/// What is to be done with a file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Read(Claim),
    Write,
    /// As write; a file that is not there is made, empty.
    Make,
}

impl Purpose {
    fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Make)
    }
}

/// A file or a block device. Block devices are always used with O_DIRECT: the
/// kernel writes pool metadata past the page cache, so that a buffered reader
/// may see stale pages.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    size_bytes: AtomicU64,
    direct: bool,
    writable: bool,
    made: bool,
    identity: Identity,
    /// The process that opened it.
    owner: u32,
}

impl FileDevice {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// [`Error::InUse`] when `claim` does not hold, [`Error::Io`] otherwise; a
    /// directory or another kind of file that has no bytes to read is an I/O error.
    pub fn open(path: impl Into<PathBuf>, claim: Claim) -> Result<Self> {
        Self::open_for(path.into(), Purpose::Read(claim))
    }

    /// Opens `path` for reading and writing, and keeps everybody else out: files
    /// are locked exclusively and must not back a loop device, block devices are
    /// opened exclusively.
    ///
    /// A file that this process failed to write before is first made to show
    /// what the disk has, not what the page cache kept.
    ///
    /// # Errors
    /// [`Error::InUse`]; [`Error::Poisoned`] when the page cache still differs
    /// from the disk after an earlier failure; [`Error::Io`].
    pub fn open_writable(path: impl Into<PathBuf>) -> Result<Self> {
        Self::open_for(path.into(), Purpose::Write)
    }

    /// As [`Self::open_writable`], but makes an empty file where there is nothing.
    /// What is there is left as it is: whether it may be replaced is for the
    /// caller to find out, with the lock held.
    ///
    /// # Errors
    /// As [`Self::open_writable`].
    pub fn open_or_make(path: impl Into<PathBuf>) -> Result<Self> {
        Self::open_for(path.into(), Purpose::Make)
    }

    /// Whether [`Self::open_or_make`] made the file, so that giving up may remove it.
    #[must_use]
    pub fn was_made(&self) -> bool {
        self.made
    }

    /// Makes a file at least `size_bytes` long, with a hole at its end; takes
    /// nothing away. A block device has to be long enough already.
    ///
    /// # Errors
    /// [`Error::Usage`] on a block device that is smaller, [`Error::ReadOnly`],
    /// [`Error::Io`].
    pub fn grow(&self, size_bytes: u64) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        let now = self.current_size_bytes()?;
        if now < size_bytes {
            if self.direct {
                return Err(Error::usage(format!(
                    "{} is a block device of {now} bytes, not {size_bytes}",
                    self.path.display()
                )));
            }
            if i64::try_from(size_bytes).is_err() {
                return Err(Error::usage(format!("no file has {size_bytes} bytes")));
            }
            let grown = self.file.set_len(size_bytes);
            grown.map_err(|source| Error::io(&self.path, Some(size_bytes), source))?;
        }
        let size = now.max(size_bytes);
        self.size_bytes.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// Makes the name of a file that was just made as durable as its content:
    /// some filesystems may lose it otherwise.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush_name(&self) -> Result<()> {
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let flushed = File::open(folder).and_then(|folder| folder.sync_all());
        match flushed {
            // Not every filesystem has such a thing; none that has fails with this.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
            answer => answer.map_err(|source| Error::io(folder, None, source)),
        }
    }

    /// Whether this is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.direct
    }

    fn open_for(path: PathBuf, purpose: Purpose) -> Result<Self> {
        let failed = |source| Error::io(&path, None, source);
        let (file, made) = open_file(&path, purpose)?;
        let metadata = file.metadata().map_err(failed)?;
        let direct = metadata.file_type().is_block_device();
        if !direct && !metadata.is_file() {
            let text = "neither a file nor a block device";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        if direct && purpose.writes() && is_read_only(metadata.rdev()) {
            // Opening it succeeds, and only writing would fail.
            let text = format!("{} is a read-only device", path.display());
            return Err(Error::ReadOnly(text));
        }
        if !direct && purpose != Purpose::Read(Claim::BesideItsUser) {
            claim_file(&file, &path, purpose)?;
        }
        let identity = Identity::of(&metadata);
        if purpose.writes() {
            poisoned::settle(identity, &file, &path)?;
        }
        let size_bytes = (&file).seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            file,
            path,
            size_bytes: AtomicU64::new(size_bytes),
            direct,
            writable: purpose.writes(),
            made,
            identity,
            owner: std::process::id(),
        })
    }

    fn read_only(&self) -> Error {
        Error::ReadOnly(format!("{} is open for reading", self.path.display()))
    }

    fn failed_at(&self, offset_bytes: u64) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::io(&self.path, Some(offset_bytes), source)
    }
}

/// Whether the kernel says of a block device that it takes no writes.
fn is_read_only(number: u64) -> bool {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let said = std::fs::read(format!("/sys/dev/block/{major}:{minor}/ro"));
    said.is_ok_and(|said| said.starts_with(b"1"))
}

/// Opens what is there, or makes a file; tells which.
fn open_file(path: &Path, purpose: Purpose) -> Result<(File, bool)> {
    let failed = |source| Error::io(path, None, source);
    // Opening a pipe would wait and opening a tape would wind: look before.
    let kind = match std::fs::metadata(path) {
        Ok(metadata) => Some(metadata.file_type()),
        Err(error) if error.kind() == io::ErrorKind::NotFound && purpose == Purpose::Make => None,
        Err(error) => return Err(failed(error)),
    };
    let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
    match kind {
        Some(kind) if kind.is_block_device() => {
            flags |= OFlags::DIRECT;
            if purpose != Purpose::Read(Claim::BesideItsUser) {
                flags |= OFlags::EXCL;
            }
        }
        Some(kind) if kind.is_dir() => {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        }
        Some(kind) if !kind.is_file() => {
            let text = "neither a file nor a block device";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        Some(_) | None => {}
    }
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(purpose.writes())
        .custom_flags(i32::try_from(flags.bits()).unwrap_or_default());
    if kind.is_none() {
        match options.clone().create_new(true).open(path) {
            Ok(file) => return Ok((file, true)),
            // Somebody was faster; their lock decides.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
    }
    match options.open(path) {
        Ok(file) => Ok((file, false)),
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => {
            Err(Error::InUse {
                path: path.to_owned(),
                reason: if purpose.writes() {
                    "the block device is held by a live pool, a mount or another program"
                } else {
                    "the block device is held by a live pool, a mount or another program; read a \
                     pool in use through its metadata snapshot"
                }
                .to_owned(),
            })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Takes the lock that readers share and a writer has alone; the loop driver
/// respects none.
fn claim_file(file: &File, path: &Path, purpose: Purpose) -> Result<()> {
    let (lock, reason) = if purpose.writes() {
        let reason = "it is open already, in another process or in this one; a file is written by \
                      one and read by nobody else";
        (FlockOperation::NonBlockingLockExclusive, reason)
    } else {
        let reason = "somebody has locked the file for writing: another process, or this one";
        (FlockOperation::NonBlockingLockShared, reason)
    };
    let in_use = |reason: String| Error::InUse {
        path: path.to_owned(),
        reason,
    };
    loop {
        match flock(file, lock) {
            Ok(()) => break,
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Err(in_use(reason.to_owned())),
            // A filesystem without locks cannot say more.
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS) => break,
            Err(errno) => return Err(Error::io(path, None, errno.into())),
        }
    }
    let metadata = file.metadata();
    let metadata: Metadata = metadata.map_err(|source| Error::io(path, None, source))?;
    if purpose.writes() && metadata.nlink() == 0 {
        // Who made it gave up and removed it before the lock was ours.
        return Err(in_use("it was removed while it was opened".to_owned()));
    }
    match loop_device_on(&metadata) {
        Some(device) => Err(in_use(format!(
            "it backs {device}; detach that, or use the device instead"
        ))),
        None => Ok(()),
    }
}

impl Drop for FileDevice {
    fn drop(&mut self) {
        // A lock belongs to what was opened, which a forked child shares: it would
        // hold the file as long as it lives. The child's own copy of this unlocks nothing.
        if !self.direct && self.owner == std::process::id() {
            let _ = flock(&self.file, FlockOperation::NonBlockingUnlock);
        }
    }
}

impl Device for FileDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let answer = if self.direct {
            direct::read(&self.file, buffer, offset_bytes, self.size_bytes())
        } else {
            self.file.read_exact_at(buffer, offset_bytes)
        };
        answer.map_err(self.failed_at(offset_bytes))
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    fn current_size_bytes(&self) -> Result<u64> {
        // No request uses the file's own position, so that it may be moved.
        let size = (&self.file).seek(SeekFrom::End(0));
        let size = size.map_err(|source| Error::io(&self.path, None, source))?;
        self.size_bytes.fetch_max(size, Ordering::Relaxed);
        Ok(size)
    }

    fn grow_to(&self, size_bytes: u64) -> Result<()> {
        self.grow(size_bytes)
    }

    fn size_unit_bytes(&self) -> u64 {
        // Block devices are whole sectors; the format leaves a part of a block unused.
        if self.direct {
            SECTOR_BYTES
        } else {
            BLOCK_BYTES as u64
        }
    }

    fn best_request_bytes(&self) -> usize {
        if self.direct { 1 << 20 } else { 256 << 10 }
    }

    fn is_writable(&self) -> bool {
        self.writable
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        let size = self.size_bytes();
        let fits = offset_bytes
            .checked_add(bytes.len() as u64)
            .is_some_and(|end| end <= size);
        let answer = if !fits {
            // A file would grow, where a block device has an end.
            Err(io::Error::from(io::ErrorKind::UnexpectedEof))
        } else if self.direct {
            direct::write(&self.file, bytes, offset_bytes, size)
        } else {
            self.file.write_all_at(bytes, offset_bytes)
        };
        answer.map_err(self.failed_at(offset_bytes))
    }

    fn flush(&self) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        let answer = self.file.sync_data();
        answer.map_err(|source| Error::io(&self.path, None, source))
    }

    fn discard(&self, bytes: &Range<u64>) -> Result<()> {
        if !self.writable {
            return Err(self.read_only());
        }
        let answer = if bytes.end > self.size_bytes() || bytes.start >= bytes.end {
            Err(io::Error::from(io::ErrorKind::InvalidInput))
        } else if self.direct {
            discard::discard(&self.file, bytes)
        } else {
            discard::punch(&self.file, bytes)
        };
        answer.map_err(self.failed_at(bytes.start))
    }

    fn next_data(&self, offset_bytes: u64) -> Option<Range<u64>> {
        let size = self.size_bytes();
        if offset_bytes >= size {
            return None;
        }
        if self.direct {
            return Some(offset_bytes..size);
        }
        // No request uses the file's own position.
        let begin = match seek(&self.file, rustix::fs::SeekFrom::Data(offset_bytes)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return None,
            // A filesystem that cannot tell.
            Err(_) => return Some(offset_bytes..size),
        };
        let end = seek(&self.file, rustix::fs::SeekFrom::Hole(begin));
        Some(begin..end.unwrap_or(size).min(size))
    }

    fn note_poisoned(&self) {
        poisoned::note(self.identity);
    }

    fn path(&self) -> &Path {
        &self.path
    }
}
