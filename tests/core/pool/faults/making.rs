//! The k-th request of making a pool fails.

use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::thin::{CreateOptions, OpenOptions, Pool, PoolWriter};

use crate::pool::world::{Model, cached, judge_device, options};

const DATA_BLOCKS: u64 = 20_000;

fn make(device: &Arc<FaultyDevice>, overwrite: bool) -> thinmeta::Result<Arc<PoolWriter>> {
    let options = CreateOptions {
        overwrite,
        open: cached(0),
        ..options(DATA_BLOCKS)
    };
    PoolWriter::create_on(Arc::clone(device) as Arc<dyn Device>, None, &options)
}

/// Where there was nothing there is nothing, and where something was there is nothing
/// any more or it is as it was; the whole new pool once its superblock is written.
#[test]
fn a_pool_that_could_not_be_made_is_not_there() {
    for before in [0, 0xA5] {
        let mut failures = 0;
        for request in [Request::Read, Request::Write, Request::Flush] {
            for after in 0.. {
                let at = format!("{before:#x}: {request:?} {after}");
                let memory = Arc::new(MemoryDevice::writable(vec![before; 60 * 4096]));
                let faulty = Arc::new(FaultyDevice::new(Arc::clone(&memory) as Arc<dyn Device>));
                faulty.set_fault(Fault::once(request, after));
                let made = make(&faulty, before != 0);
                let failed = faulty.failed() > 0;
                faulty.heal();
                let there: Arc<dyn Device> = memory.clone();
                if made.is_ok() {
                    let model = Model {
                        data_blocks: DATA_BLOCKS,
                        ..Model::default()
                    };
                    judge_device(there, &model);
                    match failed {
                        true => continue,
                        false => break,
                    }
                }
                failures += 1;
                let opened = Pool::from_devices(there, None, &OpenOptions::default());
                // The last flush was of the superblock.
                let flushes = 2 + u64::from(before != 0);
                let written = request == Request::Flush && after + 1 == flushes;
                assert_eq!(opened.is_ok(), written, "{at}");
                if before == 0 && !written {
                    assert!(matches!(opened, Err(Error::NotFormatted(_))), "{at}");
                }
                // It can be tried again.
                make(&faulty, true).unwrap_or_else(|error| panic!("{at}: {error}"));
            }
        }
        assert!(failures > 5, "{failures}");
    }
}
