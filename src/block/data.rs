//! The bytes of one metadata block, and typed views of them.

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::units::BLOCK_BYTES;

/// 4096 bytes, aligned so that a header and the first keys share a cache line.
#[derive(Clone, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, align(64))]
pub struct BlockData([u8; BLOCK_BYTES]);

impl BlockData {
    /// A block of zeros.
    #[must_use]
    pub fn zeroed() -> Self {
        Self([0; BLOCK_BYTES])
    }

    /// Zeroed blocks, one after the other.
    #[must_use]
    pub fn zeroed_blocks(count: usize) -> Vec<Self> {
        Self::new_vec_zeroed(count).unwrap_or_else(|_| vec![Self::zeroed(); count])
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; BLOCK_BYTES] {
        &self.0
    }

    /// All bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8; BLOCK_BYTES] {
        &mut self.0
    }

    /// Whether every byte is zero.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0 == [0; BLOCK_BYTES]
    }

    /// The struct at the start of the block.
    #[must_use]
    pub fn view<T: FromBytes + Immutable + KnownLayout + Unaligned>(&self) -> &T {
        const { assert!(size_of::<T>() <= BLOCK_BYTES) }
        match T::ref_from_prefix(&self.0) {
            Ok((view, _)) => view,
            Err(_) => unreachable!("the size was asserted, and T needs no alignment"),
        }
    }

    /// The struct at the start of the block, to be changed.
    pub fn view_mut<T: FromBytes + IntoBytes + Immutable + KnownLayout + Unaligned>(
        &mut self,
    ) -> &mut T {
        const { assert!(size_of::<T>() <= BLOCK_BYTES) }
        match T::mut_from_prefix(&mut self.0) {
            Ok((view, _)) => view,
            Err(_) => unreachable!("the size was asserted, and T needs no alignment"),
        }
    }

    /// Blocks in bytes that an aligned buffer holds, to be filled.
    pub fn blocks_in_mut(bytes: &mut [u8]) -> &mut [Self] {
        <[Self]>::mut_from_bytes(bytes).unwrap_or_default()
    }

    /// Blocks in bytes that an aligned buffer holds.
    #[must_use]
    pub fn blocks_in(bytes: &[u8]) -> &[Self] {
        <[Self]>::ref_from_bytes(bytes).unwrap_or_default()
    }
}

/// A slice of `T` at `offset`, or `None` where the block ends first.
#[must_use]
pub fn slice_at<T: FromBytes + Immutable + Unaligned>(
    bytes: &[u8],
    offset: usize,
    count: usize,
) -> Option<&[T]> {
    let end = offset.checked_add(count.checked_mul(size_of::<T>())?)?;
    <[T]>::ref_from_bytes(bytes.get(offset..end)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::little_endian::U64;

    #[test]
    fn a_slice_that_leaves_the_block_is_refused() {
        let block = BlockData::zeroed();
        assert_eq!(
            slice_at::<U64>(block.bytes(), 4088, 1).map(<[U64]>::len),
            Some(1)
        );
        assert!(slice_at::<U64>(block.bytes(), 4088, 2).is_none());
        assert!(slice_at::<U64>(block.bytes(), 0, usize::MAX).is_none());
    }
}
