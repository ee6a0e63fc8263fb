//! dm-thin pool metadata in userland.
#![deny(unsafe_code)]

#[cfg(feature = "python")]
mod python;
