//! Hostile packs of metadata: an error that says where, or an image that packs and unpacks
//! to itself.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use thinmeta::block::{BlockData, kind_of};
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::task::Task;
use thinmeta::tools::packed::{pack, packed_blocks, unpack};
use thinmeta::{Error, Result};

use super::Outcome;
use crate::support::chance::Chance;
use crate::support::image::Kind;

const BLOCK: usize = 4096;
/// Blocks of the images that are made here, and the most that one is made room for.
const BLOCKS: usize = 8;
const MOST_BLOCKS: usize = 4096;

/// The first byte says what the rest is: a file, what follows its header, instructions
/// before they are compressed, or the content of blocks that are packed.
pub fn run(bytes: &[u8]) -> Outcome {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let file = match first % 8 {
        0 => rest.to_vec(),
        1 => [&header(BLOCKS as u64), rest].concat(),
        2..5 => {
            let number = u64::from(first >> 4).to_le_bytes();
            chunk(&[&number, rest].concat())
        }
        5 => return image_comes_back(&content(rest)),
        // A sound chunk of which something is changed before it is compressed.
        kind => changed(rest, kind == 6),
    };
    match unpacked(&file) {
        Ok(image) => image_comes_back(&image),
        Err(Error::Stream(text) | Error::Unsupported { reason: text, .. }) => {
            // Neither numbers nor the file's name tell outcomes apart.
            let words = text.rsplit("damaged: ").next().unwrap_or_default();
            vec![words.replace(|letter: char| letter.is_ascii_digit(), "")]
        }
        Err(other) => panic!("{other:?}"),
    }
}

fn header(blocks: u64) -> [u8; 32] {
    let mut header = [0; 32];
    let words = [0xa537_a0aa_6309_ef77, 3, BLOCK as u64, blocks];
    for (place, word) in header.chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&u64::to_le_bytes(word));
    }
    header
}

/// A pack of one chunk.
fn chunk(plain: &[u8]) -> Vec<u8> {
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    zlib.write_all(plain).unwrap();
    let zlib = zlib.finish().unwrap();
    let length = (zlib.len() as u64).to_le_bytes();
    [&header(BLOCKS as u64)[..], &length, &zlib].concat()
}

/// An image by a fuzzer's bytes: nodes and other blocks with anything in them.
fn content(bytes: &[u8]) -> Vec<u8> {
    // Few bytes go a long way: they are used again and again.
    let bytes = bytes.repeat(BLOCKS * BLOCK / bytes.len().max(1) + 1);
    let mut chance = Chance::Bytes(&bytes);
    let mut image = vec![0; BLOCKS * BLOCK];
    for block in image.chunks_exact_mut(BLOCK) {
        let kind = match chance.below(5) {
            0 => continue,
            1 => Kind::Bitmap,
            _ => Kind::Node,
        };
        let (step, mut number) = (chance.below(1 << 16), chance.word());
        for word in block.chunks_exact_mut(8) {
            word.copy_from_slice(&number.to_le_bytes());
            number = match chance.below(8) {
                0 => chance.word(),
                1 => number,
                _ => number.wrapping_add(step),
            };
        }
        // flags, entries, most entries, bytes in a value
        for place in [4, 16, 20, 24] {
            let value = chance.below(600) as u32;
            block[place..place + 4].copy_from_slice(&value.to_le_bytes());
        }
        kind.seal(block.try_into().unwrap());
    }
    image
}

/// A pack of such an image, some bytes of its instructions changed.
fn changed(bytes: &[u8], once: bool) -> Vec<u8> {
    let (changes, rest) = bytes.split_at(bytes.len().min(16));
    let file = packed(&content(rest));
    let mut plain = Vec::new();
    if file.len() > 40 {
        let mut zlib = flate2::read::ZlibDecoder::new(&file[40..]);
        std::io::Read::read_to_end(&mut zlib, &mut plain).unwrap();
    }
    let mut chance = Chance::Bytes(changes);
    while !plain.is_empty() && !chance.is_empty() {
        let at = chance.below(plain.len() as u64) as usize;
        plain[at] ^= chance.below(256) as u8;
        if once {
            break;
        }
    }
    chunk(&plain)
}

fn packed(image: &[u8]) -> Vec<u8> {
    let device: Arc<dyn Device> = Arc::new(MemoryDevice::writable(image.to_vec()));
    let mut out = Vec::new();
    let done = pack(&device, &mut out, &Task::default()).unwrap();
    assert_eq!(done.packed_bytes, out.len() as u64);
    out
}

fn unpacked(bytes: &[u8]) -> Result<Vec<u8>> {
    let file = Scratch::new(bytes);
    let name = Path::new("pack");
    let blocks = usize::try_from(packed_blocks(&file.0, name)?).unwrap();
    if blocks > MOST_BLOCKS {
        return Err(Error::Stream("it says to be large".to_owned()));
    }
    let target = MemoryDevice::writable(vec![0; blocks * BLOCK]);
    unpack(&file.0, name, &target, &Task::default())?;
    Ok(target.contents())
}

/// What was unpacked is metadata and nothing else, and stays what it is.
fn image_comes_back(image: &[u8]) -> Outcome {
    for bytes in image.chunks_exact(BLOCK) {
        let mut block = BlockData::zeroed();
        block.bytes_mut().copy_from_slice(bytes);
        assert!(block.is_zero() || kind_of(&block).is_some());
    }
    let again = unpacked(&packed(image)).unwrap();
    assert!(again == image);
    Vec::new()
}

/// A file without a name.
struct Scratch(File);

impl Scratch {
    fn new(bytes: &[u8]) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("thinmeta-unpack-{}-{number}", std::process::id());
        let path: PathBuf = std::env::temp_dir().join(name);
        fs::write(&path, bytes).unwrap();
        let file = File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        Self(file)
    }
}
