//! What failing reads, writes, flushes and allocations leave: the committed
//! state, whole, and a store that goes on (or, after a failed write, refuses to).
//! And that what is called cheap is.

mod allocations;
mod cases;
mod cheap;
mod making;
mod requests;
mod shadows;
