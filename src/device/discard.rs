//! Giving space back: a hole in a file, a discard of a block device.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};

/// The request that discards, of two 64-bit numbers: where, and how much, in bytes.
const BLKDISCARD: Opcode = opcode::none(0x12, 119);

/// Makes a hole of these bytes; the file stays as long as it is.
pub fn punch(file: &File, bytes: &Range<u64>) -> io::Result<()> {
    let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    told(
        fallocate(file, how, bytes.start, bytes.end - bytes.start),
        "holes cannot be made in files of this file system",
    )
}

/// Tells a block device that nobody needs these bytes any more.
#[allow(unsafe_code)]
pub fn discard(device: &File, bytes: &Range<u64>) -> io::Result<()> {
    let what = [bytes.start, bytes.end - bytes.start];
    // SAFETY: the kernel reads two 64-bit numbers for this request, and writes nothing to
    // the memory of the process.
    let answer = unsafe { ioctl(device, Setter::<BLKDISCARD, [u64; 2]>::new(what)) };
    told(answer, "the device cannot discard")
}

fn told(answer: rustix::io::Result<()>, cannot: &str) -> io::Result<()> {
    answer.map_err(|errno| match errno {
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOTTY => {
            io::Error::new(io::ErrorKind::Unsupported, cannot)
        }
        other => other.into(),
    })
}
