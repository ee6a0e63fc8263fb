//! The transaction manager: one mutator at a time, two-phase commit, abort.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::{NonBlockingClone, Prefetches, Transaction};
use crate::block::{BlockManager, Checks, ReadGuard, WriteGuard};
use crate::disk_space::SpaceMapRoot;
use crate::error::{Error, Result};
use crate::units::BlockNr;

/// Where a transaction is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Its blocks are durable; only the superblock is missing.
    PreCommitted,
    /// A change failed half-way.
    Aborted(String),
    Closed,
}

struct Inner {
    txn: Transaction,
    state: State,
    /// The metadata space map as of the last commit; of a new device, that of none.
    committed: Option<SpaceMapRoot>,
    /// How it was made, to make it again where there is no commit to go back to.
    checked: bool,
}

/// Who reads which commit. Beside the transaction, so that views open and close
/// while a change is being made.
#[derive(Default)]
struct Views {
    /// Counts the commits of this manager.
    generation: u64,
    /// What the last commit said of itself.
    label: u64,
    /// Generations that somebody reads, each as often as it is read.
    open: Vec<u64>,
}

/// Owns the open transaction of a device. Changes go through [`Self::change`],
/// one at a time; reading the committed state needs no lock of this.
pub struct TransactionManager {
    blocks: Arc<BlockManager>,
    superblock: BlockNr,
    inner: Mutex<Inner>,
    views: Mutex<Views>,
    /// Views were closed and the transaction does not know it yet.
    views_closed: AtomicBool,
    pub(super) wanted: Prefetches,
}

impl TransactionManager {
    /// Makes a metadata space map on a device that holds nothing of value. The
    /// superblock is neither read nor written. `checked`: every count and every
    /// allocation is held against plain counts.
    ///
    /// # Errors
    /// [`Error::Step`] names what failed.
    pub fn create(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        checked: bool,
    ) -> Result<Arc<Self>> {
        if superblock != BlockNr(0) {
            return Err(Error::usage("the superblock of a new device is block 0"));
        }
        blocks.guard_superblock(superblock);
        let made = Transaction::create(blocks, checked);
        let txn = made.map_err(|error| {
            // What was begun must not be written by anybody.
            blocks.discard_dirty(|_| false);
            error.in_step("space map create")
        })?;
        Ok(Self::new(blocks, superblock, txn, None, checked))
    }

    /// Opens the metadata space map under `root`, as a superblock has it.
    ///
    /// # Errors
    /// [`Error::Step`] names what failed.
    pub fn open(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        root: &SpaceMapRoot,
        checked: bool,
    ) -> Result<Arc<Self>> {
        blocks.guard_superblock(superblock);
        let txn = Transaction::open(blocks, superblock, root, checked);
        let txn = txn.map_err(|error| error.in_step("space map open"))?;
        Ok(Self::new(blocks, superblock, txn, Some(*root), checked))
    }

    /// As [`Self::create`], and write-locks a superblock of zeros: the form of 2012.
    ///
    /// # Errors
    /// [`Error::Step`] names what failed; no lock is left.
    pub fn create_with_superblock(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        checks: impl Into<Checks>,
        checked: bool,
    ) -> Result<(Arc<Self>, WriteGuard)> {
        let manager = Self::create(blocks, superblock, checked)?;
        let guard = blocks.write_lock_zero(superblock, checks);
        let guard = guard.map_err(|error| {
            blocks.discard_dirty(|_| false);
            error.in_step("superblock")
        })?;
        Ok((manager, guard))
    }

    /// As [`Self::open`] with the root that lies `root_offset` bytes into the
    /// superblock, which stays write-locked: the form of 2012.
    ///
    /// # Errors
    /// [`Error::Step`] names what failed; no lock is left.
    pub fn open_with_superblock(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        checks: impl Into<Checks>,
        root_bytes: Range<usize>,
        checked: bool,
    ) -> Result<(Arc<Self>, WriteGuard)> {
        let checks = checks.into();
        blocks.guard_superblock(superblock);
        let locked = blocks.write_lock(superblock, &checks);
        let guard = locked.map_err(|error| error.in_step("superblock"))?;
        let root = SpaceMapRoot::from_area(guard.bytes().get(root_bytes).unwrap_or_default());
        let opened = root.and_then(|root| {
            let txn = Transaction::open(blocks, superblock, &root, checked)?;
            Ok(Self::new(blocks, superblock, txn, Some(root), checked))
        });
        match opened {
            Ok(manager) => Ok((manager, guard)),
            Err(error) => {
                guard.discard();
                Err(error.in_step("space map open"))
            }
        }
    }

    fn new(
        blocks: &Arc<BlockManager>,
        superblock: BlockNr,
        txn: Transaction,
        committed: Option<SpaceMapRoot>,
        checked: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            blocks: Arc::clone(blocks),
            superblock,
            inner: Mutex::new(Inner {
                txn,
                state: State::Open,
                committed,
                checked,
            }),
            views: Mutex::default(),
            views_closed: AtomicBool::new(false),
            wanted: Prefetches::default(),
        })
    }

    /// The block manager below.
    #[must_use]
    pub fn blocks(&self) -> &Arc<BlockManager> {
        &self.blocks
    }

    /// Where the superblock is.
    #[must_use]
    pub fn superblock(&self) -> BlockNr {
        self.superblock
    }

    /// Makes a change. One that fails after it has begun to change something
    /// leaves the transaction in need of [`Self::abort`]; one that fails before
    /// leaves no trace.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::Poisoned`], and what `work` says.
    pub fn change<T>(&self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<T> {
        let mut inner = self.lock();
        self.check_open(&inner)?;
        self.blocks.check_writable()?;
        let before = inner.txn.side_effects();
        let answer = work(&mut inner.txn);
        if let Err(error) = &answer
            && inner.txn.side_effects() != before
        {
            inner.state = State::Aborted(error.to_string());
        }
        answer
    }

    /// Looks at the open transaction.
    ///
    /// # Errors
    /// [`Error::Aborted`], and what `look` says.
    pub fn look<T>(&self, look: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        let inner = self.lock();
        self.check_readable(&inner)?;
        look(&inner.txn)
    }

    /// As [`Self::look`], but never waits for somebody who makes a change.
    ///
    /// # Errors
    /// [`Error::WouldBlock`], and as [`Self::look`].
    pub fn try_look<T>(&self, look: impl FnOnce(&Transaction) -> Result<T>) -> Result<T> {
        let inner = match self.inner.try_lock() {
            Ok(inner) => inner,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(Error::WouldBlock),
        };
        self.check_readable(&inner)?;
        look(&inner.txn)
    }

    /// Shared access to a block.
    ///
    /// # Errors
    /// [`Error::Aborted`], and as [`BlockManager::read_lock`].
    pub fn read_lock(&self, at: BlockNr, checks: impl Into<Checks>) -> Result<ReadGuard> {
        // Not waited for: whoever makes a change may be waiting for what the caller
        // holds already.
        match self.inner.try_lock() {
            Ok(inner) => self.check_readable(&inner)?,
            Err(TryLockError::Poisoned(poisoned)) => self.check_readable(&poisoned.into_inner())?,
            Err(TryLockError::WouldBlock) => {}
        }
        self.blocks.read_lock(at, checks)
    }

    /// A view for those who must not wait.
    #[must_use]
    pub fn nonblocking_clone(self: &Arc<Self>) -> NonBlockingClone {
        NonBlockingClone::new(self)
    }

    /// Starts to read what clones have missed, in the background.
    pub fn issue_prefetches(&self) {
        self.blocks.prefetch(self.wanted.take());
    }

    /// First half of a commit: writes the space map and makes everything but
    /// the superblock durable. Nothing may be changed until [`Self::commit`].
    ///
    /// # Errors
    /// [`Error::Poisoned`] from now on when a write or the flush fails,
    /// [`Error::Aborted`] when the space map cannot be written, or a validator
    /// did not prepare a block.
    pub fn pre_commit(&self) -> Result<()> {
        let mut inner = self.lock();
        self.check_open(&inner)?;
        self.blocks.check_writable()?;
        if let Some(at) = self.blocks.write_locked() {
            let text = format!("block {at} is locked for writing: release it before the commit");
            return Err(Error::Usage(text));
        }
        if let Err(error) = inner.txn.pre_commit() {
            inner.state = State::Aborted(error.to_string());
            return Err(error);
        }
        if let Err(error) = self.blocks.flush() {
            if !self.blocks.is_poisoned() {
                inner.state = State::Aborted(error.to_string());
            }
            return Err(error);
        }
        inner.state = State::PreCommitted;
        Ok(())
    }

    /// The metadata space map's root as [`Self::pre_commit`] left it, for the superblock.
    #[must_use]
    pub fn space_root(&self) -> SpaceMapRoot {
        self.lock().txn.space_root()
    }

    /// Second half of a commit: unlocks the superblock, writes it and makes it durable.
    ///
    /// # Errors
    /// [`Error::Usage`] without the first half or with another block,
    /// [`Error::Poisoned`] from now on when the write or the flush fails,
    /// [`Error::Aborted`] from now on when its validator did not prepare it.
    pub fn commit(&self, superblock: WriteGuard) -> Result<()> {
        self.commit_labelled(superblock, 0)
    }

    /// Whether [`Self::commit`] can be called now, with a lock of `superblock`:
    /// what it refuses for another reason than the disk's.
    ///
    /// # Errors
    /// [`Error::Usage`], [`Error::Aborted`].
    pub fn check_commit(&self, superblock: BlockNr) -> Result<()> {
        self.check_commit_of(&self.lock(), superblock)
    }

    fn check_commit_of(&self, inner: &Inner, superblock: BlockNr) -> Result<()> {
        match &inner.state {
            _ if superblock != self.superblock => Err(Error::usage("this is not the superblock")),
            State::PreCommitted => Ok(()),
            State::Open => Err(Error::usage("pre_commit comes before commit")),
            State::Aborted(cause) => Err(Error::Aborted(cause.clone())),
            State::Closed => Err(closed()),
        }
    }

    /// Whether there is a commit to go back to: a device that was made and not
    /// committed yet has no superblock that could be read.
    #[must_use]
    pub fn has_committed(&self) -> bool {
        self.lock().committed.is_some()
    }

    fn commit_labelled(&self, superblock: WriteGuard, label: u64) -> Result<()> {
        let mut inner = self.lock();
        if let Err(error) = self.check_commit_of(&inner, superblock.location()) {
            superblock.discard();
            return Err(error);
        }
        // What cannot be prepared was dropped, and the transaction with it.
        let superblock = self
            .blocks
            .prepare_locked(superblock)
            .inspect_err(|error| {
                inner.state = State::Aborted(error.to_string());
            })?;
        self.blocks.write_superblock(superblock)?;
        inner.committed = Some(inner.txn.space_root());
        inner.state = State::Open;
        let mut views = self.lock_views();
        views.generation += 1;
        views.label = label;
        let (generation, open) = (views.generation, views.open.iter().max().copied());
        drop(views);
        inner.txn.committed(generation, open)
    }

    /// Both halves: `fill` is handed the superblock to write into; what fails
    /// in it leaves everything as it was before the transaction. `label` is
    /// what [`Self::open_view`] answers from then on.
    ///
    /// # Errors
    /// As the halves, and what `fill` says.
    pub fn commit_with(
        &self,
        checks: impl Into<Checks>,
        label: u64,
        fill: impl FnOnce(&mut WriteGuard, &SpaceMapRoot) -> Result<()>,
    ) -> Result<()> {
        self.pre_commit()?;
        let root = self.space_root();
        let filled =
            self.blocks
                .write_lock(self.superblock, checks)
                .and_then(|mut guard| match fill(&mut guard, &root) {
                    Ok(()) => Ok(guard),
                    Err(error) => {
                        guard.discard();
                        Err(error)
                    }
                });
        match filled {
            Ok(guard) => self.commit_labelled(guard, label),
            Err(error) => {
                let mut inner = self.lock();
                inner.state = State::Aborted(error.to_string());
                Err(error)
            }
        }
    }

    /// Goes back to the last commit completely: counts, roots, queue, cached
    /// changes. Guards that are still held keep bytes that belong to nobody.
    ///
    /// # Errors
    /// [`Error::Poisoned`]: what is on the disk is not known; and what opening
    /// the space map says.
    pub fn abort(&self) -> Result<()> {
        let mut inner = self.lock();
        if inner.state == State::Closed {
            return Err(closed());
        }
        inner.state = State::Aborted("abort itself failed".to_owned());
        self.discard(&inner);
        self.blocks.check_poison()?;
        match inner.committed {
            Some(root) => inner.txn.reopen(self.superblock, &root)?,
            // A new device goes back to a map in which nothing was allocated.
            None => inner.txn = Transaction::create(&self.blocks, inner.checked)?,
        }
        inner.state = State::Open;
        Ok(())
    }

    fn discard(&self, inner: &Inner) {
        let shadows = &inner.txn.shadows;
        self.blocks.discard_dirty(|at| shadows.contains(at.0));
    }

    /// Whether a change has failed half-way, and what it said.
    #[must_use]
    pub fn aborted(&self) -> Option<String> {
        match &self.lock().state {
            State::Aborted(cause) => Some(cause.clone()),
            _ => None,
        }
    }

    /// Ends it: what was not committed is lost.
    pub fn close(&self) {
        let mut inner = self.lock();
        if inner.state != State::Closed {
            self.discard(&inner);
            inner.state = State::Closed;
            inner.txn.shadows.clear();
        }
    }

    /// Blocks that the last commit reaches are not handed out again until
    /// [`Self::view_closed`] is given the first number of the answer. The
    /// second is the commit's label. Waits for nobody who makes a change.
    #[must_use]
    pub fn open_view(&self) -> (u64, u64) {
        let mut views = self.lock_views();
        let generation = views.generation;
        views.open.push(generation);
        (generation, views.label)
    }

    /// What the committed state is called before the first commit of this manager.
    pub fn label(&self, label: u64) {
        self.lock_views().label = label;
    }

    /// A view is not needed any more.
    pub fn view_closed(&self, generation: u64) {
        let mut views = self.lock_views();
        if let Some(place) = views.open.iter().position(|open| *open == generation) {
            views.open.swap_remove(place);
        }
        drop(views);
        // Whoever changes something next sees to the rest.
        self.views_closed.store(true, Ordering::Release);
    }

    /// Which commit is the last, and of which there are views: the oldest, and the newest
    /// of those before it.
    pub(crate) fn open_views(&self) -> (u64, Option<u64>, Option<u64>) {
        let views = self.lock_views();
        let open = views.open.iter().copied();
        let before = open.clone().filter(|open| *open < views.generation);
        (views.generation, open.min(), before.max())
    }

    fn lock_views(&self) -> MutexGuard<'_, Views> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.note_closed_views(&mut inner);
        inner
    }

    fn note_closed_views(&self, inner: &mut Inner) {
        if self.views_closed.swap(false, Ordering::Acquire) {
            let oldest = self.lock_views().open.iter().min().copied();
            inner.txn.views_closed(oldest);
        }
    }

    fn check_open(&self, inner: &Inner) -> Result<()> {
        self.check_readable(inner)?;
        match &inner.state {
            State::PreCommitted => {
                let text = "the transaction is between the two halves of its commit";
                Err(Error::usage(text))
            }
            _ => Ok(()),
        }
    }

    fn check_readable(&self, inner: &Inner) -> Result<()> {
        match &inner.state {
            State::Closed => return Err(closed()),
            // An abort would not help where nothing can be written any more.
            _ => self.blocks.check_poison()?,
        }
        match &inner.state {
            State::Aborted(cause) => Err(Error::Aborted(cause.clone())),
            _ => Ok(()),
        }
    }
}

fn closed() -> Error {
    Error::usage("the transaction manager is closed")
}

impl Drop for TransactionManager {
    fn drop(&mut self) {
        // A read in the background would keep the device from whoever opens it next.
        self.blocks.stop_prefetching();
    }
}
