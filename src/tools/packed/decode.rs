//! Blocks from instructions, whoever wrote these.

use std::io::Read;

use zerocopy::FromBytes;
use zerocopy::little_endian::U64;

use super::tag;
use crate::block::BlockData;
use crate::error::{Error, Result};
use crate::units::BLOCK_BYTES;

/// What errors call the file until its name is put there.
pub(super) const INPUT: &str = "<input>";

/// Times have 24 bits of a mapping, data blocks the rest.
const TIME_BITS: u32 = 24;

/// Bytes that are read at once.
const ROOM: usize = 1 << 16;
/// The longest instruction, but for bytes that are copied, has eleven.
pub(super) const PEEK: usize = 16;

/// Bytes of instructions, some of which can be looked at before they are taken.
pub(super) struct Input<R> {
    source: R,
    /// `ROOM` bytes, and as many zeros behind those that were read as can be looked at.
    buffer: Vec<u8>,
    at: usize,
    end: usize,
    ended: bool,
}

impl<R: Read> Input<R> {
    pub fn new(source: R) -> Self {
        Self {
            ended: false,
            ..Self::of(vec![0; ROOM + PEEK], 0, source)
        }
    }

    /// The bytes up to `end`, and nothing more from the source; there are `PEEK` behind them.
    pub fn of(mut buffer: Vec<u8>, end: usize, source: R) -> Self {
        buffer[end..end + PEEK].fill(0);
        Self {
            source,
            buffer,
            at: 0,
            end,
            ended: true,
        }
    }

    pub fn into_buffer(self) -> Vec<u8> {
        self.buffer
    }

    /// What was read from, when all was read.
    pub fn into_source(self) -> R {
        self.source
    }

    pub fn is_empty(&mut self) -> Result<bool> {
        if self.at == self.end && !self.ended {
            self.read_more()?;
        }
        Ok(self.at == self.end)
    }

    /// A number of eight bytes.
    pub fn number(&mut self) -> Result<u64> {
        let number = word(self.peek()?, 0);
        self.advance(8)?;
        Ok(number)
    }

    /// What comes next, a byte at least; zeros behind the end.
    #[inline]
    fn peek(&mut self) -> Result<&[u8; PEEK]> {
        if self.end - self.at < PEEK && !self.ended {
            self.read_more()?;
        }
        // There are always so many, which the compiler does not know.
        let rest = self.buffer[self.at..].first_chunk();
        rest.filter(|_| self.at < self.end).ok_or_else(cut_off)
    }

    #[inline]
    fn advance(&mut self, count: usize) -> Result<()> {
        if count > self.end - self.at {
            return Err(cut_off());
        }
        self.at += count;
        Ok(())
    }

    fn copy(&mut self, mut out: &mut [u8]) -> Result<()> {
        loop {
            let count = out.len().min(self.end - self.at);
            let (now, later) = out.split_at_mut(count);
            now.copy_from_slice(&self.buffer[self.at..self.at + count]);
            self.at += count;
            if later.is_empty() {
                return Ok(());
            }
            if self.ended {
                return Err(cut_off());
            }
            out = later;
            self.read_more()?;
        }
    }

    /// Reads until there is enough to look at, or no more.
    #[cold]
    fn read_more(&mut self) -> Result<()> {
        self.buffer.copy_within(self.at..self.end, 0);
        self.end -= self.at;
        self.at = 0;
        while self.end < PEEK && !self.ended {
            match self.source.read(&mut self.buffer[self.end..ROOM]) {
                Ok(count) => {
                    self.end += count;
                    self.ended = count == 0;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error().is_some() => {
                    return Err(Error::io(INPUT, None, error));
                }
                // What zlib says.
                Err(error) => return Err(broken(&error.to_string())),
            }
        }
        self.buffer[self.end..self.end + PEEK].fill(0);
        Ok(())
    }
}

/// The number in eight bytes from a place on.
#[inline]
fn word(bytes: &[u8; PEEK], at: usize) -> u64 {
    let bytes = bytes.get(at..).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Reads a block's instructions from `input` until it is full.
pub(super) fn block(input: &mut Input<impl Read>, block: &mut BlockData) -> Result<()> {
    let mut out = Out {
        bytes: block.bytes_mut(),
        filled: 0,
        last: 0,
    };
    // Some may do nothing, but not for ever.
    for _ in 0..2 * BLOCK_BYTES {
        if out.filled == BLOCK_BYTES {
            return Ok(());
        }
        out.next(input)?;
    }
    Err(broken("a block that does not become full"))
}

pub(super) fn broken(what: &str) -> Error {
    Error::Stream(format!("packed metadata are damaged: {what}"))
}

struct Out<'b> {
    bytes: &'b mut [u8; BLOCK_BYTES],
    filled: usize,
    /// The last number.
    last: u64,
}

/// What of eight bytes is a number of so many; nothing where there can be no such number.
const MASKS: [u64; 16] = {
    let mut masks = [0; 16];
    masks[1] = 0xff;
    masks[2] = 0xffff;
    masks[4] = 0xffff_ffff;
    masks[8] = u64::MAX;
    masks
};

impl Out<'_> {
    /// Does one instruction.
    fn next(&mut self, input: &mut Input<impl Read>) -> Result<()> {
        let bytes = input.peek()?;
        let low = usize::from(bytes[0] & 0xf);
        match bytes[0] >> 4 {
            tag::BYTES => {
                input.advance(1)?;
                self.copy(input, low)
            }
            tag::BYTES_LONG => {
                let length = word(bytes, 1) & wide(low)?;
                input.advance(1 + low)?;
                self.copy(input, usize::try_from(length).unwrap_or(usize::MAX))
            }
            tag::MAPPINGS => {
                let count = low << 8 | usize::from(bytes[1]);
                input.advance(2)?;
                self.mappings(input, count)
            }
            _ => {
                let (step, times) = steps(input, self.last)?;
                let end = self.filled.saturating_add(times.saturating_mul(8));
                let places = self.bytes.get_mut(self.filled..end);
                for place in places.ok_or_else(too_much)?.chunks_exact_mut(8) {
                    self.last = self.last.wrapping_add(step);
                    place.copy_from_slice(&self.last.to_le_bytes());
                }
                self.filled = end;
                Ok(())
            }
        }
    }

    /// Mappings: all their data blocks, then all their times.
    fn mappings(&mut self, input: &mut Input<impl Read>, count: usize) -> Result<()> {
        let end = self.filled + 8 * count;
        let places = self.bytes.get_mut(self.filled..end);
        let places = places.and_then(|bytes| <[U64]>::mut_from_bytes(bytes).ok());
        let places = places.ok_or_else(too_much)?;
        let mut beyond = 0;
        row(input, &mut self.last, places, |place, block| {
            beyond |= block >> (64 - TIME_BITS);
            place.set(block << TIME_BITS);
        })?;
        row(input, &mut self.last, places, |place, time| {
            beyond |= time >> TIME_BITS;
            place.set(place.get() | time);
        })?;
        if beyond != 0 {
            return Err(broken("a mapping with a number that it has no room for"));
        }
        self.filled = end;
        Ok(())
    }

    fn copy(&mut self, input: &mut Input<impl Read>, length: usize) -> Result<()> {
        let end = self.filled.saturating_add(length);
        let place = self.bytes.get_mut(self.filled..end);
        input.copy(place.ok_or_else(too_much)?)?;
        self.filled = end;
        Ok(())
    }
}

/// A number for each place, of a row of mappings.
fn row(
    input: &mut Input<impl Read>,
    last: &mut u64,
    mut places: &mut [U64],
    mut put: impl FnMut(&mut U64, u64),
) -> Result<()> {
    // As for blocks.
    for _ in 0..2 * BLOCK_BYTES {
        let done = four_byte_steps(input, last, places, &mut put);
        places = &mut places[done..];
        if places.is_empty() {
            return Ok(());
        }
        let (step, times) = steps(input, *last)?;
        let (now, later) = places
            .split_at_mut_checked(times)
            .ok_or_else(|| broken("more numbers than there are mappings"))?;
        for place in now {
            *last = last.wrapping_add(step);
            put(place, *last);
        }
        places = later;
    }
    Err(broken("mappings that do not become full"))
}

/// As many steps of four bytes as come next and are there already, which data blocks at
/// random mostly are. Where their length is not looked up, the next need not wait for it.
#[inline]
fn four_byte_steps<R>(
    input: &mut Input<R>,
    last: &mut u64,
    places: &mut [U64],
    put: &mut impl FnMut(&mut U64, u64),
) -> usize {
    const MORE: u8 = tag::MUCH_MORE << 4 | 4;
    const LESS: u8 = tag::MUCH_LESS << 4 | 4;
    /// The one bit that tells them apart, once the lower one is taken off.
    const SIGN: u8 = LESS - MORE;
    const { assert!(SIGN.is_power_of_two()) };
    let bytes = input.buffer[input.at..input.end].chunks_exact(5);
    let mut done = 0;
    for (place, bytes) in places.iter_mut().zip(bytes) {
        // No branch on which of them it is: nobody could guess that.
        let kind = bytes[0].wrapping_sub(MORE);
        if kind & !SIGN != 0 {
            break;
        }
        let by = u64::from(u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]));
        let sign = u64::from(kind / SIGN).wrapping_neg();
        *last = last.wrapping_add((by ^ sign).wrapping_sub(sign));
        put(place, *last);
        done += 1;
    }
    input.at += 5 * done;
    done
}

/// A step, as what is added, and how many times it is gone.
#[inline]
fn steps(input: &mut Input<impl Read>, last: u64) -> Result<(u64, usize)> {
    let bytes = input.peek()?;
    let (first, low) = (bytes[0], usize::from(bytes[0] & 0xf));
    let long = low << 8 | usize::from(bytes[1]);
    let (step, times, length) = match first >> 4 {
        tag::SET..=tag::MUCH_LESS => {
            let (step, length) = step(bytes, 0, last)?;
            (step, 1, length)
        }
        tag::SAME => (0, low, 1),
        tag::SAME_LONG => (0, long, 2),
        tag::STEPS | tag::STEPS_LONG => {
            let is_long = first >> 4 == tag::STEPS_LONG;
            let at = 1 + usize::from(is_long);
            if bytes[at] >> 4 == tag::SET {
                return Err(unknown());
            }
            let (step, length) = step(bytes, at, last)?;
            (step, if is_long { long } else { low }, at + length)
        }
        _ => return Err(unknown()),
    };
    input.advance(length)?;
    Ok((step, times))
}

/// A single step, at a place, and its length. A number that is set is a step there.
#[inline]
fn step(bytes: &[u8; PEEK], at: usize, last: u64) -> Result<(u64, usize)> {
    let (kind, low) = (bytes[at] >> 4, usize::from(bytes[at] & 0xf));
    // Without branches on what comes at random.
    let is_number = matches!(kind, tag::SET | tag::MUCH_MORE | tag::MUCH_LESS);
    let mask = if is_number { wide(low)? } else { 0 };
    let by = (word(bytes, at + 1) & mask) | if is_number { 0 } else { low as u64 };
    let step = match kind {
        tag::SET => by.wrapping_sub(last),
        tag::MORE | tag::MUCH_MORE => by,
        tag::LESS | tag::MUCH_LESS => by.wrapping_neg(),
        _ => return Err(unknown()),
    };
    Ok((step, 1 + if is_number { low } else { 0 }))
}

#[inline]
fn wide(width: usize) -> Result<u64> {
    let mask = MASKS[width & 0xf];
    if mask == 0 {
        return Err(broken("a number of an impossible width"));
    }
    Ok(mask)
}

fn cut_off() -> Error {
    broken("they end in the middle of a block")
}

fn unknown() -> Error {
    broken("an instruction that there is not")
}

fn too_much() -> Error {
    broken("a block of more than 4096 bytes")
}
