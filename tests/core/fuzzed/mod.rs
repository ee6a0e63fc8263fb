//! Hostile bytes for what is changed on a device: nodes, space maps, arrays, the
//! superblock of a store, pools; for what is saved of them, for XML and for packs. Each target takes a
//! fuzzer's input and holds what comes of it to laws: no panic, no lock left, errors that say what is wrong, answers that agree.
//!
//! Inputs that were once found to matter are kept in `seeds`, and run as plain tests.

mod arrays;
mod base;
mod maps;
pub mod pool;
mod restore;
mod saved;
mod store;
#[cfg(test)]
mod tests;
mod trees;
mod unpack;

/// What became of an input: the errors that were met.
pub type Outcome = Vec<String>;

/// A target by its name.
pub type Target = (&'static str, fn(&[u8]) -> Outcome);

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("tree_changes", trees::run),
    ("space_maps", maps::run),
    ("arrays", arrays::run),
    ("store", store::run),
    ("pool", pool::run),
    ("saved", saved::run),
    ("restore", restore::run),
    ("unpack", unpack::run),
];

/// Runs one; panics where a law is broken.
pub fn run(name: &str, bytes: &[u8]) -> Outcome {
    let target = TARGETS.iter().find(|target| target.0 == name);
    target.unwrap_or_else(|| panic!("no target {name}")).1(bytes)
}
