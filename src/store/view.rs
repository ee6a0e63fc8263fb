//! A store as one commit left it.

use std::sync::Arc;

use super::Store;
use super::catalogue;
use crate::block::BlockManager;
use crate::btree::{self, Wait};
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// Reads one commit while others are made. What it reads is not overwritten
/// before it is dropped; nothing of it is on the disk.
pub struct StoreView {
    store: Arc<Store>,
    generation: u64,
    catalogue: BlockNr,
}

/// A tree of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewedTree {
    /// Where it starts.
    pub root: BlockNr,
    /// Bytes of each value.
    pub value_bytes: usize,
}

impl StoreView {
    pub(super) fn new(store: &Arc<Store>) -> Self {
        let (generation, catalogue) = store.manager().open_view();
        Self {
            store: Arc::clone(store),
            generation,
            catalogue: BlockNr(catalogue),
        }
    }

    /// The block manager that it reads through.
    #[must_use]
    pub fn blocks(&self) -> &Arc<BlockManager> {
        self.store.manager().blocks()
    }

    /// A tree.
    ///
    /// # Errors
    /// [`Error::NoSuchTree`], [`Error::Damaged`].
    pub fn tree(&self, name: &str) -> Result<ViewedTree> {
        let known = catalogue::find(self.blocks(), self.catalogue, name)?;
        let known = known.ok_or_else(|| Error::NoSuchTree(name.to_owned()))?;
        Ok(ViewedTree {
            root: known.root,
            value_bytes: known.value_bytes,
        })
    }

    /// Names of all trees, sorted.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn names(&self) -> Result<Vec<String>> {
        let all = catalogue::list(self.blocks(), self.catalogue)?;
        Ok(all.into_iter().map(|(name, _)| name).collect())
    }

    /// Copies the value of `key` to `out`; whether there is one.
    ///
    /// # Errors
    /// [`Error::WouldBlock`] when told not to wait; [`Error::Usage`] for an
    /// `out` of another size; [`Error::Damaged`].
    pub fn get(&self, tree: ViewedTree, key: u64, out: &mut [u8], wait: Wait) -> Result<bool> {
        btree::get(self.blocks(), tree.root, tree.value_bytes, key, out, wait)
    }
}

impl Drop for StoreView {
    fn drop(&mut self) {
        self.store.manager().view_closed(self.generation);
    }
}
