//! What a power cut leaves of a pool: the last commit, or the one in progress.
//!
//! `tests` cuts the power of the metadata device, as [`crate::crash`] does for stores;
//! `joint` that of metadata and data, while volumes are written.

mod export;
mod joint;
pub mod sectors;
mod tests;
pub mod volumes;

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::Device;
use thinmeta::thin::{OpenOptions, Pool, PoolWriter};

use super::history::State;
use super::script::{Op, commit, transact};
use super::world::{Model, cached, text, verdict};
use crate::crash::images::WORK_WITH_ONE_IN;
use crate::crash::judge::Verdict;
use crate::support::chance::Chance;

/// Judges an image, and sometimes works with it.
fn judge_pool(device: &Arc<dyn Device>, state: &State, chance: &mut Chance<'_>) -> Verdict {
    let opened = Pool::from_devices(Arc::clone(device), None, &OpenOptions::default());
    match (opened, state) {
        (
            Err(Error::NotFormatted(_) | Error::Unsupported { .. } | Error::Damaged(_)),
            State::Nothing,
        ) => Ok(()),
        (Ok(_), State::Nothing) => Err("a pool was opened where there is none".to_owned()),
        (Err(error), _) => Err(format!("it does not open: {error}")),
        (Ok(pool), State::Pool(model)) => {
            verdict(&Arc::new(pool), model)?;
            if !chance.one_in(WORK_WITH_ONE_IN) {
                return Ok(());
            }
            work_with(device, model, chance)
                .map_err(|problem| format!("in a transaction after it: {problem}"))
        }
    }
}

/// Makes a transaction on what a crash left, and holds that against the model.
fn work_with(device: &Arc<dyn Device>, model: &Model, chance: &mut Chance<'_>) -> Verdict {
    let writer = PoolWriter::from_devices(Arc::clone(device), None, &cached(0)).map_err(text)?;
    let txn = writer.transaction().map_err(text)?;
    let script = commit(vec![Op::Any(chance.word(), 1 + chance.below(5))]);
    let mut model = model.clone();
    transact(&txn, &script, &mut model).map_err(text)?;
    drop(txn);
    verdict(&writer.current().map_err(text)?, &model)?;
    drop(writer);
    let pool = Pool::from_devices(Arc::clone(device), None, &OpenOptions::default());
    verdict(&Arc::new(pool.map_err(text)?), &model)
}
