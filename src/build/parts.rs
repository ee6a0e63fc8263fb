//! Mappings that several devices may have, told once.

use super::content::Child;

/// A part that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartId(pub(super) usize);

/// Leaves, and what is in them.
#[derive(Default)]
pub(super) struct Part {
    pub children: Vec<Child>,
    /// One past its last virtual block.
    pub end_virtual: u64,
    pub mapped_blocks: u64,
}
