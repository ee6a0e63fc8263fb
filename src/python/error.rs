//! Errors to exceptions: the only place that knows which becomes which.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::Path;

use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError};
use pyo3::prelude::*;
use rustix::io::Errno;

use crate::error::{Damage, Error, Value};

/// The exception that says what `error` says.
pub(super) fn exception(py: Python<'_>, error: Error) -> PyErr {
    raised_in(py, &Step(None), error)
}

/// A step of making or opening something, which its failure names.
struct Step(Option<String>);

impl Step {
    /// What the step has to add to words.
    fn tell(&self, text: impl Display) -> String {
        match &self.0 {
            Some(step) => format!("{step}: {text}"),
            None => text.to_string(),
        }
    }
}

fn raised_in(py: Python<'_>, step: &Step, error: Error) -> PyErr {
    let text = step.tell(&error);
    let made = match error {
        Error::Io {
            path,
            offset_bytes,
            source,
        } => os_error(py, step, &path, offset_bytes, source),
        Error::Damaged(damage) => damaged(py, step, damage),
        Error::Unsound { path, code, reason } => {
            instance(py, "UnsoundPoolError", (path.as_os_str(), code, reason))
        }
        Error::InUse { path, reason } => {
            instance(py, "DeviceInUseError", (path.as_os_str(), reason))
        }
        Error::NotFormatted(path) => instance(py, "NotFormattedError", (path.as_os_str(),)),
        Error::Unsupported { path, reason } => {
            instance(py, "UnsupportedFormatError", (path.as_os_str(), reason))
        }
        Error::NoMetadataSnapshot(path) => {
            instance(py, "NoMetadataSnapshotError", (path.as_os_str(),))
        }
        Error::SnapshotReleased { path, .. } => {
            let reason = "the metadata snapshot was released while it was read";
            instance(py, "NoMetadataSnapshotError", (path.as_os_str(), reason))
        }
        Error::NoSuchDevice(id) => instance(py, "NoSuchDeviceError", (id,)),
        Error::DeviceExists(id) => instance(py, "DeviceExistsError", (id,)),
        Error::MetadataSnapshotHeld(_) => instance(py, "MetadataSnapshotHeldError", (text,)),
        Error::StaleTransaction { .. } => instance(py, "StaleTransactionError", (text,)),
        Error::CommitFailed {
            source,
            needs_check_set,
        } => commit_failed(py, step, *source, needs_check_set),
        Error::Usage(_) => instance(py, "UsageError", (text,)),
        Error::WouldBlock => instance(py, "WouldBlockError", (text,)),
        Error::NoSpace { space, reason } => {
            instance(py, "NoSpaceError", (space, step.tell(reason)))
        }
        Error::ReadOnly(_) => instance(py, "ReadOnlyError", (text,)),
        Error::AlreadyFormatted { path, reason } => {
            instance(py, "AlreadyFormattedError", (path.as_os_str(), reason))
        }
        Error::NoSuchTree(name) => instance(py, "NoSuchTreeError", (name,)),
        Error::Aborted(_) | Error::TakenBack(_) => instance(py, "AbortedError", (text,)),
        Error::Poisoned(_) => instance(py, "PoisonedError", (text,)),
        Error::Stream(_) => instance(py, "StreamError", (text,)),
        Error::Xml {
            path,
            line,
            column,
            reason,
        } => instance(py, "XmlError", (path.as_os_str(), line, column, reason)),
        Error::WrongBase(_) => instance(py, "WrongBaseError", (text,)),
        Error::Step { step: name, source } => {
            return raised_in(py, &Step(Some(step.tell(name))), *source);
        }
        // Whoever interrupts has an exception of its own, which is raised instead.
        Error::Interrupted => Ok(PyKeyboardInterrupt::new_err(text)),
    };
    made.unwrap_or_else(|failure| failure)
}

/// An exception of `thinmeta.errors`.
fn instance<'py>(py: Python<'py>, class: &str, arguments: impl PyCallArgs<'py>) -> PyResult<PyErr> {
    let class = py.import("thinmeta.errors")?.getattr(class)?;
    Ok(PyErr::from_value(class.call1(arguments)?))
}

/// A failed commit is one of two classes, whose attribute tells what the disk says now;
/// what it failed by is the cause.
fn commit_failed(
    py: Python<'_>,
    step: &Step,
    source: Error,
    needs_check_set: bool,
) -> PyResult<PyErr> {
    let cause = raised_in(py, step, source);
    let poisoned = py.import("thinmeta.errors")?.getattr("PoisonedError")?;
    let raised = if cause.is_instance(py, &poisoned) {
        cause
    } else {
        let text = format!("the commit failed and was rolled back: {}", cause.value(py));
        let raised = instance(py, "AbortedError", (text,))?;
        raised.set_cause(py, Some(cause));
        raised
    };
    raised
        .value(py)
        .setattr("needs_check_set", needs_check_set)?;
    Ok(raised)
}

fn damaged(py: Python<'_>, step: &Step, damage: Damage) -> PyResult<PyErr> {
    let value = |value: Value| match value {
        Value::Number(number) => Ok(number.into_pyobject(py)?.into_any()),
        Value::Text(text) => PyResult::Ok(text.into_pyobject(py)?.into_any()),
    };
    let (found, expected) = (value(damage.found)?, value(damage.expected)?);
    let Damage {
        block,
        validator,
        check,
        ..
    } = damage;
    instance(
        py,
        "DamagedBlockError",
        (block.0, validator, check, found, expected, &step.0),
    )
}

/// An `OSError`, or the class of it that belongs to the error's number. What a
/// Python object raised while it served as a device passes through as it is.
fn os_error(
    py: Python<'_>,
    step: &Step,
    path: &Path,
    offset_bytes: Option<u64>,
    source: io::Error,
) -> PyResult<PyErr> {
    let source = match source.downcast::<PyErr>() {
        Ok(raised) => return Ok(raised),
        Err(source) => source,
    };
    let strerror = |code: i32| -> PyResult<String> {
        py.import("os")?
            .call_method1("strerror", (code,))?
            .extract()
    };
    let (code, text) = match (source.raw_os_error(), errno(source.kind())) {
        (Some(code), _) => (code, strerror(code)?),
        (None, Some(errno)) if source.get_ref().is_none() => {
            let code = errno.raw_os_error();
            (code, strerror(code)?)
        }
        (None, errno) => {
            let code = errno.unwrap_or(Errno::IO).raw_os_error();
            (code, source.to_string())
        }
    };
    let text = step.tell(match offset_bytes {
        Some(offset) => format!("{text}, at byte {offset}"),
        None => text,
    });
    let class = py.get_type::<PyOSError>();
    Ok(PyErr::from_value(class.call1((
        code,
        text,
        path.as_os_str(),
    ))?))
}

/// The number of an error that the system did not make itself.
fn errno(kind: ErrorKind) -> Option<Errno> {
    Some(match kind {
        ErrorKind::NotFound => Errno::NOENT,
        ErrorKind::PermissionDenied => Errno::ACCESS,
        ErrorKind::IsADirectory => Errno::ISDIR,
        ErrorKind::InvalidInput => Errno::INVAL,
        ErrorKind::BrokenPipe => Errno::PIPE,
        ErrorKind::StorageFull => Errno::NOSPC,
        ErrorKind::Unsupported => Errno::OPNOTSUPP,
        _ => return None,
    })
}
