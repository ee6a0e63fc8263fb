//! Which virtual blocks lie in given data blocks.

use std::iter;
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchIterator, UInt64Array};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use super::arrow;
use super::buffer::Column;
use super::call::watched;
use super::output::Out;
use crate::tools::rmap::{self, Row, write};

/// Runs of blocks by where they lie in the data.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct ReverseMap(rmap::ReverseMap);

/// A column's name, and how to get it of a row.
type NamedField = (&'static str, fn(&Row) -> u64);

/// All of them.
const COLUMNS: [NamedField; 4] = [
    ("data_begin", Row::data_begin),
    ("length_blocks", Row::length_blocks),
    ("device_id", Row::device_id),
    ("virtual_begin", Row::virtual_begin),
];

impl ReverseMap {
    pub fn new(map: rmap::ReverseMap) -> Self {
        Self(map)
    }
}

fn schema() -> SchemaRef {
    let fields = COLUMNS.map(|(name, _)| Field::new(name, DataType::UInt64, false));
    Arc::new(Schema::new(fields.to_vec()))
}

#[pymethods]
impl ReverseMap {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    #[getter]
    fn block_size_bytes(&self) -> u64 {
        self.0.block_bytes()
    }

    /// Data block, blocks, device, virtual block.
    fn row(&self, index: usize) -> PyResult<(u64, u64, u64, u64)> {
        let mut rest = index;
        for piece in self.0.pieces() {
            if let Some(row) = piece.get(rest) {
                let [data, length, device, block] = COLUMNS.map(|(_, field)| field(row));
                return Ok((data, length, device, block));
            }
            rest -= piece.len();
        }
        Err(PyIndexError::new_err("no such row"))
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let columns = PyDict::new(py);
        for (name, field) in COLUMNS {
            let values: Vec<u64> = py.detach(|| self.0.rows().map(field).collect());
            columns.set_item(name, Column::of(values))?;
        }
        Ok(columns)
    }

    /// Writes lines as `thin_rmap` does.
    #[pyo3(signature = (out, *, progress=None))]
    fn write(&self, py: Python<'_>, out: Out, progress: Option<Py<PyAny>>) -> PyResult<()> {
        let mut out = out.open(py)?;
        watched(py, progress, None, |task| write(&self.0, &mut *out, task))
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let columns = py.detach(|| {
            COLUMNS.map(|(_, field)| {
                let values = UInt64Array::from_iter_values(self.0.rows().map(field));
                Arc::new(values) as ArrayRef
            })
        });
        let batch = RecordBatch::try_new(schema(), columns.to_vec());
        arrow::stream(py, RecordBatchIterator::new(iter::once(batch), schema()))
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        arrow::schema(py, &schema())
    }
}
