//! Many entries, as columns.

use arrow_buffer::Buffer;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::arrow as table;
use super::input::WORD;
use crate::python::arrow;
use crate::python::buffer::Column;

/// Keys and their values, held in memory; of a look-up also which were found.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct Entries {
    keys: Buffer,
    values: Buffer,
    /// A byte for each key; `None`: all were found.
    found: Option<Buffer>,
    value_bytes: usize,
}

impl Entries {
    pub fn new(
        keys: Vec<u64>,
        values: Vec<u8>,
        found: Option<Vec<u8>>,
        value_bytes: usize,
    ) -> Self {
        Self {
            keys: Buffer::from_vec(keys),
            values: Buffer::from_vec(values),
            found: found.map(Buffer::from_vec),
            value_bytes,
        }
    }
}

#[pymethods]
impl Entries {
    fn __len__(&self) -> usize {
        self.keys.len() / WORD
    }

    /// Bytes of each value.
    #[getter]
    fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    /// Whether a key may have no value: a look-up's may, a scan's have one each.
    #[getter]
    fn has_gaps(&self) -> bool {
        self.found.is_some()
    }

    /// The keys, 64-bit numbers.
    #[getter]
    fn keys(&self) -> Column {
        Column::new::<u64>(self.keys.clone())
    }

    /// The values: 64-bit numbers where a value has 8 bytes, otherwise bytes, one
    /// value after the other. Zeros where a key was not found.
    #[getter]
    fn values(&self) -> Column {
        if self.value_bytes == WORD {
            Column::new::<u64>(self.values.clone())
        } else {
            Column::new::<u8>(self.values.clone())
        }
    }

    /// 1 for each key that was found, 0 for the others.
    #[getter]
    fn found(&self, py: Python<'_>) -> Column {
        match &self.found {
            Some(found) => Column::new::<u8>(found.clone()),
            None => py.detach(|| Column::of(vec![1_u8; self.__len__()])),
        }
    }

    /// Export as a stream of one record batch (Arrow PyCapsule interface).
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let (keys, values) = (self.keys.clone(), self.values.clone());
        let found = self.found.as_ref().map(|found| found.as_slice());
        let batches = py.detach(|| table::batches(keys, values, found, self.value_bytes));
        arrow::stream(py, batches)
    }

    /// Export the columns' types (Arrow PyCapsule interface).
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        arrow::schema(py, &table::schema(self.value_bytes))
    }
}
