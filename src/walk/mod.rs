//! Layer 8: damage-tolerant visits that never write.
//!
//! A transaction stops at the first bad block; a checker has to look past it.
//! Promises: blocks are read in order of location by large requests, each once,
//! and shared out among threads by number and not by address; an unreadable
//! block is a [`Damage`] like a wrong one. Memory: what the caller collects, and
//! a window a thread.
//! May use: `error`, `units`, `device`, `block`, and the formats of 5 to 7.

mod block_set;
mod counts;
mod forest;
mod read;
mod resolve;
mod scatter;
mod tree;

pub use block_set::BlockSet;
pub use counts::{Counts, FrozenCounts};
pub use forest::{BadMapping, BadMappings, Forest, ForestLimits, State, Summary};
pub use read::{Reader, WINDOW_BLOCKS};
pub use scatter::{Crew, Scatter};
pub use tree::{NodeDamage, TreeShape, each_leaf_in_order, irregularities, tree_shape};

#[cfg(doc)]
use crate::error::Damage;
