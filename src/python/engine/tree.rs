//! A tree of a store, as a mapping.

use pyo3::exceptions::{PyKeyError, PyTypeError};
use pyo3::prelude::*;

use super::entries::Entries;
use super::input::{Key, MaybeKey, Stop, WORD, misuse, packed_values, value, value_object, words};
use super::iterate::{TreeIterator, Yield};
use super::source::{Source, Wanted, count, scan, single};
use super::state::Done;
use super::store::{StoreTransaction, StoreView};
use crate::btree;

/// A sorted mapping from 64-bit keys to values of one size, in a view or in a
/// transaction. Subclassed in `thinmeta.engine`.
#[pyclass(frozen, subclass, module = "thinmeta._core")]
pub(crate) struct BTree {
    source: Source,
    /// The view or transaction as Python has it: it stays open while this lives.
    _owner: Py<PyAny>,
}

/// A value of 8 bytes needs no memory of its own.
enum Room {
    Word([u8; WORD]),
    Bytes(Vec<u8>),
}

impl Room {
    fn new(value_bytes: usize) -> Self {
        match value_bytes {
            WORD => Self::Word([0; WORD]),
            _ => Self::Bytes(vec![0; value_bytes]),
        }
    }

    fn bytes(&mut self) -> &mut [u8] {
        match self {
            Self::Word(word) => word,
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl BTree {
    /// Where it is read and changed.
    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    fn find<'py>(&self, py: Python<'py>, key: u64) -> PyResult<Option<Bound<'py, PyAny>>> {
        let mut room = Room::new(self.source.value_bytes());
        if self.source.get(py, key, room.bytes())? {
            return value_object(py, room.bytes()).map(Some);
        }
        Ok(None)
    }

    fn single<'py>(&self, py: Python<'py>, wanted: Wanted) -> PyResult<Option<Item<'py>>> {
        let found = self.source.read(py, |roots| single(roots, wanted))?;
        let item = |(key, value): btree::RawEntry| Ok((key, value_object(py, &value)?));
        found.map(item).transpose()
    }
}

type Item<'py> = (u64, Bound<'py, PyAny>);

#[pymethods]
impl BTree {
    /// `owner` is kept; `session` is the native view or transaction.
    #[new]
    #[pyo3(signature = (owner, session, name, value_bytes=None))]
    fn new(
        py: Python<'_>,
        owner: Py<PyAny>,
        session: &Bound<'_, PyAny>,
        name: &str,
        value_bytes: Option<usize>,
    ) -> PyResult<Self> {
        let source = if let Ok(view) = session.cast::<StoreView>() {
            view.get().tree(py, name, value_bytes)?
        } else if let Ok(transaction) = session.cast::<StoreTransaction>() {
            transaction
                .get()
                .tree(py, name, value_bytes.unwrap_or(WORD))?
        } else {
            return Err(PyTypeError::new_err(
                "a tree is a view's or a transaction's",
            ));
        };
        Ok(Self {
            source,
            _owner: owner,
        })
    }

    /// Bytes of each value.
    #[getter]
    fn value_bytes(&self) -> usize {
        self.source.value_bytes()
    }

    fn __getitem__<'py>(&self, py: Python<'py>, key: Key) -> PyResult<Bound<'py, PyAny>> {
        let found = self.find(py, key.0)?;
        found.ok_or_else(|| PyKeyError::new_err(key.0))
    }

    /// The value of a key, or ``default`` where there is none.
    #[pyo3(signature = (key, default=None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: Key,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        Ok(self.find(py, key.0)?.or(default))
    }

    fn __contains__(&self, py: Python<'_>, key: MaybeKey) -> PyResult<bool> {
        let Some(key) = key.0 else {
            return Ok(false);
        };
        let mut room = Room::new(self.source.value_bytes());
        self.source.get(py, key, room.bytes())
    }

    fn __setitem__(&self, py: Python<'_>, key: Key, item: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut room = Room::new(self.source.value_bytes());
        value(item, room.bytes())?;
        let bytes: &[u8] = room.bytes();
        let insert = self.source.change(
            py,
            |txn, tree| txn.insert(tree, key.0, bytes),
            |added| Done::set(u64::from(*added)),
        );
        insert.map(drop)
    }

    fn __delitem__(&self, py: Python<'_>, key: Key) -> PyResult<()> {
        let removed = self.source.change(
            py,
            |txn, tree| txn.remove(tree, key.0),
            |removed| Done::removed(u64::from(*removed)),
        )?;
        if removed {
            return Ok(());
        }
        Err(PyKeyError::new_err(key.0))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(usize::try_from(self.source.len(py)?)?)
    }

    fn __bool__(&self, py: Python<'_>) -> PyResult<bool> {
        let first = self
            .source
            .read(py, |roots| single(roots, Wanted::AtLeast(0)))?;
        Ok(first.is_some())
    }

    fn __iter__(slf: Py<Self>) -> TreeIterator {
        TreeIterator::new(slf, (0, None), Yield::Keys)
    }

    /// Iterates over `"keys"`, `"values"` or `"items"` of a range.
    #[pyo3(
        signature = (what, start=Key(0), stop=Stop(None)),
        text_signature = "($self, what, start=0, stop=None)"
    )]
    fn _iterate(
        slf: Py<Self>,
        py: Python<'_>,
        what: &str,
        start: Key,
        stop: Stop,
    ) -> PyResult<TreeIterator> {
        let what = match what {
            "keys" => Yield::Keys,
            "values" => Yield::Values,
            "items" => Yield::Items,
            _ => return Err(misuse(py, format!("no iterating over {what:?}"))),
        };
        Ok(TreeIterator::new(slf, (start.0, stop.0), what))
    }

    /// How many keys lie in a range: visits its leaves.
    #[pyo3(
        signature = (start=Key(0), stop=Stop(None)),
        text_signature = "($self, start=0, stop=None)"
    )]
    fn _count(&self, py: Python<'_>, start: Key, stop: Stop) -> PyResult<u64> {
        self.source
            .read_much(py, 0, |roots, task| count(roots, start.0, stop.0, task))
    }

    /// The entry with the smallest key, None in an empty tree.
    fn first<'py>(&self, py: Python<'py>) -> PyResult<Option<Item<'py>>> {
        self.single(py, Wanted::AtLeast(0))
    }

    /// The entry with the largest key, None in an empty tree.
    fn last<'py>(&self, py: Python<'py>) -> PyResult<Option<Item<'py>>> {
        self.single(py, Wanted::Last)
    }

    /// The entry with the smallest key that is not below ``key``, or None.
    #[pyo3(signature = (key, /))]
    fn at_least<'py>(&self, py: Python<'py>, key: Key) -> PyResult<Option<Item<'py>>> {
        self.single(py, Wanted::AtLeast(key.0))
    }

    /// Set many values in one call, much faster than one by one.
    ///
    /// Of equal keys the last one counts. The columns are copied once, 16 bytes for an
    /// entry of 8-byte values, and 16 more are taken for each key unless they ascend.
    /// The call is not interrupted half-way.
    ///
    /// Args:
    ///     keys: 64-bit integers, none negative, in a buffer (``array.array("Q", …)``, a
    ///         memoryview, a NumPy array) or as an Arrow array.
    ///     values: As many: integers of the same kinds for values of 8 bytes, for others
    ///         a buffer with one value after the other, or an Arrow array of fixed-size
    ///         binary.
    ///
    /// Returns:
    ///     How many keys are new.
    ///
    /// Raises:
    ///     UsageError: The columns do not fit each other, or one has a negative or a null.
    ///     TypeError: They are something else.
    ///     NoSpaceError: There is no room; the transaction has to be aborted.
    ///     ReadOnlyError: The tree is a view's.
    #[pyo3(signature = (keys, values, /))]
    fn insert_many(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        let keys = words(keys, "keys")?;
        let values = packed_values(values, keys.len(), self.source.value_bytes())?;
        let any = !keys.is_empty();
        self.source.change(
            py,
            move |txn, tree| txn.insert_many(tree, &keys, values.as_bytes()),
            |added| match any {
                true => Done::set(*added),
                false => Done::default(),
            },
        )
    }

    fn _lookup_many(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<Entries> {
        let keys = words(keys, "keys")?;
        let value_bytes = self.source.value_bytes();
        self.source.read_much(py, keys.len(), |roots, task| {
            let mut values = vec![0; keys.len() * value_bytes];
            let mut found = vec![0; keys.len()];
            btree::get_many(
                roots.blocks,
                roots.root,
                roots.value_bytes,
                &keys,
                &mut values,
                &mut found,
                task,
            )?;
            Ok(Entries::new(keys, values, Some(found), value_bytes))
        })
    }

    #[pyo3(
        signature = (start=Key(0), stop=Stop(None)),
        text_signature = "($self, start=0, stop=None)"
    )]
    fn _entries(&self, py: Python<'_>, start: Key, stop: Stop) -> PyResult<Entries> {
        self.source.read_much(py, 0, |roots, task| {
            let (keys, values) = scan(roots, start.0, stop.0, task)?;
            Ok(Entries::new(keys, values, None, roots.value_bytes))
        })
    }

    /// Take out all keys from ``begin`` to below ``end`` (None: to the end).
    ///
    /// Costs what is there, not what the range spans.
    ///
    /// Returns:
    ///     How many there were.
    ///
    /// Raises:
    ///     NoSpaceError: There is no room for the copies of changed nodes; the
    ///         transaction has to be aborted.
    ///     ReadOnlyError: The tree is a view's.
    #[pyo3(signature = (begin, end, /))]
    fn remove_range(&self, py: Python<'_>, begin: Key, end: Stop) -> PyResult<u64> {
        self.source.change(
            py,
            |txn, tree| {
                let mut removed = txn.remove_range(tree, begin.0..end.0.unwrap_or(u64::MAX))?;
                if end.0.is_none() && txn.remove(tree, u64::MAX)? {
                    removed += 1;
                }
                Ok(removed)
            },
            |removed| Done::removed(*removed),
        )
    }

    /// Does nothing with a key: what a call costs.
    #[pyo3(signature = (key, /))]
    #[allow(clippy::unused_self)]
    fn _nothing(&self, key: Key) {
        let _ = key;
    }
}
