//! Chunks that are inflated at once: faster than in pieces, if they are as small as those
//! that anybody makes.
//!
//! Only a chunk that is read well and is one sound stream up to its last byte is taken here.
//! Whatever else there may be is left to who inflates in pieces, and says what is wrong.

use std::fs::File;
use std::io::{Empty, empty};
use std::os::unix::fs::FileExt;

use libdeflater::{Decompressor, adler32};
use memchr::memmem;

use super::decode::{Input, PEEK};

/// Bytes of a chunk, before and after, that are held in memory at most. We and 1.x put 1024
/// blocks into one, for which this is plenty, even if they get larger.
pub(super) const MOST: usize = 8 << 20;

pub(super) struct Whole {
    decompressor: Decompressor,
    chunk: Vec<u8>,
    /// Room for `MOST` bytes and what is looked at behind them; nothing before the first
    /// chunk, and while it is lent.
    plain: Vec<u8>,
}

impl Whole {
    pub fn new() -> Self {
        Self {
            decompressor: Decompressor::new(),
            chunk: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// The instructions of the chunk in these bytes of `file`; `None` if something is wrong
    /// with it, or it is too large.
    pub fn inflate(&mut self, file: &File, begin: u64, length: u64) -> Option<Input<Empty>> {
        let length = usize::try_from(length).ok().filter(|it| *it <= MOST)?;
        if self.chunk.len() < length {
            self.chunk.resize(length, 0);
        }
        let chunk = &mut self.chunk[..length];
        file.read_exact_at(chunk, begin).ok()?;
        if self.plain.is_empty() {
            // Pages that no chunk needs are never there.
            self.plain = vec![0; MOST + PEEK];
        }
        let room = &mut self.plain[..MOST];
        let end = self.decompressor.zlib_decompress(chunk, room).ok()?;
        if !is_all_of(chunk, &self.plain[..end]) {
            return None;
        }
        Some(Input::of(std::mem::take(&mut self.plain), end, empty()))
    }

    /// Takes its room back.
    pub fn done(&mut self, input: Input<Empty>) {
        self.plain = input.into_buffer();
    }
}

/// Whether the stream that was inflated to `plain` goes up to the end of `chunk`, which
/// libdeflate does not say. A stream ends with its checksum: one that is nowhere before the
/// end cannot have been found there.
fn is_all_of(chunk: &[u8], plain: &[u8]) -> bool {
    let sum = adler32(plain).to_be_bytes();
    memmem::find(chunk, &sum).is_some_and(|at| at + sum.len() == chunk.len())
}
