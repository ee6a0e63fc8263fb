//! What failing reads, writes and flushes leave of a pool: the committed state, whole,
//! and a pool that goes on, or says why it does not.

mod cases;
mod losses;
mod making;
mod metadata;
mod space;
mod volumes;
