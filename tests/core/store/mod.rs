//! A store as its users see it: transactions, snapshots, views, errors.

mod random;
mod smoke;
