//! What the fuzz targets have in common with the tests in `tests/core`: images,
//! the slow model of a pool, and the laws that every image has to keep.

#[path = "../../tests/core/fuzzed/mod.rs"]
pub mod fuzzed;
#[path = "../../tests/core/hostile/mod.rs"]
pub mod hostile;
#[path = "../../tests/core/model/mod.rs"]
pub mod model;
#[path = "../../tests/core/support/mod.rs"]
pub mod support;

use support::chance::Chance;
use support::fresh::fresh_pool;
use support::image::{Image, Kind, write_field};

/// Blocks of the images made from a fuzzer's bytes.
const BLOCKS: u64 = 32;

/// An image by a fuzzer's bytes: its first byte says whether the rest is the whole
/// file, or patches to a fresh pool whose blocks are sealed afterwards.
pub fn image(bytes: &[u8]) -> Image {
    let Some((0, patches)) = bytes.split_first().map(|(first, rest)| (first % 8, rest)) else {
        return patched(bytes);
    };
    Image::new(patches.to_vec())
}

/// Patches: a block, a kind, an offset, up to 8 bytes.
fn patched(bytes: &[u8]) -> Image {
    let mut image = fresh_pool(BLOCKS);
    let mut chance = Chance::Bytes(bytes.get(1..).unwrap_or_default());
    while !chance.is_empty() {
        let what = chance.below(1 << 16);
        let at = what % BLOCKS;
        let kind = match (at, what >> 8 & 3) {
            (0, _) => Kind::Superblock,
            (1, _) => Kind::Index,
            (3, _) => Kind::Bitmap,
            (_, 0) => Kind::Bitmap,
            (30.., 1) => Kind::Superblock,
            _ => Kind::Node,
        };
        let place = usize::try_from(chance.below(4096)).unwrap_or(0);
        let size = 1 + usize::try_from(what >> 10 & 7).unwrap_or(0);
        let offset = place.min(4096 - size);
        let value = match what >> 13 & 1 {
            0 => chance.below(1 << 16),
            _ => chance.word(),
        };
        image.reseal(at, kind, |block| {
            block[offset..offset + size].copy_from_slice(&value.to_le_bytes()[..size]);
            // A location of its own, unless that is what was patched.
            if !(8..16).contains(&offset) {
                write_field(block, 8, 8, at);
            }
        });
    }
    image
}
