//! Where two volumes differ.

use std::sync::Arc;

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use super::arrow::{self, DeltaTable};
use super::buffer::Column;
use crate::tools::delta::{self, Kind};

/// Ranges in which two volumes differ. Its columns, as buffers and in Arrow, are
/// views of the core's table.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Delta(Arc<delta::Delta>);

/// Kind, first block, length, data blocks on the left and the right side.
type Row = (&'static str, u64, u64, Option<u64>, Option<u64>);

impl Delta {
    pub fn new(delta: delta::Delta) -> Self {
        Self(Arc::new(delta))
    }
}

#[pymethods]
impl Delta {
    fn __len__(&self) -> usize {
        self.0.len()
    }

    #[getter]
    fn block_size_bytes(&self) -> u64 {
        self.0.block_bytes()
    }

    #[getter]
    fn changed_blocks(&self) -> u64 {
        self.0.changed_blocks()
    }

    fn row(&self, index: usize) -> PyResult<Row> {
        let row = self.0.row(index);
        let row = row.ok_or_else(|| PyIndexError::new_err("no such row"))?;
        let kind = row.kind.as_str();
        Ok((kind, row.begin, row.length, row.left_data, row.right_data))
    }

    fn columns<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let table = py.detach(|| DeltaTable::new(&self.0));
        let left: Vec<u8> = table.has_left().map(u8::from).collect();
        let right: Vec<u8> = table.has_right().map(u8::from).collect();
        let columns = PyDict::new(py);
        columns.set_item("kind", Column::new::<u8>(table.kind))?;
        columns.set_item("begin_blocks", Column::new::<u64>(table.begin_blocks))?;
        columns.set_item("length_blocks", Column::new::<u64>(table.length_blocks))?;
        columns.set_item("begin_bytes", Column::new::<u64>(table.begin_bytes))?;
        columns.set_item("length_bytes", Column::new::<u64>(table.length_bytes))?;
        columns.set_item("left_data_block", Column::new::<u64>(table.left_data))?;
        columns.set_item("right_data_block", Column::new::<u64>(table.right_data))?;
        columns.set_item("left_valid", Column::of(left))?;
        columns.set_item("right_valid", Column::of(right))?;
        Ok(columns)
    }

    fn merged(&self, py: Python<'_>) -> Vec<(&'static str, u64, u64)> {
        let merged = py.detach(|| self.0.merged());
        let named = |(kind, begin, length): (Kind, u64, u64)| (kind.as_str(), begin, length);
        merged.into_iter().map(named).collect()
    }

    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        let _ = requested_schema;
        let table = py.detach(|| DeltaTable::new(&self.0).into_batches());
        arrow::stream(py, table)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        arrow::schema(py, &arrow::delta_schema())
    }
}
