//! The images in tests/fixtures, unpacked.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use lzma_rust2::XzReader;

use super::image::Image;

/// Every thin pool of the fixtures.
pub const THIN: [&str; 26] = [
    "block-192k",
    "block-1m",
    "crashed",
    "crashed-busy",
    "data-grown",
    "deleted",
    "discards",
    "empty",
    "external-origin",
    "kernel-6.12",
    "kernel-7.2",
    "metadata-full",
    "metadata-grown",
    "metadata-snap",
    "needs-check",
    "out-of-data",
    "pair-external",
    "pair-zeroing-1",
    "pair-zeroing-2",
    "random-60k",
    "restored-0.9.0",
    "sequential",
    "snap-chain",
    "snaps-300",
    "sparse-keys",
    "transaction-id",
];

/// Those that hold a metadata snapshot.
pub const HELD: [&str; 6] = [
    "block-192k",
    "block-1m",
    "kernel-6.12",
    "kernel-7.2",
    "metadata-snap",
    "pair-zeroing-2",
];

/// A file of the fixtures, unpacked: `"thin/empty/meta.img"`.
pub fn unpacked(name: &str) -> Vec<u8> {
    // The fuzz targets, which have a manifest of their own, use this file too.
    let project = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let mut folders = project.map(|folder| folder.join("tests/fixtures"));
    let folder = folders.find(|folder| folder.is_dir()).unwrap_or_default();
    let path = folder.join(format!("{name}.xz"));
    let file = File::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    XzReader::new(BufReader::new(file), false)
        .read_to_end(&mut bytes)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    bytes
}

/// The metadata of a thin pool.
pub fn thin(name: &str) -> Image {
    Image::new(unpacked(&format!("thin/{name}/meta.img")))
}
