//! dm-thin pool metadata in userland: open what a kernel wrote, look things up,
//! check it, compare two volumes, print it, and put a volume together from raw
//! images. And the engine under it, device-mapper's persistent-data, for data of
//! one's own: copy-on-write B-trees in transactions that survive any crash.
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
//! ```
//! use std::sync::Arc;
//! use thinmeta::btree::Wait;
//! use thinmeta::device::MemoryDevice;
//! use thinmeta::store::{Store, StoreOptions};
//!
//! # fn main() -> thinmeta::Result<()> {
//! let device = Arc::new(MemoryDevice::writable(vec![0; 1 << 20]));
//! let store = Store::create_on(device, &StoreOptions::default())?;
//! let txn = store.transaction(None)?;
//! let inodes = txn.tree_or_new("inodes", 8)?;
//! txn.insert(inodes, 7, &42_u64.to_le_bytes())?;
//! txn.snapshot("inodes", "inodes@monday")?;
//! txn.commit()?;
//! let view = store.view()?;
//! let mut value = [0; 8];
//! assert!(view.get(view.tree("inodes@monday")?, 7, &mut value, Wait::Yes)?);
//! assert_eq!(u64::from_le_bytes(value), 42);
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! Arrows point down: each room uses those above it in this table and no others, but
//! for one knot: what counts blocks is kept in blocks that a transaction allocates, so
//! that [`transaction`], [`btree`] and [`disk_space`] know each other.
//!
//! | # | room | promises |
//! |---|---|---|
//! | 0 | [`error`], [`units`], [`task`] | error values; counted things; long calls watched and shared out |
//! | 1 | [`device`] | read, write, flush at a byte offset; nobody else is using it |
//! | 2 | [`block`] | cached, locked, validated blocks; ordered flush |
//! | 3 | [`space`] | the contract of reference counts and allocation |
//! | 4 | [`transaction`] | shadowing; two-phase commit; a view that never waits |
//! | 5 | [`btree`] | nested copy-on-write B-trees, 64-bit keys |
//! | 6 | [`array`], [`bitset`], [`disk_space`] | structures built from trees and blocks |
//! | 7 | [`thin`], [`store`] | pool metadata; named trees under one superblock |
//! | 8 | [`walk`], [`bookmark`] | damage-tolerant visits that never write; saved mappings |
//! | 8 | [`build`] | a whole pool's metadata, made in one pass |
//! | 8 | [`pack`] | blocks of content, each stored once, found by their hash |
//! | 9 | [`tools`] | check, delta, changes, dump, extract, list: values in, reports out |
//! | 10 | `python` | bindings only, behind the feature `python` |
#![deny(unsafe_code)]

pub mod array;
pub mod bitset;
pub mod block;
pub mod bookmark;
pub mod btree;
pub mod build;
pub mod device;
pub mod disk_space;
pub mod error;
pub mod pack;
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
