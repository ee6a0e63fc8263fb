//! Layer 2: cached, locked, validated blocks.
//!
//! Promises: nobody sees a byte of a block before its location, checksum and
//! structure were checked; a change reaches the device when it is flushed, or
//! earlier when the cache is full, and the superblock only in a commit; memory
//! stays within `cache_bytes`; no slot's lock is waited for during I/O. May use: `error`, `units`, `device`.

mod accept;
mod blank;
mod cache;
mod crc;
pub(crate) mod data;
mod guard;
mod hold;
mod lock;
mod manager;
#[cfg(all(test, shuttle))]
mod model;
mod patience;
mod prefetch;
mod prepare;
mod relabel;
mod sync;
mod validator;
mod writeback;

pub use blank::check_unformatted;
pub use crc::CrcValidator;
pub use data::BlockData;
pub use guard::{ReadGuard, WriteGuard};
pub use manager::{BlockManager, DEFAULT_CACHE_BYTES, Patience, Peek};
pub use patience::{ask_patience, with_patience};
pub use validator::{
    Checks, Validator, check_location_and_checksum, checksum, kind_of, seal_location_and_checksum,
};
