//! Iterating a tree, a leaf at a time.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::input::value_object;
use super::source::Source;
use super::tree::BTree;
use crate::btree::Cursor;
use crate::error::Result;
use crate::python::call::detached;

/// What an iterator yields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Yield {
    Keys,
    Values,
    Items,
}

/// Yields keys, values or both, in ascending order of the keys.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct TreeIterator {
    /// Keeps open what the tree needs.
    tree: Py<BTree>,
    what: Yield,
    /// How often the tree had changed at the start.
    changes: u64,
    progress: Mutex<Progress>,
}

/// The range, then the way through it, and the leaf that is being given out.
struct Progress {
    begin: u64,
    end: Option<u64>,
    cursor: Option<Cursor>,
    keys: Vec<u64>,
    values: Vec<u8>,
    next: usize,
    at_end: bool,
}

/// What the next call gives.
enum Next<'py> {
    Item(Bound<'py, PyAny>),
    Fetch,
    End,
}

impl TreeIterator {
    pub(super) fn new(tree: Py<BTree>, range: (u64, Option<u64>), what: Yield) -> Self {
        let changes = tree.get().source().tally().changes();
        Self {
            tree,
            what,
            changes,
            progress: Mutex::new(Progress {
                begin: range.0,
                end: range.1,
                cursor: None,
                keys: Vec::new(),
                values: Vec::new(),
                next: 0,
                at_end: false,
            }),
        }
    }

    fn check_unchanged(&self, source: &Source) -> PyResult<()> {
        if source.tally().changes() == self.changes {
            return Ok(());
        }
        let text = "the tree was changed while it was iterated";
        Err(PyRuntimeError::new_err(text))
    }

    /// What is fetched already, if nobody else is busy here.
    fn fetched<'py>(&self, py: Python<'py>, value_bytes: usize) -> PyResult<Next<'py>> {
        let Ok(mut progress) = self.progress.try_lock() else {
            return Ok(Next::Fetch);
        };
        let index = progress.next;
        let Some(key) = progress.keys.get(index).copied() else {
            return Ok(match progress.at_end {
                true => Next::End,
                false => Next::Fetch,
            });
        };
        progress.next += 1;
        let value = |progress: &Progress| {
            let bytes = &progress.values[index * value_bytes..][..value_bytes];
            value_object(py, bytes)
        };
        Ok(Next::Item(match self.what {
            Yield::Keys => key.into_pyobject(py)?.into_any(),
            Yield::Values => value(&progress)?,
            Yield::Items => {
                let value = value(&progress)?;
                PyTuple::new(py, [key.into_pyobject(py)?.into_any(), value])?.into_any()
            }
        }))
    }

    /// Fetches the next leaf, unless another thread did meanwhile. Detached.
    fn fetch(&self, source: &Source) -> Result<()> {
        let progress = self.progress.lock();
        let mut progress = progress.unwrap_or_else(PoisonError::into_inner);
        if progress.at_end || progress.next < progress.keys.len() {
            return Ok(());
        }
        source.read_detached(|roots| {
            if source.tally().changes() != self.changes {
                // Nothing is fetched, and the caller looks again.
                return Ok(());
            }
            let Progress {
                begin,
                end,
                cursor,
                keys,
                values,
                next,
                at_end,
            } = &mut *progress;
            let cursor = cursor.get_or_insert_with(|| roots.cursor(*begin, *end));
            keys.clear();
            values.clear();
            *next = 0;
            match cursor.next_leaf()? {
                Some(leaf) => {
                    let (found, packed) = leaf.packed_entries(roots.value_bytes)?;
                    keys.extend(found.iter().map(|key| key.get()));
                    values.extend_from_slice(packed);
                }
                None => *at_end = true,
            }
            Ok(())
        })
    }
}

#[pymethods]
impl TreeIterator {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
        let source = self.tree.get().source();
        let value_bytes = source.value_bytes();
        loop {
            self.check_unchanged(source)?;
            match self.fetched(py, value_bytes)? {
                Next::Item(item) => return Ok(Some(item)),
                Next::End => return Ok(None),
                Next::Fetch => detached(py, || self.fetch(source))?,
            }
        }
    }
}
