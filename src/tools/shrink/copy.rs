//! The data on their way.

use std::ops::Range;

use super::Shrink;
use crate::device::{AlignedBuffer, Device};
use crate::error::{Error, Result};
use crate::task::Task;

/// What is read and written at once; a data block may be larger.
const PIECE_BYTES: u64 = 1 << 20;

/// Bytes to copy from one place to another.
#[derive(Clone, Copy)]
struct Piece {
    from: u64,
    to: u64,
    length: usize,
}

impl Shrink {
    /// Refuses a data device that ends before what is in use, or before the new end.
    ///
    /// # Errors
    /// [`Error::Usage`].
    pub fn check_data(&self, data: &dyn Device) -> Result<()> {
        let highest = self.outlook.highest_used_block.map_or(0, |block| block + 1);
        let blocks = highest.max(self.outlook.new_data_blocks);
        let (have, block) = (data.current_size_bytes()?, self.block_bytes());
        if have / block < blocks {
            return Err(Error::usage(format!(
                "{} has {have} bytes, and {blocks} blocks of {block} bytes are in use: it is not \
                 the data of {}",
                data.path().display(),
                self.sound.pool.path().display(),
            )));
        }
        Ok(())
    }

    /// Copies moved blocks, counted in the order of [`Self::moves`], and flushes them.
    /// Nothing else on `data` is written. What was copied may be copied again.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Interrupted`].
    pub fn copy(&self, data: &dyn Device, moved: Range<u64>, task: &Task<'_>) -> Result<()> {
        self.each_piece(moved, task, |piece, buffer| {
            let bytes = buffer.first_mut(piece.length);
            data.read_exact_at(bytes, piece.from)?;
            data.write_all_at(bytes, piece.to)
        })?;
        data.flush()
    }

    /// Whether moved blocks are the same in both of their places.
    ///
    /// # Errors
    /// As [`Self::copy`].
    pub fn is_copied(&self, data: &dyn Device, moved: Range<u64>, task: &Task<'_>) -> Result<bool> {
        let differ = std::sync::atomic::AtomicBool::new(false);
        self.each_piece(moved, task, |piece, buffer| {
            let (one, other) = buffer
                .first_mut(2 * piece.length)
                .split_at_mut(piece.length);
            data.read_exact_at(one, piece.from)?;
            data.read_exact_at(other, piece.to)?;
            if one != other {
                differ.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            Ok(())
        })?;
        Ok(!differ.into_inner())
    }

    fn block_bytes(&self) -> u64 {
        self.sound.pool.superblock().data_block_bytes()
    }

    fn each_piece(
        &self,
        moved: Range<u64>,
        task: &Task<'_>,
        work: impl Fn(Piece, &mut AlignedBuffer) -> Result<()> + Sync,
    ) -> Result<()> {
        let pieces = self.pieces(moved);
        let buffer = || AlignedBuffer::new(2 * PIECE_BYTES as usize);
        task.share_out(pieces.len(), buffer, |buffer, worker, job| {
            let piece = pieces[job];
            work(piece, buffer)?;
            task.step(worker, piece.length as u64)
        })?;
        Ok(())
    }

    /// What lies side by side, in pieces; the caller asks for a moderate part at a time.
    fn pieces(&self, moved: Range<u64>) -> Vec<Piece> {
        let block = self.block_bytes();
        let mut pieces = Vec::new();
        let first = self.before.partition_point(|before| *before <= moved.start);
        let moves = self.moves.iter().zip(&self.before);
        for (each, before) in moves.skip(first.saturating_sub(1)) {
            if *before >= moved.end {
                break;
            }
            let begin = moved.start.max(*before) - before;
            let end = moved.end.min(before + each.length) - before;
            let mut done = begin * block;
            while done < end * block {
                let length = PIECE_BYTES.min(end * block - done);
                pieces.push(Piece {
                    from: each.from * block + done,
                    to: each.to * block + done,
                    length: length as usize,
                });
                done += length;
            }
        }
        pieces
    }
}
