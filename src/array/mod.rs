//! Layer 6: arrays: many elements of one size, packed in blocks that a B-tree finds.
//!
//! Promises: element *i* is where the format says; a change copies one block and
//! the way to it; what elements refer to is counted whoever shares which part.
//! The length is not stored: the owner of an array knows it, and names it in
//! every call. A call beyond it is an [`Error::Usage`](crate::Error::Usage)
//! without a trace; an array that is shorter than its owner says is damaged.
//! May use: `error`, `units`, `block`, `transaction`, `btree`.

mod block;
mod change;
mod cursor;
mod place;
mod read;
mod values;

pub use block::{
    ARRAY_NAME, ARRAY_VALIDATOR, ArrayBlock, ArrayHeader, ArrayValidator, MAX_ELEMENT_BYTES,
    capacity,
};
pub use change::{delete, empty, fill, from_slice, generate, resize, set, set_range};
pub use cursor::ArrayCursor;
pub use read::Array;
pub use values::ArrayType;

/// The longest array.
pub const MAX_LEN: u64 = u32::MAX as u64;

/// Bytes of a block number in an array's tree.
const TREE_VALUE_BYTES: usize = 8;
