//! A copy that copies nothing: the cached bytes of one block become another's.

use std::sync::Arc;

use super::lock::{Hold, ThreadNr};
use super::{BlockManager, Checks, WriteGuard};
use crate::error::Result;
use crate::units::BlockNr;

impl BlockManager {
    /// As [`Self::write_lock_copy`] of what `from` holds, which leaves the cache:
    /// for a block that the caller has no more use for. It is still on the
    /// device. `None`: the bytes are not here, or somebody else has a use for
    /// them; copy them.
    ///
    /// # Errors
    /// As [`Self::write_lock`].
    pub(crate) fn write_lock_relabelled(
        self: &Arc<Self>,
        from: BlockNr,
        to: BlockNr,
        checks: &Checks,
    ) -> Result<Option<WriteGuard>> {
        self.check_writable()?;
        let thread = ThreadNr::current();
        let mut cache = self.lock_cache();
        if let Some(stale) = cache.find(to)
            && !cache.forget_if_free(stale)
        {
            return Ok(None);
        }
        let Some(number) = cache.find(from) else {
            return Ok(None);
        };
        if !cache.relabel(number, to, checks) {
            return Ok(None);
        }
        let slot = cache.slot(number);
        let Some(data) = slot.data.take() else {
            return Ok(None);
        };
        slot.lock.set_writer(thread);
        let hold = Hold {
            slot: number,
            life: slot.life,
            thread,
        };
        // Whoever waits for `from` has to look for it again.
        self.tell(cache);
        Ok(Some(self.write_guard(hold, to, data, true)))
    }
}
