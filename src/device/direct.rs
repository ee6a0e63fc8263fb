//! Requests of any place and length on a file that takes aligned ones only.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::AlignedBuffer;
use crate::units::BLOCK_BYTES;

/// The longest single bounce through aligned memory.
const BOUNCE_BYTES: usize = 1 << 20;

/// One piece of a request: the aligned stretch that covers it.
struct Piece {
    /// Where the stretch begins.
    begin: u64,
    /// Its length.
    bytes: usize,
    /// Bytes of it before the piece.
    skip: usize,
    /// Bytes of the piece.
    take: usize,
}

/// The first piece of `wanted` bytes at `at`, of a device of `size` bytes.
fn piece(at: u64, wanted: usize, size: u64) -> Option<Piece> {
    let begin = at - at % BLOCK_BYTES as u64;
    let skip = usize::try_from(at - begin).unwrap_or_default();
    // A device whose size is no multiple of a page ends inside the last one.
    let room = usize::try_from(size.saturating_sub(begin)).unwrap_or(usize::MAX);
    let most = BOUNCE_BYTES.min(room);
    let bytes = skip.saturating_add(wanted).min(most);
    let bytes = bytes.next_multiple_of(BLOCK_BYTES).min(most);
    let take = bytes.checked_sub(skip)?.min(wanted);
    (take > 0).then_some(Piece {
        begin,
        bytes,
        skip,
        take,
    })
}

fn is_aligned(buffer: &[u8], offset_bytes: u64) -> bool {
    offset_bytes.is_multiple_of(BLOCK_BYTES as u64)
        && buffer.len().is_multiple_of(BLOCK_BYTES)
        && buffer.as_ptr().addr().is_multiple_of(BLOCK_BYTES)
}

/// Reads all of `buffer` from a device of `size` bytes.
pub(super) fn read(file: &File, buffer: &mut [u8], offset_bytes: u64, size: u64) -> io::Result<()> {
    if is_aligned(buffer, offset_bytes) {
        return file.read_exact_at(buffer, offset_bytes);
    }
    let mut bounce = AlignedBuffer::new((buffer.len() + 2 * BLOCK_BYTES).min(BOUNCE_BYTES));
    let (mut done, mut at) = (0, offset_bytes);
    while done < buffer.len() {
        let piece = piece(at, buffer.len() - done, size)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let aligned = bounce.first_mut(piece.bytes);
        file.read_exact_at(aligned, piece.begin)?;
        let end = piece.skip + piece.take;
        buffer[done..done + piece.take].copy_from_slice(&aligned[piece.skip..end]);
        done += piece.take;
        at += piece.take as u64;
    }
    Ok(())
}

/// Writes all of `bytes`. What shares a page with them is read and written
/// again, so that nobody else may be writing there.
pub(super) fn write(file: &File, bytes: &[u8], offset_bytes: u64, size: u64) -> io::Result<()> {
    if is_aligned(bytes, offset_bytes) {
        return file.write_all_at(bytes, offset_bytes);
    }
    let mut bounce = AlignedBuffer::new((bytes.len() + 2 * BLOCK_BYTES).min(BOUNCE_BYTES));
    let (mut done, mut at) = (0, offset_bytes);
    while done < bytes.len() {
        let piece = piece(at, bytes.len() - done, size)
            .ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        let aligned = bounce.first_mut(piece.bytes);
        if piece.take < piece.bytes {
            file.read_exact_at(aligned, piece.begin)?;
        }
        let end = piece.skip + piece.take;
        aligned[piece.skip..end].copy_from_slice(&bytes[done..done + piece.take]);
        file.write_all_at(aligned, piece.begin)?;
        done += piece.take;
        at += piece.take as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn requests_of_any_place_and_length_are_whole() {
        let path = std::env::temp_dir().join(format!("thinmeta-direct-{}", std::process::id()));
        // An ordinary file takes what a direct one takes; the arithmetic is the same.
        let size = BOUNCE_BYTES + 3 * BLOCK_BYTES + 512;
        let mut model: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &model).unwrap();
        let file = OpenOptions::new().read(true).write(true).open(&path);
        let file = file.unwrap();
        let long = BOUNCE_BYTES + BLOCK_BYTES + 5;
        let places = [0, 1, 511, 512, 4095, 4096, 5000, size - 600, size - 1];
        for (turn, at) in places.into_iter().enumerate() {
            for length in [1, 512, 4096, 4097, 9000, long] {
                let end = at + length;
                let bytes: Vec<u8> = (0..length).map(|byte| (byte * 7 + turn) as u8).collect();
                let mut back = vec![0; length];
                let written = write(&file, &bytes, at as u64, size as u64);
                let read = read(&file, &mut back, at as u64, size as u64);
                assert_eq!((written.is_ok(), read.is_ok()), (end <= size, end <= size));
                let fits = end.min(size) - at;
                model[at..at + fits].copy_from_slice(&bytes[..fits]);
                if end <= size {
                    assert_eq!(back, bytes);
                }
            }
        }
        assert!(
            std::fs::read(&path).unwrap() == model,
            "nothing else changed"
        );
        std::fs::remove_file(&path).unwrap();
    }
}
