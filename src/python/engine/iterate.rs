//! Iterating a tree, some leaves at a time.

use std::sync::{Mutex, PoisonError};

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;

use super::input::value_object;
use super::source::Source;
use super::tree::BTree;
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

/// Entries that are fetched at once, or a whole leaf if that has more.
const ROWS_AT_ONCE: usize = 512;

/// What is being given out, and the range behind it. Between two fetches nothing
/// of the tree is held, so that closing lets go of the device at once.
struct Progress {
    /// Where the next fetch begins; `None` at the end.
    begin: Option<u64>,
    end: Option<u64>,
    keys: Vec<u64>,
    values: Vec<u8>,
    next: usize,
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
                begin: Some(range.0),
                end: range.1,
                keys: Vec::new(),
                values: Vec::new(),
                next: 0,
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
            return Ok(match progress.begin {
                None => Next::End,
                Some(_) => Next::Fetch,
            });
        };
        progress.next += 1;
        if self.what == Yield::Keys {
            return Ok(Next::Item(key.into_pyobject(py)?.into_any()));
        }
        let bytes = &progress.values[index * value_bytes..][..value_bytes];
        let value = value_object(py, bytes)?;
        // A tuple may set off the collector, and that any code, which may come here.
        drop(progress);
        Ok(Next::Item(match self.what {
            Yield::Items => (key, value).into_pyobject(py)?.into_any(),
            _ => value,
        }))
    }

    /// Fetches what comes next, unless another thread did meanwhile. Detached.
    fn fetch(&self, source: &Source) -> Result<()> {
        let progress = self.progress.lock();
        let mut progress = progress.unwrap_or_else(PoisonError::into_inner);
        let Some(begin) = progress.begin else {
            return Ok(());
        };
        if progress.next < progress.keys.len() {
            return Ok(());
        }
        source.read_detached(|roots| {
            if source.tally().changes() != self.changes {
                // Nothing is fetched, and the caller looks again.
                return Ok(());
            }
            let Progress {
                begin: next_begin,
                end,
                keys,
                values,
                next,
            } = &mut *progress;
            let mut cursor = roots.cursor(begin, *end);
            keys.clear();
            values.clear();
            *next = 0;
            while keys.len() < ROWS_AT_ONCE {
                let Some(leaf) = cursor.next_leaf()? else {
                    *next_begin = None;
                    return Ok(());
                };
                let (found, packed) = leaf.packed_entries(roots.value_bytes)?;
                keys.extend(found.iter().map(|key| key.get()));
                values.extend_from_slice(packed);
            }
            *next_begin = keys.last().and_then(|last| last.checked_add(1));
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
