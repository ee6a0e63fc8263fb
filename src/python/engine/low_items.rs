//! Keys and entries of trees that nest.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::PyTuple;

use super::input::Key;
use super::low_tree::{Item, Tree, item};
use crate::btree::Cursor;

/// Entries that an iterator takes at a time, at least.
const BATCH: usize = 256;

/// The keys of an entry, or of a tree inside a tree: a number, or a tuple of them.
pub(super) struct Keys(pub Vec<u64>);

impl<'py> FromPyObject<'_, 'py> for Keys {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let Ok(tuple) = object.cast::<PyTuple>() else {
            return object.extract::<Key>().map(|key| Self(vec![key.0]));
        };
        let keys: PyResult<Vec<u64>> = tuple
            .iter()
            .map(|key| key.extract::<Key>().map(|key| key.0))
            .collect();
        keys.map(Self)
    }
}

/// Entries that were read and not given yet.
struct Ahead {
    /// Where to read on; None at the end.
    next: Option<u64>,
    entries: VecDeque<(u64, Vec<u8>)>,
}

/// Entries of a :class:`Tree`, read some hundred at a time.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct TreeItems {
    tree: Py<Tree>,
    prefix: Vec<u64>,
    stop: Option<u64>,
    ahead: Mutex<Ahead>,
}

impl TreeItems {
    pub(super) fn new(tree: Py<Tree>, prefix: Vec<u64>, start: u64, stop: Option<u64>) -> Self {
        let ahead = Mutex::new(Ahead {
            next: Some(start),
            entries: VecDeque::new(),
        });
        Self {
            tree,
            prefix,
            stop,
            ahead,
        }
    }

    fn ahead(&self, py: Python<'_>) -> MutexGuard<'_, Ahead> {
        let ahead = self.ahead.lock_py_attached(py);
        ahead.unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl TreeItems {
    fn __iter__(slf: Py<Self>) -> Py<Self> {
        slf
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Item<'py>>> {
        let mut ahead = self.ahead(py);
        if let Some(entry) = ahead.entries.pop_front() {
            drop(ahead);
            return item(py, Some(entry));
        }
        let Some(next) = ahead.next else {
            return Ok(None);
        };
        drop(ahead);
        let tree = self.tree.get();
        let bytes = tree.bytes();
        let read = tree.last_level(py, &self.prefix, |blocks, at| {
            let mut cursor = Cursor::new(blocks, at, bytes, next, self.stop);
            let mut entries = VecDeque::new();
            while entries.len() < BATCH
                && let Some(leaf) = cursor.next_leaf()?
            {
                let (keys, values) = leaf.packed_entries(bytes)?;
                let values = values.chunks_exact(bytes).map(<[u8]>::to_vec);
                entries.extend(keys.iter().map(|key| key.get()).zip(values));
            }
            Ok(Some(entries))
        })?;
        let mut entries = read.unwrap_or_default();
        let first = entries.pop_front();
        let mut ahead = self.ahead(py);
        ahead.next = entries
            .back()
            .or(first.as_ref())
            .and_then(|(key, _)| key.checked_add(1));
        ahead.entries = entries;
        drop(ahead);
        item(py, first)
    }
}
