//! B-trees that are changed, against what a kernel did.

mod json;
mod kernel_shapes;
