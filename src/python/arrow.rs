//! Tables as Arrow PyCapsules.

use std::iter;
use std::sync::Arc;

use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{
    ArrayRef, DictionaryArray, Int8Array, RecordBatch, RecordBatchIterator, RecordBatchReader,
    StringArray, UInt32Array, UInt64Array,
};
use arrow_buffer::{Buffer, NullBuffer};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;

use super::buffer::part_of;
use super::handle::Handle;
use crate::error::Result;
use crate::task::Task;
use crate::thin::{MappingColumns, Position};
use crate::tools::delta::{Delta, Kind};

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
    handle: Handle,
    position: Position,
}

impl MappingBatches {
    pub fn new(handle: Handle) -> Self {
        let position = Position::new(0, None);
        Self { handle, position }
    }

    fn next_columns(&mut self) -> Result<MappingColumns> {
        let device = self.handle.get()?;
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

/// Words of a delta's kinds, each in the place of its number.
const KINDS: [Kind; 4] = [Kind::Changed, Kind::LeftOnly, Kind::RightOnly, Kind::Same];

/// Columns of a delta.
pub(super) fn delta_schema() -> SchemaRef {
    let kind = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let number = |name| Field::new(name, DataType::UInt64, false);
    let data_block = |name| Field::new(name, DataType::UInt64, true);
    Arc::new(Schema::new(vec![
        Field::new("kind", kind, false),
        number("begin_blocks"),
        number("length_blocks"),
        number("begin_bytes"),
        number("length_bytes"),
        data_block("left_data_block"),
        data_block("right_data_block"),
    ]))
}

/// A delta's columns: those in bytes are its own, the others part of the delta.
pub(super) struct DeltaTable {
    delta: Arc<Delta>,
    pub kind: Buffer,
    pub begin_blocks: Buffer,
    pub length_blocks: Buffer,
    pub begin_bytes: Buffer,
    pub length_bytes: Buffer,
    pub left_data: Buffer,
    pub right_data: Buffer,
}

impl DeltaTable {
    pub fn new(delta: &Arc<Delta>) -> Self {
        // A row's end in bytes fits 64 bits.
        let bytes = |blocks: &[u64]| {
            let bytes = blocks.iter().map(|block| block * delta.block_bytes());
            Buffer::from_vec(bytes.collect::<Vec<u64>>())
        };
        Self {
            kind: part_of(delta, |delta| &delta.columns().kind),
            begin_blocks: part_of(delta, |delta| &delta.columns().begin),
            length_blocks: part_of(delta, |delta| &delta.columns().length),
            begin_bytes: bytes(&delta.columns().begin),
            length_bytes: bytes(&delta.columns().length),
            left_data: part_of(delta, |delta| &delta.columns().left_data),
            right_data: part_of(delta, |delta| &delta.columns().right_data),
            delta: Arc::clone(delta),
        }
    }

    /// Whether each row is mapped on the left side.
    pub fn has_left(&self) -> impl Iterator<Item = bool> {
        self.kinds().map(|kind| kind != Kind::RightOnly as u8)
    }

    /// Whether each row is mapped on the right side.
    pub fn has_right(&self) -> impl Iterator<Item = bool> {
        self.kinds().map(|kind| kind != Kind::LeftOnly as u8)
    }

    fn kinds(&self) -> impl Iterator<Item = u8> {
        self.delta.columns().kind.iter().copied()
    }

    /// The table whole, as the one batch of a stream.
    pub fn into_batches(self) -> impl RecordBatchReader + Send {
        let batch = self.into_batch();
        RecordBatchIterator::new(iter::once(batch), delta_schema())
    }

    fn into_batch(self) -> Result<RecordBatch, ArrowError> {
        let left = NullBuffer::from_iter(self.has_left());
        let right = NullBuffer::from_iter(self.has_right());
        let words = StringArray::from_iter_values(KINDS.map(Kind::as_str));
        let kinds =
            DictionaryArray::try_new(Int8Array::new(self.kind.into(), None), Arc::new(words))?;
        let numbers =
            |items: Buffer, valid| Arc::new(UInt64Array::new(items.into(), valid)) as ArrayRef;
        RecordBatch::try_new(
            delta_schema(),
            vec![
                Arc::new(kinds),
                numbers(self.begin_blocks, None),
                numbers(self.length_blocks, None),
                numbers(self.begin_bytes, None),
                numbers(self.length_bytes, None),
                numbers(self.left_data, Some(left)),
                numbers(self.right_data, Some(right)),
            ],
        )
    }
}
