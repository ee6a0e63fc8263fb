//! Making a pool's metadata from what a dump says.
//!
//! One thread reads the XML and checks what it says, the calling one builds: memory is
//! what [`crate::build`] takes and a few batches of runs. What several devices have in
//! common is one `def`, or nothing says so; either way they share it afterwards.

mod attributes;
mod document;
mod hot;
mod input;
mod other;
mod reader;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use document::Item;
use input::Input;
use reader::Reader;

use crate::build::{BuildOptions, Built, Output, PartId, PoolBuilder};
use crate::error::{Error, Result};
use crate::task::Task;

/// Items between the two threads.
const ITEMS_AHEAD: usize = 16;
/// How long to wait for one before asking whether to go on.
const PATIENCE: Duration = Duration::from_millis(50);

/// What to do otherwise than the XML says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// This transaction id.
    pub transaction_id: Option<u64>,
    /// This size of data blocks, in sectors.
    pub data_block_size_sectors: Option<u32>,
    /// This number of data blocks.
    pub nr_data_blocks: Option<u64>,
    /// Transaction id and data blocks are taken only where they are more than what is
    /// found, as 1.x does.
    pub only_raise: bool,
    /// Flags of the superblock: `Some(0)` makes a pool that needs no check, whatever
    /// the one that was dumped did.
    pub flags: Option<u32>,
}

/// Makes metadata on `output` from the XML in `input`, which is called `name` in errors.
///
/// # Errors
/// [`Error::Xml`] for what is wrong with the XML, with its line and column;
/// [`Error::NoSpace`] where `output` is too small; [`Error::Io`];
/// [`Error::Interrupted`]. Block 0 of the output is zero then, if it was begun.
pub fn restore(
    input: File,
    name: &Path,
    output: Output,
    options: &RestoreOptions,
    task: &Task<'_>,
) -> Result<Built> {
    let size = input.metadata().map_or(0, |metadata| metadata.len());
    task.expect(size);
    let stop = AtomicBool::new(false);
    let (items, received) = sync_channel(ITEMS_AHEAD);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let input = Input::new(input, name, &stop);
            Reader::new(input, options, items).run()
        });
        let built = build(&received, output, task);
        if built.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        drop(received);
        let read = match reader.join() {
            Ok(read) => read,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        match (built, read) {
            // It ends early because nobody takes what it reads.
            (Err(error), _) => Err(error),
            (Ok(_), Err(error)) => Err(error),
            (Ok(builder), Ok(())) => match builder {
                Some(builder) => builder.finish(task),
                None => Err(Error::usage("no superblock")),
            },
        }
    })
}

/// Builds what comes, until nothing more does.
fn build(items: &Receiver<Item>, output: Output, task: &Task<'_>) -> Result<Option<PoolBuilder>> {
    let mut output = Some(output);
    let mut builder: Option<PoolBuilder> = None;
    let mut parts: Vec<PartId> = Vec::new();
    loop {
        let item = match items.recv_timeout(PATIENCE) {
            Ok(item) => item,
            Err(RecvTimeoutError::Timeout) => {
                task.step(0, 0)?;
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(builder),
        };
        let Some(own) = &mut builder else {
            if let (Item::Superblock(options), Some(output)) = (item, output.take()) {
                builder = Some(begin(output, &options)?);
            }
            continue;
        };
        match item {
            Item::Superblock(_) => {}
            Item::BeginDevice(device) => own.begin_device(&device)?,
            Item::EndDevice => own.end_device()?,
            Item::BeginPart => own.begin_part()?,
            Item::EndPart => parts.push(own.end_part()?),
            Item::UsePart(part) => {
                if let Some(part) = parts.get(part) {
                    own.use_part(*part)?;
                }
            }
            Item::Runs(runs, bytes) => {
                own.runs(&runs)?;
                task.step(0, bytes)?;
            }
        }
    }
}

fn begin(output: Output, options: &BuildOptions) -> Result<PoolBuilder> {
    PoolBuilder::new(output, options)
}
