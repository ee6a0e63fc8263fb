//! Arrow: entries as a table, and columns that come as Arrow arrays.
//! Unsafe code lives here: capsules hold C structs.
#![allow(unsafe_code)]

use std::iter;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi::{FFI_ArrowArray, from_ffi};
use arrow_array::ffi_stream::ArrayStreamReader;
use arrow_array::types::{Int64Type, UInt64Type};
use arrow_array::{
    Array, ArrayRef, FixedSizeBinaryArray, RecordBatch, RecordBatchIterator, RecordBatchReader,
    UInt64Array, make_array,
};
use arrow_buffer::{BooleanBuffer, Buffer, NullBuffer};
use arrow_schema::ffi::FFI_ArrowSchema;
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use super::input::{WORD, misuse};

/// Columns of a table of entries: a key, and a value that may be absent.
pub(super) fn schema(value_bytes: usize) -> SchemaRef {
    // No value is larger than a block.
    let width = i32::try_from(value_bytes).unwrap_or(i32::MAX);
    let value = match value_bytes {
        WORD => DataType::UInt64,
        _ => DataType::FixedSizeBinary(width),
    };
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::UInt64, false),
        Field::new("value", value, true),
    ]))
}

/// Entries as the one batch of a stream. `found`: a byte for each, 0 where there is no value.
pub(super) fn batches(
    keys: Buffer,
    values: Buffer,
    found: Option<&[u8]>,
    value_bytes: usize,
) -> impl RecordBatchReader + Send + use<> {
    let valid = found.map(|found| {
        NullBuffer::new(BooleanBuffer::collect_bool(found.len(), |row| {
            found[row] != 0
        }))
    });
    let schema = schema(value_bytes);
    let make = || -> Result<RecordBatch, ArrowError> {
        let keys: ArrayRef = Arc::new(UInt64Array::new(keys.into(), None));
        let width = i32::try_from(value_bytes).unwrap_or(i32::MAX);
        let values: ArrayRef = match value_bytes {
            WORD => Arc::new(UInt64Array::new(values.into(), valid)),
            _ => Arc::new(FixedSizeBinaryArray::try_new(width, values, valid)?),
        };
        RecordBatch::try_new(Arc::clone(&schema), vec![keys, values])
    };
    let batch = make();
    RecordBatchIterator::new(iter::once(batch), schema)
}

/// Numbers that came through Arrow, and the first negative one among signed ones.
pub(super) type Integers = (Vec<u64>, Option<i64>);

/// The 64-bit integers of an object that speaks Arrow; `None`: it does not.
pub(super) fn words(object: &Bound<'_, PyAny>) -> PyResult<Option<Integers>> {
    let Some(arrays) = arrays(object)? else {
        return Ok(None);
    };
    refuse_nulls(object.py(), &arrays)?;
    let copied = object.py().detach(|| copy_of_integers(&arrays));
    copied.map(Some).map_err(|other| {
        let text = format!("an Arrow array of {other} where one of uint64 is needed");
        PyTypeError::new_err(text)
    })
}

/// The numbers of all arrays; an array of something else is the error.
fn copy_of_integers(arrays: &[ArrayRef]) -> Result<Integers, DataType> {
    let rows = arrays.iter().map(Array::len).sum();
    let (mut all, mut negative) = (Vec::with_capacity(rows), None);
    for array in arrays {
        match array.data_type() {
            DataType::UInt64 => all.extend_from_slice(array.as_primitive::<UInt64Type>().values()),
            DataType::Int64 => {
                let items = array.as_primitive::<Int64Type>().values();
                negative = negative.or_else(|| items.iter().copied().find(|item| *item < 0));
                all.extend(items.iter().map(|item| item.cast_unsigned()));
            }
            other => return Err(other.clone()),
        }
    }
    Ok((all, negative))
}

/// Packed values of so many bytes of an object that speaks Arrow; `None`: it does not.
pub(super) fn packed(object: &Bound<'_, PyAny>, value_bytes: usize) -> PyResult<Option<Vec<u8>>> {
    let Some(arrays) = arrays(object)? else {
        return Ok(None);
    };
    refuse_nulls(object.py(), &arrays)?;
    let copied = object.py().detach(|| copy_of_packed(&arrays, value_bytes));
    copied.map(Some).map_err(|other| {
        let text = format!(
            "an Arrow array of {other} where one of fixed-size binary({value_bytes}) is needed"
        );
        PyTypeError::new_err(text)
    })
}

/// The bytes of all arrays; an array of something else is the error.
fn copy_of_packed(arrays: &[ArrayRef], value_bytes: usize) -> Result<Vec<u8>, DataType> {
    let mut all = Vec::new();
    for array in arrays {
        match array.data_type() {
            DataType::FixedSizeBinary(width) if usize::try_from(*width) == Ok(value_bytes) => {
                let values = array.as_fixed_size_binary();
                all.extend_from_slice(&values.value_data()[..values.len() * value_bytes]);
            }
            other => return Err(other.clone()),
        }
    }
    Ok(all)
}

fn refuse_nulls(py: Python<'_>, arrays: &[ArrayRef]) -> PyResult<()> {
    match arrays.iter().map(|array| array.null_count()).sum() {
        0_usize => Ok(()),
        nulls => Err(misuse(py, format!("the Arrow array has {nulls} nulls"))),
    }
}

/// The arrays that an object exports by the Arrow PyCapsule interface.
fn arrays(object: &Bound<'_, PyAny>) -> PyResult<Option<Vec<ArrayRef>>> {
    if object.hasattr("__arrow_c_array__")? {
        return array(object).map(|array| Some(vec![array]));
    }
    if object.hasattr("__arrow_c_stream__")? {
        return stream(object).map(Some);
    }
    Ok(None)
}

fn wrong(error: impl ToString) -> PyErr {
    PyValueError::new_err(error.to_string())
}

fn array(object: &Bound<'_, PyAny>) -> PyResult<ArrayRef> {
    let exported = object.call_method0("__arrow_c_array__")?;
    let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) =
        exported.cast_into::<PyTuple>()?.extract()?;
    let schema = schema
        .pointer_checked(Some(c"arrow_schema"))?
        .cast::<FFI_ArrowSchema>();
    let array = array
        .pointer_checked(Some(c"arrow_array"))?
        .cast::<FFI_ArrowArray>();
    // SAFETY: capsules of these names hold these structs, and whoever takes what is in
    // them leaves released ones behind, which `from_raw` does. The array is moved out
    // before the capsule can be destroyed; the schema is only looked at.
    let data = unsafe {
        let array = FFI_ArrowArray::from_raw(array.as_ptr());
        from_ffi(array, schema.as_ref())
    };
    data.map(make_array).map_err(wrong)
}

/// The arrays of a stream, one after the other.
fn stream(object: &Bound<'_, PyAny>) -> PyResult<Vec<ArrayRef>> {
    let exported = object.call_method0("__arrow_c_stream__")?;
    let capsule = exported.cast_into::<PyCapsule>()?;
    let pointer = capsule.pointer_checked(Some(c"arrow_array_stream"))?;
    // SAFETY: a capsule of this name holds this struct; `from_raw` moves it out and
    // leaves a released one behind.
    let reader = unsafe { ArrayStreamReader::from_raw(pointer.cast().as_ptr()) };
    reader
        .map_err(wrong)?
        .map(|array| array.map_err(wrong))
        .collect()
}
