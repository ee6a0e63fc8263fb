//! dm-thin pool metadata in userland: open what a kernel wrote, look things up,
//! check it, compare two volumes, print it, and put a volume together from raw
//! images.
//!
//! ```no_run
//! use std::sync::Arc;
//! use thinmeta::task::Task;
//! use thinmeta::thin::{OpenOptions, Pool};
//!
//! # fn main() -> thinmeta::Result<()> {
//! let pool = Arc::new(Pool::open("metadata.img", &OpenOptions::default())?);
//! let (left, right) = (pool.device_by_id(1)?, pool.device_by_id(2)?);
//! let delta = thinmeta::tools::delta::delta(&left, &right, false, &Task::default())?;
//! println!("{} blocks differ", delta.changed_blocks());
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Arrows point down: each room uses those above it in this table and no others.
//!
//! | # | room | promises |
//! |---|---|---|
//! | 0 | [`error`], [`units`], [`task`] | error values; counted things; long calls watched and shared out |
//! | 1 | [`device`] | read at a byte offset; nobody else is using it |
//! | 2 | [`block`] | cached, locked, validated blocks |
//! | 3 | [`space`] | the contract of reference counts |
//! | 5 | [`btree`] | nested copy-on-write B-trees, 64-bit keys |
//! | 6 | [`array`], [`bitset`], [`disk_space`] | structures built from trees and blocks |
//! | 7 | [`thin`] | pool metadata, the public heart |
//! | 8 | [`walk`] | damage-tolerant visits that never write |
//! | 9 | [`tools`] | check, delta, dump, extract, list: values in, reports out |
//! | 10 | `python` | bindings only, behind the feature `python` |
#![deny(unsafe_code)]

pub mod array;
pub mod bitset;
pub mod block;
pub mod btree;
pub mod device;
pub mod disk_space;
pub mod error;
#[cfg(feature = "python")]
mod python;
mod sabotage;
pub mod space;
pub mod store;
pub mod task;
#[cfg(test)]
mod testing;
pub mod thin;
pub mod tools;
pub mod transaction;
pub mod units;
pub mod walk;

pub use error::{Damage, Error, Result};
pub use units::BlockNr;
