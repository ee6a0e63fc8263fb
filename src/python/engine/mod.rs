//! The engine in Python: a store, its transactions and views, and their trees.
//!
//! Look-ups are tried attached, on cached nodes and without waiting; everything
//! else detaches first. Locks of the bindings are taken in one order: a store's
//! own, then a transaction's gate, then the core's. None is held while Python
//! code runs: what handles signals during a call holds no gate.

mod arguments;
mod arrow;
mod block;
mod data_map;
mod entries;
mod fork;
mod input;
mod iterate;
mod kept;
mod low_array;
mod low_bitset;
mod low_items;
mod low_tree;
mod managed;
mod opening;
mod own_validator;
mod scope;
mod session;
mod source;
mod space;
mod state;
mod store;
mod transaction;
mod tree;
mod tree_values;
mod turn;
mod validator;

pub(super) use block::{BlockManager, ReadLock, WriteLock};
pub(super) use entries::Entries;
pub(super) use fork::{_forked, Birth, drop_detached};
pub(super) use input::arrow_words;
pub(super) use iterate::TreeIterator;
pub(super) use low_array::Array;
pub(super) use low_bitset::Bitset;
pub(super) use low_items::TreeItems;
pub(super) use low_tree::Tree;
pub(super) use scope::TransactionScope;
pub(super) use session::Session;
pub(super) use space::{CheckingSpaceMap, SpaceMap};
pub(super) use store::{Store, StoreTransaction, StoreView};
pub(super) use transaction::TransactionManager;
pub(super) use tree::BTree;
pub(super) use validator::{CrcValidator, Validator};
