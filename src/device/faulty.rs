//! A device that fails when it is told to.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Device;
use crate::error::{Error, Result};

/// A kind of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// [`Device::read_exact_at`].
    Read,
    /// [`Device::write_all_at`].
    Write,
    /// [`Device::flush`].
    Flush,
}

/// Which request fails, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What fails.
    pub request: Request,
    /// Requests of the kind that still succeed.
    pub after: u64,
    /// Whether all later ones of the kind fail too.
    pub lasting: bool,
    /// Bytes that a failed write leaves on the device all the same.
    pub torn_bytes: usize,
}

impl Fault {
    /// One request of a kind fails after so many good ones, and leaves nothing behind.
    #[must_use]
    pub fn once(request: Request, after: u64) -> Self {
        Self {
            request,
            after,
            lasting: false,
            torn_bytes: 0,
        }
    }

    /// As [`Self::once`], and so do all that follow.
    #[must_use]
    pub fn from(request: Request, after: u64) -> Self {
        Self {
            lasting: true,
            ..Self::once(request, after)
        }
    }
}

/// Any other device, counted, with requests that fail: tests of what an error
/// leaves behind.
#[derive(Debug)]
pub struct FaultyDevice {
    device: Arc<dyn Device>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    counts: [u64; 3],
    /// Requests of the fault's kind since it was set.
    seen: u64,
    failed: u64,
    poisoned: bool,
}

impl FaultyDevice {
    /// `device`, with nothing wrong yet.
    #[must_use]
    pub fn new(device: Arc<dyn Device>) -> Self {
        Self {
            device,
            state: Mutex::default(),
        }
    }

    /// From now on `fault` happens, and no other one.
    pub fn set_fault(&self, fault: Fault) {
        let mut state = self.state();
        state.fault = Some(fault);
        state.seen = 0;
    }

    /// From now on all goes well again.
    pub fn heal(&self) {
        self.state().fault = None;
    }

    /// How many requests of a kind were made, failed ones included.
    #[must_use]
    pub fn count(&self, request: Request) -> u64 {
        self.state().counts[request as usize]
    }

    /// How many requests failed.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state().failed
    }

    /// Whether it was told that a write or flush of it had failed.
    #[must_use]
    pub fn was_poisoned(&self) -> bool {
        self.state().poisoned
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a request; the fault, if this one is to fail.
    fn next(&self, request: Request) -> Option<Fault> {
        let mut state = self.state();
        state.counts[request as usize] += 1;
        let fault = state.fault.filter(|fault| fault.request == request)?;
        let nth = state.seen;
        state.seen += 1;
        let fails = nth == fault.after || (fault.lasting && nth > fault.after);
        state.failed += u64::from(fails);
        fails.then_some(fault)
    }

    fn error(&self, offset_bytes: Option<u64>) -> Error {
        let errno = rustix::io::Errno::IO.raw_os_error();
        let source = io::Error::from_raw_os_error(errno);
        Error::io(self.device.path(), offset_bytes, source)
    }
}

impl Device for FaultyDevice {
    fn read_exact_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<()> {
        match self.next(Request::Read) {
            Some(_) => Err(self.error(Some(offset_bytes))),
            None => self.device.read_exact_at(buffer, offset_bytes),
        }
    }

    fn size_bytes(&self) -> u64 {
        self.device.size_bytes()
    }

    fn size_unit_bytes(&self) -> u64 {
        self.device.size_unit_bytes()
    }

    fn best_request_bytes(&self) -> usize {
        self.device.best_request_bytes()
    }

    fn is_writable(&self) -> bool {
        self.device.is_writable()
    }

    fn write_all_at(&self, bytes: &[u8], offset_bytes: u64) -> Result<()> {
        match self.next(Request::Write) {
            Some(fault) => {
                let torn = &bytes[..fault.torn_bytes.min(bytes.len())];
                if !torn.is_empty() {
                    self.device.write_all_at(torn, offset_bytes)?;
                }
                Err(self.error(Some(offset_bytes)))
            }
            None => self.device.write_all_at(bytes, offset_bytes),
        }
    }

    fn flush(&self) -> Result<()> {
        match self.next(Request::Flush) {
            Some(_) => Err(self.error(None)),
            None => self.device.flush(),
        }
    }

    fn grow_to(&self, size_bytes: u64) -> Result<()> {
        self.device.grow_to(size_bytes)
    }

    fn current_size_bytes(&self) -> Result<u64> {
        self.device.current_size_bytes()
    }

    fn note_poisoned(&self) {
        self.state().poisoned = true;
        self.device.note_poisoned();
    }

    fn path(&self) -> &Path {
        self.device.path()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    fn device() -> (Arc<MemoryDevice>, FaultyDevice) {
        let memory = Arc::new(MemoryDevice::writable(vec![0; 8192]));
        let faulty = FaultyDevice::new(Arc::clone(&memory) as Arc<dyn Device>);
        (memory, faulty)
    }

    #[test]
    fn the_request_that_was_named_fails_once_or_from_then_on() {
        let (_, faulty) = device();
        let outcomes = |faulty: &FaultyDevice| [(); 5].map(|()| faulty.flush().is_ok());
        faulty.set_fault(Fault::once(Request::Flush, 2));
        assert_eq!(outcomes(&faulty), [true, true, false, true, true]);
        faulty.set_fault(Fault::from(Request::Flush, 2));
        assert_eq!(outcomes(&faulty), [true, true, false, false, false]);
        faulty.heal();
        assert_eq!(outcomes(&faulty), [true; 5]);
        faulty.set_fault(Fault::from(Request::Read, 0));
        assert_eq!(outcomes(&faulty), [true; 5]);
        assert!(faulty.read_exact_at(&mut [0; 8], 0).is_err());
        assert_eq!((faulty.count(Request::Flush), faulty.failed()), (20, 5));
        assert_eq!(faulty.count(Request::Write), 0);
    }

    #[test]
    fn a_failed_write_leaves_what_it_was_told_to() {
        for torn_bytes in [0, 512, 4096, 9000] {
            let (memory, faulty) = device();
            faulty.set_fault(Fault {
                torn_bytes,
                ..Fault::once(Request::Write, 0)
            });
            assert!(matches!(
                faulty.write_all_at(&[1; 4096], 0),
                Err(Error::Io { .. })
            ));
            let there = memory.contents().iter().filter(|byte| **byte == 1).count();
            assert_eq!(there, torn_bytes.min(4096));
        }
    }
}
