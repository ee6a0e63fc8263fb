//! What people give for XML and is something else.

use crate::thin::MAGIC;

/// How each begins that can be told by its first bytes, its name, and what reads it.
const COMPRESSED: [(&[u8], &str, &str); 5] = [
    (b"\x1f\x8b", "gzip", "zcat"),
    (b"\xfd7zXZ\0", "xz", "xzcat"),
    (b"BZh", "bzip2", "bzcat"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstdcat"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4cat"),
];

/// What the bytes are, if that is plainly no XML. It takes the first few, or as many of
/// them as there are.
pub(super) fn what_else(bytes: &[u8]) -> Option<String> {
    for (begin, name, reader) in COMPRESSED {
        if bytes.starts_with(begin) {
            return Some(format!(
                "this is compressed ({name}), not XML: give what {reader} prints, as '-'"
            ));
        }
    }
    let magic = bytes.get(MAGIC_AT..MAGIC_AT + 8);
    if magic == Some(&MAGIC.to_le_bytes()[..]) {
        return Some("this is metadata, not XML: 'thinmeta dump' makes XML of it".to_owned());
    }
    let first = &bytes[..bytes.len().min(64)];
    first
        .contains(&0)
        .then(|| "this is not XML: there are zero bytes".to_owned())
}

/// Where block 0 of metadata says what it is.
const MAGIC_AT: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plainly_something_else_is_called_by_its_name() {
        let says = |bytes: &[u8]| what_else(bytes).unwrap_or_default();
        assert!(says(b"\x1f\x8b\x08").contains("gzip"));
        assert!(says(b"\xfd7zXZ\0\0").contains("xzcat"));
        assert!(says(&[0; 4096]).contains("zero bytes"));
        let mut block = [0x55; 64];
        block[MAGIC_AT..][..8].copy_from_slice(&MAGIC.to_le_bytes());
        assert!(says(&block).contains("metadata"));
        for xml in [
            &b"<superblock"[..],
            b"",
            b"  \n",
            b"BZ",
            b"<?xml version='1.0'?>",
        ] {
            assert_eq!(what_else(xml), None);
        }
    }
}
