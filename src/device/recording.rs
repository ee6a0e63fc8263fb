//! A device that remembers every write, and what a power cut could leave of them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Device, MemoryDevice};
use crate::error::Result;
use crate::units::{BLOCK_BYTES, SECTOR_BYTES};

/// What a disk writes whole or not at all.
const SECTOR: usize = SECTOR_BYTES as usize;

/// One thing that was asked of a [`RecordingDevice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Bytes were written.
    Write {
        /// Where.
        offset_bytes: u64,
        /// What.
        bytes: Arc<[u8]>,
    },
    /// All that was written before was made durable.
    Flush,
}

/// A writable device in memory that keeps a log of writes and flushes, to make
/// [`WriteLog::image`]s of it: tests of what survives a crash.
#[derive(Debug)]
pub struct RecordingDevice {
    device: MemoryDevice,
    recorded: Mutex<Recorded>,
}

#[derive(Debug)]
struct Recorded {
    start: Arc<Vec<u8>>,
    operations: Vec<Operation>,
}

impl RecordingDevice {
    /// A device that holds `bytes`, with nothing recorded yet.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        let recorded = Mutex::new(Recorded {
            start: Arc::new(bytes.clone()),
            operations: Vec::new(),
        });
        Self {
            device: MemoryDevice::writable(bytes),
            recorded,
        }
    }

    /// A copy of what it holds: all writes, durable or not.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        self.device.contents()
    }

    /// Makes it larger, with zeros at the end. Crash images have its last size.
    pub fn grow(&self, size_bytes: usize) {
        self.device.grow(size_bytes);
    }

    /// What was recorded so far.
    #[must_use]
    pub fn log(&self) -> WriteLog {
        let recorded = self.recorded();
        WriteLog {
            path: self.device.path().to_owned(),
            start: Arc::clone(&recorded.start),
            size_bytes: usize::try_from(self.device.size_bytes()).unwrap_or(usize::MAX),
            operations: recorded.operations.clone(),
        }
    }

    /// Empties the log; what it holds now, durable or not, is where it starts.
    pub fn start_over(&self) {
        let mut recorded = self.recorded();
        recorded.start = Arc::new(self.device.contents());
        recorded.operations.clear();
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for RecordingDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        self.device.read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.device.current_size_bytes()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        // Under one lock, so that the log has the order of the writes.
        let mut recorded = self.recorded();
        self.device.write_all_at(bytes, offset_bytes)?;
        recorded.operations.push(Operation::Write {
            offset_bytes,
            bytes: bytes.into(),
        });
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        self.recorded().operations.push(Operation::Flush);
        Ok(())
    }

    fn grow_to(&self, size_bytes: u64) -> Result<()> {
        self.device.grow_to(size_bytes)
    }

    fn path(&self) -> &Path {
        self.device.path()
    }
}

/// A part of a write that lies in one block: a disk may keep one and lose the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Index of the write in [`WriteLog::operations`].
    pub operation: usize,
    /// Bytes of the write before it.
    pub skip_bytes: usize,
    /// Its length.
    pub bytes: usize,
}

/// A power cut: how far the program had come, and what had reached the disk.
///
/// What was written before the last flush has. Of the pieces since then any may
/// be lost, and one may be torn. Their order needs no saying: pieces of one place
/// arrive in order (or not at all), and of different places all orders give the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crash {
    /// Operations that were done.
    pub operations: usize,
    /// Pieces that are lost, by their index in [`WriteLog::volatile`].
    pub lost: Vec<usize>,
    /// A piece, by its index, of which only those sectors arrived whose bit is set
    /// (bit 0: the first 512 bytes).
    pub torn: Option<(usize, u8)>,
}

/// What was written to a device, in order.
#[derive(Clone, Debug)]
pub struct WriteLog {
    path: PathBuf,
    start: Arc<Vec<u8>>,
    size_bytes: usize,
    operations: Vec<Operation>,
}

impl WriteLog {
    /// The writes and flushes.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// What the device is called in messages.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Offset and length of each write, in order, split at flushes.
    #[must_use]
    pub fn epochs(&self) -> Vec<Vec<(u64, usize)>> {
        let mut epochs = vec![Vec::new()];
        for operation in &self.operations {
            match operation {
                Operation::Flush => epochs.push(Vec::new()),
                Operation::Write {
                    offset_bytes,
                    bytes,
                } => {
                    if let Some(epoch) = epochs.last_mut() {
                        epoch.push((*offset_bytes, bytes.len()));
                    }
                }
            }
        }
        epochs
    }

    /// How many of the first `operations` a flush among them made durable, itself included.
    #[must_use]
    pub fn durable(&self, operations: usize) -> usize {
        let done = &self.operations[..operations.min(self.operations.len())];
        let flush = done.iter().rposition(|one| *one == Operation::Flush);
        flush.map_or(0, |at| at + 1)
    }

    /// What may be lost if the power is cut after so many operations: the pieces
    /// written since the last flush.
    #[must_use]
    pub fn volatile(&self, operations: usize) -> Vec<Piece> {
        let end = operations.min(self.operations.len());
        let mut pieces = Vec::new();
        for at in self.durable(end)..end {
            if let Operation::Write {
                offset_bytes,
                bytes,
            } = &self.operations[at]
            {
                pieces.extend(pieces_of(at, *offset_bytes, bytes.len()));
            }
        }
        pieces
    }

    /// What the disk holds if all of so many operations arrived.
    #[must_use]
    pub fn prefix(&self, operations: usize) -> Vec<u8> {
        let mut image = self.whole_start();
        for operation in self.operations.iter().take(operations) {
            if let Operation::Write {
                offset_bytes,
                bytes,
            } = operation
            {
                put(&mut image, *offset_bytes, bytes, 0..bytes.len());
            }
        }
        image
    }

    /// What the disk holds after a crash.
    #[must_use]
    pub fn image(&self, crash: &Crash) -> Vec<u8> {
        let end = crash.operations.min(self.operations.len());
        let mut image = self.prefix(self.durable(end));
        self.apply(&mut image, crash);
        image
    }

    /// As [`Self::image`], onto `image`, which is [`Self::prefix`] of
    /// [`Self::durable`] operations: copies of one such image serve many crashes.
    pub fn apply(&self, image: &mut [u8], crash: &Crash) {
        let pieces = self.volatile(crash.operations);
        let mut arrives = vec![true; pieces.len()];
        for lost in &crash.lost {
            if let Some(arrives) = arrives.get_mut(*lost) {
                *arrives = false;
            }
        }
        for (index, piece) in pieces.into_iter().enumerate() {
            if !arrives[index] {
                continue;
            }
            let Operation::Write {
                offset_bytes,
                bytes,
            } = &self.operations[piece.operation]
            else {
                continue;
            };
            let end = piece.skip_bytes + piece.bytes;
            let sectors = match crash.torn {
                Some((torn, sectors)) if torn == index => sectors,
                _ => u8::MAX,
            };
            for sector in 0..piece.bytes.div_ceil(SECTOR) {
                if sectors & (1 << sector) != 0 {
                    let begin = piece.skip_bytes + sector * SECTOR;
                    put(image, *offset_bytes, bytes, begin..end.min(begin + SECTOR));
                }
            }
        }
    }

    /// A crash after so many operations, drawn with numbers from `draw`: each
    /// piece is lost or not, and sometimes one is torn.
    pub fn random_crash(&self, operations: usize, mut draw: impl FnMut() -> u64) -> Crash {
        let pieces = self.volatile(operations).len();
        // Few lost, half lost, most lost: each finds other mistakes.
        let of_eight = [1, 4, 7][pick(&mut draw, 3)];
        let lost = (0..pieces).filter(|_| pick(&mut draw, 8) < of_eight);
        let lost: Vec<usize> = lost.collect();
        let torn = (pieces > 0 && pick(&mut draw, 2) == 0).then(|| {
            let sectors = match pick(&mut draw, 3) {
                0 => u8::MAX << (1 + pick(&mut draw, 7)),
                1 => u8::MAX >> (1 + pick(&mut draw, 7)),
                _ => u8::try_from(pick(&mut draw, 256)).unwrap_or_default(),
            };
            (pick(&mut draw, pieces), sectors)
        });
        Crash {
            operations,
            lost,
            torn,
        }
    }

    fn whole_start(&self) -> Vec<u8> {
        let mut image = Vec::with_capacity(self.size_bytes);
        image.extend_from_slice(&self.start);
        image.resize(self.size_bytes, 0);
        image
    }
}

/// A number below `below`, which is not 0.
fn pick(draw: &mut impl FnMut() -> u64, below: usize) -> usize {
    usize::try_from(draw() % below as u64).unwrap_or_default()
}

fn pieces_of(operation: usize, offset_bytes: u64, length: usize) -> impl Iterator<Item = Piece> {
    let mut skip_bytes = 0;
    std::iter::from_fn(move || {
        let at = offset_bytes + skip_bytes as u64;
        let in_block = usize::try_from(at % BLOCK_BYTES as u64).unwrap_or_default();
        let bytes = (BLOCK_BYTES - in_block).min(length - skip_bytes);
        let piece = Piece {
            operation,
            skip_bytes,
            bytes,
        };
        skip_bytes += bytes;
        (bytes > 0).then_some(piece)
    })
}

fn put(image: &mut [u8], offset_bytes: u64, bytes: &[u8], part: std::ops::Range<usize>) {
    let Ok(offset) = usize::try_from(offset_bytes) else {
        return;
    };
    let place = image.get_mut(offset + part.start..offset + part.end);
    if let (Some(place), Some(bytes)) = (place, bytes.get(part)) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three_writes() -> WriteLog {
        let device = RecordingDevice::new(vec![0; 4 * BLOCK_BYTES]);
        device.write_all_at(&[1; 4096], 0).unwrap();
        device.flush().unwrap();
        device.write_all_at(&[2; 8192], 4096).unwrap();
        device.write_all_at(&[3; 4096], 4096).unwrap();
        device.log()
    }

    /// The first byte of each block, and whether the block is all the same.
    fn bytes(image: &[u8]) -> Vec<(u8, bool)> {
        let blocks = image.chunks(BLOCK_BYTES);
        blocks
            .map(|block| (block[0], block.iter().all(|byte| *byte == block[0])))
            .collect()
    }

    #[test]
    fn what_was_flushed_is_kept_and_the_rest_may_go_block_by_block() {
        let log = three_writes();
        assert_eq!(
            log.epochs(),
            [vec![(0, 4096)], vec![(4096, 8192), (4096, 4096)]]
        );
        assert_eq!(log.volatile(1).len(), 1);
        assert_eq!(log.volatile(2).len(), 0);
        assert_eq!(log.volatile(4).len(), 3);
        let firsts = |lost: &[usize]| {
            let image = log.image(&Crash {
                operations: 4,
                lost: lost.to_vec(),
                torn: None,
            });
            bytes(&image)
                .iter()
                .map(|block| block.0)
                .collect::<Vec<_>>()
        };
        assert_eq!(firsts(&[]), [1, 3, 2, 0]);
        assert_eq!(firsts(&[0]), [1, 3, 2, 0]);
        assert_eq!(firsts(&[2]), [1, 2, 2, 0]);
        assert_eq!(firsts(&[1, 2]), [1, 2, 0, 0]);
        assert_eq!(firsts(&[0, 1, 2]), [1, 0, 0, 0]);
        assert_eq!(
            log.image(&Crash {
                operations: 4,
                ..Crash::default()
            }),
            log.prefix(4)
        );
    }

    #[test]
    fn a_torn_block_is_torn_at_sectors() {
        let log = three_writes();
        let image = log.image(&Crash {
            operations: 3,
            lost: Vec::new(),
            torn: Some((1, 0b0000_0011)),
        });
        assert_eq!(bytes(&image)[..2], [(1, true), (2, true)]);
        assert!(image[8192..9216].iter().all(|byte| *byte == 2));
        assert!(image[9216..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn random_crashes_reach_every_outcome_and_stay_in_their_epoch() {
        let log = three_writes();
        let mut state = 1_u64;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let crash = log.random_crash(4, || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state >> 33
            });
            let image = log.image(&crash);
            assert!(image[..4096].iter().all(|byte| *byte == 1));
            seen.insert(bytes(&image));
        }
        // Block 1: nothing, 2, 3 or a mixture; block 2: nothing, 2 or a part.
        for wanted in [[0, 0], [0, 2], [2, 0], [2, 2], [3, 0], [3, 2]] {
            let whole = |blocks: &Vec<(u8, bool)>| {
                [blocks[1], blocks[2]] == wanted.map(|byte| (byte, true))
            };
            assert!(seen.iter().any(whole), "{wanted:?}");
        }
        assert!(seen.iter().any(|blocks| !blocks[1].1));
    }

    #[test]
    fn starting_over_keeps_the_content_and_growing_is_in_the_images() {
        let device = RecordingDevice::new(vec![0; BLOCK_BYTES]);
        device.write_all_at(&[1; 4096], 0).unwrap();
        device.start_over();
        device.grow(2 * BLOCK_BYTES);
        device.write_all_at(&[2; 4096], 4096).unwrap();
        let log = device.log();
        assert_eq!(log.operations().len(), 1);
        assert_eq!(bytes(&log.prefix(0)), [(1, true), (0, true)]);
        assert_eq!(log.prefix(1), device.contents());
    }
}
