//! What is different between two thin devices of one pool.
//!
//! Their trees share nodes: whatever neither device changed since one was made
//! a snapshot of the other. So the two are walked in lockstep, and a block
//! number that comes next on both sides is left out on both, unread. That makes
//! the time that of the leaves that differ; memory holds a path into each tree,
//! a window of leaves and the result.
//!
//! Two details carry the weight. A node need not stand under the same key on
//! both sides, as removing its first entries does not rewrite the parent; so it
//! may have been opened on one side when the other arrives at it. Therefore
//! every node that was opened but of which nothing was used yet still counts as
//! *coming next*. And the trees may be of different height; so the side whose
//! next node is higher opens it first. How the depths of the two compare is
//! learnt on the way, from the first node or leaf that both have reached.
//!
//! Leaves are read ahead, those of one parent in each tree by few requests in
//! the order of location, and outside of the pool's cache.

mod against;
mod lockstep;
mod side;
mod table;
#[cfg(test)]
mod tests;
mod window;
mod xml;

use std::io::Write;
use std::sync::Arc;

pub(super) use against::each_run;
pub use against::{Sided, delta_against};
pub use table::{Columns, Delta, Kind, Row};
pub use xml::Named;
use xml::write_xml;

use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{Pool, ThinDevice};
use crate::units::BlockNr;
use lockstep::Lockstep;
use table::Builder;

/// The ranges in which `left` and `right` differ; with `same`, the others too.
/// Data blocks are compared, not the times they were mapped at.
///
/// # Errors
/// [`Error::Usage`] when the devices are not of one opened pool;
/// [`Error::Damaged`], [`Error::Io`] when a tree cannot be read, or whatever the
/// task's monitor answers.
pub fn delta(left: &ThinDevice, right: &ThinDevice, same: bool, task: &Task<'_>) -> Result<Delta> {
    let mut rows = Builder::new(same);
    compare(left, right, same, task, &mut rows)?;
    Ok(rows.finish(left.pool().superblock().data_block_bytes()))
}

/// Writes a comparison of two volumes, or trees, as the XML of `thin_delta` 1.1.0.
///
/// # Errors
/// [`Error::NoSuchDevice`]; [`Error::Usage`] for a root past the end of the metadata;
/// [`Error::Io`] at the path `<output>` for what `out` reports; the others of [`delta`].
pub fn write_delta(
    pool: &Arc<Pool>,
    sides: [Named; 2],
    verbose: bool,
    out: &mut dyn Write,
    task: &Task<'_>,
) -> Result<()> {
    let [left, right] = sides.map(|side| root_of(pool, side));
    let mut rows = Builder::joined_and_placed();
    let mut walk = Lockstep::new(pool, [left?, right?], true, task, &mut rows);
    pool.confirmed(walk.run())?;
    let delta = rows.finish(pool.superblock().data_block_bytes());
    write_xml(&delta, pool, sides, verbose, out)
}

fn root_of(pool: &Arc<Pool>, side: Named) -> Result<BlockNr> {
    match side {
        Named::Device(id) => Ok(pool.device_by_id(id)?.tree().root()),
        Named::Root(root) if root.0 == 0 || root.0 >= pool.blocks().nr_blocks() => {
            Err(Error::Usage(format!(
                "block {} cannot be a root: the metadata has blocks 1 to {}",
                root.0,
                pool.blocks().nr_blocks().saturating_sub(1)
            )))
        }
        Named::Root(root) => Ok(root),
    }
}

/// Kind, first virtual block and length of the ranges in which `now` differs from `base`,
/// wherever the data lie, by [`delta`] or [`delta_against`].
pub(super) fn joined_delta(
    base: &Sided<'_>,
    now: &Sided<'_>,
    task: &Task<'_>,
) -> Result<impl Iterator<Item = (Kind, u64, u64)> + use<>> {
    let mut rows = Builder::joined();
    match (base, now) {
        (Sided::Device(base), Sided::Device(now)) => compare(base, now, false, task, &mut rows)?,
        (base, now) => {
            against::compare(base, now, task, &mut rows)?;
        }
    }
    Ok(rows.finish_joined())
}

fn compare(
    left: &ThinDevice,
    right: &ThinDevice,
    same: bool,
    task: &Task<'_>,
    rows: &mut Builder,
) -> Result<()> {
    let pool = left.pool();
    if !Arc::ptr_eq(pool, right.pool()) {
        return Err(Error::usage(
            "devices of different pools cannot be compared: their data blocks have nothing in common",
        ));
    }
    let roots = [left, right].map(|device| device.tree().root());
    pool.confirmed(Lockstep::new(pool, roots, same, task, rows).run())
}
