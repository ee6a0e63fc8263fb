//! Where a tree is read and changed: in a view, or in a transaction.

use std::sync::Arc;

use pyo3::prelude::*;

use super::state::{Done, Tally, TransactionState, ViewState};
use crate::block::BlockManager;
use crate::btree::{self, Cursor, RawEntry, Wait};
use crate::error::{Error, Result};
use crate::python::call::{detached, watched};
use crate::store::{StoreTransaction, TreeNr, ViewedTree};
use crate::task::Task;
use crate::units::BlockNr;

/// Look-ups that are worth a second thread.
const FEWEST_SHARED: usize = 1 << 15;

/// One tree.
#[derive(Clone)]
pub(super) enum Source {
    View {
        view: Arc<ViewState>,
        tree: ViewedTree,
        tally: Arc<Tally>,
    },
    Transaction {
        transaction: Arc<TransactionState>,
        tree: TreeNr,
        value_bytes: usize,
        tally: Arc<Tally>,
    },
}

/// What a reader needs to know of a tree.
#[derive(Clone, Copy)]
pub(super) struct Roots<'b> {
    pub blocks: &'b Arc<BlockManager>,
    pub root: BlockNr,
    pub value_bytes: usize,
}

impl Roots<'_> {
    pub fn cursor(self, begin: u64, end: Option<u64>) -> Cursor {
        Cursor::new(self.blocks, self.root, self.value_bytes, begin, end)
    }
}

/// How many threads a call of so many keys gets; asking for the cores takes longer
/// than a short call.
fn threads(keys: usize) -> Option<usize> {
    (keys < FEWEST_SHARED).then_some(1)
}

impl Source {
    /// Bytes of a value.
    pub fn value_bytes(&self) -> usize {
        match self {
            Self::View { tree, .. } => tree.value_bytes,
            Self::Transaction { value_bytes, .. } => *value_bytes,
        }
    }

    pub fn tally(&self) -> &Tally {
        match self {
            Self::View { tally, .. } | Self::Transaction { tally, .. } => tally,
        }
    }

    /// Copies the value of `key` to `out`; whether there is one. Tried attached first.
    pub fn get(&self, py: Python<'_>, key: u64, out: &mut [u8]) -> PyResult<bool> {
        let tried = match self {
            Self::View { view, tree, .. } => {
                view.try_with(|view| view.get(*tree, key, out, Wait::No))
            }
            Self::Transaction {
                transaction, tree, ..
            } => transaction.try_with(|txn| txn.get(*tree, key, out, Wait::No)),
        };
        match tried {
            Err(Error::WouldBlock) => {}
            Ok(found) => return Ok(found),
            Err(error) => return detached(py, || Err(error)),
        }
        detached(py, || match self {
            Self::View { view, tree, .. } => view.view()?.get(*tree, key, out, Wait::Yes),
            Self::Transaction {
                transaction, tree, ..
            } => transaction.with(|txn| txn.get(*tree, key, out, Wait::Yes)),
        })
    }

    /// Reads, detached, for a short while.
    pub fn read<T: Send>(
        &self,
        py: Python<'_>,
        read: impl FnOnce(Roots<'_>) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || self.read_detached(read))
    }

    /// As [`Self::read`], by somebody who has detached already.
    pub fn read_detached<T>(&self, read: impl FnOnce(Roots<'_>) -> Result<T>) -> Result<T> {
        match self {
            Self::View { view, tree, .. } => {
                let view = view.view()?;
                read(Roots {
                    blocks: view.blocks(),
                    root: tree.root,
                    value_bytes: tree.value_bytes,
                })
            }
            Self::Transaction {
                transaction, tree, ..
            } => transaction.with(|txn| {
                let (root, value_bytes) = txn.known_tree(*tree)?;
                read(Roots {
                    blocks: txn.store().manager().blocks(),
                    root,
                    value_bytes,
                })
            }),
        }
    }

    /// Reads much, detached. In a view signals are handled meanwhile; a
    /// transaction's gate is held, so that no Python code may run.
    pub fn read_much<T: Send>(
        &self,
        py: Python<'_>,
        keys: usize,
        read: impl FnOnce(Roots<'_>, &Task<'_>) -> Result<T> + Send,
    ) -> PyResult<T> {
        match self {
            Self::View { .. } => watched(py, None, threads(keys), |task| {
                self.read_detached(|roots| read(roots, task))
            }),
            Self::Transaction { .. } => detached(py, || {
                let task = Task::new(None, threads(keys));
                self.read_detached(|roots| read(roots, &task))
            }),
        }
    }

    /// Changes the tree, detached. `done` tells what has changed.
    pub fn change<T: Send>(
        &self,
        py: Python<'_>,
        change: impl FnOnce(&StoreTransaction, TreeNr) -> Result<T> + Send,
        done: impl FnOnce(&T) -> Done + Send,
    ) -> PyResult<T> {
        detached(py, || match self {
            Self::View { .. } => Err(Error::ReadOnly(
                "a view does not change; change trees in a transaction".to_owned(),
            )),
            Self::Transaction {
                transaction,
                tree,
                tally,
                ..
            } => transaction.change(|txn| {
                let answer = change(txn, *tree);
                match &answer {
                    Ok(answer) => tally.change(done(answer)),
                    // These come before anything is changed.
                    Err(Error::Usage(_) | Error::Aborted(_) | Error::NoSuchTree(_)) => {}
                    Err(_) => tally.change(Done::SOMETHING),
                }
                answer
            }),
        })
    }

    /// How many entries there are; counted once, leaf by leaf, and kept up to date.
    pub fn len(&self, py: Python<'_>) -> PyResult<u64> {
        self.read_much(py, 0, |roots, task| {
            // Asked with the gate open to readers: no change comes between.
            if let Some(len) = self.tally().len() {
                return Ok(len);
            }
            let len = count(roots, 0, None, task)?;
            self.tally().counted(len);
            Ok(len)
        })
    }
}

/// Entries with keys in a range.
pub(super) fn count(
    roots: Roots<'_>,
    begin: u64,
    end: Option<u64>,
    task: &Task<'_>,
) -> Result<u64> {
    let mut cursor = roots.cursor(begin, end);
    let mut count = 0;
    while let Some(leaf) = cursor.next_leaf()? {
        let entries = leaf.packed_entries(roots.value_bytes)?.0.len() as u64;
        count += entries;
        task.step(0, entries)?;
    }
    Ok(count)
}

/// Entries with keys in a range: keys, and values one after the other.
pub(super) fn scan(
    roots: Roots<'_>,
    begin: u64,
    end: Option<u64>,
    task: &Task<'_>,
) -> Result<(Vec<u64>, Vec<u8>)> {
    let mut cursor = roots.cursor(begin, end);
    let (mut keys_out, mut values_out) = (Vec::new(), Vec::new());
    while let Some(leaf) = cursor.next_leaf()? {
        let (keys, values) = leaf.packed_entries(roots.value_bytes)?;
        keys_out.extend(keys.iter().map(|key| key.get()));
        values_out.extend_from_slice(values);
        task.step(0, keys.len() as u64)?;
    }
    Ok((keys_out, values_out))
}

/// Which single entry is wanted.
#[derive(Clone, Copy)]
pub(super) enum Wanted {
    Last,
    AtLeast(u64),
}

pub(super) fn single(roots: Roots<'_>, wanted: Wanted) -> Result<Option<RawEntry>> {
    let Roots {
        blocks,
        root,
        value_bytes,
    } = roots;
    match wanted {
        Wanted::Last => btree::last(blocks, root, value_bytes),
        Wanted::AtLeast(key) => btree::next(blocks, root, value_bytes, key),
    }
}
