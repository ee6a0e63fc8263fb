//! Layer 8: bookmarks: the mappings of a snapshot, saved.
//!
//! A bookmark says of a later state of the pool which blocks have not changed since, when the
//! snapshot itself is gone. What makes that safe is the kernel's time rule: a snapshot made at
//! time T shares every block that it maps, and a shared block, one whose mapping is older than
//! the last snapshot, is never written in its place. So a block of a later state has the same
//! content if and only if data block and time of its mapping are equal **and the time is
//! below T**: a new mapping, also to a data block that was freed and used again, gets the
//! clock's time, which is T or later. A mapping of time T or later may have been written in
//! place and proves nothing. A volume that was written since it was made has such mappings, and
//! is refused.
//!
//! Promises: what a file says is believed only after its checksum and the digest of all its
//! mappings were compared; memory does not depend on the number of mappings.
//! May use: layers 0 to 7.

mod digest;
mod file;
mod runs;
#[cfg(test)]
mod tests;

pub use digest::{Digest, MappingDigest, Summary, summary_of};
pub use file::{Bookmark, Head, save};
pub use runs::SavedRuns;
