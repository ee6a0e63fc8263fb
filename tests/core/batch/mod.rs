//! Batches: many keys in one call.

mod hostile;
mod reading;
mod timing;
mod tree;
