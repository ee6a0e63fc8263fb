//! Layer 2: cached, locked, validated blocks.
//!
//! Promises: nobody sees a byte of a block before its location, checksum and
//! structure were checked; memory stays within `cache_bytes`; no lock of this
//! room is held during I/O. May use: `error`, `units`, `device`.

mod cache;
pub(crate) mod data;
mod lock;
mod manager;
mod validator;

pub use data::BlockData;
pub use lock::ReadGuard;
pub use manager::{BlockManager, DEFAULT_CACHE_BYTES, Peek};
pub use validator::{Validator, check_location_and_checksum, checksum, kind_of};
