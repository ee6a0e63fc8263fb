//! What a leaf can hold.

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

/// A fixed-size value as it lies on disk.
pub trait Value: FromBytes + Immutable + KnownLayout + Unaligned + Copy {}

impl Value for U32 {}
impl Value for U64 {}
