//! One call at a time, and a wait that a signal ends.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

use pyo3::prelude::*;

use crate::block::{ask_patience, with_patience};
use crate::error::{Error, Result};
use crate::python::error::exception;

/// How often somebody who waits asks whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// Whose turn it is. The core's own locks are taken by who has it, so that
/// nobody waits for them.
#[derive(Default)]
pub(super) struct Turn {
    taken_by: Mutex<Option<ThreadId>>,
    free: Condvar,
}

/// A turn, until it is dropped.
pub(super) struct Taken<'t>(&'t Turn);

impl Turn {
    /// Waits for it: detach before.
    ///
    /// # Errors
    /// [`Error::Usage`] when a signal handler calls what it interrupted, and what
    /// the call's patience says.
    pub fn take(&self) -> Result<Taken<'_>> {
        let own = thread::current().id();
        loop {
            let mut taken_by = self.taken_by.lock().unwrap_or_else(PoisonError::into_inner);
            if taken_by.is_none() {
                *taken_by = Some(own);
                return Ok(Taken(self));
            }
            if *taken_by == Some(own) {
                let text = "called from within a call on the same transaction manager";
                return Err(Error::usage(text));
            }
            let woken = self.free.wait_timeout(taken_by, ASK_EVERY);
            drop(woken.unwrap_or_else(PoisonError::into_inner));
            ask_patience()?;
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let taken_by = self.0.taken_by.lock();
        *taken_by.unwrap_or_else(PoisonError::into_inner) = None;
        self.0.free.notify_one();
    }
}

/// Runs `work` detached; whatever it waits for, signals are handled meanwhile,
/// and what a handler raises ends the call.
pub(super) fn patiently<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    let (answer, raised) = py.detach(|| {
        let raised = std::rc::Rc::new(std::cell::RefCell::new(None));
        let slot = std::rc::Rc::clone(&raised);
        let ask = move || {
            let answer = Python::attach(|py| py.check_signals());
            answer.map_err(|error| {
                slot.replace(Some(error));
                Error::Interrupted
            })
        };
        let answer = with_patience(ask, work);
        (answer, raised.take())
    });
    match (answer, raised) {
        (Err(_), Some(raised)) => Err(raised),
        (answer, _) => answer.map_err(|error| exception(py, error)),
    }
}
