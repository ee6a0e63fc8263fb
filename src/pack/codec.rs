//! Compression by zstd, bounded both ways.

use zstd::bulk::{Compressor, Decompressor};

use crate::error::{Error, Result};

/// A compressor that is used again and again.
pub struct Codec(Compressor<'static>);

impl Codec {
    /// Of a level as zstd counts them, -7 to 22; 1 is fast.
    ///
    /// # Errors
    /// [`Error::Usage`] for a level that zstd does not have.
    pub fn new(level: i32) -> Result<Self> {
        if !(-7..=22).contains(&level) {
            return Err(Error::usage(format!(
                "zstd has levels from -7 to 22, and none {level}"
            )));
        }
        let compressor = Compressor::new(level);
        let compressor = compressor.map_err(|error| Error::usage(format!("zstd: {error}")))?;
        Ok(Self(compressor))
    }

    /// Appends `bytes`, compressed, to `out`, if that is shorter than they are; if not,
    /// nothing is appended and the answer is `false`.
    pub fn append(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        let begin = out.len();
        // Where the result does not fit, zstd gives up: it would not be shorter.
        out.resize(begin + bytes.len().saturating_sub(1), 0);
        let written = self.0.compress_to_buffer(bytes, &mut out[begin..]);
        out.truncate(begin + written.as_ref().copied().unwrap_or(0));
        written.is_ok()
    }
}

/// Decompresses `bytes` into `out`, which they have to fill exactly.
///
/// # Errors
/// [`Error::Stream`] for whatever else they are.
pub fn decompress(bytes: &[u8], out: &mut [u8]) -> Result<()> {
    let expected = out.len();
    let mut decompressor = Decompressor::new().map_err(broken)?;
    let count = decompressor
        .decompress_to_buffer(bytes, out)
        .map_err(broken)?;
    if count == expected {
        return Ok(());
    }
    Err(Error::Stream(format!(
        "compressed data holds {count} bytes where {expected} were announced"
    )))
}

fn broken(error: std::io::Error) -> Error {
    Error::Stream(format!("compressed data cannot be read: {error}"))
}

/// Whether all of `bytes` are zero.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    const STEP: usize = 4096;
    static ZEROS: [u8; STEP] = [0; STEP];
    bytes
        .chunks(STEP)
        .all(|chunk| *chunk == ZEROS[..chunk.len()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn what_shrinks_is_compressed_and_comes_back_and_the_rest_is_left() {
        let mut codec = Codec::new(1).unwrap();
        let mut out = vec![1, 2, 3];
        let text = b"the quick brown fox ".repeat(100);
        assert!(codec.append(&text, &mut out));
        assert!(out.len() < text.len() / 2);
        let mut back = vec![9; text.len()];
        decompress(&out[3..], &mut back).unwrap();
        assert_eq!(back, text);
        let mut random = Random::new(1);
        let noise: Vec<u8> = (0..1000).map(|_| random.next().to_le_bytes()[0]).collect();
        let length = out.len();
        assert!(!codec.append(&noise, &mut out));
        assert!(!codec.append(&[], &mut out));
        assert_eq!(out.len(), length);
    }

    #[test]
    fn what_is_no_zstd_or_of_another_length_is_an_error() {
        let mut codec = Codec::new(1).unwrap();
        let mut out = Vec::new();
        assert!(codec.append(&[7; 5000], &mut out));
        for length in [4999, 5001, 0] {
            assert!(decompress(&out, &mut vec![0; length]).is_err());
        }
        assert!(decompress(&out[..out.len() - 1], &mut [0; 5000]).is_err());
        assert!(decompress(b"", &mut [0; 10]).is_err());
        assert!(decompress(b"rubbish", &mut [0; 10]).is_err());
        assert!(Codec::new(23).is_err());
    }

    #[test]
    fn zeros_are_zeros_to_the_last_byte() {
        let mut bytes = vec![0; 10_000];
        assert!(is_zero(&bytes) && is_zero(&[]));
        for at in [0, 4095, 4096, 9999] {
            bytes[at] = 1;
            assert!(!is_zero(&bytes));
            bytes[at] = 0;
        }
    }
}
