//! A pool on fewer data blocks: what lies past the new end moves below it.
//!
//! Nothing of the pool is written. The blocks in question are copied to places that no
//! device of it uses, so that it stays whole, and new metadata are made that say where
//! they are. Only who uses these in place of the old ones may cut the data device.

mod copy;
mod fit;

use std::sync::Arc;

pub use fit::Move;

use crate::build::{Built, Output};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::Pool;
use crate::tools::retell::Sound;

/// What a shrink moves, or how far one could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShrinkOutlook {
    /// Data blocks of the pool.
    pub data_blocks: u64,
    /// Of these, how many some device maps: with fewer there can be no pool.
    pub used_blocks: u64,
    /// The last of them.
    pub highest_used_block: Option<u64>,
    /// Data blocks afterwards.
    pub new_data_blocks: u64,
    /// Blocks to copy, each once, however many devices map it.
    pub moved_blocks: u64,
    /// In how many pieces.
    pub moves: u64,
}

/// A shrink that is planned.
pub struct Shrink {
    sound: Sound,
    outlook: ShrinkOutlook,
    moves: Vec<Move>,
    /// Blocks of all moves before each.
    before: Vec<u64>,
}

impl Shrink {
    /// Finds out what has to move for `pool` to have `new_data_blocks`; without it,
    /// nothing has to.
    ///
    /// # Errors
    /// [`Error::Usage`] for more data blocks than there are; [`Error::NoSpace`] for
    /// less room than what is in use; as [`Sound::read`].
    pub fn plan(pool: Arc<Pool>, new_data_blocks: Option<u64>, task: &Task<'_>) -> Result<Self> {
        Self::of(Sound::read, pool, new_data_blocks, task)
    }

    /// As [`Self::plan`], whatever the superblock says of a metadata snapshot and of a
    /// check that is due. Blocks that only the metadata snapshot has count as free.
    ///
    /// # Errors
    /// As [`Self::plan`].
    pub fn plan_marked(
        pool: Arc<Pool>,
        new_data_blocks: Option<u64>,
        task: &Task<'_>,
    ) -> Result<Self> {
        Self::of(Sound::read_marked, pool, new_data_blocks, task)
    }

    fn of(
        read: impl FnOnce(Arc<Pool>, &Task<'_>) -> Result<Sound>,
        pool: Arc<Pool>,
        new_data_blocks: Option<u64>,
        task: &Task<'_>,
    ) -> Result<Self> {
        let data_blocks = pool.superblock().data_blocks();
        let end = new_data_blocks.unwrap_or(data_blocks);
        if new_data_blocks.is_some_and(|blocks| blocks > data_blocks || blocks == 0) {
            return Err(Error::usage(format!(
                "the pool has {data_blocks} data blocks, and cannot be shrunk to {end}"
            )));
        }
        let sound = read(pool, task)?;
        let used_blocks = sound.used_blocks();
        if end < used_blocks {
            return Err(Error::NoSpace {
                space: "data",
                reason: format!(
                    "{used_blocks} data blocks are in use, which do not go below {end}: shrink \
                     to {used_blocks} at the least, or discard and delete something before"
                ),
            });
        }
        let above: Vec<_> = sound.data.used(end..data_blocks).collect();
        let moves = fit::fit(&above, sound.unused(end));
        let mut before = Vec::with_capacity(moves.len());
        let mut moved_blocks = 0;
        for each in &moves {
            before.push(moved_blocks);
            moved_blocks += each.length;
        }
        let outlook = ShrinkOutlook {
            data_blocks,
            used_blocks,
            highest_used_block: sound.data.used(0..data_blocks).last().map(|r| r.end - 1),
            new_data_blocks: end,
            moved_blocks,
            moves: moves.len() as u64,
        };
        Ok(Self {
            sound,
            outlook,
            moves,
            before,
        })
    }

    /// What will be done.
    #[must_use]
    pub fn outlook(&self) -> &ShrinkOutlook {
        &self.outlook
    }

    /// The pool as it is.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.sound.pool
    }

    /// What moves, in ascending order of where it is.
    #[must_use]
    pub fn moves(&self) -> &[Move] {
        &self.moves
    }

    /// A hash of the pool's superblock and of what moves where: work that was begun is
    /// gone on with only where it is the same.
    #[must_use]
    pub fn digest(&self) -> String {
        use zerocopy::IntoBytes;
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.sound.pool.superblock().as_bytes());
        hasher.update(&self.outlook.new_data_blocks.to_le_bytes());
        for each in &self.moves {
            for number in [each.from, each.to, each.length] {
                hasher.update(&number.to_le_bytes());
            }
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Writes the new metadata, which must not be used before the data were copied.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where `output` is too small; [`Error::Io`];
    /// [`Error::Interrupted`].
    pub fn build(&self, output: Output, task: &Task<'_>) -> Result<Built> {
        let devices = &self.sound.devices;
        task.expect(devices.iter().map(|each| each.0.mapped_blocks).sum());
        let data_blocks = self.outlook.new_data_blocks;
        let change = |run: &crate::thin::Run, out: &mut Vec<_>| {
            if run.data_begin + run.length_blocks <= data_blocks {
                out.push(*run);
            } else {
                fit::translate(&self.moves, run, out);
            }
        };
        let alter = |options: &mut crate::build::BuildOptions| options.data_blocks = data_blocks;
        self.sound.build(output, alter, &change, task, |teller| {
            devices
                .iter()
                .try_for_each(|(info, root)| teller.device(info, *root))
        })
    }
}

impl Sound {
    /// Data blocks below `end` that nobody uses.
    fn unused(&self, end: u64) -> impl Iterator<Item = std::ops::Range<u64>> + '_ {
        let mut used = self.data.used(0..end);
        let mut at = 0;
        std::iter::from_fn(move || {
            while at < end {
                let next = used.next().unwrap_or(end..end);
                let hole = at..next.start;
                at = next.end;
                if !hole.is_empty() {
                    return Some(hole);
                }
            }
            None
        })
    }
}
