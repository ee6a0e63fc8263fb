//! Layer 9: the commands: values in, reports out.
//!
//! Promises: nothing here prints, and nothing here writes to a pool, but for the flag
//! that [`check::check_and_clear`] clears; [`restore`] makes new ones. Long calls
//! take a [`Task`](crate::task::Task) that watches and stops them.
//! May use: layers 0 to 8.

pub mod changes;
pub mod check;
pub mod deleted;
pub mod delta;
pub mod dump;
pub mod extract;
pub mod list;
pub mod repair;
pub mod restore;
pub mod rmap;
