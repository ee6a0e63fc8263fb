//! Metadata packed into a file, in the form of thin_metadata_pack 1.x.
//!
//! Every block whose checksum is that of some kind of metadata is packed, whether anything
//! leads to it or not: a file to be sent to whoever is to look at a pool, or kept. How the
//! form was found out, and what it is: docs/format.md, "Packed metadata".

mod decode;
mod encode;
mod pack;
#[cfg(test)]
mod tests;
mod unpack;
mod whole;

pub use pack::{Packed, pack};
pub use unpack::{Unpacked, packed_blocks, unpack};

use crate::block::BlockData;
use crate::units::{BLOCK_BYTES, MAX_METADATA_BLOCKS};

const MAGIC: u64 = 0xa537_a0aa_6309_ef77;
const VERSION: u64 = 3;
/// Magic, version, bytes in a block, blocks of the device: a u64 each.
const HEADER_BYTES: usize = 32;

/// Devices larger than this hold no metadata: 16 times what can be in use.
const MOST_BLOCKS: u64 = 1 << 26;
/// More than this cannot be in use.
const MOST_PACKED: u64 = MAX_METADATA_BLOCKS;

/// Header of a B-tree node.
const NODE_HEADER_BYTES: usize = 32;
const NODE: &str = crate::btree::NODE_NAME;
const LEAF: u32 = 2;

/// A block's first instruction says how many numbers follow, in these ways.
mod tag {
    /// A number: its bytes follow, as many as the lower half says, 1, 2, 4 or 8.
    pub const SET: u8 = 0x0;
    /// The last number and so much more: what the lower half says, 1 to 15.
    pub const MORE: u8 = 0x1;
    /// The same; bytes follow as for [`SET`].
    pub const MUCH_MORE: u8 = 0x2;
    pub const LESS: u8 = 0x3;
    pub const MUCH_LESS: u8 = 0x4;
    /// The last number again, so many times.
    pub const SAME: u8 = 0x5;
    /// The same; a byte follows, the lower part of 12 bits.
    pub const SAME_LONG: u8 = 0x6;
    /// The next step, which is one of the four above, so many times.
    pub const STEPS: u8 = 0x7;
    pub const STEPS_LONG: u8 = 0x8;
    /// So many bytes as they are.
    pub const BYTES: u8 = 0x9;
    /// The same; their number follows, in 1, 2, 4 or 8 bytes.
    pub const BYTES_LONG: u8 = 0xa;
    /// Mappings, 12 bits say how many: first all data blocks, then all times.
    pub const MAPPINGS: u8 = 0xb;
}

/// A node's parts, for one that fits its block.
struct NodeParts {
    keys: usize,
    /// Whether values are mappings, or numbers; other ones are bytes.
    values: Values,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    Mappings,
    Numbers,
    Bytes,
}

impl NodeParts {
    fn of(block: &BlockData) -> Option<Self> {
        let header: &crate::btree::NodeHeader = block.view();
        let keys = usize::try_from(header.max_entries.get()).ok()?;
        let size = usize::try_from(header.value_size.get()).ok()?;
        let body = keys.checked_mul(size.checked_add(8)?)?;
        if keys == 0 || body > BLOCK_BYTES - NODE_HEADER_BYTES {
            return None;
        }
        let values = match (size, header.flags.get()) {
            (8, LEAF) => Values::Mappings,
            (8, _) => Values::Numbers,
            _ => Values::Bytes,
        };
        Some(Self { keys, values })
    }
}
