//! What the lock table waits with: the standard library's, or what a model
//! checker drives (`RUSTFLAGS="--cfg shuttle" cargo test --lib block::model`).

#[cfg(all(test, shuttle))]
pub(super) use shuttle::sync::{Condvar, Mutex, MutexGuard};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::{Condvar, Mutex, MutexGuard};

use std::cell::Cell;

/// Numbers of threads count from 1, so that 0 is none.
pub(super) const NO_NUMBER: u64 = 0;

#[cfg(all(test, shuttle))]
shuttle::thread_local! {
    /// The calling thread's number, once it has one.
    pub(super) static OWN_NUMBER: Cell<u64> = Cell::new(NO_NUMBER);
}

#[cfg(not(all(test, shuttle)))]
thread_local! {
    /// The calling thread's number, once it has one.
    pub(super) static OWN_NUMBER: Cell<u64> = const { Cell::new(NO_NUMBER) };
}
