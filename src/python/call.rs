//! Calls into the core: detached, watched, their errors raised.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;

use super::error::exception;
use crate::error::{Error, Result};
use crate::task::{Monitor, Task};

/// Runs `work` detached from the interpreter.
pub(super) fn detached<T: Send>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> PyResult<T> {
    py.detach(work).map_err(|error| exception(py, error))
}

/// As [`detached`], for work that takes long: a few times a second signals are
/// handled and `progress` is called. What either raises ends the call.
pub(super) fn watched<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    threads: Option<usize>,
    work: impl FnOnce(&Task<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let watch = Watch {
        progress,
        raised: Mutex::new(None),
    };
    let answer = py.detach(|| work(&Task::new(Some(&watch), threads)));
    let raised = watch
        .raised
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    match (answer, raised) {
        (Err(Error::Interrupted), Some(raised)) => Err(raised),
        (answer, _) => answer.map_err(|error| exception(py, error)),
    }
}

/// Looks after signals and progress from the thread that made the call.
struct Watch {
    progress: Option<Py<PyAny>>,
    /// What ended the call.
    raised: Mutex<Option<PyErr>>,
}

impl Monitor for Watch {
    fn poll(&self, done: u64, total: u64) -> Result<()> {
        let answer = Python::attach(|py| {
            py.check_signals()?;
            match &self.progress {
                Some(progress) => progress.call1(py, (done, total)).map(drop),
                None => Ok(()),
            }
        });
        answer.map_err(|raised| {
            let mut slot = self.raised.lock().unwrap_or_else(PoisonError::into_inner);
            *slot = Some(raised);
            Error::Interrupted
        })
    }
}
