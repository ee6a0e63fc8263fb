//! What the tests share: images and how to spoil them, chance, devices that
//! watch their readers, two that record in one order, an allocator
//! that counts.

pub mod allocator;
pub mod chance;
pub mod devices;
pub mod fixtures;
pub mod fresh;
pub mod image;
pub mod paired;
