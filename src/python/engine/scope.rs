//! A `with` block that is a transaction.

use pyo3::prelude::*;

use super::transaction::TransactionManager;
use crate::python::error::exception;

/// A ``with`` block that commits when it is left quietly and rolls back otherwise.
///
/// Made by :meth:`TransactionManager.transaction`.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct TransactionScope {
    manager: Py<TransactionManager>,
    fill: Py<PyAny>,
}

impl TransactionScope {
    pub(super) fn new(manager: Py<TransactionManager>, fill: Py<PyAny>) -> Self {
        Self { manager, fill }
    }
}

#[pymethods]
impl TransactionScope {
    fn __enter__(&self, py: Python<'_>) -> PyResult<Py<TransactionManager>> {
        let managed = self.manager.get().real(py)?;
        managed.check_readable(py)?;
        managed
            .enter_scope()
            .map_err(|error| exception(py, error))?;
        Ok(self.manager.clone_ref(py))
    }

    #[pyo3(signature = (raised, value, traceback, /))]
    fn __exit__(
        &self,
        py: Python<'_>,
        raised: &Bound<'_, PyAny>,
        value: &Bound<'_, PyAny>,
        traceback: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let _ = traceback;
        let manager = self.manager.get();
        let managed = manager.managed();
        managed.leave_scope();
        if !raised.is_none() {
            if let Err(failed) = managed.abort(py) {
                let note = format!("and the roll-back failed: {failed}");
                value.call_method1("add_note", (note,))?;
            }
            return Ok(());
        }
        let committed = manager.commit_with(py, &self.fill);
        committed.inspect_err(|_| {
            // The commit's own error says more than what this one may add.
            drop(managed.abort(py));
        })
    }
}
