//! Arrays and bitsets: byte for byte, against models, against what a kernel wrote.

mod bits;
mod cursors;
mod hostile;
mod kernel;
mod layout;
mod model;
mod refusals;
mod timing;
mod world;
