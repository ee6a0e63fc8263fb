//! Arrays over a transaction manager.

use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::PySlice;

use super::arguments::{Block, Blocks, Offset};
use super::input::{misuse, packed_values, value, value_object};
use super::kept::Kept;
use super::managed::{Managed, Part};
use super::transaction::TransactionManager;
use super::tree_values::Values;
use crate::array::{self, ArrayType};
use crate::block::BlockManager;
use crate::btree::Wait;
use crate::error::Result;
use crate::python::buffer::Column;
use crate::python::error::exception;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Bytes of an element that is a number in Python.
const WORD: usize = size_of::<u64>();

/// What every call needs to know of the array.
#[derive(Clone, Copy)]
struct Form {
    value_bytes: usize,
    values: Values,
}

impl Form {
    fn new(py: Python<'_>, value_bytes: Offset, values: &str) -> PyResult<Self> {
        if values == "trees" {
            return Err(misuse(
                py,
                "values is \"trees\", not \"plain\" or \"blocks\"",
            ));
        }
        let value_bytes = value_bytes.0;
        if !(1..=array::MAX_ELEMENT_BYTES).contains(&value_bytes) {
            let most = array::MAX_ELEMENT_BYTES;
            let text = format!("elements of {value_bytes} bytes: an array holds 1 to {most}");
            return Err(misuse(py, text));
        }
        let values = Values::named(values, value_bytes, WORD);
        let values = values.map_err(|error| exception(py, error))?;
        Ok(Self {
            value_bytes,
            values,
        })
    }

    fn with<T>(self, change: impl FnOnce(&mut ArrayType<'_>) -> Result<T>) -> Result<T> {
        let mut values = self.values;
        change(&mut ArrayType {
            value_bytes: self.value_bytes,
            values: &mut values,
        })
    }
}

/// A value, or zeros.
fn element(value_bytes: usize, item: Option<&Bound<'_, PyAny>>) -> PyResult<Vec<u8>> {
    let mut bytes = vec![0; value_bytes];
    if let Some(item) = item {
        value(item, &mut bytes)?;
    }
    Ok(bytes)
}

/// Where an array starts, and how many elements it has.
type Place = (BlockNr, u64);

/// Elements of one size in the blocks of a transaction manager, found by their index.
///
/// Elements are numbers where they have 8 bytes, else ``bytes``. ``array[7]`` is one,
/// ``array[10:20]`` a column of them that speaks the buffer protocol (numbers, or the
/// bytes one after the other), and both can be assigned to.
///
/// An array goes with its transaction, as a :class:`Tree` does. Neither its length nor
/// the size of its elements is stored: keep them with :attr:`root`.
///
/// Attributes:
///     root: The block where the array starts now. Every change may move it.
///     value_bytes: Bytes of an element.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct Array {
    managed: Arc<Managed>,
    form: Form,
    kept: Arc<Kept<Place>>,
}

/// What stands between the brackets.
enum Wanted {
    One(u64),
    Range(u64, u64),
}

impl Array {
    fn over(managed: &Arc<Managed>, form: Form, now: Place, committed: Option<Place>) -> Self {
        let kept = Arc::new(Kept::new(now, committed));
        let part: Arc<dyn Part> = kept.clone();
        managed.add(Arc::downgrade(&part));
        Self {
            managed: Arc::clone(managed),
            form,
            kept,
        }
    }

    fn change<T: Send>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&mut Transaction, &mut ArrayType<'_>, Place) -> Result<(Option<Place>, T)>
        + Send,
    ) -> PyResult<T> {
        self.managed.change(py, |txn| {
            let place = self.kept.now()?;
            let (place, answer) = self.form.with(|array| change(txn, array, place))?;
            self.kept.set(place);
            Ok(answer)
        })
    }

    fn look<T: Send>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&array::Array) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.managed.look(py, |txn| look(&self.view(txn.blocks())?))
    }

    fn view(&self, blocks: &Arc<BlockManager>) -> Result<array::Array> {
        let (root, len) = self.kept.now()?;
        array::Array::new(blocks, root, self.form.value_bytes, len)
    }

    fn wanted(&self, index: &Bound<'_, PyAny>) -> PyResult<Wanted> {
        let (py, len) = (index.py(), self.length(index.py())?);
        let signed = |len: u64| i64::try_from(len).unwrap_or(i64::MAX);
        if let Ok(slice) = index.cast::<PySlice>() {
            let indices = slice.indices(isize::try_from(len).unwrap_or(isize::MAX))?;
            if indices.step != 1 {
                return Err(misuse(py, "a slice of an array has no step"));
            }
            let first = u64::try_from(indices.start).unwrap_or_default();
            return Ok(Wanted::Range(first, indices.slicelength as u64));
        }
        if index.is_instance_of::<pyo3::types::PyBool>() {
            return Err(PyTypeError::new_err("an index must be a number, not bool"));
        }
        let out_of_range = || PyIndexError::new_err(format!("no element of {len}"));
        let number: i64 = match index.extract() {
            Ok(number) => number,
            Err(error) if error.is_instance_of::<pyo3::exceptions::PyOverflowError>(py) => {
                return Err(out_of_range());
            }
            Err(error) => return Err(error),
        };
        let number = if number < 0 {
            number + signed(len)
        } else {
            number
        };
        match u64::try_from(number) {
            Ok(number) if number < len => Ok(Wanted::One(number)),
            _ => Err(out_of_range()),
        }
    }

    fn length(&self, py: Python<'_>) -> PyResult<u64> {
        self.managed.look(py, |_| Ok(self.kept.now()?.1))
    }
}

#[pymethods]
impl Array {
    /// Make an array.
    ///
    /// Args:
    ///     tm: The transaction manager.
    ///     size: How many elements, at most 2^32 - 1.
    ///     value_bytes: Bytes of an element, 1 to 4072.
    ///     default: What each is; ``None`` means zeros.
    ///     values: What elements are: ``"plain"`` refers to nothing, ``"blocks"`` are
    ///         numbers of blocks, of which each element takes a reference of its own.
    ///
    /// Raises:
    ///     NoSpaceError: Too few blocks are free.
    ///     UsageError: A form or a size that no array can have.
    #[staticmethod]
    #[pyo3(
        signature = (tm, size, value_bytes=Offset(8), *, default=None, values="plain"),
        text_signature = "(tm, size, value_bytes=8, *, default=None, values='plain')"
    )]
    fn create(
        py: Python<'_>,
        tm: &TransactionManager,
        size: Blocks,
        value_bytes: Offset,
        default: Option<&Bound<'_, PyAny>>,
        values: &str,
    ) -> PyResult<Self> {
        let form = Form::new(py, value_bytes, values)?;
        let default = element(form.value_bytes, default)?;
        let managed = tm.real(py)?;
        let root = managed.change(py, |txn| {
            let mut generator = |_, out: &mut [u8]| {
                out.copy_from_slice(&default);
                Ok(())
            };
            form.with(|array| array::generate(txn, array, size.0, &mut generator))
        })?;
        Ok(Self::over(managed, form, (root, size.0), None))
    }

    /// Open an array that is there. Nothing is read.
    ///
    /// Args:
    ///     tm: The transaction manager.
    ///     root: The block where it starts.
    ///     size: As it was; so are the others.
    ///     value_bytes: Bytes of an element.
    ///     values: What elements are.
    ///
    /// Raises:
    ///     UsageError: A form or a size that no array can have, or no such block.
    #[staticmethod]
    #[pyo3(
        signature = (tm, root, size, value_bytes=Offset(8), *, values="plain"),
        text_signature = "(tm, root, size, value_bytes=8, *, values='plain')"
    )]
    fn open(
        py: Python<'_>,
        tm: &TransactionManager,
        root: Block,
        size: Blocks,
        value_bytes: Offset,
        values: &str,
    ) -> PyResult<Self> {
        let form = Form::new(py, value_bytes, values)?;
        let (managed, root) = (tm.real(py)?, BlockNr(root.0));
        let own = managed.look(py, |txn| {
            txn.ref_count(root)?;
            array::Array::new(txn.blocks(), root, form.value_bytes, size.0)?;
            Ok(txn.is_shadow(root))
        })?;
        let place = (root, size.0);
        Ok(Self::over(managed, form, place, (!own).then_some(place)))
    }

    #[getter]
    fn root(&self, py: Python<'_>) -> PyResult<u64> {
        self.managed.look(py, |_| Ok(self.kept.now()?.0.0))
    }

    #[getter]
    fn value_bytes(&self) -> usize {
        self.form.value_bytes
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(usize::try_from(self.length(py)?).unwrap_or(usize::MAX))
    }

    fn __getitem__<'py>(&self, index: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let (py, bytes) = (index.py(), self.form.value_bytes);
        match self.wanted(index)? {
            Wanted::One(index) => {
                let found = self.look(py, |array| {
                    let mut out = vec![0; bytes];
                    array.get(index, &mut out, Wait::Yes)?;
                    Ok(out)
                })?;
                value_object(py, &found)
            }
            Wanted::Range(first, count) => {
                let found = self.look(py, |array| {
                    let count = usize::try_from(count).unwrap_or(usize::MAX);
                    let mut out = vec![0; count.saturating_mul(bytes)];
                    array.read(first, &mut out)?;
                    Ok(out)
                })?;
                let column = if bytes == WORD {
                    let words = found.as_chunks::<WORD>().0.iter();
                    Column::of(words.map(|word| u64::from_le_bytes(*word)).collect())
                } else {
                    Column::of(found)
                };
                Ok(Bound::new(py, column)?.into_any())
            }
        }
    }

    fn __setitem__(&self, index: &Bound<'_, PyAny>, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let (py, bytes) = (index.py(), self.form.value_bytes);
        match self.wanted(index)? {
            Wanted::One(index) => {
                let value = element(bytes, Some(item))?;
                self.change(py, |txn, array, (root, len)| {
                    let root = array::set(txn, array, root, len, index, &value)?;
                    Ok((Some((root, len)), ()))
                })
            }
            Wanted::Range(first, count) => {
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let values = packed_values(item, count, bytes)?;
                self.change(py, |txn, array, (root, len)| {
                    let root = array::set_range(txn, array, root, len, first, values.as_bytes())?;
                    Ok((Some((root, len)), ()))
                })
            }
        }
    }

    /// Make all elements from ``begin`` up to but not including ``end`` the same.
    ///
    /// Raises:
    ///     UsageError: The range is not the array's, or a value of another size.
    ///     NoSpaceError: Too few blocks are free.
    fn fill(
        &self,
        py: Python<'_>,
        begin: Blocks,
        end: Blocks,
        value: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let value = element(self.form.value_bytes, Some(value))?;
        self.change(py, |txn, array, (root, len)| {
            let root = array::fill(txn, array, root, len, begin.0..end.0, &value)?;
            Ok((Some((root, len)), ()))
        })
    }

    /// Make it longer or shorter.
    ///
    /// Args:
    ///     size: How many elements.
    ///     default: What new ones are; ``None`` means zeros.
    ///
    /// Raises:
    ///     UsageError: More elements than an array can have.
    ///     NoSpaceError: Too few blocks are free.
    #[pyo3(signature = (size, default=None))]
    fn resize(
        &self,
        py: Python<'_>,
        size: Blocks,
        default: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let default = element(self.form.value_bytes, default)?;
        self.change(py, |txn, array, (root, len)| {
            let root = array::resize(txn, array, root, len, size.0, &default)?;
            Ok((Some((root, size.0)), ()))
        })
    }

    /// Delete the array, and drop the references that elements hold.
    fn delete(&self, py: Python<'_>) -> PyResult<()> {
        self.change(py, |txn, array, (root, _)| {
            array::delete(txn, array, root)?;
            Ok((None, ()))
        })
    }

    fn __repr__(&self) -> String {
        let bytes = self.form.value_bytes;
        format!("<thinmeta.engine.Array value_bytes={bytes}>")
    }
}
