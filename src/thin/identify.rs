//! What a file that is no thin pool metadata looks like.

use crate::block::{BlockData, kind_of};

/// Well-known beginnings: offset, bytes, what they are.
const SIGNATURES: [(usize, &[u8], &str); 19] = [
    (0, b"<?xml", "an XML file"),
    (
        0,
        b"<superblock",
        "an XML dump of metadata; restore it first",
    ),
    (0, b"\x1f\x8b", "gzip-compressed data"),
    (0, b"\xfd7zXZ\0", "xz-compressed data"),
    (0, b"BZh", "bzip2-compressed data"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed data"),
    (0, b"\x04\x22\x4d\x18", "lz4-compressed data"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"QFI\xfb", "a qcow2 disk image"),
    (0, b"LUKS\xba\xbe", "a LUKS encrypted volume"),
    (0, b"XFSB", "an XFS filesystem"),
    (0, b"\x7fELF", "a program"),
    (0, b"SQLite format 3\0", "an SQLite database"),
    (257, b"ustar", "a tar archive"),
    (512, b"LABELONE", "an LVM physical volume"),
    (512, b"EFI PART", "a disk with a GPT partition table"),
    (1080, b"\x53\xef", "an ext2, ext3 or ext4 filesystem"),
    (1536, b"LABELONE", "an LVM physical volume"),
    (4086, b"SWAPSPACE2", "swap space"),
];

/// Magic numbers of the other device-mapper metadata, at byte 32.
const RELATIVES: [(u64, &str); 2] = [
    (1_623_043, "dm-cache metadata"),
    (2_126_579_579, "dm-era metadata"),
];

/// What block 0 of something else looks like, as the end of a sentence. `None`:
/// it may well be damaged thin pool metadata.
#[must_use]
pub fn describe_foreign(block: &BlockData) -> Option<&'static str> {
    let bytes = block.bytes();
    let magic = u64::from_le_bytes(bytes[32..40].try_into().ok()?);
    if let Some((_, name)) = RELATIVES.iter().find(|relative| relative.0 == magic) {
        return Some(name);
    }
    match kind_of(block) {
        Some((kind, _)) if kind != super::SUPERBLOCK_NAME => Some(match kind {
            "btree node" => "a B-tree node of device-mapper metadata, not its beginning",
            "cache superblock" => "dm-cache metadata",
            "era superblock" => "dm-era metadata",
            _ => "a block from the middle of device-mapper metadata",
        }),
        _ => SIGNATURES
            .iter()
            .find(|(offset, start, _)| bytes[*offset..].starts_with(start))
            .map(|(_, _, name)| *name)
            .or_else(|| looks_like_text(bytes).then_some("text")),
    }
}

fn looks_like_text(bytes: &[u8]) -> bool {
    let printable = |byte: &u8| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~');
    bytes[..256].iter().all(printable)
}
