//! Memory that O_DIRECT accepts.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

use crate::units::BLOCK_BYTES;

#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(4096))]
struct Page([u8; BLOCK_BYTES]);

/// Zeroed bytes that start at a page boundary, a whole number of pages.
#[derive(Default)]
pub struct AlignedBuffer(Vec<Page>);

impl AlignedBuffer {
    /// Room for at least `bytes` bytes.
    ///
    /// # Panics
    /// When there is no memory, like every allocation here; callers bound `bytes`.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        let pages = bytes.div_ceil(BLOCK_BYTES);
        Self(Page::new_vec_zeroed(pages).unwrap_or_else(|_| vec![Page([0; BLOCK_BYTES]); pages]))
    }

    /// The first `bytes` bytes, to be filled; makes room for them if need be.
    pub fn first_mut(&mut self, bytes: usize) -> &mut [u8] {
        if self.as_bytes().len() < bytes {
            *self = Self::new(bytes);
        }
        &mut self.as_mut_bytes()[..bytes]
    }

    /// The bytes, to be filled.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        self.0.as_mut_slice().as_mut_bytes()
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice().as_bytes()
    }
}
