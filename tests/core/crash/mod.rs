//! What a power cut leaves: the state before the commit in progress, or the one
//! after it, and nothing else.
//!
//! A history of transactions runs on a [`RecordingDevice`], under the store, the
//! block manager and the write-back that everybody uses. Then every crash that
//! its log allows, or a sample of them, is made into an image, opened, and held
//! against what was committed: `judge` walks the image itself and trusts none of
//! the sums that it judges.
//!
//! `THINMETA_CRASH_IMAGES` says how many images, `THINMETA_CRASH_SEED` which.
//!
//! [`RecordingDevice`]: thinmeta::device::RecordingDevice

pub mod history;
mod images;
pub mod judge;
pub mod script;
pub mod state;
mod tests;
