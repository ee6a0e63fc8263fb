//! Layer 10: Python bindings: converts, detaches, calls the core, converts back.
//!
//! Promises: no format knowledge and no policy; whatever can wait or touch a
//! device runs detached from the interpreter; no lock is waited for while
//! attached.
//! May use: every layer below, pyo3, arrow.

mod arrow;
mod bookmark;
mod buffer;
mod call;
mod check;
mod codec;
mod delta;
mod engine;
mod error;
mod handle;
mod look;
mod mappings;
mod merge;
mod new_metadata;
mod opened_volume;
mod origin;
mod output;
mod pack;
mod packed_metadata;
mod pool;
mod pool_transaction;
mod repair;
mod rmap;
mod shrink;
mod stat;
mod thin_device;
mod trim;
mod volume;
mod writable_volume;

use pyo3::prelude::*;

// Nothing here relies on the interpreter's lock for its own order.
#[pymodule(gil_used = false)]
mod _core {
    #[pymodule_export]
    #[allow(non_upper_case_globals)]
    const __version__: &str = env!("CARGO_PKG_VERSION");

    #[pymodule_export]
    use super::bookmark::{Bookmark, SavedRunIterator};
    #[pymodule_export]
    use super::buffer::{Column, Lock};
    #[pymodule_export]
    use super::check::{auto_repair, check, check_and_clear};
    #[pymodule_export]
    use super::codec::{Blake3, compress, crc32c, decompress, is_zero};
    #[pymodule_export]
    use super::delta::Delta;
    #[pymodule_export]
    use super::engine::{
        _forked, Array, BTree, Bitset, BlockManager, CheckingSpaceMap, CrcValidator, Entries,
        ReadLock, SpaceMap, Store, StoreTransaction, StoreView, TransactionManager,
        TransactionScope, Tree, TreeItems, TreeIterator, Validator, WriteLock,
    };
    #[pymodule_export]
    use super::look::MetadataReader;
    #[pymodule_export]
    use super::mappings::{BlockMapping, Mappings, Run, RunIterator};
    #[pymodule_export]
    use super::merge::Merge;
    #[pymodule_export]
    use super::new_metadata::{MetadataTarget, restore};
    #[pymodule_export]
    use super::pack::{BlockIndex, PackBuilder, PackTable, Packed, Wanted};
    #[pymodule_export]
    use super::packed_metadata::{block_kind, pack_metadata, packed_blocks, unpack_metadata};
    #[pymodule_export]
    use super::pool::{Pool, delta_of_bookmarks};
    #[pymodule_export]
    use super::pool_transaction::PoolTransaction;
    #[pymodule_export]
    use super::repair::Repair;
    #[pymodule_export]
    use super::rmap::ReverseMap;
    #[pymodule_export]
    use super::shrink::Shrink;
    #[pymodule_export]
    use super::thin_device::ThinDevice;
    #[pymodule_export]
    use super::trim::Trim;
    #[pymodule_export]
    use super::volume::Volume;
    #[pymodule_export]
    use super::writable_volume::WritableVolume;
}
