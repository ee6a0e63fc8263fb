//! Reading many blocks: sorted by location, joined into large requests.

use std::sync::{Mutex, PoisonError};

use crate::block::{BlockData, Validator};
use crate::device::{AlignedBuffer, Device};
use crate::error::{Damage, Error, Result};
use crate::task::Task;
use crate::units::{BLOCK_BYTES, BlockNr};

/// Blocks that one request reads at most: 1 MiB. Devices may like shorter ones.
pub const WINDOW_BLOCKS: usize = 256;

/// Unwanted blocks that are read through rather than begin a new request. In
/// the page cache one costs about as much as a system call.
const GAP_BLOCKS: u32 = 8;

/// The fewest blocks worth a job of their own.
const MIN_JOB_BLOCKS: usize = 64;

/// Reads blocks of one device for visitors.
pub struct Reader<'d> {
    device: &'d dyn Device,
    gap_blocks: u32,
    request_blocks: usize,
    /// Windows that no visit uses at the moment: fresh pages cost as much as
    /// what is read into them.
    windows: Mutex<Vec<AlignedBuffer>>,
}

impl<'d> Reader<'d> {
    /// A reader. `only_wanted`: of a pool in use nothing may be read but what
    /// the metadata snapshot reaches, so gaps are not read through.
    #[must_use]
    pub fn new(device: &'d dyn Device, only_wanted: bool) -> Self {
        let request_blocks = device.best_request_bytes() / BLOCK_BYTES;
        Self {
            device,
            gap_blocks: if only_wanted { 0 } else { GAP_BLOCKS },
            request_blocks: request_blocks.clamp(1, WINDOW_BLOCKS),
            windows: Mutex::new(Vec::new()),
        }
    }

    fn take_window(&self) -> AlignedBuffer {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.pop().unwrap_or_else(|| AlignedBuffer::new(0))
    }

    fn give_back(&self, window: AlignedBuffer) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.push(window);
    }

    /// Size of the device in whole blocks.
    #[must_use]
    pub fn device_blocks(&self) -> u64 {
        self.device.size_bytes() / BLOCK_BYTES as u64
    }

    /// One block, checked.
    pub fn read_block(
        &self,
        at: BlockNr,
        name: &'static str,
        validator: &dyn Validator,
    ) -> Result<BlockData, Damage> {
        let Some(offset) = at.offset_bytes().filter(|_| at.0 < self.device_blocks()) else {
            let expected = format!("below {}", self.device_blocks());
            return Err(Damage::new(at, name, "pointer", at.0, expected));
        };
        let mut block = Box::new(BlockData::zeroed());
        let read = self.device.read_exact_at(block.bytes_mut(), offset);
        read.map_err(|error| unreadable(at, name, &error))?;
        validator.check(at, &block)?;
        Ok(*block)
    }

    /// Calls `visit(index, block)` for each of `blocks`, which ascend and are
    /// distinct. A block that cannot be read is a damage of kind `name`. `window`
    /// grows to what the longest request needs.
    ///
    /// # Errors
    /// Those of `visit`.
    pub fn read(
        &self,
        blocks: &[u32],
        name: &'static str,
        window: &mut AlignedBuffer,
        mut visit: impl FnMut(usize, Result<&BlockData, Damage>) -> Result<()>,
    ) -> Result<()> {
        let mut begin = 0;
        while begin < blocks.len() {
            let end = self.request_end(blocks, begin);
            let first = blocks[begin];
            let count = (blocks[end - 1] - first + 1) as usize;
            let buffer = window.first_mut(count * BLOCK_BYTES);
            let offset = u64::from(first) * BLOCK_BYTES as u64;
            match self.device.read_exact_at(buffer, offset) {
                Ok(()) => {
                    let read = BlockData::blocks_in(buffer);
                    for (index, block) in blocks.iter().enumerate().take(end).skip(begin) {
                        visit(index, Ok(&read[(block - first) as usize]))?;
                    }
                }
                Err(_) => self.read_singly(blocks, begin..end, name, &mut visit)?,
            }
            begin = end;
        }
        Ok(())
    }

    /// One past the last block that the request of `begin` takes in.
    fn request_end(&self, blocks: &[u32], begin: usize) -> usize {
        let window = u32::try_from(self.request_blocks).unwrap_or(u32::MAX);
        let last = blocks[begin].saturating_add(window);
        let mut end = begin + 1;
        while end < blocks.len()
            && blocks[end] < last
            && blocks[end] - blocks[end - 1] <= self.gap_blocks + 1
        {
            end += 1;
        }
        end
    }

    /// After a failed request: finds out which of its blocks are to blame.
    fn read_singly(
        &self,
        blocks: &[u32],
        range: std::ops::Range<usize>,
        name: &'static str,
        visit: &mut impl FnMut(usize, Result<&BlockData, Damage>) -> Result<()>,
    ) -> Result<()> {
        let mut buffer = AlignedBuffer::new(BLOCK_BYTES);
        for index in range {
            let at = BlockNr(blocks[index].into());
            let offset = at.0 * BLOCK_BYTES as u64;
            match self.device.read_exact_at(buffer.as_mut_bytes(), offset) {
                Ok(()) => visit(index, Ok(&BlockData::blocks_in(buffer.as_bytes())[0]))?,
                Err(error) => visit(index, Err(unreadable(at, name, &error)))?,
            }
        }
        Ok(())
    }

    /// Visits `blocks` (ascending, distinct) on all threads of `task`, and
    /// returns what `visit` made of each, in the order of `blocks`, and every
    /// thread's context.
    ///
    /// # Errors
    /// The first of `visit`'s, or [`Error::Interrupted`].
    pub fn visit<T: Clone + Send, C: Send>(
        &self,
        task: &Task<'_>,
        blocks: &[u32],
        name: &'static str,
        none: T,
        context: impl Fn() -> C + Sync,
        visit: impl Fn(&mut C, BlockNr, Result<&BlockData, Damage>) -> Result<T> + Sync,
    ) -> Result<(Vec<T>, Vec<C>)> {
        let mut made = vec![none; blocks.len()];
        let share = blocks.len().div_ceil(4 * task.threads());
        let job_blocks = share.clamp(MIN_JOB_BLOCKS, self.request_blocks.max(MIN_JOB_BLOCKS));
        task.expect(blocks.len() as u64);
        let slots: Vec<Mutex<&mut [T]>> = made.chunks_mut(job_blocks).map(Mutex::new).collect();
        let with_window = || (context(), self.take_window());
        let contexts = task.share_out(slots.len(), with_window, |own, worker, job| {
            let (context, window) = own;
            let begin = job * job_blocks;
            let wanted = &blocks[begin..blocks.len().min(begin + job_blocks)];
            // Each slot is locked once, by the thread that took the job.
            let mut slot = slots[job].lock().unwrap_or_else(PoisonError::into_inner);
            self.read(wanted, name, window, |index, block| {
                slot[index] = visit(context, BlockNr(wanted[index].into()), block)?;
                Ok(())
            })?;
            task.step(worker, wanted.len() as u64)
        })?;
        drop(slots);
        let each = contexts.into_iter().map(|(context, window)| {
            self.give_back(window);
            context
        });
        Ok((made, each.collect()))
    }
}

fn unreadable(at: BlockNr, name: &'static str, error: &Error) -> Damage {
    let found = match error {
        Error::Io { source, .. } => source.to_string(),
        other => other.to_string(),
    };
    Damage::new(at, name, "read", found, "4096 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    #[test]
    fn every_wanted_block_is_seen_once_and_holes_at_the_end_are_damage() {
        let mut bytes = vec![0; 600 * BLOCK_BYTES];
        for (number, block) in bytes.chunks_mut(BLOCK_BYTES).enumerate() {
            block[..8].copy_from_slice(&(number as u64).to_le_bytes());
        }
        let device = MemoryDevice::new(bytes);
        for only_wanted in [false, true] {
            let reader = Reader::new(&device, only_wanted);
            let blocks: Vec<u32> = (0..700)
                .filter(|block| block % 7 != 3 && (block / 50) % 3 != 1)
                .collect();
            let task = Task::new(None, Some(2));
            let visit = |seen: &mut u64, at: BlockNr, block: Result<&BlockData, Damage>| {
                *seen += 1;
                Ok(block
                    .map(|block| (at.0, block.bytes()[..8].to_vec()))
                    .map_err(|bad| bad.block))
            };
            let none = Err(BlockNr(0));
            let (made, contexts) = reader
                .visit(&task, &blocks, "block", none, || 0, visit)
                .unwrap();
            assert_eq!(contexts.iter().sum::<u64>(), blocks.len() as u64);
            for (block, made) in blocks.iter().zip(made) {
                let number = u64::from(*block);
                match made {
                    Ok((at, bytes)) => {
                        assert_eq!((at, bytes), (number, number.to_le_bytes().to_vec()));
                    }
                    Err(at) => assert!(at.0 == number && number >= 600),
                }
            }
        }
    }
}
