//! Many look-ups in one call.

use std::sync::{Arc, Mutex, PoisonError};

use super::rows::{Row, sorted_places};
use super::{Ascent, check_value_bytes};
use crate::block::BlockManager;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::units::BlockNr;

/// The most keys that are sorted together: enough for leaves to be shared, few
/// enough for their columns to stay in the processor's cache.
const MOST_ROWS: usize = 1 << 20;
/// Fewer keys are not worth a thread.
const FEWEST_ROWS: usize = 1 << 15;
/// Look-ups between two reports to the task.
const ROWS_PER_STEP: u64 = 1 << 16;

/// A tree to look things up in.
struct Tree<'a> {
    blocks: &'a Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
}

/// Some keys of a call, and where their answers go.
struct Piece<'a> {
    keys: &'a [u64],
    values: &'a mut [u8],
    found: &'a mut [u8],
}

/// Looks up many keys, in any order. For each, in the order given, `values_out`
/// gets the value and `found_out` 1; or zeros. Returns how many were found.
///
/// The keys are looked up in ascending order, so that each leaf is entered once.
///
/// # Errors
/// [`Error::Usage`] when the columns have other lengths than `keys`;
/// [`Error::Damaged`], [`Error::Io`], and what the task's monitor says.
pub fn get_many(
    blocks: &Arc<BlockManager>,
    root: BlockNr,
    value_bytes: usize,
    keys: &[u64],
    values_out: &mut [u8],
    found_out: &mut [u8],
    task: &Task<'_>,
) -> Result<u64> {
    check_value_bytes(value_bytes)?;
    let fits = keys.len().checked_mul(value_bytes) == Some(values_out.len());
    if !fits || keys.len() != found_out.len() {
        let text = format!(
            "{} keys, room for {} bytes of values and {} answers",
            keys.len(),
            values_out.len(),
            found_out.len()
        );
        return Err(Error::Usage(text));
    }
    values_out.fill(0);
    found_out.fill(0);
    task.expect(keys.len() as u64);
    let share = keys.len().div_ceil(task.threads());
    let most = share.clamp(FEWEST_ROWS, MOST_ROWS);
    let pieces: Vec<Mutex<Piece<'_>>> = keys
        .chunks(most)
        .zip(values_out.chunks_mut(most * value_bytes))
        .zip(found_out.chunks_mut(most))
        .map(|((keys, values), found)| {
            Mutex::new(Piece {
                keys,
                values,
                found,
            })
        })
        .collect();
    let tree = Tree {
        blocks,
        root,
        value_bytes,
    };
    let find = |found: &mut u64, worker: usize, piece: usize| {
        let mut piece = pieces[piece].lock().unwrap_or_else(PoisonError::into_inner);
        *found += tree.find_piece(&mut piece, worker, task)?;
        Ok(())
    };
    let found = task.share_out(pieces.len(), || 0, find)?;
    Ok(found.iter().sum())
}

impl Tree<'_> {
    fn find_piece(&self, piece: &mut Piece<'_>, worker: usize, task: &Task<'_>) -> Result<u64> {
        let keys = piece.keys;
        if keys.is_sorted() {
            return self.find_rising(keys.iter().copied().zip(0..), piece, worker, task);
        }
        let rows = sorted_places(keys, &Task::new(None, Some(1)))?;
        self.find_rising(rows.into_iter(), piece, worker, task)
    }

    /// Fills the rows of keys that rise.
    fn find_rising(
        &self,
        rows: impl Iterator<Item = Row<u32>>,
        piece: &mut Piece<'_>,
        worker: usize,
        task: &Task<'_>,
    ) -> Result<u64> {
        let width = self.value_bytes;
        let mut ascent = Ascent::new(self.blocks, self.root, width);
        let mut rows = rows.peekable();
        let (mut found, mut since_step) = (0, 0);
        while let Some((first, _)) = rows.peek().copied() {
            let Some((leaf, end)) = ascent.leaf(first)? else {
                // Below the tree's first key.
                rows.next();
                since_step += 1;
                continue;
            };
            let (keys, values) = (leaf.keys(), leaf.packed_values(width)?);
            let inside = |row: &Row<u32>| end.is_none_or(|end| row.0 < end);
            let mut near = 0;
            while let Some((key, row)) = rows.next_if(inside) {
                since_step += 1;
                near = leaf.search_at_least_from(near, key);
                if keys.get(near).is_some_and(|at| at.get() == key) {
                    let value = &values[near * width..][..width];
                    let row = row as usize;
                    copy(&mut piece.values[row * width..][..width], value);
                    piece.found[row] = 1;
                    found += 1;
                }
            }
            if since_step >= ROWS_PER_STEP {
                task.step(worker, since_step)?;
                since_step = 0;
            }
        }
        task.step(worker, since_step)?;
        Ok(found)
    }
}

/// Copies a value; one of the usual size without a call.
fn copy(to: &mut [u8], from: &[u8]) {
    match (
        <&mut [u8; 8]>::try_from(&mut *to),
        <&[u8; 8]>::try_from(from),
    ) {
        (Ok(to), Ok(from)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}
