//! Layer 8: packs: blocks of content, each stored once, found by their hash.
//!
//! What a backup stores. A *piece* of a volume, at most [`MAX_PIECE_BYTES`], is known by the
//! BLAKE3 of its bytes ([`ContentHash`]). Pieces that are not stored yet are compressed and put one after the
//! other into a *pack*, at whose end a table says what is in it, so that a pack explains
//! itself. An *index* says in which pack a piece is, sorted by hash; [`BlockIndex`] looks
//! pieces up in many of them with little memory.
//!
//! Promises: bytes in, bytes out; nothing here knows where packs are kept, and nothing that a
//! pack or an index says is believed before it was checked.
//! May use: layer 0.

mod builder;
mod codec;
mod content;
mod index;
mod index_file;
mod restore;
mod table;

pub use builder::{PackBuilder, Packed};
pub use codec::{Codec, decompress, is_zero};
pub use content::ContentHash;
pub use index::{BlockIndex, Located};
pub use restore::{Group, Wanted};
pub use table::{Entry, HASH_BYTES, Hash, PackTable};

/// The longest piece, in bytes.
pub const MAX_PIECE_BYTES: usize = 1 << 20;
