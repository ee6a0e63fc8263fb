//! One name for a state of a volume's mappings.

use crate::error::Result;
use crate::task::Task;
use crate::thin::{Run, ThinDevice};

/// BLAKE3 of all mappings of a volume.
pub type Digest = [u8; 32];

const DOMAIN: &[u8] = b"thinmeta mappings 1\0";
/// Runs that are read at once.
const RUNS_AT_ONCE: usize = 1 << 14;

/// Makes the digest from runs in ascending order, however they are cut.
///
/// It is the BLAKE3 of the words `thinmeta mappings 1` and a zero byte, the size of a data
/// block in sectors (u32), and for each longest run its first virtual block, its first data
/// block, its length (u64 each) and its time (u32), all little-endian.
pub struct MappingDigest {
    hasher: blake3::Hasher,
    last: Option<Run>,
    runs: u64,
    blocks: u64,
}

impl MappingDigest {
    /// Of a volume with data blocks of this size.
    #[must_use]
    pub fn new(data_block_size_sectors: u32) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(DOMAIN);
        hasher.update(&data_block_size_sectors.to_le_bytes());
        Self {
            hasher,
            last: None,
            runs: 0,
            blocks: 0,
        }
    }

    /// Takes in the next run, and gives the one before if that is complete.
    pub fn push(&mut self, run: Run) -> Option<Run> {
        self.blocks += run.length_blocks;
        if let Some(last) = &mut self.last {
            if last.join(&run) {
                return None;
            }
            let done = std::mem::replace(last, run);
            self.add(&done);
            return Some(done);
        }
        self.last = Some(run);
        None
    }

    /// The run that waits for what may follow it.
    pub fn flush(&mut self) -> Option<Run> {
        let last = self.last.take()?;
        self.add(&last);
        Some(last)
    }

    fn add(&mut self, run: &Run) {
        let mut bytes = [0; 28];
        bytes[..8].copy_from_slice(&run.virtual_begin.to_le_bytes());
        bytes[8..16].copy_from_slice(&run.data_begin.to_le_bytes());
        bytes[16..24].copy_from_slice(&run.length_blocks.to_le_bytes());
        bytes[24..].copy_from_slice(&run.time.to_le_bytes());
        self.hasher.update(&bytes);
        self.runs += 1;
    }

    /// Longest runs, and blocks in them; to be asked after [`Self::flush`].
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.runs, self.blocks)
    }

    /// The digest of what came.
    #[must_use]
    pub fn finish(mut self) -> Digest {
        self.flush();
        *self.hasher.finalize().as_bytes()
    }
}

/// A device's mappings in short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Of all of them.
    pub digest: Digest,
    /// Whether all are older than the device: it is a snapshot, and nobody has written to it.
    pub is_snapshot: bool,
    /// One past the last mapped block.
    pub end_blocks: u64,
}

/// Reads all mappings of a device as they are.
///
/// # Errors
/// What reading them reports.
pub fn summary_of(device: &ThinDevice, task: &Task<'_>) -> Result<Summary> {
    let mut digest = MappingDigest::new(device.pool().superblock().data_block_size.get());
    let created = device.info().creation_time;
    let (mut is_snapshot, mut end_blocks) = (true, 0);
    each_run(device, task, |run| {
        is_snapshot &= run.time < created;
        end_blocks = run.virtual_begin.saturating_add(run.length_blocks);
        digest.push(run);
        Ok(())
    })?;
    Ok(Summary {
        digest: digest.finish(),
        is_snapshot,
        end_blocks,
    })
}

/// Every run of a device, in pieces of any length.
pub(super) fn each_run(
    device: &ThinDevice,
    task: &Task<'_>,
    mut take: impl FnMut(Run) -> Result<()>,
) -> Result<()> {
    task.expect(device.info().mapped_blocks);
    let mut read = || {
        let mut cursor = device.runs(0, None);
        let mut runs = Vec::new();
        loop {
            let more = cursor.fill(&mut runs, RUNS_AT_ONCE)?;
            let blocks = runs.iter().map(|run: &Run| run.length_blocks).sum();
            runs.drain(..).try_for_each(&mut take)?;
            task.step(0, blocks)?;
            if !more {
                return Ok(());
            }
        }
    };
    device.pool().confirmed(read())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(virtual_begin: u64, data_begin: u64, length_blocks: u64, time: u32) -> Run {
        Run {
            virtual_begin,
            data_begin,
            length_blocks,
            time,
        }
    }

    fn of(runs: &[Run]) -> Digest {
        let mut digest = MappingDigest::new(128);
        for run in runs {
            digest.push(*run);
        }
        digest.finish()
    }

    #[test]
    fn how_runs_are_cut_makes_no_difference_and_everything_else_does() {
        let whole = of(&[run(5, 9, 10, 3), run(20, 1, 1, 0)]);
        let cut = [run(5, 9, 4, 3), run(9, 13, 6, 3), run(20, 1, 1, 0)];
        assert_eq!(of(&cut), whole);
        for other in [
            vec![run(5, 9, 10, 3)],
            vec![run(5, 9, 10, 4), run(20, 1, 1, 0)],
            vec![run(5, 8, 10, 3), run(20, 1, 1, 0)],
            vec![run(5, 9, 11, 3), run(20, 1, 1, 0)],
        ] {
            assert_ne!(of(&other), whole);
        }
        assert_ne!(
            MappingDigest::new(256).finish(),
            MappingDigest::new(128).finish()
        );
    }
}
