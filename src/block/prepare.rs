//! Blocks whose validators must run before a write-back, with nothing held.

use std::sync::{Arc, PoisonError};

use super::cache::Cache;
use super::sync::MutexGuard;
use super::writeback::Staging;
use super::{BlockData, BlockManager, Checks, WriteGuard};
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// So often blocks may be changed again between being prepared and being
/// written; each time it takes another thread that does it just then.
const MOST_ROUNDS: usize = 100;

/// A dirty block as somebody left it.
struct Raw {
    at: BlockNr,
    slot: usize,
    life: u64,
    data: Arc<BlockData>,
    checks: Checks,
}

impl BlockManager {
    /// The turn to write, and the cache in which everything dirty that `wanted`
    /// names and nobody has locked is prepared.
    ///
    /// # Errors
    /// What a validator says; nothing was written, and all is dirty still.
    pub(super) fn lock_prepared(
        &self,
        wanted: &impl Fn(BlockNr) -> bool,
    ) -> Result<(MutexGuard<'_, Staging>, MutexGuard<'_, Cache>)> {
        for _ in 0..MOST_ROUNDS {
            let staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            let mut cache = self.lock_cache();
            if !cache.prepares {
                return Ok((staging, cache));
            }
            let raw = unprepared(&mut cache, wanted);
            if raw.is_empty() {
                return Ok((staging, cache));
            }
            drop(cache);
            drop(staging);
            raw.into_iter().try_for_each(|block| self.prepare(block))?;
        }
        Err(Error::usage(
            "blocks are changed as fast as their validators prepare them",
        ))
    }

    /// Prepares a block; when somebody has changed it meanwhile, in vain.
    fn prepare(&self, block: Raw) -> Result<()> {
        let mut copy = Arc::new(BlockData::clone(&block.data));
        let bytes = Arc::make_mut(&mut copy);
        block.checks.validator().prepare(block.at, bytes)?;
        let mut cache = self.lock_cache();
        if let Some(slot) = cache.slot_in_life(block.slot, block.life)
            && slot
                .to_be_prepared()
                .is_some_and(|now| Arc::ptr_eq(now, &block.data))
        {
            slot.data = Some(copy);
            slot.unprepared = false;
        }
        Ok(())
    }

    /// Prepares a block that is locked, so that it can be written as soon as it
    /// is not. When that fails its changes are dropped.
    pub(crate) fn prepare_locked(&self, mut guard: WriteGuard) -> Result<WriteGuard> {
        if guard.prepared {
            return Ok(guard);
        }
        let mut cache = self.lock_cache();
        let slot = cache.slot_in_life(guard.hold.slot, guard.hold.life);
        let checks = slot.and_then(|slot| slot.checks.clone());
        drop(cache);
        let Some(checks) = checks.filter(|checks| checks.validator().needs_preparation()) else {
            return Ok(guard);
        };
        let mut copy = Arc::new(BlockData::clone(guard.data()));
        let bytes = Arc::make_mut(&mut copy);
        match checks.validator().prepare(guard.at, bytes) {
            Ok(()) => {
                guard.data = Some(copy);
                (guard.touched, guard.prepared) = (true, true);
                Ok(guard)
            }
            Err(error) => {
                guard.discard();
                Err(error)
            }
        }
    }
}

/// What is to be prepared before what `wanted` names can be written.
fn unprepared(cache: &mut Cache, wanted: &impl Fn(BlockNr) -> bool) -> Vec<Raw> {
    let mut raw = Vec::new();
    for place in 0..cache.dirty().len() {
        let number = cache.dirty()[place] as usize;
        let slot = cache.slot_quietly(number);
        if let Some(data) = slot.to_be_prepared()
            && let Some(checks) = &slot.checks
            && wanted(slot.at)
        {
            raw.push(Raw {
                at: slot.at,
                slot: number,
                life: slot.life,
                data: Arc::clone(data),
                checks: checks.clone(),
            });
        }
    }
    raw.sort_unstable_by_key(|block| block.at);
    raw
}
