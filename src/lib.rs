//! dm-thin pool metadata in userland.
#![deny(unsafe_code)]

pub mod block;
pub mod btree;
pub mod device;
pub mod disk_space;
pub mod error;
#[cfg(feature = "python")]
mod python;
pub mod space;
pub mod task;
#[cfg(test)]
mod testing;
pub mod thin;
pub mod tools;
pub mod units;
pub mod walk;

pub use error::{Damage, Error, Result};
pub use units::BlockNr;
