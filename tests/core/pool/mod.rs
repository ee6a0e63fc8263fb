//! Pools that are changed: what comes out is what a model says, and sound.

mod golden;
mod random;
mod smoke;
pub mod world;
