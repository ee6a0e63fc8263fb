//! Which files and devices this process failed to write.
//!
//! After a failed fdatasync the kernel calls pages clean that never reached the
//! disk. Who opens such a file again would read them from the page cache, build on
//! them, and find after a power cut that they were never there. So the next
//! writer first gets rid of those pages, and proves it on block 0.

use std::collections::BTreeSet;
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, OFlags, fadvise};

use super::AlignedBuffer;
use crate::error::{Error, Result};
use crate::units::BLOCK_BYTES;

/// A file or a block device, whatever name it was opened by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Identity {
    File { device: u64, inode: u64 },
    BlockDevice(u64),
}

impl Identity {
    pub fn of(metadata: &Metadata) -> Self {
        if metadata.file_type().is_block_device() {
            return Self::BlockDevice(metadata.rdev());
        }
        Self::File {
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// What this process failed to write and has not opened since.
static POISONED: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

fn poisoned() -> MutexGuard<'static, BTreeSet<Identity>> {
    POISONED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers that a write or a flush of `who` has failed.
pub(super) fn note(who: Identity) {
    poisoned().insert(who);
}

/// The first block as the disk has it and as the page cache has it.
struct BothCopies {
    /// None where the filesystem cannot read past the page cache.
    disk: Option<Vec<u8>>,
    cache: Vec<u8>,
}

/// Makes sure that `file`, if this process failed to write it, is read from the
/// disk from now on.
///
/// # Errors
/// [`Error::Poisoned`] when the page cache keeps something else than the disk
/// has; [`Error::Io`].
pub(super) fn settle(who: Identity, file: &File, path: &Path) -> Result<()> {
    settle_with(who, path, || {
        drop_pages(file)?;
        Ok(BothCopies {
            // This first: it makes the kernel write back what it still calls dirty.
            disk: first_block_on_disk(file, path)?,
            cache: first_block(file)?,
        })
    })
}

fn settle_with(
    who: Identity,
    path: &Path,
    look: impl FnOnce() -> io::Result<BothCopies>,
) -> Result<()> {
    if !poisoned().contains(&who) {
        return Ok(());
    }
    let found = look().map_err(|source| Error::io(path, None, source))?;
    if found.disk.is_some_and(|disk| disk != found.cache) {
        return Err(Error::Poisoned(format!(
            "{} was not written completely by this process, and its block 0 in the page cache \
             is not the one on the disk; see to the disk, make the kernel forget the cached \
             pages (unmount the filesystem, or write 1 to /proc/sys/vm/drop_caches), and open \
             it again",
            path.display()
        )));
    }
    poisoned().remove(&who);
    Ok(())
}

/// Clean pages can be dropped, dirty ones cannot; hence the sync.
fn drop_pages(file: &File) -> io::Result<()> {
    file.sync_data()?;
    Ok(fadvise(file, 0, None, Advice::DontNeed)?)
}

fn first_block(file: &File) -> io::Result<Vec<u8>> {
    let mut block = AlignedBuffer::new(BLOCK_BYTES);
    let found = read_up_to(file, block.as_mut_bytes())?;
    Ok(block.as_bytes()[..found].to_vec())
}

fn first_block_on_disk(file: &File, path: &Path) -> io::Result<Option<Vec<u8>>> {
    let flags = (OFlags::DIRECT | OFlags::CLOEXEC | OFlags::NOCTTY).bits();
    let flags = i32::try_from(flags).unwrap_or_default();
    let direct = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(direct) => direct,
        Err(error) if no_direct_reads(&error) => return Ok(None),
        Err(error) => return Err(error),
    };
    if Identity::of(&direct.metadata()?) != Identity::of(&file.metadata()?) {
        let text = "another file took its name meanwhile";
        return Err(io::Error::other(text));
    }
    match first_block(&direct) {
        Ok(block) => Ok(Some(block)),
        Err(error) if no_direct_reads(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

fn no_direct_reads(error: &io::Error) -> bool {
    let refused = [rustix::io::Errno::INVAL, rustix::io::Errno::OPNOTSUPP];
    refused
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

/// As many bytes as the file has, from its start on.
fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(&mut buffer[done..], done as u64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nobody_elses(inode: u64) -> Identity {
        Identity::File {
            device: u64::MAX,
            inode,
        }
    }

    fn copies(disk: Option<&[u8]>, cache: &[u8]) -> io::Result<BothCopies> {
        Ok(BothCopies {
            disk: disk.map(<[u8]>::to_vec),
            cache: cache.to_vec(),
        })
    }

    #[test]
    fn what_was_written_well_is_not_looked_at() {
        let who = nobody_elses(1);
        settle_with(who, Path::new("it"), || unreachable!("nothing failed")).unwrap();
    }

    #[test]
    fn a_disk_that_differs_from_the_page_cache_is_refused_until_it_does_not() {
        let (who, path) = (nobody_elses(2), Path::new("the-file"));
        note(who);
        for _ in 0..2 {
            let refused = settle_with(who, path, || copies(Some(b"old"), b"new")).unwrap_err();
            assert!(matches!(&refused, Error::Poisoned(_)), "{refused}");
            let text = refused.to_string();
            assert!(text.contains("the-file") && text.contains("drop_caches"));
        }
        settle_with(who, path, || copies(Some(b"new"), b"new")).unwrap();
        settle_with(who, path, || unreachable!("it is settled")).unwrap();
    }

    #[test]
    fn a_read_that_fails_settles_nothing() {
        let (who, path) = (nobody_elses(3), Path::new("it"));
        note(who);
        let failed = settle_with(who, path, || Err(io::Error::other("no")));
        assert!(matches!(failed, Err(Error::Io { .. })));
        assert!(poisoned().contains(&who));
        // A filesystem that cannot read past its cache: dropping the pages has to do.
        settle_with(who, path, || copies(None, b"x")).unwrap();
        assert!(!poisoned().contains(&who));
    }

    #[test]
    fn both_reads_of_a_real_file_agree() {
        let path = std::env::temp_dir().join(format!("thinmeta-settle-{}", std::process::id()));
        for bytes in [0, 100, BLOCK_BYTES, 3 * BLOCK_BYTES] {
            std::fs::write(&path, vec![7; bytes]).unwrap();
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.unwrap();
            let who = Identity::of(&file.metadata().unwrap());
            note(who);
            settle(who, &file, &path).unwrap();
            assert!(!poisoned().contains(&who));
            drop_pages(&file).unwrap();
            let cached = first_block(&file).unwrap();
            assert_eq!(cached, vec![7; bytes.min(BLOCK_BYTES)]);
            if let Some(disk) = first_block_on_disk(&file, &path).unwrap() {
                assert_eq!(disk, cached);
            }
        }
        std::fs::remove_file(&path).unwrap();
    }
}
