//! Thousands of spoiled images: never a panic, a hang, a hunger for memory, or a
//! wrong listing.
//!
//! THINMETA_HOSTILE_CASES sets how many, THINMETA_HOSTILE_SEED which. A failure
//! prints both and the number of the case, by which it runs again alone.

pub mod answers;
pub mod dumped;
pub mod law;
pub mod mutation;
pub mod reading;
#[cfg(test)]
pub mod run;
pub mod shapes;
#[cfg(test)]
mod tests;
pub mod victim;
