//! Layer 9: the commands: values in, reports out.
//!
//! Promises: nothing here prints, and nothing here writes to a pool, but for the flag
//! that [`check::check_and_clear`] clears and what [`check::mend_path`] puts right; [`restore`],
//! [`merge`] and [`shrink`] make new ones, and the last of them copies data to where it is
//! free; [`trim`] gives free data blocks up. Long calls
//! take a [`Task`](crate::task::Task) that watches and stops them.
//! May use: layers 0 to 8.

pub mod changes;
pub mod check;
pub mod deleted;
pub mod delta;
pub mod dump;
pub mod extract;
pub mod list;
pub mod look;
pub mod merge;
pub mod packed;
pub mod repair;
pub mod restore;
mod retell;
pub mod rmap;
pub mod shrink;
pub mod stat;
pub mod trim;
