//! The promises of the layers below the tools: what is read, when, and by whom.

mod cache;
mod live;
mod released;
mod snapshot_reads;
mod threads;
