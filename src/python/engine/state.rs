//! What is open: shared by the Python objects that stand for it, and taken away
//! from all of them at once when it is closed.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, TryLockError,
    Weak,
};

use rustc_hash::FxHashMap;

use super::fork::{Birth, drop_detached};
use crate::block::Patience;
use crate::error::{Error, Result};
use crate::store::{self, TreeNr};

fn store_closed() -> Error {
    Error::usage("the store is closed")
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

fn try_read<T>(lock: &RwLock<T>) -> Result<RwLockReadGuard<'_, T>> {
    match lock.try_read() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => Err(Error::WouldBlock),
    }
}

/// A store until it is closed. Every method may wait: detach before.
pub(super) struct StoreState {
    born: Birth,
    open: RwLock<Option<Arc<store::Store>>>,
    users: Mutex<Users>,
}

/// What closing a store ends.
#[derive(Default)]
struct Users {
    views: Vec<Weak<ViewState>>,
    /// How many views there may be before those that are gone are looked for.
    enough: usize,
    transaction: Weak<TransactionState>,
}

impl StoreState {
    pub fn new(store: Arc<store::Store>) -> Arc<Self> {
        Arc::new(Self {
            born: Birth::now(),
            open: RwLock::new(Some(store)),
            users: Mutex::default(),
        })
    }

    /// The core's store.
    pub fn store(&self) -> Result<Arc<store::Store>> {
        self.born.check()?;
        read(&self.open).clone().ok_or_else(store_closed)
    }

    /// Whether it was closed; a closing that goes on counts.
    pub fn is_closed(&self) -> bool {
        !self.born.is_here() || try_read(&self.open).is_ok_and(|open| open.is_none())
    }

    pub fn view(&self) -> Result<Arc<ViewState>> {
        self.born.check()?;
        // Held to the end: who closes finds the view, or there is none.
        let open = read(&self.open);
        let store = open.as_ref().ok_or_else(store_closed)?;
        let view = Arc::new(ViewState {
            born: self.born,
            view: RwLock::new(Some(Arc::new(store.view()?))),
        });
        let mut users = self.users();
        if users.views.len() >= users.enough {
            users.views.retain(|view| view.strong_count() > 0);
            users.enough = 2 * users.views.len() + 16;
        }
        users.views.push(Arc::downgrade(&view));
        Ok(view)
    }

    /// Waits for another thread's transaction; `patience` may run Python code.
    pub fn transaction(&self, patience: Patience<'_>) -> Result<Arc<TransactionState>> {
        let store = self.store()?;
        let begun = store.transaction(Some(patience))?;
        let open = read(&self.open);
        if open.is_none() {
            return Err(store_closed());
        }
        let transaction = Arc::new(TransactionState {
            born: self.born,
            gate: RwLock::new(Some(begun)),
            tallies: Mutex::default(),
        });
        self.users().transaction = Arc::downgrade(&transaction);
        Ok(transaction)
    }

    /// Blocks, and free ones.
    pub fn space(&self) -> Result<(u64, u64)> {
        self.store()?.space()
    }

    /// Ends every view, rolls an open transaction back, and lets go of the device.
    pub fn close(&self) {
        if !self.born.is_here() {
            return;
        }
        let Some(store) = write(&self.open).take() else {
            return;
        };
        let users = std::mem::take(&mut *self.users());
        if let Some(transaction) = users.transaction.upgrade() {
            // What fails here left nothing on the disk; opening again tells.
            let _ = transaction.end(Ending::Abort);
        }
        for view in users.views.iter().filter_map(Weak::upgrade) {
            view.close();
        }
        drop(store);
    }

    fn users(&self) -> MutexGuard<'_, Users> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for StoreState {
    fn drop(&mut self) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        drop_detached(self.born, open.take());
    }
}

/// A view until it is closed.
pub(super) struct ViewState {
    born: Birth,
    view: RwLock<Option<Arc<store::StoreView>>>,
}

impl ViewState {
    fn closed() -> Error {
        Error::usage("the view is closed")
    }

    /// The core's view: who has it may go on with it when the view is closed
    /// meanwhile. May wait: detach before.
    pub fn view(&self) -> Result<Arc<store::StoreView>> {
        self.born.check()?;
        read(&self.view).clone().ok_or_else(Self::closed)
    }

    /// Looks at it without waiting.
    pub fn try_with<T>(&self, look: impl FnOnce(&store::StoreView) -> Result<T>) -> Result<T> {
        self.born.check()?;
        let view = try_read(&self.view)?;
        look(view.as_deref().ok_or_else(Self::closed)?)
    }

    pub fn is_closed(&self) -> bool {
        !self.born.is_here() || try_read(&self.view).is_ok_and(|view| view.is_none())
    }

    /// May wait: detach before.
    pub fn close(&self) {
        if self.born.is_here() {
            drop(write(&self.view).take());
        }
    }
}

impl Drop for ViewState {
    fn drop(&mut self) {
        let view = self.view.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(view) = view.take() {
            drop_detached(self.born, view);
        }
    }
}

/// How a transaction ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Commit,
    Abort,
}

/// What a change has done.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub added: u64,
    pub removed: u64,
    /// Values were set, of new keys or of others.
    pub set: bool,
}

impl Done {
    /// It is not known what, but something.
    pub const SOMETHING: Self = Self::set(0);

    pub const fn set(added: u64) -> Self {
        Self {
            added,
            removed: 0,
            set: true,
        }
    }

    pub const fn removed(removed: u64) -> Self {
        Self {
            added: 0,
            removed,
            set: false,
        }
    }
}

/// What is remembered of a tree while it may change.
pub(super) struct Tally {
    /// Counts changes, so that who iterates notices one.
    changes: AtomicU64,
    /// How many entries there are; `UNKNOWN` until somebody counted.
    len: AtomicU64,
}

const UNKNOWN: u64 = u64::MAX;

impl Default for Tally {
    fn default() -> Self {
        Self {
            changes: AtomicU64::new(0),
            len: AtomicU64::new(UNKNOWN),
        }
    }
}

impl Tally {
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Called with the gate closed, after a change.
    pub fn change(&self, done: Done) {
        if done == Done::default() {
            return;
        }
        self.changes.fetch_add(1, Ordering::Release);
        if let Some(len) = self.len() {
            self.counted(len.wrapping_add(done.added).wrapping_sub(done.removed));
        }
    }

    pub fn len(&self) -> Option<u64> {
        let len = self.len.load(Ordering::Relaxed);
        (len != UNKNOWN).then_some(len)
    }

    pub fn counted(&self, len: u64) {
        self.len.store(len, Ordering::Relaxed);
    }
}

/// A transaction until it ends. The gate is open to many readers or one change:
/// a reader never meets a tree that is half changed.
pub(super) struct TransactionState {
    born: Birth,
    gate: RwLock<Option<store::StoreTransaction>>,
    tallies: Mutex<FxHashMap<TreeNr, Arc<Tally>>>,
}

impl TransactionState {
    fn ended() -> Error {
        Error::usage("the transaction has ended")
    }

    /// Reads. May wait: detach before.
    pub fn with<T>(&self, look: impl FnOnce(&store::StoreTransaction) -> Result<T>) -> Result<T> {
        self.born.check()?;
        look(read(&self.gate).as_ref().ok_or_else(Self::ended)?)
    }

    /// Reads without waiting.
    pub fn try_with<T>(
        &self,
        look: impl FnOnce(&store::StoreTransaction) -> Result<T>,
    ) -> Result<T> {
        self.born.check()?;
        look(try_read(&self.gate)?.as_ref().ok_or_else(Self::ended)?)
    }

    /// Changes. Waits: detach before.
    pub fn change<T>(
        &self,
        change: impl FnOnce(&store::StoreTransaction) -> Result<T>,
    ) -> Result<T> {
        self.born.check()?;
        change(write(&self.gate).as_ref().ok_or_else(Self::ended)?)
    }

    /// Waits: detach before. A commit that fails rolls back.
    pub fn end(&self, ending: Ending) -> Result<()> {
        self.born.check()?;
        let mut gate = write(&self.gate);
        let transaction = gate.take().ok_or_else(Self::ended)?;
        match ending {
            Ending::Abort => transaction.abort(),
            Ending::Commit => transaction.commit().inspect_err(|_| {
                // The commit's own error says more than what this one may add.
                let _ = transaction.abort();
            }),
        }
    }

    pub fn has_ended(&self) -> bool {
        !self.born.is_here() || try_read(&self.gate).is_ok_and(|gate| gate.is_none())
    }

    /// What is remembered of a tree. Waits, shortly: detach before.
    pub fn tally(&self, tree: TreeNr) -> Arc<Tally> {
        let tallies = self.tallies.lock();
        let mut tallies = tallies.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(tallies.entry(tree).or_default())
    }
}

impl Drop for TransactionState {
    fn drop(&mut self) {
        let gate = self.gate.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(transaction) = gate.take() {
            drop_detached(self.born, transaction);
        }
    }
}
