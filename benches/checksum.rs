//! CRC-32C of metadata blocks: `crc-fast`, which the crate uses, beside `crc32c`.
//!
//! `cargo bench --bench checksum`. Blocks of 4 KiB, as many one after the other as the line says:
//! few stay in the nearest cache, many come from memory. The best of some rounds, in turn, since
//! anything else that runs can only make a round slower.

use std::hint::black_box;
use std::time::Instant;

const BLOCK: usize = 4096;
const SALTED: usize = 4; // the checksum itself stands in the first four bytes and is left out
const ROUNDS: usize = 15;
const BYTES_A_ROUND: usize = 256 << 20;

type Checksum = fn(&[u8]) -> u32;

fn fast(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

const CRATES: [(&str, Checksum); 2] = [("crc-fast", fast), ("crc32c", crc32c::crc32c)];

/// Seconds for `passes` passes over all blocks.
fn time(checksum: Checksum, blocks: &[u8], passes: usize) -> f64 {
    let start = Instant::now();
    for _ in 0..passes {
        for block in black_box(blocks).chunks_exact(BLOCK) {
            black_box(checksum(&block[SALTED..]));
        }
    }
    start.elapsed().as_secs_f64()
}

/// Bytes without a pattern, the same in every run (xorshift64).
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes / 8)
        .flat_map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .collect()
}

fn main() {
    println!(
        "{:>8}  {:>10}  {:>10}  GB/s, best of {ROUNDS}",
        "blocks", CRATES[0].0, CRATES[1].0
    );
    for count in [1, 4, 16, 256, 4096, 65_536] {
        let blocks = noise(count * BLOCK);
        for block in blocks.chunks_exact(BLOCK).take(16) {
            assert_eq!(fast(&block[SALTED..]), crc32c::crc32c(&block[SALTED..]));
        }
        let passes = BYTES_A_ROUND / blocks.len();
        let mut best = [f64::INFINITY; CRATES.len()];
        for round in 0..ROUNDS {
            for turn in 0..CRATES.len() {
                let which = (round + turn) % CRATES.len();
                let seconds = time(CRATES[which].1, &blocks, passes);
                best[which] = best[which].min(seconds);
            }
        }
        let speed = best.map(|seconds| (passes * blocks.len()) as f64 / seconds / 1e9);
        println!("{count:>8}  {:>10.1}  {:>10.1}", speed[0], speed[1]);
    }
}
