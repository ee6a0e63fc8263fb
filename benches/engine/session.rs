//! The Rust side of a session: what `sessions.py` asks on stdin, answered in JSON on stdout.
//!
//! README.md has the requests. A value is its key times three; keys lie in files of
//! little-endian `u64`s, which are read before a clock is started.

use std::error::Error;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

pub type Outcome<T> = Result<T, Box<dyn Error>>;

/// One engine under measurement, its files in the current folder.
pub trait Engine {
    /// Removes what is there and opens an empty tree.
    fn fresh(&mut self) -> Outcome<()>;
    /// Closes what is open and opens it again.
    fn reopen(&mut self) -> Outcome<()>;
    /// Inserts under durable commits of so many keys each.
    fn insert(&mut self, keys: &[u64], per_commit: usize) -> Outcome<()>;
    /// The sum of the keys' values, each looked up by itself.
    fn lookup(&mut self, keys: &[u64]) -> Outcome<u64>;
    /// Visits every pair in the order of the keys.
    fn scan(&mut self, visit: &mut dyn FnMut(u64, u64)) -> Outcome<()>;
    /// A request that only this engine knows, answered as JSON.
    fn other(&mut self, words: &[&str]) -> Outcome<String> {
        Err(format!("cannot {}", words.join(" ")).into())
    }
}

/// The folder that the command line names; `cargo bench` puts an option beside it.
pub fn folder() -> Option<String> {
    std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"))
}

/// Answers requests until there are no more.
pub fn serve(engine: &mut dyn Engine, version: &str) -> Outcome<()> {
    let folder = folder().ok_or("which folder?")?;
    std::fs::create_dir_all(&folder)?;
    std::env::set_current_dir(&folder)?;
    let mut out = std::io::stdout();
    writeln!(out, "{{\"version\": \"{version}\"}}")?;
    let mut kept = Keys::default();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let answer = answer(engine, &mut kept, &words)
            .unwrap_or_else(|error| format!("{{\"error\": {:?}}}", error.to_string()));
        writeln!(out, "{answer}")?;
    }
    Ok(())
}

/// The last file of keys that was asked for.
#[derive(Default)]
struct Keys {
    name: String,
    keys: Vec<u64>,
}

impl Keys {
    fn load(&mut self, name: &str, count: &str) -> Outcome<&[u64]> {
        if self.name != name {
            let bytes = std::fs::read(name)?;
            let (words, _) = bytes.as_chunks();
            self.keys = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
            self.name = name.to_owned();
        }
        let wanted = self.keys.get(..count.parse()?);
        wanted.ok_or_else(|| format!("{name} has fewer keys").into())
    }
}

fn answer(engine: &mut dyn Engine, kept: &mut Keys, words: &[&str]) -> Outcome<String> {
    match *words {
        ["fresh"] => engine.fresh().map(|()| "{}".to_owned()),
        ["insert", name, count, per_commit, _order] => {
            let keys = kept.load(name, count)?;
            let per_commit = per_commit.parse()?;
            let ((), took) = timed(|| engine.insert(keys, per_commit))?;
            Ok(format!("{{{took}}}"))
        }
        ["lookup", name, count] => {
            let keys = kept.load(name, count)?;
            let (sum, took) = timed(|| engine.lookup(keys))?;
            Ok(format!("{{{took}, \"sum\": {sum}}}"))
        }
        ["scan"] => {
            let (mut count, mut keys, mut values) = (0_u64, 0_u64, 0_u64);
            let ((), took) = timed(|| {
                engine.scan(&mut |key, value| {
                    count += 1;
                    keys = keys.wrapping_add(key);
                    values = values.wrapping_add(value);
                })
            })?;
            Ok(format!(
                "{{{took}, \"count\": {count}, \"keys\": {keys}, \"values\": {values}}}"
            ))
        }
        ["digest"] => {
            engine.reopen()?;
            let mut count = 0_u64;
            let (mut keys, mut values) = (Crc32::new(), Crc32::new());
            engine.scan(&mut |key, value| {
                count += 1;
                keys.add(key);
                values.add(value);
            })?;
            let (keys, values) = (keys.end(), values.end());
            Ok(format!(
                "{{\"digest\": \"{count} {keys:08x} {values:08x}\"}}"
            ))
        }
        _ => engine.other(words),
    }
}

/// A result with the time it took, as the inside of a JSON object.
fn timed<T>(call: impl FnOnce() -> Outcome<T>) -> Outcome<(T, String)> {
    let (cpu, start) = (cpu_time()?, Instant::now());
    let result = call()?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_time()?.saturating_sub(cpu).as_secs_f64();
    Ok((
        result,
        format!("\"seconds\": {seconds:.9}, \"cpu\": {cpu:.9}"),
    ))
}

/// The process's time on a processor, threads that have ended in it, to a hundredth of a second.
fn cpu_time() -> Outcome<Duration> {
    let status = std::fs::read_to_string("/proc/self/stat")?;
    let (_, after_name) = status.rsplit_once(')').ok_or("no name")?;
    let ticks = after_name
        .split_whitespace()
        .skip(11) // to utime; stime is the next
        .take(2)
        .map(str::parse::<u64>)
        .sum::<Result<u64, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

/// zlib's CRC-32 of little-endian words, a byte at a time.
struct Crc32 {
    table: [u32; 256],
    state: u32,
}

impl Crc32 {
    fn new() -> Self {
        let table = std::array::from_fn(|at| {
            (0..8).fold(at as u32, |word, _| {
                word >> 1 ^ if word & 1 == 1 { 0xedb8_8320 } else { 0 }
            })
        });
        Self { table, state: !0 }
    }

    fn add(&mut self, word: u64) {
        for byte in word.to_le_bytes() {
            let index = (self.state as u8 ^ byte) as usize;
            self.state = self.table[index] ^ self.state >> 8;
        }
    }

    fn end(&self) -> u32 {
        !self.state
    }
}
