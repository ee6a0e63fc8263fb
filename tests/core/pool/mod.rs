//! Pools that are changed: what comes out is what a model says, and sound; whatever
//! the disk does meanwhile.

mod crash;
mod faults;
mod golden;
mod history;
mod hostile;
mod random;
mod regressions;
mod script;
mod smoke;
pub mod world;
