//! One block as instructions.

use super::{NODE, NODE_HEADER_BYTES, NodeParts, Values, tag};
use crate::block::BlockData;
use crate::units::BLOCK_BYTES;

/// Appends a block of a kind: its number, and how to make it.
pub(super) fn block(at: u64, kind: &str, block: &BlockData, out: &mut Vec<u8>) {
    out.extend_from_slice(&at.to_le_bytes());
    match NodeParts::of(block).filter(|_| kind == NODE) {
        Some(parts) => node(&parts, block, out),
        // Where a node is none, as any other kind: 1.x gives up.
        None => bytes(block.bytes(), out),
    }
}

fn node(parts: &NodeParts, block: &BlockData, out: &mut Vec<u8>) {
    let all = block.bytes();
    bytes(&all[..NODE_HEADER_BYTES], out);
    let values = NODE_HEADER_BYTES + 8 * parts.keys;
    numbers(words(&all[NODE_HEADER_BYTES..values]), out);
    let rest = match parts.values {
        Values::Bytes => values,
        Values::Numbers => {
            numbers(words(&all[values..values + 8 * parts.keys]), out);
            values + 8 * parts.keys
        }
        Values::Mappings => {
            let mappings = &all[values..values + 8 * parts.keys];
            length(tag::MAPPINGS, parts.keys, out);
            numbers(words(mappings).map(|mapping| mapping >> 24), out);
            numbers(words(mappings).map(|mapping| mapping & 0xff_ffff), out);
            values + 8 * parts.keys
        }
    };
    if rest < BLOCK_BYTES {
        bytes(&all[rest..], out);
    }
}

fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    let words = bytes.chunks_exact(8);
    words.map(|word| word.try_into().map_or(0, u64::from_le_bytes))
}

/// From one number to the next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Same,
    More(u64),
    Less(u64),
}

/// Numbers, the first as it is, the others as steps, equal ones together.
fn numbers(mut numbers: impl Iterator<Item = u64>, out: &mut Vec<u8>) {
    let Some(mut last) = numbers.next() else {
        return;
    };
    number(tag::SET, last, out);
    let mut run: Option<(Step, usize)> = None;
    for next in numbers {
        let step = match next.checked_sub(last) {
            Some(0) => Step::Same,
            Some(more) => Step::More(more),
            None => Step::Less(last - next),
        };
        last = next;
        match &mut run {
            Some((same, times)) if *same == step => *times += 1,
            _ => {
                steps(run, out);
                run = Some((step, 1));
            }
        }
    }
    steps(run, out);
}

fn steps(run: Option<(Step, usize)>, out: &mut Vec<u8>) {
    let (step, times) = match run {
        None => return,
        Some((Step::Same, times)) => {
            short_or_long(tag::SAME, tag::SAME_LONG, times, out);
            return;
        }
        Some(run) => run,
    };
    if times > 1 {
        short_or_long(tag::STEPS, tag::STEPS_LONG, times, out);
    }
    let (few, many, by) = match step {
        Step::Less(by) => (tag::LESS, tag::MUCH_LESS, by),
        Step::More(by) => (tag::MORE, tag::MUCH_MORE, by),
        Step::Same => return,
    };
    match u8::try_from(by) {
        Ok(small @ 1..=15) => out.push(few << 4 | small),
        _ => number(many, by, out),
    }
}

fn short_or_long(short: u8, long: u8, count: usize, out: &mut Vec<u8>) {
    match u8::try_from(count) {
        Ok(small @ 0..=15) => out.push(short << 4 | small),
        _ => length(long, count, out),
    }
}

/// A tag with a length of 12 bits: no node has more numbers.
fn length(tag: u8, count: usize, out: &mut Vec<u8>) {
    let [low, high, ..] = count.to_le_bytes();
    out.extend_from_slice(&[tag << 4 | high & 0xf, low]);
}

/// A tag with a number behind it, in as few bytes as there may be.
fn number(tag: u8, number: u64, out: &mut Vec<u8>) {
    let width = match number {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    };
    out.push(tag << 4 | width);
    out.extend_from_slice(&number.to_le_bytes()[..usize::from(width)]);
}

fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
    match u8::try_from(bytes.len()) {
        Ok(small @ 0..=15) => out.push(tag::BYTES << 4 | small),
        _ => number(tag::BYTES_LONG, bytes.len() as u64, out),
    }
    out.extend_from_slice(bytes);
}
