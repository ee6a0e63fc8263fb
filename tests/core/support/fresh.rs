//! A pool put together by hand. Source: docs/format.md, "Reference layouts".

use super::image::{BLOCK, Image, Kind, write_field};

/// A fresh pool on so many blocks, with data blocks of 128 sectors.
pub fn fresh_pool(blocks: u64) -> Image {
    let mut image = Image::new(vec![0; usize::try_from(blocks).unwrap() * BLOCK]);
    let mut put = |at: u64, kind: Kind, fields: &[(usize, usize, u64)]| {
        image.reseal(at, kind, |block| {
            write_field(block, 8, 8, at);
            for (offset, size, value) in fields {
                write_field(block, *offset, *size, *value);
            }
        });
    };
    let (data, metadata) = ([0, 0, 4, 5], [blocks, 8, 1, 2]);
    let mut superblock = vec![
        (32, 8, 27_022_010),
        (40, 4, 2),
        (320, 8, 6),
        (328, 8, 7),
        (336, 4, 128),
        (340, 4, 8),
        (344, 8, blocks),
    ];
    for (offset, root) in [(64, data), (192, metadata)] {
        superblock.extend((0..4).map(|field| (offset + 8 * field, 8, root[field])));
    }
    put(0, Kind::Superblock, &superblock);
    put(1, Kind::Index, &[(16, 8, 3), (24, 4, 16_312), (28, 4, 8)]);
    put(3, Kind::Bitmap, &[(16, 8, 0xaaaa)]);
    for (at, capacity, value_size) in [
        (2, 336, 4),
        (4, 168, 16),
        (5, 336, 4),
        (6, 252, 8),
        (7, 126, 24),
    ] {
        put(
            at,
            Kind::Node,
            &[(4, 4, 2), (20, 4, capacity), (24, 4, value_size)],
        );
    }
    image
}
