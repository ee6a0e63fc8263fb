//! Trees over a transaction manager: any depth of nesting, values that refer to blocks.

use std::ops::Range;
use std::sync::Arc;

use pyo3::exceptions::PyKeyError;
use pyo3::prelude::*;

use super::arguments::{Block, Offset};
use super::input::{Key, Stop, misuse, packed_values, value, value_object, words};
use super::kept::Kept;
use super::low_items::{Keys, TreeItems};
use super::managed::{Managed, Part};
use super::transaction::TransactionManager;
use super::tree_values::Values;
use crate::block::BlockManager;
use crate::btree::{self, TreeType, Wait};
use crate::error::{Error, Result};
use crate::python::error::exception;
use crate::transaction::Transaction;
use crate::units::BlockNr;

/// Bytes of a root in a leaf of an upper level.
const ROOT_BYTES: usize = 8;
/// Nobody nests deeper.
const MAX_LEVELS: usize = 8;

/// What every call needs to know of the tree.
#[derive(Clone, Copy)]
struct Form {
    levels: usize,
    value_bytes: usize,
    values: Values,
}

impl Form {
    fn new(
        py: Python<'_>,
        value_bytes: Offset,
        levels: Offset,
        values: &str,
        subtree_value_bytes: Offset,
    ) -> PyResult<Self> {
        let (levels, value_bytes) = (levels.0, value_bytes.0);
        let values = Values::named(values, value_bytes, subtree_value_bytes.0);
        let values = values.map_err(|error| exception(py, error))?;
        if levels == 0 || levels > MAX_LEVELS {
            let text = format!("a tree has 1 to {MAX_LEVELS} levels, not {levels}");
            return Err(misuse(py, text));
        }
        Ok(Self {
            levels,
            value_bytes,
            values,
        })
    }

    /// Changes a tree of this form.
    fn with<T>(self, change: impl FnOnce(&mut TreeType<'_>) -> Result<T>) -> Result<T> {
        let mut values = self.values;
        change(&mut TreeType {
            levels: self.levels,
            value_bytes: self.value_bytes,
            values: &mut values,
        })
    }

    /// The root of the last level's tree under `prefix`, and whether there is one.
    fn subtree(self, root: BlockNr, prefix: &[u64], read: Read<'_>) -> Result<Option<BlockNr>> {
        if prefix.len() + 1 != self.levels {
            let (found, wanted) = (prefix.len(), self.levels - 1);
            let text = format!("{found} keys where the upper levels have {wanted}");
            return Err(Error::Usage(text));
        }
        let mut at = root;
        for key in prefix {
            let mut found = [0; ROOT_BYTES];
            if !read(at, *key, &mut found)? {
                return Ok(None);
            }
            at = BlockNr(u64::from_le_bytes(found));
        }
        Ok(Some(at))
    }

    fn get(self, root: BlockNr, keys: &[u64], read: Read<'_>) -> Result<Option<Vec<u8>>> {
        let Some((last, prefix)) = keys.split_last().filter(|_| keys.len() == self.levels) else {
            let text = format!("{} keys for a tree of {} levels", keys.len(), self.levels);
            return Err(Error::Usage(text));
        };
        let Some(at) = self.subtree(root, prefix, read)? else {
            return Ok(None);
        };
        let mut found = vec![0; self.value_bytes];
        let there = read(at, *last, &mut found)?;
        Ok(there.then_some(found))
    }
}

/// Copies the value of a key of the tree under a root; whether there is one.
type Read<'r> = &'r dyn Fn(BlockNr, u64, &mut [u8]) -> Result<bool>;

/// Reads from the cache, and from the device if told to.
fn reader(
    blocks: &Arc<BlockManager>,
    wait: Wait,
) -> impl Fn(BlockNr, u64, &mut [u8]) -> Result<bool> {
    move |root, key, out| btree::get(blocks, root, out.len(), key, out, wait)
}

/// A B-tree in the blocks of a transaction manager, for who keeps roots of their own.
///
/// Keys are numbers of 64 bits, or tuples of them where trees nest: the values of the
/// upper levels are the roots of the trees below, which are made as they are needed.
/// Values are numbers where they have 8 bytes, else ``bytes``.
///
/// A tree goes with its transaction: :attr:`root` is what the superblock, or whatever
/// you commit, has to point to, and an abort takes it back. Two objects of the same
/// tree do not know of each other's changes. (:class:`Store` keeps roots by name.)
///
/// Attributes:
///     root: The block where the tree starts now. Every change may move it.
///     levels: How deep trees nest.
///     value_bytes: Bytes of a value.
#[pyclass(frozen, module = "thinmeta._core")]
pub(crate) struct Tree {
    managed: Arc<Managed>,
    form: Form,
    rooted: Arc<Kept<BlockNr>>,
    /// Opened on a non-blocking clone: look-ups of single keys are all there is.
    nonblocking: bool,
}

impl Tree {
    fn over(managed: &Arc<Managed>, form: Form, now: BlockNr, committed: Option<BlockNr>) -> Self {
        let rooted = Arc::new(Kept::new(now, committed));
        let part: Arc<dyn Part> = rooted.clone();
        managed.add(Arc::downgrade(&part));
        Self {
            managed: Arc::clone(managed),
            form,
            rooted,
            nonblocking: false,
        }
    }

    fn check_may_wait(&self, py: Python<'_>) -> PyResult<()> {
        if self.nonblocking {
            return Err(exception(py, Error::WouldBlock));
        }
        Ok(())
    }

    /// Changes the tree, whose new root the change gives.
    fn change<T: Send>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(
            &mut Transaction,
            &mut TreeType<'_>,
            BlockNr,
        ) -> Result<(Option<BlockNr>, T)>
        + Send,
    ) -> PyResult<T> {
        self.check_may_wait(py)?;
        self.managed.change(py, |txn| {
            let root = self.rooted.now()?;
            let (root, answer) = self.form.with(|tree| change(txn, tree, root))?;
            self.rooted.set(root);
            Ok(answer)
        })
    }

    /// Looks at the tree.
    fn look<T: Send>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&Arc<BlockManager>, BlockNr) -> Result<T> + Send,
    ) -> PyResult<T> {
        self.check_may_wait(py)?;
        let look = |txn: &Transaction| look(txn.blocks(), self.rooted.now()?);
        self.managed.look(py, look)
    }

    /// The value of `keys`: attached where it is cached and nobody is in the way.
    fn find(&self, py: Python<'_>, keys: &[u64]) -> PyResult<Option<Vec<u8>>> {
        let core = self.managed.core(py)?;
        let answer = if self.nonblocking {
            self.managed.check_readable(py)?;
            let clone = core.nonblocking_clone();
            let read = |root, key, out: &mut [u8]| {
                btree::get_nonblocking(&clone, root, out.len(), key, out)
            };
            let root = self.rooted.now();
            root.and_then(|root| self.form.get(root, keys, &read))
        } else {
            let tried = core.try_look(|txn| {
                let root = self.rooted.now()?;
                self.form.get(root, keys, &reader(txn.blocks(), Wait::No))
            });
            if matches!(tried, Err(Error::WouldBlock)) {
                return self.look(py, |blocks, root| {
                    self.form.get(root, keys, &reader(blocks, Wait::Yes))
                });
            }
            tried
        };
        answer.map_err(|error| exception(py, error))
    }

    pub(super) fn bytes(&self) -> usize {
        self.form.value_bytes
    }

    fn value(&self, item: &Bound<'_, PyAny>) -> PyResult<Vec<u8>> {
        let mut bytes = vec![0; self.form.value_bytes];
        value(item, &mut bytes)?;
        Ok(bytes)
    }

    /// The root of the last level's tree under `prefix`, when something is to be read.
    pub(super) fn last_level<T: Send>(
        &self,
        py: Python<'_>,
        prefix: &[u64],
        look: impl FnOnce(&Arc<BlockManager>, BlockNr) -> Result<Option<T>> + Send,
    ) -> PyResult<Option<T>> {
        self.look(py, |blocks, root| {
            match self
                .form
                .subtree(root, prefix, &reader(blocks, Wait::Yes))?
            {
                Some(at) => look(blocks, at),
                None => Ok(None),
            }
        })
    }
}

/// An entry as Python has it.
pub(super) type Item<'py> = (u64, Bound<'py, PyAny>);

pub(super) fn item<'py>(
    py: Python<'py>,
    entry: Option<(u64, Vec<u8>)>,
) -> PyResult<Option<Item<'py>>> {
    let made = entry.map(|(key, value)| Ok((key, value_object(py, &value)?)));
    made.transpose()
}

#[pymethods]
impl Tree {
    /// Make an empty tree.
    ///
    /// Args:
    ///     tm: The transaction manager.
    ///     value_bytes: Bytes of a value, 1 to 1346.
    ///     levels: How deep trees nest: with 2, keys are pairs.
    ///     values: What the values are: ``"plain"`` refers to nothing; ``"blocks"`` are
    ///         numbers of blocks, of which an entry holds a reference; ``"trees"`` are
    ///         roots of trees, which are deleted with their last entry. An insertion
    ///         takes over a reference that the caller has.
    ///     subtree_value_bytes: Bytes of a value in those trees.
    ///
    /// Raises:
    ///     NoSpaceError: No block is free.
    ///     UsageError: A form that no tree can have.
    #[staticmethod]
    #[pyo3(
        signature = (
            tm, *, value_bytes=Offset(8), levels=Offset(1), values="plain",
            subtree_value_bytes=Offset(8)
        ),
        text_signature = "(tm, *, value_bytes=8, levels=1, values='plain', subtree_value_bytes=8)"
    )]
    fn create(
        py: Python<'_>,
        tm: &TransactionManager,
        value_bytes: Offset,
        levels: Offset,
        values: &str,
        subtree_value_bytes: Offset,
    ) -> PyResult<Self> {
        let form = Form::new(py, value_bytes, levels, values, subtree_value_bytes)?;
        let top = if form.levels > 1 {
            ROOT_BYTES
        } else {
            form.value_bytes
        };
        let managed = tm.real(py)?;
        let root = managed.change(py, |txn| btree::empty(txn, top))?;
        Ok(Self::over(managed, form, root, None))
    }

    /// Open a tree that is there.
    ///
    /// On a non-blocking clone, look-ups of single keys raise :class:`WouldBlockError`
    /// where a node is not cached, and everything else does.
    ///
    /// Args:
    ///     tm: The transaction manager, or a non-blocking clone of one.
    ///     root: The block where it starts.
    ///     value_bytes: As it was made; so are the others.
    ///     levels: How deep trees nest.
    ///     values: What the values are.
    ///     subtree_value_bytes: Bytes of a value in trees that the values refer to.
    ///
    /// Raises:
    ///     UsageError: A form that no tree can have, or no such block.
    #[staticmethod]
    #[pyo3(
        signature = (
            tm, root, *, value_bytes=Offset(8), levels=Offset(1), values="plain",
            subtree_value_bytes=Offset(8)
        ),
        text_signature =
            "(tm, root, *, value_bytes=8, levels=1, values='plain', subtree_value_bytes=8)"
    )]
    fn open(
        py: Python<'_>,
        tm: &TransactionManager,
        root: Block,
        value_bytes: Offset,
        levels: Offset,
        values: &str,
        subtree_value_bytes: Offset,
    ) -> PyResult<Self> {
        let form = Form::new(py, value_bytes, levels, values, subtree_value_bytes)?;
        let root = BlockNr(root.0);
        if let Some(managed) = tm.nonblocking(py)? {
            let mut tree = Self::over(managed, form, root, Some(root));
            tree.nonblocking = true;
            return Ok(tree);
        }
        let managed = tm.real(py)?;
        let own = managed.look(py, |txn| {
            txn.ref_count(root)?;
            Ok(txn.is_shadow(root))
        })?;
        Ok(Self::over(managed, form, root, (!own).then_some(root)))
    }

    #[getter]
    fn root(&self, py: Python<'_>) -> PyResult<u64> {
        if self.nonblocking {
            let root = self.rooted.now();
            return root
                .map(|root| root.0)
                .map_err(|error| exception(py, error));
        }
        self.look(py, |_, root| Ok(root.0))
    }

    #[getter]
    fn levels(&self) -> usize {
        self.form.levels
    }

    #[getter]
    fn value_bytes(&self) -> usize {
        self.form.value_bytes
    }

    /// The value of ``keys``.
    ///
    /// Raises:
    ///     KeyError: There is none.
    ///     DamagedBlockError: A node failed its check.
    fn __getitem__<'py>(&self, py: Python<'py>, keys: Keys) -> PyResult<Bound<'py, PyAny>> {
        match self.find(py, &keys.0)? {
            Some(found) => value_object(py, &found),
            None => Err(PyKeyError::new_err(keys.0)),
        }
    }

    /// The value of ``keys``, or ``default``.
    #[pyo3(signature = (keys, default=None, /))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        keys: Keys,
        default: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match self.find(py, &keys.0)? {
            Some(found) => value_object(py, &found).map(Some),
            None => Ok(default),
        }
    }

    fn __contains__(&self, py: Python<'_>, keys: Keys) -> PyResult<bool> {
        Ok(self.find(py, &keys.0)?.is_some())
    }

    fn __setitem__(&self, py: Python<'_>, keys: Keys, item: &Bound<'_, PyAny>) -> PyResult<()> {
        self.insert(py, keys, item).map(drop)
    }

    /// Set the value of ``keys``, whose reference, if it is one, the tree takes over.
    ///
    /// Returns:
    ///     Whether the keys are new.
    ///
    /// Raises:
    ///     NoSpaceError: No block is free.
    ///     UsageError: As many keys as no entry has, or a value of another size.
    fn insert(&self, py: Python<'_>, keys: Keys, value: &Bound<'_, PyAny>) -> PyResult<bool> {
        let value = self.value(value)?;
        self.change(py, |txn, tree, root| {
            let done = btree::insert(txn, tree, root, &keys.0, &value)?;
            Ok((Some(done.root), done.added))
        })
    }

    /// Set many values of a tree of one level; the last of equal keys counts.
    ///
    /// Args:
    ///     keys: Unsigned 64-bit numbers, in a buffer or Arrow.
    ///     values: The same where values have 8 bytes, else the values one after the
    ///         other.
    ///
    /// Returns:
    ///     How many keys are new.
    ///
    /// Raises:
    ///     NoSpaceError: No block is free.
    ///     UsageError: The tree nests, or the columns do not fit each other.
    fn insert_many(
        &self,
        py: Python<'_>,
        keys: &Bound<'_, PyAny>,
        values: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        let keys = words(keys, "keys")?;
        let values = packed_values(values, keys.len(), self.form.value_bytes)?;
        self.change(py, |txn, tree, root| {
            let done = btree::insert_batch(txn, tree, root, &keys, values.as_bytes())?;
            Ok((Some(done.root), done.added))
        })
    }

    fn __delitem__(&self, py: Python<'_>, keys: Keys) -> PyResult<()> {
        let gone = self.change(py, |txn, tree, root| {
            let removed = btree::remove(txn, tree, root, &keys.0)?;
            Ok((Some(removed.unwrap_or(root)), removed.is_some()))
        })?;
        if gone {
            Ok(())
        } else {
            Err(PyKeyError::new_err(keys.0))
        }
    }

    /// Take out all keys from ``begin`` up to but not including ``stop``.
    ///
    /// Args:
    ///     begin: The first key of the last level.
    ///     stop: One past the last; 2**64 - 1 itself is taken out by ``del`` only.
    ///     prefix: The keys of the upper levels.
    ///
    /// Returns:
    ///     How many there were.
    #[pyo3(signature = (begin, stop, *, prefix=Keys(Vec::new())), text_signature = "($self, begin, stop, *, prefix=())")]
    fn remove_range(&self, py: Python<'_>, begin: Key, stop: Key, prefix: Keys) -> PyResult<u64> {
        let range: Range<u64> = begin.0..stop.0;
        self.change(py, |txn, tree, root| {
            let (root, count) = btree::remove_range(txn, tree, root, &prefix.0, range)?;
            Ok((Some(root), count))
        })
    }

    /// The entry with the smallest key not below the last of ``keys``, the others equal.
    ///
    /// Returns:
    ///     The key of the last level and the value, or None.
    fn lookup_next<'py>(&self, py: Python<'py>, keys: Keys) -> PyResult<Option<Item<'py>>> {
        let Some((last, prefix)) = keys.0.split_last() else {
            return Err(misuse(py, "no keys"));
        };
        let bytes = self.form.value_bytes;
        let found = self.last_level(py, prefix, |blocks, at| {
            btree::next(blocks, at, bytes, *last)
        });
        item(py, found?)
    }

    /// The entry with the smallest key under ``prefix``, or None.
    #[pyo3(signature = (*, prefix=Keys(Vec::new())), text_signature = "($self, *, prefix=())")]
    fn first<'py>(&self, py: Python<'py>, prefix: Keys) -> PyResult<Option<Item<'py>>> {
        let bytes = self.form.value_bytes;
        let found = self.last_level(py, &prefix.0, |blocks, at| btree::first(blocks, at, bytes));
        item(py, found?)
    }

    /// The entry with the largest key under ``prefix``, or None.
    #[pyo3(signature = (*, prefix=Keys(Vec::new())), text_signature = "($self, *, prefix=())")]
    fn last<'py>(&self, py: Python<'py>, prefix: Keys) -> PyResult<Option<Item<'py>>> {
        let bytes = self.form.value_bytes;
        let found = self.last_level(py, &prefix.0, |blocks, at| btree::last(blocks, at, bytes));
        item(py, found?)
    }

    /// Entries with keys from ``start`` up to but not including ``stop``, in order.
    ///
    /// What changes while they are taken may be seen or not.
    ///
    /// Args:
    ///     start: The first key of the last level.
    ///     stop: One past the last; ``None`` means the end.
    ///     prefix: The keys of the upper levels.
    ///
    /// Returns:
    ///     An iterator of pairs: the key of the last level, and the value.
    #[pyo3(
        signature = (start=Key(0), stop=Stop(None), *, prefix=Keys(Vec::new())),
        text_signature = "($self, start=0, stop=None, *, prefix=())"
    )]
    fn items(slf: Bound<'_, Self>, start: Key, stop: Stop, prefix: Keys) -> PyResult<TreeItems> {
        let wanted = slf.get().form.levels - 1;
        if prefix.0.len() != wanted {
            let text = format!(
                "{} keys where the upper levels have {wanted}",
                prefix.0.len()
            );
            return Err(misuse(slf.py(), text));
        }
        Ok(TreeItems::new(slf.unbind(), prefix.0, start.0, stop.0))
    }

    /// Delete the tree, and what its values refer to; then it is of no use.
    ///
    /// What others refer to, a snapshot say, stays as it is.
    ///
    /// Raises:
    ///     DamagedBlockError: A node failed its check; the transaction is aborted.
    fn delete(&self, py: Python<'_>) -> PyResult<()> {
        self.change(py, |txn, tree, root| {
            btree::delete(txn, tree, root)?;
            Ok((None, ()))
        })
    }

    /// A copy that costs nothing: both share everything until one of them changes.
    fn snapshot(&self, py: Python<'_>) -> PyResult<Self> {
        self.check_may_wait(py)?;
        let root = self.managed.change(py, |txn| {
            let root = self.rooted.now()?;
            txn.inc(root)?;
            Ok(root)
        })?;
        Ok(Self::over(&self.managed, self.form, root, None))
    }

    fn __repr__(&self) -> String {
        let Form {
            levels,
            value_bytes,
            ..
        } = self.form;
        format!("<thinmeta.engine.Tree levels={levels} value_bytes={value_bytes}>")
    }
}
