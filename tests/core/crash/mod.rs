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

mod bare;
pub mod history;
pub mod images;
pub mod judge;
pub mod script;
pub mod state;
mod tests;

/// Whether stores hold every count against plain ones while histories run. Where
/// a mistake was built in, the images have to show it by themselves.
pub fn hold_to_laws() -> bool {
    std::env::var_os("THINMETA_SABOTAGE").is_none()
}

/// A number from the environment.
pub fn number(name: &str, otherwise: usize) -> usize {
    let told = std::env::var(name).ok();
    told.map_or(otherwise, |told| told.parse().unwrap())
}
