//! Layer 5: nested copy-on-write B-trees with 64-bit keys, read side.
//!
//! Promises: nodes are read in place, never decoded into vectors; a wrong tree
//! gives a [`Damage`](crate::error::Damage), never a loop: keys must rise along
//! the whole walk, and a path has at most 16 levels.
//! May use: `error`, `units`, `device`, `block`.

mod ascent;
mod cursor;
mod lookup;
mod node;
mod value;

pub use ascent::Ascent;
pub(crate) use cursor::check_bounds;
pub use cursor::{Cursor, LeafSlice};
pub use lookup::{BTree, Wait};
pub use node::{NODE_NAME, NODE_VALIDATOR, Node, NodeHeader, max_entries};
pub use value::{BlockRefs, Plain, TreeType, Value, ValueType, block_numbers};

/// Enough for any tree in the largest metadata device.
pub const MAX_DEPTH: usize = 16;
