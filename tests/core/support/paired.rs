//! Two devices that record what is written to them, in one order: crashes of both.

use std::path::Path;
use std::sync::{Arc, Mutex};

use thinmeta::device::{Crash, Device, RecordingDevice, WriteLog};

use super::chance::Chance;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Metadata,
    Data,
}

/// Both devices. A flush makes durable what was written to its own.
#[derive(Debug)]
pub struct Pair {
    devices: [RecordingDevice; 2],
    /// Whose each operation was.
    order: Mutex<Vec<Side>>,
}

/// One of them.
#[derive(Debug)]
struct Half {
    pair: Arc<Pair>,
    side: Side,
}

impl Pair {
    pub fn new(metadata: Vec<u8>, data: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            devices: [metadata, data].map(RecordingDevice::new),
            order: Mutex::default(),
        })
    }

    pub fn device(self: &Arc<Self>, side: Side) -> Arc<dyn Device> {
        let pair = Arc::clone(self);
        Arc::new(Half { pair, side })
    }

    /// Operations so far, on both.
    pub fn operations(&self) -> usize {
        self.order.lock().unwrap().len()
    }

    pub fn log(&self) -> PairLog {
        let order = self.order.lock().unwrap();
        PairLog {
            order: order.clone(),
            logs: [Side::Metadata, Side::Data].map(|side| self.devices[side as usize].log()),
        }
    }
}

impl Half {
    fn own(&self) -> &RecordingDevice {
        &self.pair.devices[self.side as usize]
    }

    /// Does something that is recorded, while nothing else is.
    fn recorded(
        &self,
        work: impl FnOnce(&RecordingDevice) -> thinmeta::Result<()>,
    ) -> thinmeta::Result<()> {
        let mut order = self.pair.order.lock().unwrap();
        work(self.own())?;
        order.push(self.side);
        Ok(())
    }
}

impl Device for Half {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> thinmeta::Result<()> {
        self.own().read_exact_at(buffer, offset_bytes)
    }

    fn size_bytes(&self) -> u64 {
        self.own().size_bytes()
    }

    fn current_size_bytes(&self) -> thinmeta::Result<u64> {
        self.own().current_size_bytes()
    }

    fn is_writable(&self) -> bool {
        true
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> thinmeta::Result<()> {
        self.recorded(|device| device.write_all_at(bytes, offset_bytes))
    }

    fn flush(&self) -> thinmeta::Result<()> {
        self.recorded(Device::flush)
    }

    fn path(&self) -> &Path {
        match self.side {
            Side::Metadata => Path::new("<metadata>"),
            Side::Data => Path::new("<data>"),
        }
    }
}

/// What was done to both.
pub struct PairLog {
    order: Vec<Side>,
    logs: [WriteLog; 2],
}

/// A power cut: how far the program had come, and what each device had by then.
#[derive(Clone, Debug)]
pub struct PairCrash {
    pub operations: usize,
    pub metadata: Crash,
    pub data: Crash,
}

impl PairLog {
    pub fn operations(&self) -> usize {
        self.order.len()
    }

    pub fn of(&self, side: Side) -> &WriteLog {
        &self.logs[side as usize]
    }

    /// How many of the first `operations` were one device's.
    pub fn done(&self, side: Side, operations: usize) -> usize {
        let done = self.order[..operations].iter();
        done.filter(|other| **other == side).count()
    }

    /// A crash after so many operations: on each device all that is on its way
    /// arrives, or nothing, or some of it.
    pub fn crash(&self, operations: usize, chance: &mut Chance<'_>) -> PairCrash {
        let [metadata, data] = [Side::Metadata, Side::Data].map(|side| {
            let (log, done) = (self.of(side), self.done(side, operations));
            match chance.below(5) {
                0 => Crash {
                    operations: done,
                    ..Crash::default()
                },
                1 => Crash {
                    operations: done,
                    lost: (0..log.volatile(done).len()).collect(),
                    torn: None,
                },
                _ => log.random_crash(done, || chance.word()),
            }
        });
        PairCrash {
            operations,
            metadata,
            data,
        }
    }
}
