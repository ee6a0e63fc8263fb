//! Seeing to it that a cached block is of the kind that somebody asks for.

use std::sync::Arc;

use super::cache::Slot;
use super::{BlockData, Checks};
use crate::error::{Damage, Error, Result};
use crate::units::BlockNr;

/// Sees to it that the block in a slot is what `wanted` checks.
pub(super) fn accept(slot: &mut Slot, wanted: Option<&Checks>) -> Result<()> {
    let (Some(data), Some(wanted)) = (&slot.data, wanted) else {
        return Ok(());
    };
    match &slot.checks {
        Some(known) if known.same_as(wanted) => Ok(()),
        None => {
            wanted.validator().accept(slot.at, data)?;
            slot.checks = Some(wanted.clone());
            Ok(())
        }
        Some(known) => Err(mismatch(slot.at, known, wanted)),
    }
}

/// Two structures claim one block; its checksum already said which is right.
#[cold]
fn mismatch(at: BlockNr, known: &Checks, wanted: &Checks) -> Error {
    let [known, wanted] = [known, wanted].map(|checks| checks.validator().name().to_owned());
    Damage::new(at, wanted.clone(), "block kind", known, wanted).into()
}

pub(super) fn needs_preparation(checks: &Checks) -> bool {
    checks.validator().needs_preparation()
}

/// Whether the validator was not asked yet about what is in the slot, and must
/// not be while something is held: then [`ask`] and [`attach`] do it.
pub(super) fn has_to_be_asked(slot: &Slot, wanted: Option<&Checks>) -> bool {
    slot.checks.is_none() && slot.data.is_some() && wanted.is_some_and(needs_preparation)
}

/// Asks the validator; nothing is held.
pub(super) fn ask(at: BlockNr, checks: Option<&Checks>, block: &BlockData) -> Result<()> {
    match checks {
        Some(checks) => checks.validator().accept(at, block),
        None => Ok(()),
    }
}

/// Notes that `asked` has accepted `data`, if the slot has it still.
pub(super) fn attach(slot: Option<&mut Slot>, data: &Arc<BlockData>, asked: Option<&Checks>) {
    let Some(slot) = slot else {
        return;
    };
    let same = slot.data.as_ref().is_some_and(|now| Arc::ptr_eq(now, data));
    if same && slot.checks.is_none() {
        slot.checks = asked.cloned();
    }
}
