//! What keeps a pool open, and what closing it takes away.
//!
//! Devices, iterators, tables and volumes keep the pool's state, so that the pool
//! stays open while one of them is in use; but of the core's objects they hold
//! only weak references, so that closing the pool lets go of its devices at once,
//! whoever still has a handle.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use rustc_hash::FxHashMap;

use super::call::detached;
use super::error::exception;
use crate::error::{Error, Result};
use crate::thin::{Pool, ThinDevice};

/// A pool until it is closed.
pub(super) struct State(Mutex<Option<Open>>);

/// What handles hold weakly.
struct Open {
    pool: Arc<Pool>,
    /// All that were asked for.
    devices: FxHashMap<u64, Arc<ThinDevice>>,
}

fn closed() -> Error {
    Error::usage("the pool is closed")
}

impl State {
    pub fn new(pool: Pool) -> Arc<Self> {
        let devices = FxHashMap::default();
        let pool = Arc::new(pool);
        Arc::new(Self(Mutex::new(Some(Open { pool, devices }))))
    }

    pub fn is_closed(&self, py: Python<'_>) -> bool {
        self.lock(py).is_none()
    }

    pub fn close(&self, py: Python<'_>) {
        let open = self.lock(py).take();
        py.detach(|| drop(open));
    }

    /// The core's pool.
    pub fn pool(&self, py: Python<'_>) -> PyResult<Arc<Pool>> {
        let pool = self.lock(py).as_ref().map(|open| Arc::clone(&open.pool));
        pool.ok_or_else(|| exception(py, closed()))
    }

    /// A device, which lives until the pool is closed.
    pub fn device(&self, py: Python<'_>, id: u64) -> PyResult<Arc<ThinDevice>> {
        let known = |open: &Open| open.devices.get(&id).cloned();
        if let Some(device) = self.lock(py).as_ref().and_then(known) {
            return Ok(device);
        }
        let pool = self.pool(py)?;
        let device = Arc::new(detached(py, || pool.device_by_id(id))?);
        let mut open = self.lock(py);
        let devices = open.as_mut().map(|open| &mut open.devices);
        // Another thread may have been faster.
        let kept = devices.map(|devices| Arc::clone(devices.entry(id).or_insert(device)));
        drop(open);
        kept.ok_or_else(|| exception(py, closed()))
    }

    fn lock(&self, py: Python<'_>) -> MutexGuard<'_, Option<Open>> {
        self.0
            .lock_py_attached(py)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A device of a pool that may be closed.
#[derive(Clone)]
pub(super) struct Handle {
    device: Weak<ThinDevice>,
    _state: Arc<State>,
}

impl Handle {
    pub fn new(state: &Arc<State>, device: &Arc<ThinDevice>) -> Self {
        Self {
            device: Arc::downgrade(device),
            _state: Arc::clone(state),
        }
    }

    /// The device, unless the pool was closed.
    pub fn get(&self) -> Result<Arc<ThinDevice>> {
        self.device.upgrade().ok_or_else(closed)
    }

    /// As [`Self::get`], raising.
    pub fn device(&self, py: Python<'_>) -> PyResult<Arc<ThinDevice>> {
        self.get().map_err(|error| exception(py, error))
    }
}
