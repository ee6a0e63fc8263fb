//! Files and block devices, through pread.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::{AlignedBuffer, Device, in_use::loop_device_on};
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

/// The longest single bounce through aligned memory.
const BOUNCE_BYTES: usize = 1 << 20;

/// A file or a block device. Block devices are always read with O_DIRECT: the
/// kernel writes pool metadata past the page cache, so that a buffered reader
/// may see stale pages.
#[derive(Debug)]
pub struct FileDevice {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    direct: bool,
}

impl FileDevice {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// [`Error::InUse`] when `claim` does not hold, [`Error::Io`] otherwise; a
    /// directory or another kind of file that has no bytes to read is an I/O error.
    pub fn open(path: impl Into<PathBuf>, claim: Claim) -> Result<Self> {
        let path = path.into();
        let failed = |source| Error::io(&path, None, source);
        let kind = std::fs::metadata(&path).map_err(failed)?.file_type();
        let mut flags = OFlags::CLOEXEC | OFlags::NOCTTY;
        if kind.is_block_device() {
            flags |= OFlags::DIRECT;
            if claim == Claim::Unused {
                flags |= OFlags::EXCL;
            }
        } else if kind.is_dir() {
            return Err(failed(io::Error::from(io::ErrorKind::IsADirectory)));
        } else if !kind.is_file() {
            let text = "neither a file nor a block device";
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let flags = i32::try_from(flags.bits()).unwrap_or_default();
        let opened = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path);
        let mut file = opened.map_err(|source| match source.raw_os_error() {
            Some(code) if code == rustix::io::Errno::BUSY.raw_os_error() => Error::InUse {
                path: path.clone(),
                reason: "the block device is held by a live pool, a mount or another program; \
                         read a pool in use through its metadata snapshot"
                    .to_owned(),
            },
            _ => failed(source),
        })?;
        let metadata = file.metadata().map_err(failed)?;
        if metadata.is_file() && claim == Claim::Unused {
            claim_file(&file, &metadata, &path)?;
        }
        let size_bytes = file.seek(SeekFrom::End(0)).map_err(failed)?;
        Ok(Self {
            direct: metadata.file_type().is_block_device(),
            file,
            path,
            size_bytes,
        })
    }

    /// Whether this is a block device.
    #[must_use]
    pub fn is_block_device(&self) -> bool {
        self.direct
    }

    fn read_direct(&self, buffer: &mut [u8], offset_bytes: u64) -> io::Result<()> {
        let page = BLOCK_BYTES as u64;
        let aligned = offset_bytes.is_multiple_of(page)
            && buffer.len().is_multiple_of(BLOCK_BYTES)
            && buffer.as_ptr().addr().is_multiple_of(BLOCK_BYTES);
        if aligned {
            return self.file.read_exact_at(buffer, offset_bytes);
        }
        let mut bounce = AlignedBuffer::new((buffer.len() + 2 * BLOCK_BYTES).min(BOUNCE_BYTES));
        let (mut done, mut at) = (0, offset_bytes);
        while done < buffer.len() {
            let begin = at - at % page;
            let skip = usize::try_from(at - begin).unwrap_or_default();
            // A device whose size is no multiple of a page ends inside the last one.
            let room = usize::try_from(self.size_bytes.saturating_sub(begin)).unwrap_or(usize::MAX);
            let want = (skip + buffer.len() - done).next_multiple_of(BLOCK_BYTES);
            let want = want.min(bounce.as_bytes().len()).min(room);
            let Some(usable) = want.checked_sub(skip).filter(|usable| *usable > 0) else {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
            };
            self.file
                .read_exact_at(&mut bounce.as_mut_bytes()[..want], begin)?;
            let take = usable.min(buffer.len() - done);
            buffer[done..done + take].copy_from_slice(&bounce.as_bytes()[skip..skip + take]);
            done += take;
            at += take as u64;
        }
        Ok(())
    }
}

/// Takes the shared lock that writers respect; the loop driver respects none.
fn claim_file(file: &File, metadata: &Metadata, path: &Path) -> Result<()> {
    match flock(file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            return Err(Error::InUse {
                path: path.to_owned(),
                reason: "another process has locked the file for writing".to_owned(),
            });
        }
        // A filesystem without locks cannot say more.
        Err(rustix::io::Errno::NOLCK | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
        }
        Err(errno) => return Err(Error::io(path, None, errno.into())),
    }
    match loop_device_on(metadata) {
        Some(device) => Err(Error::InUse {
            path: path.to_owned(),
            reason: format!("it backs {device}; detach that, or read the device instead"),
        }),
        None => Ok(()),
    }
}

impl Device for FileDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        let answer = if self.direct {
            self.read_direct(buffer, offset_bytes)
        } else {
            self.file.read_exact_at(buffer, offset_bytes)
        };
        answer.map_err(|source| Error::io(&self.path, Some(offset_bytes), source))
    }

    fn size_bytes(&self) -> u64 {
        self.size_bytes
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

    fn path(&self) -> &Path {
        &self.path
    }
}
