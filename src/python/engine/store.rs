//! A store, its transactions and its views.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;

use super::input::misuse;
use super::source::Source;
use super::state::{Done, Ending, StoreState, TransactionState, ViewState};
use crate::block::DEFAULT_CACHE_BYTES;
use crate::error::Error;
use crate::python::call::{detached, watched};
use crate::store::{self, StoreOptions};

/// An open store, or one that was closed.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct Store {
    path: OsString,
    writable: bool,
    state: Arc<StoreState>,
}

impl Store {
    fn over(path: PathBuf, store: Arc<store::Store>) -> Self {
        Self {
            path: path.into_os_string(),
            writable: store.is_writable(),
            state: StoreState::new(store),
        }
    }
}

#[pymethods]
impl Store {
    #[staticmethod]
    #[pyo3(signature = (
        path, *, size_bytes=None, overwrite=false, cache_bytes=DEFAULT_CACHE_BYTES, checked=false
    ))]
    fn create(
        py: Python<'_>,
        path: PathBuf,
        size_bytes: Option<u64>,
        overwrite: bool,
        cache_bytes: u64,
        checked: bool,
    ) -> PyResult<Self> {
        let options = StoreOptions {
            cache_bytes,
            checked,
            overwrite,
        };
        let store = detached(py, || store::Store::create(&path, size_bytes, &options))?;
        Ok(Self::over(path, store))
    }

    #[staticmethod]
    #[pyo3(signature = (path, *, writable=true, cache_bytes=DEFAULT_CACHE_BYTES, checked=false))]
    fn open(
        py: Python<'_>,
        path: PathBuf,
        writable: bool,
        cache_bytes: u64,
        checked: bool,
    ) -> PyResult<Self> {
        let options = StoreOptions {
            cache_bytes,
            checked,
            overwrite: false,
        };
        let store = detached(py, || match writable {
            true => store::Store::open(&path, &options),
            false => store::Store::open_read_only(&path, &options),
        })?;
        Ok(Self::over(path, store))
    }

    #[getter]
    fn path(&self) -> &OsString {
        &self.path
    }

    #[getter]
    fn writable(&self) -> bool {
        self.writable
    }

    /// Whether it was closed. In a forked child everything of the parent is.
    #[getter]
    fn closed(&self) -> bool {
        self.state.is_closed()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.state.close());
    }

    /// Blocks of the device, and those that a change may still take.
    fn space(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        detached(py, || self.state.space())
    }

    fn view(&self, py: Python<'_>) -> PyResult<StoreView> {
        let state = detached(py, || self.state.view())?;
        Ok(StoreView { state })
    }

    /// Handles signals while another thread's transaction is waited for.
    fn transaction(&self, py: Python<'_>) -> PyResult<StoreTransaction> {
        let wait = |task: &crate::task::Task<'_>| self.state.transaction(&|| task.ask());
        let state = watched(py, None, Some(1), wait)?;
        Ok(StoreTransaction { state })
    }
}

/// A store as one commit left it.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct StoreView {
    state: Arc<ViewState>,
}

impl StoreView {
    /// A tree, whose values must have so many bytes if that is said.
    pub(super) fn tree(
        &self,
        py: Python<'_>,
        name: &str,
        wanted: Option<usize>,
    ) -> PyResult<Source> {
        let tree = detached(py, || self.state.view()?.tree(name))?;
        let found = tree.value_bytes;
        if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
            let text = format!("the values of tree {name:?} have {found} bytes, not {wanted}");
            return Err(misuse(py, text));
        }
        Ok(Source::View {
            view: Arc::clone(&self.state),
            tree,
            tally: Arc::default(),
        })
    }
}

#[pymethods]
impl StoreView {
    #[getter]
    fn closed(&self) -> bool {
        self.state.is_closed()
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.state.close());
    }

    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        detached(py, || self.state.view()?.names())
    }
}

/// A change of a store.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct StoreTransaction {
    state: Arc<TransactionState>,
}

impl StoreTransaction {
    /// A tree, made where there is none.
    pub(super) fn tree(&self, py: Python<'_>, name: &str, value_bytes: usize) -> PyResult<Source> {
        let (tree, tally) = detached(py, || {
            let tree = self
                .state
                .change(|txn| txn.tree_or_new(name, value_bytes))?;
            Ok((tree, self.state.tally(tree)))
        })?;
        Ok(Source::Transaction {
            transaction: Arc::clone(&self.state),
            tree,
            value_bytes,
            tally,
        })
    }
}

#[pymethods]
impl StoreTransaction {
    #[getter]
    fn ended(&self) -> bool {
        self.state.has_ended()
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.state.end(Ending::Commit))
    }

    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        detached(py, || self.state.end(Ending::Abort))
    }

    fn snapshot(&self, py: Python<'_>, source: &str, target: &str) -> PyResult<()> {
        detached(py, || self.state.change(|txn| txn.snapshot(source, target)))
    }

    fn grow(&self, py: Python<'_>, size_bytes: u64) -> PyResult<()> {
        detached(py, || self.state.change(|txn| txn.grow(size_bytes)))
    }

    fn delete(&self, py: Python<'_>, name: &str) -> PyResult<()> {
        detached(py, || {
            self.state.change(|txn| {
                // Who iterates over it is told so.
                let tree = txn.tree(name)?;
                self.state.tally(tree).change(Done::SOMETHING);
                txn.delete(name)
            })
        })
    }

    fn names(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        detached(py, || self.state.with(|txn| txn.names()))
    }

    /// Whether there is a tree of this name.
    fn has_tree(&self, py: Python<'_>, name: &str) -> PyResult<bool> {
        detached(py, || {
            self.state.change(|txn| match txn.tree(name) {
                Ok(_) => Ok(true),
                Err(Error::NoSuchTree(_)) => Ok(false),
                Err(error) => Err(error),
            })
        })
    }
}
