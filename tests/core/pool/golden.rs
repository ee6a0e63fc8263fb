//! A new pool is the kernel's, byte for byte. Source: docs/format.md, "Reference layouts".

use thinmeta::Error;
use thinmeta::thin::PoolWriter;

use super::world::{assert_clean, create, memory, options};

const CHECKSUMS: [u32; 8] = [
    0x069A_C8D3,
    0x18E0_660A,
    0xC360_E452,
    0xA19F_6375,
    0x787F_52C8,
    0x41BF_AA04,
    0xCB3D_DA35,
    0xB1C8_1346,
];

#[test]
fn a_pool_without_data_has_the_kernels_bytes() {
    let device = memory(2048);
    let (writer, _) = create(device.clone(), 0);
    let image = device.contents();
    for (number, expected) in CHECKSUMS.iter().enumerate() {
        let block = &image[number * 4096..][..4];
        let found = u32::from_le_bytes(block.try_into().unwrap());
        assert_eq!(found, *expected, "block {number}");
    }
    assert!(image[8 * 4096..].iter().all(|byte| *byte == 0));
    assert_clean(&writer.current().unwrap());
}

#[test]
fn data_blocks_take_a_bitmap_for_every_16320() {
    let (writer, _) = create(memory(2048), 131_072);
    let pool = writer.current().unwrap();
    let used = pool.superblock().metadata_space_map_root.root.nr_allocated;
    assert_eq!(used.get(), 17);
    assert_clean(&pool);
}

#[test]
fn a_device_that_is_too_small_or_in_use_is_left_as_it_was() {
    for (blocks, data_blocks) in [(7, 0), (10, 16_320), (60, 1 << 24)] {
        let device = memory(blocks);
        let made = PoolWriter::create_on(device.clone(), None, &options(data_blocks));
        assert!(matches!(made, Err(Error::NoSpace { .. })), "{blocks}");
        assert!(device.contents().iter().all(|byte| *byte == 0));
    }
    let device = memory(64);
    create(device.clone(), 100);
    let before = device.contents();
    let again = PoolWriter::create_on(device.clone(), None, &options(100));
    assert!(matches!(again, Err(Error::AlreadyFormatted { .. })));
    for sectors in [0, 64, 129, 2_097_280] {
        let mut options = options(100);
        (options.overwrite, options.data_block_size_sectors) = (true, sectors);
        let made = PoolWriter::create_on(device.clone(), None, &options);
        assert!(matches!(made, Err(Error::Usage(_))));
    }
    assert!(device.contents() == before);
}
