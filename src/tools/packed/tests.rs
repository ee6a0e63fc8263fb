//! What is packed comes back, and what is no pack does no harm.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use super::{pack, unpack};
use crate::block::{BlockData, Validator, kind_of};
use crate::btree::{NODE_VALIDATOR, NodeHeader};
use crate::device::{Device, MemoryDevice};
use crate::disk_space::BITMAP_VALIDATOR;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::testing::Random as Rng;
use crate::units::{BLOCK_BYTES, BlockNr};

/// A file without a name that holds `bytes`.
fn file(bytes: &[u8]) -> File {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    let fd: OwnedFd = rustix::fs::memfd_create("packed", flags).unwrap();
    let mut file = File::from(fd);
    file.write_all(bytes).unwrap();
    file
}

fn packed(image: &[u8]) -> Vec<u8> {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image.to_vec()));
    let mut out = Vec::new();
    let answer = pack(&device, &mut out, &Task::new(None, Some(2))).unwrap();
    assert_eq!(answer.packed_bytes, out.len() as u64);
    out
}

fn unpacked(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = file(bytes);
    let name = Path::new("some.pack");
    let blocks = super::packed_blocks(&file, name)?;
    // No more than this is asked of the disk.
    let size = usize::try_from(blocks.min(4096)).unwrap() * BLOCK_BYTES;
    let target = MemoryDevice::writable(vec![0; size]);
    unpack(&file, name, &target, &Task::new(None, Some(2)))?;
    Ok(target.contents())
}

fn block_of(image: &mut [u8], at: u64) -> &mut [u8] {
    let begin = usize::try_from(at).unwrap() * BLOCK_BYTES;
    &mut image[begin..begin + BLOCK_BYTES]
}

/// A node whose header says anything, and whose numbers go all ways.
fn node(rng: &mut Rng, at: u64) -> BlockData {
    let mut block = BlockData::zeroed();
    let mut number = 0_u64;
    let kind = rng.below(4);
    for word in block.bytes_mut().chunks_exact_mut(8) {
        let step = match rng.below(if kind == 0 { 2 } else { 14 }) {
            0..4 => 1,
            4..6 => 0,
            6 => rng.below(300),
            7 => rng.below(1 << 33).wrapping_neg(),
            8 => rng.next(),
            9 => 1 << 24,
            // Data blocks that are far from each other.
            10 | 11 => rng.below(1 << 32) << 24,
            12 => (rng.below(1 << 32) << 24).wrapping_neg(),
            _ => 1_u64.wrapping_neg(),
        };
        number = number.wrapping_add(step);
        word.copy_from_slice(&number.to_le_bytes());
    }
    let header: &mut NodeHeader = block.view_mut();
    let pick = |rng: &mut Rng, from: &[u32]| from[rng.below(from.len() as u64) as usize];
    header.flags = pick(rng, &[1, 2, 2, 2, 3]).into();
    header.value_size = pick(rng, &[8, 8, 8, 4, 16, 24, 1, 0, 4000, u32::MAX]).into();
    header.max_entries = pick(rng, &[252, 252, 336, 126, 168, 0, 1, 507, 508, u32::MAX]).into();
    NODE_VALIDATOR.seal(BlockNr(at), &mut block);
    block
}

#[test]
fn whatever_nodes_hold_comes_back() {
    let mut rng = Rng::new(7);
    let mut image = vec![0; 3000 * BLOCK_BYTES];
    for at in (0..3000).filter(|at| at % 3 != 0) {
        let mut block = node(&mut rng, at);
        if at % 7 == 0 {
            BITMAP_VALIDATOR.seal(BlockNr(at), &mut block);
        }
        block_of(&mut image, at).copy_from_slice(block.bytes());
    }
    let back = unpacked(&packed(&image)).unwrap();
    assert!(back == image);
}

#[test]
fn what_is_no_metadata_is_left_out_and_counted() {
    let mut image = vec![0; 4 * BLOCK_BYTES];
    image[BLOCK_BYTES + 5] = 1;
    let mut rng = Rng::new(1);
    block_of(&mut image, 2).copy_from_slice(node(&mut rng, 2).bytes());
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image.clone()));
    let answer = pack(&device, &mut Vec::new(), &Task::default()).unwrap();
    assert_eq!((answer.packed_blocks, answer.left_out_blocks), (1, 1));
    image[BLOCK_BYTES + 5] = 0;
    assert!(unpacked(&packed(&image)).unwrap() == image);
}

/// A pack of chunks of instructions.
fn made(blocks: u64, chunks: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [super::MAGIC, super::VERSION, 4096, blocks] {
        out.extend_from_slice(&word.to_le_bytes());
    }
    for chunk in chunks {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
        zlib.write_all(chunk).unwrap();
        let bytes = zlib.finish().unwrap();
        out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

fn refuses(bytes: &[u8], says: &str) {
    match unpacked(bytes) {
        Err(Error::Stream(text)) => assert!(text.contains(says), "{text}"),
        other => panic!("{says}: {:?}", other.map(|image| image.len())),
    }
}

#[test]
fn each_impossible_instruction_is_refused() {
    let chunk = |more: &[u8]| made(9, &[&[&1_u64.to_le_bytes(), more].concat()]);
    let rest = [0x01, 7, 0x61, 255];
    refuses(&chunk(&rest), "the checksum of no metadata");
    refuses(&chunk(&[0x01, 7, 0x62, 0]), "more than 4096 bytes");
    refuses(
        &chunk(&[0xa8, 255, 255, 255, 255, 255, 255, 255, 255]),
        "more than 4096",
    );
    refuses(&chunk(&[0xa3, 1, 1, 1]), "an impossible width");
    refuses(&chunk(&[0x00]), "an impossible width");
    for first in [0xc0, 0xd1, 0xef, 0xff] {
        refuses(&chunk(&[first]), "an instruction that there is not");
    }
    refuses(&chunk(&[0x72, 0x51]), "an instruction that there is not");
    refuses(
        &chunk(&[0xb1, 0, 0x01, 7, 0x61, 0]),
        "more numbers than there are mappings",
    );
    refuses(
        &chunk(&[0xb0, 1, 0x01, 7, 0x04, 0, 0, 0, 1]),
        "has no room for",
    );
    refuses(
        &chunk(&[0xb0, 1, 0x08, 0, 0, 0, 0, 0, 1, 0, 0, 0x01, 7]),
        "has no room for",
    );
    refuses(&chunk(&[0xbf, 0]), "more than 4096 bytes");
    refuses(&chunk(&[0x01, 7, 0x51]), "in the middle of a block");
    refuses(&chunk(&[0x50; 20_000]), "does not become full");
    refuses(
        &chunk(&[&[0xb0, 1][..], &[0x50; 20_000]].concat()),
        "do not become full",
    );
    refuses(&made(9, &[&9_u64.to_le_bytes()]), "block 9 of 9");
    refuses(&made(9, &[b""]), "a chunk without a block");
    refuses(&made(2, &[b"", b"", b""]), "more chunks than");
    refuses(&made(9, &[&[1, 2, 3]]), "in the middle of a block");
}

#[test]
fn a_file_that_is_cut_or_is_none_is_refused() {
    let mut rng = Rng::new(3);
    let mut image = vec![0; 50 * BLOCK_BYTES];
    for at in 0..50 {
        block_of(&mut image, at).copy_from_slice(node(&mut rng, at).bytes());
    }
    let whole = packed(&image);
    for length in [0, 1, 31] {
        let answer = unpacked(&whole[..length]);
        assert!(matches!(answer, Err(Error::Unsupported { .. })));
    }
    for length in [33, 39, 41, whole.len() / 2, whole.len() - 1] {
        refuses(&whole[..length], "cut off");
    }
    for (place, value) in [(0, 1), (8, 2), (8, 4), (17, 2), (24, 0), (31, 1)] {
        let mut other = whole.clone();
        other[place] = value;
        if place == 24 {
            other[24..32].fill(0);
        }
        let answer = unpacked(&other);
        assert!(matches!(answer, Err(Error::Unsupported { .. })), "{place}");
    }
    let behind = [&whole[..], &[1]].concat();
    refuses(&behind, "cut off");
    // Zeros are no damage; what follows them is.
    let zeros = [&whole[..], &[0; 20]].concat();
    assert!(unpacked(&zeros).unwrap() == image);
    refuses(&[&zeros[..], &[1]].concat(), "something behind them");
    let twice = [&whole[..], &whole[32..]].concat();
    refuses(&twice, "comes twice");
    let mut longer = whole.clone();
    let length = u64::from_le_bytes(whole[32..40].try_into().unwrap()) + 1;
    longer[32..40].copy_from_slice(&length.to_le_bytes());
    longer.push(0);
    refuses(&longer, "behind the end of a chunk");
    // Nor does it help that it ends as a stream does.
    let checksum = &whole[whole.len() - 4..];
    let mut longer = [&whole[..], &[1, 2, 3], checksum].concat();
    longer[32..40].copy_from_slice(&(length + 6).to_le_bytes());
    refuses(&longer, "behind the end of a chunk");
}

/// Blocks of an image as instructions, not compressed.
fn instructions(image: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    for (at, bytes) in (0..).zip(image.chunks_exact(BLOCK_BYTES)) {
        let mut block = BlockData::zeroed();
        block.bytes_mut().copy_from_slice(bytes);
        let kind = kind_of(&block).unwrap().0;
        super::encode::block(at, kind, &block, &mut plain);
    }
    plain
}

#[test]
fn a_chunk_that_is_too_large_for_memory_comes_back_as_well() {
    let mut rng = Rng::new(5);
    let mut image = vec![0; 3000 * BLOCK_BYTES];
    for at in 0..3000 {
        block_of(&mut image, at).copy_from_slice(node(&mut rng, at).bytes());
    }
    let plain = instructions(&image);
    assert!(plain.len() > super::whole::MOST);
    let whole = made(3000, &[&plain]);
    assert!(unpacked(&whole).unwrap() == image);
    let length = u64::from_le_bytes(whole[32..40].try_into().unwrap()) + 1;
    let mut longer = [&whole[..], &[0]].concat();
    longer[32..40].copy_from_slice(&length.to_le_bytes());
    refuses(&longer, "behind the end of a chunk");
}

#[test]
fn no_bit_of_a_stream_can_change_unnoticed() {
    let mut rng = Rng::new(13);
    let mut image = vec![0; 3 * BLOCK_BYTES];
    for at in 0..3 {
        block_of(&mut image, at).copy_from_slice(node(&mut rng, at).bytes());
    }
    let whole = packed(&image);
    for bit in 8 * 40..8 * whole.len() {
        if bit / 8 < 48 || bit % 61 == 0 || bit / 8 + 4 >= whole.len() {
            let mut other = whole.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            match unpacked(&other) {
                Err(Error::Stream(_)) => {}
                // How much of a window it needs and how hard it was pressed is all that is free.
                Ok(back) => assert!(bit / 8 < 42 && back == image, "{bit}"),
                Err(other) => panic!("{bit}: {other}"),
            }
        }
    }
}

#[test]
fn random_bytes_in_a_pack_are_an_error_or_metadata() {
    let mut rng = Rng::new(11);
    let mut image = vec![0; 40 * BLOCK_BYTES];
    for at in 0..40 {
        block_of(&mut image, at).copy_from_slice(node(&mut rng, at).bytes());
    }
    // Instructions as they were before they were compressed, a few of them changed.
    let plain = instructions(&image);
    let mut refused = 0;
    for _ in 0..2000 {
        let mut spoilt = plain.clone();
        for _ in 0..1 + rng.below(3) {
            let at = rng.below(spoilt.len() as u64) as usize;
            spoilt[at] = rng.next() as u8;
        }
        match unpacked(&made(40, &[&spoilt])) {
            Ok(back) => assert_eq!(back.len(), image.len()),
            Err(Error::Stream(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused > 1000, "{refused}");
}
