//! Whole-store tests: the format, the layers, and what bad bytes do to them.

mod array;
mod batch;
mod block;
mod btree;
mod crash;
mod damage;
mod device;
mod faults;
mod format;
mod fuzzed;
mod hostile;
mod layers;
mod mend;
mod model;
mod pool;
mod space;
mod store;
mod support;

/// All tests run on it, so that hunger for memory is seen.
#[global_allocator]
static ALLOCATOR: support::allocator::Counting = support::allocator::Counting;
