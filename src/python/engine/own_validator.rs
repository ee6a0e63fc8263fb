//! Validators written in Python: the core asks them, attached, with nothing held.

use std::cell::Cell;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString, PyType};

use crate::block::{BlockData, Validator};
use crate::error::{Damage, Error, Result};
use crate::units::{BLOCK_BYTES, BlockNr};

/// What tells a validator from all others.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub name: String,
    /// Counts the objects: no two are one kind.
    pub serial: u64,
}

impl Named {
    /// For a new object of `class`, which has to be a subclass that is complete.
    pub fn of(class: &Bound<'_, PyType>) -> PyResult<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let py = class.py();
        let base = py.get_type::<super::Validator>();
        for method in ["check", "prepare"] {
            if class.getattr(method)?.is(&base.getattr(method)?) {
                let text = format!(
                    "{} defines no {method}: validators are subclasses that do, or made by \
                     CrcValidator and the static methods",
                    class.name()?
                );
                return Err(PyTypeError::new_err(text));
            }
        }
        let name = class.getattr(intern!(py, "name"))?;
        let name = if name.is(&base.getattr(intern!(py, "name"))?) {
            class.name()?
        } else {
            let text = "a validator's name is a str in the body of its class";
            let named = name.cast_into::<PyString>();
            named.map_err(|_| PyTypeError::new_err(text))?
        };
        Ok(Self {
            name: name.to_str()?.to_owned(),
            serial: LAST.fetch_add(1, Ordering::Relaxed) + 1,
        })
    }
}

thread_local! {
    /// Whether a validator runs on this thread.
    static WITHIN: Cell<bool> = const { Cell::new(false) };
}

/// Marks this thread until it is dropped.
struct Within(bool);

impl Within {
    fn enter() -> Self {
        Self(WITHIN.replace(true))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.set(self.0);
    }
}

/// # Errors
/// [`Error::Usage`] while a validator runs on this thread.
pub(super) fn refuse_within() -> Result<()> {
    if WITHIN.get() {
        return Err(Error::usage(
            "a validator must not use the engine while it is asked",
        ));
    }
    Ok(())
}

/// A validator in Python, as the core sees it. Only used detached or where the
/// thread holds no lock of the core.
pub(super) struct Asked {
    named: Named,
    object: Py<PyAny>,
}

impl Asked {
    /// `object` is the validator itself.
    pub fn new(named: &Named, object: Py<PyAny>) -> Self {
        let named = named.clone();
        Self { named, object }
    }

    /// Calls `method` with a view of `memory`, which nobody else has.
    fn call(
        &self,
        method: &Bound<'_, PyString>,
        at: BlockNr,
        memory: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = memory.py();
        let view = PyMemoryView::from(memory)?;
        let within = Within::enter();
        let answer = self.object.bind(py).call_method1(method, (at.0, &view));
        drop(within);
        // A view that was made of it and kept shows memory that is used no more.
        let _kept_or_not = view.call_method0(intern!(py, "release"));
        answer.map(drop)
    }

    /// Attaches for `work`; what it raises goes through the core as it is.
    fn attached(&self, at: BlockNr, work: impl FnOnce(Python<'_>) -> PyResult<()>) -> Result<()> {
        let answer = Python::try_attach(work);
        let answer = answer
            .ok_or_else(|| Error::usage("the interpreter ends: no validator can be asked"))?;
        answer.map_err(|raised| {
            let place = PathBuf::from(format!("<validator {}>", self.named.name));
            Error::io(place, at.offset_bytes(), io::Error::other(raised))
        })
    }
}

impl Validator for Asked {
    fn name(&self) -> &str {
        &self.named.name
    }

    fn identity(&self) -> u64 {
        self.named.serial
    }

    fn check(&self, at: BlockNr, block: &BlockData) -> Result<(), Damage> {
        self.accept(at, block).map_err(|error| match error {
            Error::Damaged(damage) => damage,
            other => {
                let name = self.named.name.clone();
                Damage::new(at, name, "check", other.to_string(), "acceptance")
            }
        })
    }

    fn seal(&self, at: BlockNr, block: &mut BlockData) {
        // It was prepared before the write-back began.
        let _ = (at, block);
    }

    fn accept(&self, at: BlockNr, block: &BlockData) -> Result<()> {
        self.attached(at, |py| {
            let copy = PyBytes::new(py, block.bytes());
            self.call(intern!(py, "check"), at, &copy)
        })
    }

    fn needs_preparation(&self) -> bool {
        true
    }

    fn prepare(&self, at: BlockNr, block: &mut BlockData) -> Result<()> {
        self.attached(at, |py| {
            let copy = PyByteArray::new(py, block.bytes());
            self.call(intern!(py, "prepare"), at, &copy)?;
            // Whoever got at the memory itself may have changed its size.
            let prepared = copy.to_vec();
            let Some(prepared) = prepared.first_chunk::<BLOCK_BYTES>() else {
                let text = "prepare has cut the block's bytes off";
                return Err(pyo3::exceptions::PyBufferError::new_err(text));
            };
            block.bytes_mut().copy_from_slice(prepared);
            Ok(())
        })
    }
}
