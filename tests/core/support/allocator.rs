//! An allocator that counts, so that a case which asks for memory without bounds
//! is caught, whether it would get it or not.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write as _;

/// The system's, watched.
pub struct Counting;

/// Requests from here on are refused, which ends the process: no test needs one,
/// and a machine may not survive them.
const REFUSED_BYTES: usize = 1 << 30;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static SINGLE: Cell<usize> = const { Cell::new(0) };
}

/// What one thread took for a while.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// The most at one time, in bytes.
    pub peak: usize,
    /// The largest single request, in bytes.
    pub single: usize,
}

/// What was counted before [`start`], to go on with at the [`end`].
pub struct Before {
    live: isize,
    peak: isize,
    single: usize,
}

/// Begins to count what this thread takes.
pub fn start() -> Before {
    Before {
        live: LIVE.replace(0),
        peak: PEAK.replace(0),
        single: SINGLE.replace(0),
    }
}

/// What this thread took since.
pub fn end(before: Before) -> Taken {
    let taken = Taken {
        peak: usize::try_from(PEAK.get()).unwrap_or(0),
        single: SINGLE.get(),
    };
    PEAK.set(before.peak.max(before.live + PEAK.get()));
    LIVE.set(before.live + LIVE.get());
    SINGLE.set(before.single.max(taken.single));
    taken
}

fn count(more: usize, less: usize) {
    // A thread that is being torn down counts no more.
    let _ = LIVE.try_with(|live| {
        let now = live.get() + more.cast_signed() - less.cast_signed();
        live.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
        let _ = SINGLE.try_with(|single| single.set(single.get().max(more)));
    });
}

fn refused(size: usize) -> bool {
    let refused = size >= REFUSED_BYTES;
    if refused {
        let _ = std::io::stderr().write_all(b"an allocation without bounds was refused\n");
    }
    refused
}

// SAFETY: every call is the system allocator's own; a refused one answers null,
// which the contract allows.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        if refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        if refused(layout.size()) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size, layout.size());
        if refused(new_size) {
            return std::ptr::null_mut();
        }
        // SAFETY: as above.
        unsafe { System.realloc(memory, layout, new_size) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
