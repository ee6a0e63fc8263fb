//! Tables as Arrow PyCapsules.

use std::sync::{Arc, Weak};

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{RecordBatch, RecordBatchReader, UInt32Array, UInt64Array};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{MappingColumns, Position, ThinDevice};

/// Rows of a batch: leaves are taken whole until there are as many.
const BATCH_ROWS: usize = 1 << 16;

/// A stream for whoever speaks the Arrow PyCapsule interface. A schema that the
/// reader asked for is only a wish there; ours are the plainest already.
pub(super) fn stream<'py>(
    py: Python<'py>,
    batches: impl RecordBatchReader + Send + 'static,
) -> PyResult<Bound<'py, PyCapsule>> {
    let stream = FFI_ArrowArrayStream::new(Box::new(batches));
    PyCapsule::new_with_value(py, stream, c"arrow_array_stream")
}

/// The types of a table's columns.
pub(super) fn schema<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    let schema = FFI_ArrowSchema::try_from(schema)
        .map_err(|error| PyValueError::new_err(error.to_string()))?;
    PyCapsule::new_with_value(py, schema, c"arrow_schema")
}

/// Columns of a device's mappings.
pub(super) fn mapping_schema() -> SchemaRef {
    let field = |name, kind| Field::new(name, kind, false);
    Arc::new(Schema::new(vec![
        field("virtual_block", DataType::UInt64),
        field("data_block", DataType::UInt64),
        field("time", DataType::UInt32),
    ]))
}

/// A device's mappings, read while somebody takes them.
pub(super) struct MappingBatches {
    device: Weak<ThinDevice>,
    position: Position,
}

impl MappingBatches {
    pub fn new(device: Weak<ThinDevice>) -> Self {
        let position = Position::new(0, None);
        Self { device, position }
    }

    fn next_columns(&mut self) -> Result<MappingColumns> {
        let closed = || Error::usage("the pool is closed");
        let device = self.device.upgrade().ok_or_else(closed)?;
        self.position
            .next_columns(&device, BATCH_ROWS, &Task::default())
    }
}

impl Iterator for MappingBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.next_columns() {
            Ok(columns) if columns.virtual_blocks.is_empty() => None,
            Ok(columns) => Some(RecordBatch::try_new(
                self.schema(),
                vec![
                    Arc::new(UInt64Array::from(columns.virtual_blocks)),
                    Arc::new(UInt64Array::from(columns.data_blocks)),
                    Arc::new(UInt32Array::from(columns.times)),
                ],
            )),
            Err(error) => Some(Err(ArrowError::ExternalError(Box::new(error)))),
        }
    }
}

impl RecordBatchReader for MappingBatches {
    fn schema(&self) -> SchemaRef {
        mapping_schema()
    }
}
