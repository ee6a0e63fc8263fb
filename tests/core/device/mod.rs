//! Devices by themselves: files that are written, and devices that fail.

mod files;
