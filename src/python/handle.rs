//! What keeps a pool open, and what closing it takes away.
//!
//! Devices, iterators, tables and volumes keep the pool's state, so that the pool
//! stays open while one of them is in use; but of the core's objects they hold
//! only weak references, so that closing the pool lets go of its devices at once,
//! whoever still has a handle. A pool that is being changed is another core pool
//! after each commit; handles follow it, and look their device up again by its id.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use rustc_hash::FxHashMap;

use super::call::detached;
use super::engine::Birth;
use super::error::exception;
use crate::error::{Error, Result};
use crate::thin::{Pool, PoolTransaction, PoolWriter, ThinDevice};

/// A pool until it is closed.
pub(super) struct State {
    open: Mutex<Option<Open>>,
    /// Counts the commits of a pool that is open to be changed.
    commits: Arc<AtomicU64>,
    /// Whether it is open to be changed.
    writes: bool,
    born: Birth,
}

/// Where the last commit is had from.
enum Source {
    /// There will be no other.
    Reader(Arc<Pool>),
    /// It is not kept here: what is read is not used again.
    Writer(Arc<PoolWriter>),
}

/// What handles hold weakly.
struct Open {
    source: Source,
    /// All that were asked for since a commit.
    devices: FxHashMap<u64, Arc<ThinDevice>>,
    /// Which one that was.
    commit: u64,
    /// The one that is under way: who ends it, or closes the pool, lets go of it.
    transaction: Option<Arc<PoolTransaction>>,
}

impl Open {
    fn writer(&self) -> Option<Arc<PoolWriter>> {
        match &self.source {
            Source::Writer(writer) => Some(Arc::clone(writer)),
            Source::Reader(_) => None,
        }
    }
}

fn closed() -> Error {
    Error::usage("the pool is closed")
}

impl State {
    pub fn new(pool: Pool) -> Arc<Self> {
        Self::over(Source::Reader(Arc::new(pool)), Arc::default())
    }

    /// Of a pool that is open to be changed.
    pub fn of_writer(writer: Arc<PoolWriter>) -> Result<Arc<Self>> {
        let commits = writer.generation();
        Ok(Self::over(Source::Writer(writer), commits))
    }

    fn over(source: Source, commits: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self {
            writes: matches!(source, Source::Writer(_)),
            open: Mutex::new(Some(Open {
                source,
                devices: FxHashMap::default(),
                commit: commits.load(Ordering::Acquire),
                transaction: None,
            })),
            commits,
            born: Birth::now(),
        })
    }

    /// In a child everything of the parent that writes is.
    pub fn is_closed(&self, py: Python<'_>) -> bool {
        !self.is_at_home() || self.lock(py).is_none()
    }

    /// Commits what volumes have changed, rolls a transaction back, lets go.
    pub fn close(&self, py: Python<'_>) -> PyResult<()> {
        if !self.is_at_home() {
            // A child has no business with the parent's devices.
            return Ok(());
        }
        let Some(writer) = self.lock(py).as_ref().map(Open::writer) else {
            return Ok(());
        };
        let answer = detached(py, || {
            writer.as_ref().map_or(Ok(()), |writer| writer.close())
        });
        if writer.is_none_or(|writer| py.detach(|| writer.is_closed())) {
            let open = self.lock(py).take();
            py.detach(|| drop(open));
        }
        answer
    }

    /// Refuses a child, before any lock: who holds one may not be there.
    fn check_home(&self) -> Result<()> {
        if self.writes {
            self.born.check()
        } else {
            Ok(())
        }
    }

    /// Whether this is the process that opened it, which is one for all readers.
    fn is_at_home(&self) -> bool {
        !self.writes || self.born.is_here()
    }

    /// How many commits there were.
    pub fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    /// Who changes the pool; `None`: it is open for reading.
    pub fn writer(&self, py: Python<'_>) -> PyResult<Option<Arc<PoolWriter>>> {
        self.check_home().map_err(|error| exception(py, error))?;
        let writer = self.lock(py).as_ref().map(Open::writer);
        writer.ok_or_else(|| exception(py, closed()))
    }

    /// Who changes the pool, which has to be open for that.
    pub fn writing(&self, py: Python<'_>) -> PyResult<Arc<PoolWriter>> {
        self.writer(py)?.ok_or_else(|| {
            let error = Error::ReadOnly("the pool is open for reading: mode is \"r\"".to_owned());
            exception(py, error)
        })
    }

    /// Begins a transaction, and keeps it.
    pub fn begin(&self, py: Python<'_>) -> PyResult<Weak<PoolTransaction>> {
        let writer = self.writing(py)?;
        let begun = Arc::new(detached(py, || writer.transaction())?);
        let mut open = self.lock(py);
        let open = open.as_mut().ok_or_else(|| exception(py, closed()))?;
        let weak = Arc::downgrade(&begun);
        open.transaction = Some(begun);
        Ok(weak)
    }

    /// Lets go of a transaction, which may have ended. To be called detached.
    pub fn let_go(&self, transaction: &Weak<PoolTransaction>) {
        if !self.is_at_home() {
            return;
        }
        let mut open = self.lock_detached();
        let kept = open.as_mut().map(|open| &mut open.transaction);
        let own =
            |kept: &mut Arc<PoolTransaction>| Weak::ptr_eq(&Arc::downgrade(kept), transaction);
        let taken = kept.and_then(|kept| kept.take_if(own));
        drop(open);
        drop(taken);
        self.after_commit();
    }

    /// Lets go of what was had of older commits: their blocks are kept from being used
    /// again as long as somebody has them. To be called detached.
    pub fn after_commit(&self) {
        if !self.is_at_home() {
            return;
        }
        let mut open = self.lock_detached();
        let stale = open.as_mut().map(|open| self.forget_older(open));
        drop(open);
        drop(stale);
    }

    fn forget_older(&self, open: &mut Open) -> FxHashMap<u64, Arc<ThinDevice>> {
        let commits = self.commits();
        if std::mem::replace(&mut open.commit, commits) == commits {
            return FxHashMap::default();
        }
        std::mem::take(&mut open.devices)
    }

    /// The core's pool: its last commit.
    pub fn pool(&self, py: Python<'_>) -> PyResult<Arc<Pool>> {
        let current = self
            .check_home()
            .and_then(|()| self.current(&mut self.lock(py)));
        current.map_err(|error| exception(py, error))
    }

    fn current(&self, open: &mut Option<Open>) -> Result<Arc<Pool>> {
        let open = open.as_mut().ok_or_else(closed)?;
        match &open.source {
            Source::Reader(pool) => Ok(Arc::clone(pool)),
            Source::Writer(writer) => writer.current(),
        }
    }

    /// A device, which lives until the pool is closed or another commit is made.
    pub fn device(&self, py: Python<'_>, id: u64) -> PyResult<Arc<ThinDevice>> {
        if let Some(device) = self
            .check_home()
            .and_then(|()| self.known(&mut self.lock(py), id))
            .map_err(|error| exception(py, error))?
        {
            return Ok(device);
        }
        detached(py, || self.find(id))
    }

    fn known(&self, open: &mut Option<Open>, id: u64) -> Result<Option<Arc<ThinDevice>>> {
        let open = open.as_mut().ok_or_else(closed)?;
        self.forget_older(open);
        Ok(open.devices.get(&id).cloned())
    }

    /// As [`Self::device`], detached.
    fn find(&self, id: u64) -> Result<Arc<ThinDevice>> {
        self.check_home()?;
        let mut open = self.lock_detached();
        if let Some(device) = self.known(&mut open, id)? {
            return Ok(device);
        }
        let commit = open.as_ref().map(|open| open.commit);
        let pool = self.current(&mut open)?;
        drop(open);
        let device = Arc::new(pool.device_by_id(id)?);
        let mut open = self.lock_detached();
        let open = open.as_mut().ok_or_else(closed)?;
        if commit != Some(open.commit) {
            // A commit came between: as right as any other moment, but not to be kept.
            return Ok(device);
        }
        // Another thread may have been faster.
        Ok(Arc::clone(open.devices.entry(id).or_insert(device)))
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Option<Open>> {
        self.open
            .lock_py_attached(py)
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_detached(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device of a pool that may be closed, and may change.
#[derive(Clone)]
pub(super) struct Handle {
    id: u64,
    /// As of one commit.
    device: Weak<ThinDevice>,
    commit: u64,
    state: Arc<State>,
}

impl Handle {
    /// `commit`: how many commits there were before the device was looked up.
    pub fn new(state: &Arc<State>, device: &Arc<ThinDevice>, commit: u64) -> Self {
        Self {
            id: device.info().id,
            device: Arc::downgrade(device),
            commit,
            state: Arc::clone(state),
        }
    }

    /// The pool's state.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Whether there was no commit since the handle was made.
    pub fn is_current(&self) -> bool {
        self.commit == self.state.commits()
    }

    fn as_made(&self) -> Option<Arc<ThinDevice>> {
        let usable = self.is_current() && self.state.is_at_home();
        self.device.upgrade().filter(|_| usable)
    }

    /// The device as of the last commit, unless the pool was closed. To be called
    /// detached.
    pub fn get(&self) -> Result<Arc<ThinDevice>> {
        match self.as_made() {
            Some(device) => Ok(device),
            None => self.state.find(self.id),
        }
    }

    /// As [`Self::get`], attached.
    pub fn device(&self, py: Python<'_>) -> PyResult<Arc<ThinDevice>> {
        match self.as_made() {
            Some(device) => Ok(device),
            None => self.state.device(py, self.id),
        }
    }
}
