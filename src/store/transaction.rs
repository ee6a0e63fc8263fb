//! A change of a store: all of it, or nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::catalogue::{self, Known};
use super::superblock::{STORE_VALIDATOR, StoreSuperblock};
use super::{SUPERBLOCK, Store};
use crate::block::BlockManager;
use crate::btree::{self, Plain, TreeType, Wait};
use crate::error::{Error, Result};
use crate::transaction::Transaction;
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};

/// A tree of a transaction, by number: cheaper than its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TreeNr(usize);

/// A tree that was opened.
struct Open {
    name: String,
    tree: Known,
    /// What the catalogue says; `None`: nothing.
    stored: Option<Known>,
    deleted: bool,
}

/// What a transaction has done so far.
struct Work {
    catalogue: BlockNr,
    trees: Vec<Open>,
    /// The trees that are open by name; a deleted one's name may be taken again.
    by_name: BTreeMap<String, usize>,
    /// The space map has more blocks.
    grown: bool,
    ended: bool,
}

/// The open transaction of a store. Dropping it rolls it back.
pub struct StoreTransaction {
    store: Arc<Store>,
    work: Mutex<Work>,
}

fn tree_type(value_bytes: usize, values: &mut Plain) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes,
        values,
    }
}

fn ended() -> Error {
    Error::usage("the transaction has ended")
}

impl StoreTransaction {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        let (generation, catalogue) = store.manager().open_view();
        store.manager().view_closed(generation);
        Self {
            store: Arc::clone(store),
            work: Mutex::new(Work {
                catalogue: BlockNr(catalogue),
                trees: Vec::new(),
                by_name: BTreeMap::new(),
                grown: false,
                ended: false,
            }),
        }
    }

    /// The store that it changes.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    fn blocks(&self) -> &Arc<BlockManager> {
        self.store.manager().blocks()
    }

    fn work(&self) -> Result<MutexGuard<'_, Work>> {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        if work.ended { Err(ended()) } else { Ok(work) }
    }

    /// A tree that there is.
    ///
    /// # Errors
    /// [`Error::NoSuchTree`]; [`Error::Damaged`].
    pub fn tree(&self, name: &str) -> Result<TreeNr> {
        let mut work = self.work()?;
        let found = self.find(&mut work, name)?;
        found.ok_or_else(|| Error::NoSuchTree(name.to_owned()))
    }

    /// A tree with values of so many bytes, made when there is none.
    ///
    /// # Errors
    /// [`Error::Usage`] when there is one with values of another size,
    /// [`Error::NoSpace`].
    pub fn tree_or_new(&self, name: &str, value_bytes: usize) -> Result<TreeNr> {
        catalogue::check_value_bytes(value_bytes)?;
        let mut work = self.work()?;
        if let Some(number) = self.find(&mut work, name)? {
            let found = work.trees[number.0].tree.value_bytes;
            if found != value_bytes {
                let text =
                    format!("the values of tree {name:?} have {found} bytes, not {value_bytes}");
                return Err(Error::Usage(text));
            }
            return Ok(number);
        }
        let made = self.change(|txn| btree::empty(txn, value_bytes));
        let tree = Known {
            root: made?,
            value_bytes,
        };
        Ok(work.add(name, tree, None))
    }

    /// Bytes of a tree's values.
    ///
    /// # Errors
    /// [`Error::Usage`] when the transaction has ended.
    pub fn value_bytes(&self, tree: TreeNr) -> Result<usize> {
        Ok(self.work()?.tree(tree)?.value_bytes)
    }

    fn find(&self, work: &mut Work, name: &str) -> Result<Option<TreeNr>> {
        catalogue::check_name(name)?;
        self.store.manager().look(|_| Ok(()))?;
        if let Some(number) = work.by_name.get(name) {
            let deleted = work.trees[*number].deleted;
            return Ok((!deleted).then_some(TreeNr(*number)));
        }
        let known = catalogue::find(self.blocks(), work.catalogue, name)?;
        Ok(known.map(|known| work.add(name, known, Some(known))))
    }

    fn change<T>(&self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<T> {
        self.store.manager().change(work)
    }

    /// Changes a tree and takes note of its new root.
    fn change_tree<T>(
        &self,
        tree: TreeNr,
        change: impl FnOnce(&mut Transaction, &mut TreeType<'_>, BlockNr) -> Result<(BlockNr, T)>,
    ) -> Result<T> {
        let mut work = self.work()?;
        let known = work.tree(tree)?;
        let mut plain = Plain;
        let mut kind = tree_type(known.value_bytes, &mut plain);
        let (root, answer) = self.change(|txn| change(txn, &mut kind, known.root))?;
        work.trees[tree.0].tree.root = root;
        Ok(answer)
    }

    /// Copies the value of `key` to `out`; whether there is one.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when told not to wait; [`Error::Usage`] for an
    /// `out` of another size; [`Error::Aborted`].
    pub fn get(&self, tree: TreeNr, key: u64, out: &mut [u8], wait: Wait) -> Result<bool> {
        let known = self.known(tree, wait)?;
        btree::get(self.blocks(), known.root, known.value_bytes, key, out, wait)
    }

    /// The root and value size of a tree as of now, for calls that read much.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn known_tree(&self, tree: TreeNr) -> Result<(BlockNr, usize)> {
        let known = self.known(tree, Wait::Yes)?;
        Ok((known.root, known.value_bytes))
    }

    fn known(&self, tree: TreeNr, wait: Wait) -> Result<Known> {
        if wait == Wait::Yes {
            self.store.manager().look(|_| Ok(()))?;
            return self.work()?.tree(tree);
        }
        let work = match self.work.try_lock() {
            Ok(work) => work,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::WouldBlock),
        };
        if work.ended {
            return Err(ended());
        }
        self.store.manager().try_look(|_| Ok(()))?;
        work.tree(tree)
    }

    /// Sets the value of `key`; whether it is new.
    ///
    /// # Errors
    /// [`Error::Usage`] for a value of another size, [`Error::NoSpace`].
    pub fn insert(&self, tree: TreeNr, key: u64, value: &[u8]) -> Result<bool> {
        self.change_tree(tree, |txn, kind, root| {
            let done = btree::insert(txn, kind, root, &[key], value)?;
            Ok((done.root, done.added))
        })
    }

    /// Sets many values; of a key that comes twice the last one counts. Returns
    /// how many keys are new.
    ///
    /// # Errors
    /// As [`Self::insert`].
    pub fn insert_many(&self, tree: TreeNr, keys: &[u64], values: &[u8]) -> Result<u64> {
        self.change_tree(tree, |txn, kind, root| {
            let done = btree::insert_batch(txn, kind, root, keys, values)?;
            Ok((done.root, done.added))
        })
    }

    /// Takes a key out; whether it was there.
    ///
    /// # Errors
    /// [`Error::NoSpace`], [`Error::Damaged`].
    pub fn remove(&self, tree: TreeNr, key: u64) -> Result<bool> {
        self.change_tree(tree, |txn, kind, root| {
            let done = btree::remove(txn, kind, root, &[key])?;
            Ok((done.unwrap_or(root), done.is_some()))
        })
    }

    /// Takes all keys of a range out; returns how many there were.
    ///
    /// # Errors
    /// As [`Self::remove`].
    pub fn remove_range(&self, tree: TreeNr, keys: Range<u64>) -> Result<u64> {
        self.change_tree(tree, |txn, kind, root| {
            btree::remove_range(txn, kind, root, &[], keys)
        })
    }

    /// Makes `to` what `from` is now, at no cost: they share all of it until
    /// one of them changes.
    ///
    /// # Errors
    /// [`Error::NoSuchTree`]; [`Error::Usage`] when there is a `to` already.
    pub fn snapshot(&self, from: &str, to: &str) -> Result<()> {
        let mut work = self.work()?;
        let source = self.find(&mut work, from)?;
        let source = source.ok_or_else(|| Error::NoSuchTree(from.to_owned()))?;
        if self.find(&mut work, to)?.is_some() {
            return Err(Error::Usage(format!("there is a tree {to:?} already")));
        }
        let tree = work.trees[source.0].tree;
        self.change(|txn| txn.inc(tree.root))?;
        work.add(to, tree, None);
        Ok(())
    }

    /// Deletes a tree.
    ///
    /// # Errors
    /// [`Error::NoSuchTree`], [`Error::Damaged`].
    pub fn delete(&self, name: &str) -> Result<()> {
        let mut work = self.work()?;
        let found = self.find(&mut work, name)?;
        let number = found.ok_or_else(|| Error::NoSuchTree(name.to_owned()))?;
        let tree = work.trees[number.0].tree;
        let mut plain = Plain;
        let mut kind = tree_type(tree.value_bytes, &mut plain);
        self.change(|txn| btree::delete(txn, &mut kind, tree.root))?;
        work.trees[number.0].deleted = true;
        Ok(())
    }

    /// Makes room: the file is made `size_bytes` long, or the device has been
    /// already. An abort leaves the file as long and the store as small as it was.
    ///
    /// # Errors
    /// [`Error::Usage`] for less than there is, for more than the device has, or
    /// for more than 4 161 600 blocks; [`Error::NoSpace`] when the new blocks
    /// cannot even hold their own counts.
    pub fn grow(&self, size_bytes: u64) -> Result<()> {
        let mut work = self.work()?;
        let blocks = size_bytes / BLOCK_BYTES as u64;
        let now = self.store.manager().look(|txn| Ok(txn.nr_blocks()))?;
        let more = blocks.checked_sub(now).ok_or_else(|| {
            Error::usage(format!(
                "the store has {now} blocks, and cannot shrink to {blocks}"
            ))
        })?;
        if blocks > MAX_METADATA_BLOCKS {
            let text = format!("a store has at most {MAX_METADATA_BLOCKS} blocks, not {blocks}");
            return Err(Error::Usage(text));
        }
        self.blocks().device().grow_to(size_bytes)?;
        self.change(|txn| txn.extend(more))?;
        work.grown |= more > 0;
        Ok(())
    }

    /// Names of all trees, sorted.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn names(&self) -> Result<Vec<String>> {
        let work = self.work()?;
        self.store.manager().look(|_| Ok(()))?;
        let stored = catalogue::list(self.blocks(), work.catalogue)?;
        let stored = stored.into_iter().map(|(name, _)| name);
        let untouched = stored.filter(|name| !work.by_name.contains_key(name));
        let open = work
            .by_name
            .iter()
            .filter(|(_, number)| !work.trees[**number].deleted);
        let mut names: Vec<String> = untouched
            .chain(open.map(|(name, _)| name.clone()))
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    /// Makes all changes durable, at once.
    ///
    /// # Errors
    /// [`Error::Poisoned`] when a write or the flush fails; after any error the
    /// state is that before the transaction, as soon as [`Self::abort`] was called.
    pub fn commit(&self) -> Result<()> {
        let mut work = self.work()?;
        let manager = self.store.manager();
        let catalogue = self.change(|txn| work.write_catalogue(txn))?;
        if work.grown || work.trees.iter().any(Open::has_changed) {
            manager.commit_with(&STORE_VALIDATOR, catalogue.0, |guard, space| {
                let superblock: &mut StoreSuperblock = guard.view_mut();
                let generation = superblock.generation.get().wrapping_add(1);
                superblock.generation = generation.into();
                superblock.catalogue_root = catalogue.0.into();
                superblock.set_space_root(space);
                Ok(())
            })?;
        } else if manager.look(|txn| Ok(txn.has_shadows()))? {
            // What was done was undone: nothing to commit, and nothing to keep.
            manager.abort()?;
        }
        work.ended = true;
        drop(work);
        self.store.release();
        Ok(())
    }

    /// Takes all changes back.
    ///
    /// # Errors
    /// As [`TransactionManager::abort`](crate::transaction::TransactionManager::abort).
    pub fn abort(&self) -> Result<()> {
        let mut work = self.work()?;
        work.ended = true;
        let manager = self.store.manager();
        let answer = manager.abort();
        drop(work);
        self.store.release();
        answer
    }
}

impl Drop for StoreTransaction {
    fn drop(&mut self) {
        if self.work().is_ok() {
            // Nobody is left to be told; the next call says it again.
            let _ = self.abort();
        }
    }
}

impl Open {
    fn has_changed(&self) -> bool {
        match self.stored {
            Some(stored) => self.deleted || stored != self.tree,
            None => !self.deleted,
        }
    }
}

impl Work {
    fn add(&mut self, name: &str, tree: Known, stored: Option<Known>) -> TreeNr {
        // A name that was deleted and is used again still has its old entry.
        let before = self
            .by_name
            .get(name)
            .and_then(|number| self.trees[*number].stored.take());
        let number = self.trees.len();
        self.trees.push(Open {
            name: name.to_owned(),
            tree,
            stored: stored.or(before),
            deleted: false,
        });
        self.by_name.insert(name.to_owned(), number);
        TreeNr(number)
    }

    fn tree(&self, tree: TreeNr) -> Result<Known> {
        let open = self.trees.get(tree.0);
        let open = open.ok_or_else(|| Error::usage("the tree is another transaction's"))?;
        if open.deleted {
            return Err(Error::NoSuchTree(open.name.clone()));
        }
        Ok(open.tree)
    }

    /// Brings the catalogue up to date.
    fn write_catalogue(&mut self, txn: &mut Transaction) -> Result<BlockNr> {
        let mut root = self.catalogue;
        for open in self.trees.iter().filter(|open| open.has_changed()) {
            root = if open.deleted {
                catalogue::remove(txn, root, &open.name)?
            } else {
                catalogue::set(txn, root, &open.name, open.tree)?
            };
        }
        Ok(root)
    }
}

/// The superblock's place is fixed.
const _: () = assert!(SUPERBLOCK.0 == 0);
