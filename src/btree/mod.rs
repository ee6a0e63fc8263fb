//! Layer 5: nested copy-on-write B-trees with 64-bit keys.
//!
//! Promises: nodes are read and changed in place, never decoded into vectors; a
//! wrong tree gives a [`Damage`](crate::error::Damage), never a loop: keys must
//! rise along the whole walk, and a path has at most 16 levels. A change copies
//! each node that others own or that is committed, once; single insertions and
//! removals leave the nodes that a kernel would leave. Batches and long ranges cost
//! what the nodes cost that they touch.
//! May use: `error`, `units`, `device`, `block`, `transaction`.

mod ascent;
mod batch;
mod builder;
mod cursor;
mod cut;
mod delete;
mod fill;
mod gather;
mod insert;
mod lookup;
mod node;
mod node_mut;
mod raw;
mod rebalance;
mod remove;
mod remove_range;
mod rows;
mod spine;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod value;

pub use ascent::Ascent;
pub use batch::{BatchInserted, insert_batch, insert_sorted};
pub use builder::Builder;
pub(crate) use cursor::check_bounds;
pub use cursor::{Cursor, LeafSlice};
pub use delete::delete;
pub(crate) use fill::{Plan, fewest, fill_node};
pub use gather::get_many;
pub use insert::{Inserted, empty, insert};
pub use lookup::{BTree, Wait};
pub use node::{NODE_NAME, NODE_VALIDATOR, Node, NodeHeader, max_entries};
pub use raw::{RawEntry, first, get, get_nonblocking, last, next, scan};
pub use remove::{remove, remove_leaves};
pub use remove_range::remove_range;
pub use value::{BlockRefs, Plain, TreeType, Value, ValueType, block_numbers};

use crate::error::{Error, Result};
use crate::units::BLOCK_BYTES;

/// Enough for any tree in the largest metadata device.
pub const MAX_DEPTH: usize = 16;

/// The largest values of which three fit a leaf.
pub const MAX_VALUE_BYTES: usize = 1346;
const _: () = assert!(max_entries(MAX_VALUE_BYTES) == 3 && max_entries(MAX_VALUE_BYTES + 1) == 0);

/// Whether values of this size fit nodes that can be split and merged.
pub(crate) fn check_value_bytes(value_bytes: usize) -> Result<()> {
    if value_bytes > 0 && value_bytes <= BLOCK_BYTES && max_entries(value_bytes) >= 3 {
        return Ok(());
    }
    let text = format!("values of {value_bytes} bytes: a B-tree holds 1 to {MAX_VALUE_BYTES}");
    Err(Error::Usage(text))
}
