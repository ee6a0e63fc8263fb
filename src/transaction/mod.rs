//! Layer 4: shadowing and commit.
//!
//! Promises: a block that the committed state reaches is never changed; a change
//! is visible on disk as a whole or not at all.
//! May use: `error`, `units`, `device`, `block`, `space`; and `disk_space`, with
//! which it is knotted: the map that counts metadata blocks is itself made of
//! blocks that a transaction shadows.

mod manager;
mod nonblocking;
mod shadow;
mod txn;

pub use manager::TransactionManager;
pub use nonblocking::{NonBlockingClone, Prefetches};
pub use shadow::ShadowTable;
pub(crate) use txn::Space;
pub use txn::Transaction;
