//! A locked block's bytes, lent to views.

use std::ffi::c_int;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::MutexExt;

use crate::block::{BlockData, ReadGuard, WriteGuard};
use crate::error::Error;
use crate::python::engine::Session;
use crate::python::error::exception;
use crate::units::BLOCK_BYTES;

/// What a lock has.
enum Loan {
    Read(ReadGuard),
    Write(WriteGuard),
    /// No lock any more: bytes that only views see.
    Views {
        _bytes: Arc<BlockData>,
    },
    Gone,
}

struct Lending {
    loan: Loan,
    /// Views that were made and not given back.
    views: usize,
    /// Where the bytes are; the same for all views of a write lock.
    start: AtomicPtr<u8>,
}

/// A lock on one block of 4096 bytes, which the buffer protocol shows.
///
/// A context manager: leaving the ``with`` block releases it. May be released from
/// any thread, once.
///
/// Attributes:
///     location: The block's number.
///     held: Whether it has not been released yet.
#[pyclass(frozen, subclass, module = "thinmeta._core")]
pub(crate) struct Lock {
    session: Arc<Session>,
    location: u64,
    lending: Mutex<Lending>,
}

impl Lock {
    pub fn read(session: &Arc<Session>, guard: ReadGuard) -> Self {
        let location = guard.location().0;
        Self::new(session, location, Loan::Read(guard))
    }

    pub fn write(session: &Arc<Session>, guard: WriteGuard) -> Self {
        let location = guard.location().0;
        Self::new(session, location, Loan::Write(guard))
    }

    fn new(session: &Arc<Session>, location: u64, loan: Loan) -> Self {
        session.locked();
        Self {
            session: Arc::clone(session),
            location,
            lending: Mutex::new(Lending {
                loan,
                views: 0,
                start: AtomicPtr::default(),
            }),
        }
    }

    fn lending(&self, py: Python<'_>) -> MutexGuard<'_, Lending> {
        let lending = self.lending.lock_py_attached(py);
        lending.unwrap_or_else(PoisonError::into_inner)
    }

    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Whether it locks something still: an abort takes that away.
    pub fn is_in_force(&self, py: Python<'_>) -> bool {
        py.detach(|| {
            let lending = self.lending.lock().unwrap_or_else(PoisonError::into_inner);
            match &lending.loan {
                Loan::Read(_) => true,
                Loan::Write(guard) => guard.is_in_force(),
                Loan::Views { .. } | Loan::Gone => false,
            }
        })
    }

    /// The core's guard, to be released by who asks for it.
    pub fn take_write(&self, py: Python<'_>) -> PyResult<WriteGuard> {
        let mut lending = self.lending(py);
        if lending.views > 0 {
            return Err(in_view(self.location));
        }
        match std::mem::replace(&mut lending.loan, Loan::Gone) {
            Loan::Write(guard) => {
                self.session.unlocked();
                Ok(guard)
            }
            Loan::Read(guard) => {
                lending.loan = Loan::Read(guard);
                drop(lending);
                Err(exception(py, Error::usage("this is not a write lock")))
            }
            Loan::Views { .. } | Loan::Gone => Err(self.not_held(py)),
        }
    }

    /// Releases the lock; whether there was one. `by_force`: views of a write
    /// lock keep the memory, and the cache takes a copy.
    pub fn let_go(&self, py: Python<'_>, by_force: bool) -> PyResult<bool> {
        py.detach(|| {
            let mut lending = self.lending.lock().unwrap_or_else(PoisonError::into_inner);
            let viewed = lending.views > 0;
            if let Loan::Write(guard) = &lending.loan
                && viewed
                && !by_force
                && guard.is_in_force()
            {
                return Err(in_view(self.location));
            }
            lending.loan = match std::mem::replace(&mut lending.loan, Loan::Gone) {
                Loan::Read(guard) if viewed => Loan::Views {
                    _bytes: guard.pin(),
                },
                // As with every `readinto`, it is the caller's part not to write in
                // another thread meanwhile.
                Loan::Write(guard) if viewed => Loan::Views {
                    _bytes: guard.orphan(),
                },
                Loan::Read(_) | Loan::Write(_) => Loan::Gone,
                other => {
                    lending.loan = other;
                    return Ok(false);
                }
            };
            self.session.unlocked();
            Ok(true)
        })
    }

    fn not_held(&self, py: Python<'_>) -> PyErr {
        let text = format!("the lock on block {} was released", self.location);
        exception(py, Error::Usage(text))
    }
}

fn in_view(location: u64) -> PyErr {
    PyBufferError::new_err(format!(
        "a memoryview of block {location} is in use: release it before the lock"
    ))
}

#[pymethods]
impl Lock {
    #[getter]
    pub(crate) fn location(&self) -> u64 {
        self.location
    }

    #[getter]
    fn held(&self, py: Python<'_>) -> bool {
        matches!(self.lending(py).loan, Loan::Read(_) | Loan::Write(_))
    }

    /// Release the lock; a write lock leaves the block dirty.
    ///
    /// Raises:
    ///     UsageError: It was released before.
    ///     BufferError: A memoryview of a write lock is in use; the lock stays held.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        if self.let_go(py, false)? {
            Ok(())
        } else {
            Err(self.not_held(py))
        }
    }

    fn __enter__(slf: Bound<'_, Self>) -> PyResult<Bound<'_, Self>> {
        if slf.get().held(slf.py()) {
            Ok(slf)
        } else {
            Err(slf.get().not_held(slf.py()))
        }
    }

    #[pyo3(signature = (raised, value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        raised: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = (value, traceback);
        self.let_go(py, !raised.is_none()).map(drop)
    }

    fn __len__(&self) -> usize {
        BLOCK_BYTES
    }

    fn __repr__(slf: &Bound<'_, Self>) -> PyResult<String> {
        let lock = slf.get();
        let released = if lock.held(slf.py()) { "" } else { " released" };
        let class = slf.get_type().name()?;
        Ok(format!(
            "<thinmeta.engine.{class} block {}{released}>",
            lock.location
        ))
    }

    /// # Safety
    /// `view` comes from CPython, which asks for a buffer to be described there.
    unsafe fn __getbuffer__(
        slf: Bound<'_, Self>,
        view: *mut ffi::Py_buffer,
        flags: c_int,
    ) -> PyResult<()> {
        if view.is_null() {
            return Err(PyBufferError::new_err("no view to fill"));
        }
        let lock = slf.get();
        let mut lending = lock.lending(slf.py());
        let viewed = lending.views > 0;
        let (start, readonly) = match &mut lending.loan {
            Loan::Read(guard) => (guard.bytes().as_ptr().cast_mut(), 1),
            Loan::Write(guard) if !viewed => {
                let start = guard.make_unique().bytes_mut().as_mut_ptr();
                lending.start = AtomicPtr::new(start);
                (start, 0)
            }
            Loan::Write(_) => (lending.start.load(Ordering::Relaxed), 0),
            Loan::Views { .. } | Loan::Gone => {
                let text = format!("the lock on block {} was released", lock.location);
                return Err(PyBufferError::new_err(text));
            }
        };
        // No allocation is longer than isize.
        let length = isize::try_from(BLOCK_BYTES).unwrap_or_default();
        // SAFETY: `view` is CPython's and not null, and takes its own reference to
        // `slf`. The bytes are those of an `Arc` that `slf` keeps, in whatever loan,
        // until as many views were given back. Those of a write lock are nobody
        // else's: the guard had them made unique, the cache has none while it is
        // held, and Rust changes nothing in them until it is released.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(view, slf.as_ptr(), start.cast(), length, readonly, flags)
        };
        if filled != 0 {
            drop(lending);
            return Err(PyErr::fetch(slf.py()));
        }
        lending.views += 1;
        Ok(())
    }

    /// # Safety
    /// `view` is one that [`Self::__getbuffer__`] described.
    unsafe fn __releasebuffer__(&self, py: Python<'_>, view: *mut ffi::Py_buffer) {
        let _ = view;
        let mut lending = self.lending(py);
        lending.views = lending.views.saturating_sub(1);
        if lending.views == 0 && matches!(lending.loan, Loan::Views { .. }) {
            lending.loan = Loan::Gone;
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let lending = self.lending.get_mut();
        let lending = lending.unwrap_or_else(PoisonError::into_inner);
        let loan = std::mem::replace(&mut lending.loan, Loan::Gone);
        if matches!(loan, Loan::Read(_) | Loan::Write(_)) {
            self.session.unlocked();
            self.session.drop_detached(loan);
        }
    }
}
