//! A change of a pool.

use std::ops::Range;
use std::sync::{Arc, Weak};

use pyo3::exceptions::{PyBufferError, PyTypeError};
use pyo3::prelude::*;

use super::buffer::Numbers;
use super::call::{detached, watched};
use super::engine::{Birth, arrow_words, drop_detached};
use super::error::exception;
use super::handle::State;
use super::mappings::BlockMapping;
use crate::error::{Error, Result};
use crate::thin;

/// The open transaction of a pool, or one that has ended. The pool's state has it.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct PoolTransaction {
    transaction: Weak<thin::PoolTransaction>,
    state: Arc<State>,
    born: Birth,
}

/// Id, mapped blocks, transaction id, creation time, snapshotted time.
type DeviceRow = (u64, u64, u64, u32, u32);

impl PoolTransaction {
    pub fn begin(py: Python<'_>, state: &Arc<State>) -> PyResult<Self> {
        Ok(Self {
            transaction: state.begin(py)?,
            state: Arc::clone(state),
            born: Birth::now(),
        })
    }

    fn core(&self) -> Result<Arc<thin::PoolTransaction>> {
        self.born.check()?;
        let ended = || Error::usage("the transaction has ended");
        self.transaction.upgrade().ok_or_else(ended)
    }

    /// Calls the core, detached.
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&thin::PoolTransaction) -> Result<T> + Send,
    ) -> PyResult<T> {
        detached(py, || work(&*self.core()?))
    }

    /// Calls the core for the last time.
    fn end(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&thin::PoolTransaction) -> Result<()> + Send,
    ) -> PyResult<()> {
        detached(py, || {
            let answer = work(&*self.core()?);
            self.state.let_go(&self.transaction);
            answer
        })
    }
}

/// A column of blocks, of whatever kind.
fn numbers(object: &Bound<'_, PyAny>, what: &str) -> PyResult<Numbers> {
    if let Some(words) = arrow_words(object, what)? {
        return Ok(Numbers::Own(words));
    }
    let found = match Numbers::new(object) {
        // What has no buffer at all is told the same.
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => None,
        Err(error) if error.is_instance_of::<PyBufferError>(object.py()) => None,
        answer => answer?,
    };
    found.ok_or_else(|| {
        let kind = object.get_type().name();
        let kind = kind.map_or_else(|_| "something else".to_owned(), |name| name.to_string());
        PyTypeError::new_err(format!(
            "{what} are 64-bit integers in a buffer or in Arrow, as array.array(\"Q\") or \
             numpy.uint64 has them; this is {kind}"
        ))
    })
}

#[pymethods]
impl PoolTransaction {
    #[getter]
    fn ended(&self, py: Python<'_>) -> bool {
        let ended = |own: Arc<thin::PoolTransaction>| own.has_ended();
        !self.born.is_here() || py.detach(|| self.transaction.upgrade().is_none_or(ended))
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, thin::PoolTransaction::commit)
    }

    fn abort(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, thin::PoolTransaction::abort)
    }

    fn create_thin(&self, py: Python<'_>, device_id: u64) -> PyResult<()> {
        self.call(py, |txn| txn.create_thin(device_id))
    }

    fn create_snapshot(&self, py: Python<'_>, device_id: u64, origin_id: u64) -> PyResult<()> {
        self.call(py, |txn| txn.create_snapshot(device_id, origin_id))
    }

    fn delete(&self, py: Python<'_>, device_id: u64) -> PyResult<()> {
        self.call(py, |txn| txn.delete(device_id))
    }

    fn insert(
        &self,
        py: Python<'_>,
        device_id: u64,
        virtual_block: u64,
        data_block: u64,
    ) -> PyResult<bool> {
        self.call(py, |txn| txn.insert(device_id, virtual_block, data_block))
    }

    fn insert_many(
        &self,
        py: Python<'_>,
        device_id: u64,
        virtual_blocks: &Bound<'_, PyAny>,
        data_blocks: &Bound<'_, PyAny>,
    ) -> PyResult<u64> {
        let keys = numbers(virtual_blocks, "virtual blocks")?;
        let data = numbers(data_blocks, "data blocks")?;
        let (len, others) = (keys.len(), data.len());
        if len != others {
            let text = format!("{len} virtual blocks and {others} data blocks");
            return Err(exception(py, Error::usage(text)));
        }
        // Between two parts signals are handled.
        watched(py, None, Some(1), |task| {
            let rows = &mut |part: Range<usize>, k: &mut Vec<u64>, d: &mut Vec<u64>| {
                task.step(0, 0)?;
                keys.copy_to(part.clone(), k);
                data.copy_to(part, d);
                Ok(())
            };
            self.core()?.insert_many(device_id, len, rows)
        })
    }

    fn allocate_data(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, thin::PoolTransaction::allocate_data)
    }

    fn remove(&self, py: Python<'_>, device_id: u64, virtual_block: u64) -> PyResult<bool> {
        self.call(py, |txn| txn.remove(device_id, virtual_block))
    }

    fn remove_range(&self, py: Python<'_>, device_id: u64, begin: u64, end: u64) -> PyResult<u64> {
        self.call(py, |txn| txn.remove_range(device_id, begin..end))
    }

    fn set_transaction_id(&self, py: Python<'_>, expected: u64, new: u64) -> PyResult<()> {
        self.call(py, |txn| txn.set_transaction_id(expected, new))
    }

    fn reserve_metadata_snapshot(&self, py: Python<'_>) -> PyResult<u64> {
        self.call(py, |txn| Ok(txn.reserve_metadata_snapshot()?.0))
    }

    fn release_metadata_snapshot(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, thin::PoolTransaction::release_metadata_snapshot)
    }

    fn grow_data(&self, py: Python<'_>, blocks: u64) -> PyResult<()> {
        self.call(py, |txn| txn.grow_data(blocks))
    }

    fn grow_metadata(&self, py: Python<'_>, blocks: u64) -> PyResult<()> {
        self.call(py, |txn| txn.grow_metadata(blocks))
    }

    fn inc_data(&self, py: Python<'_>, begin: u64, end: u64) -> PyResult<()> {
        self.call(py, |txn| txn.inc_data(begin..end))
    }

    fn dec_data(&self, py: Python<'_>, begin: u64, end: u64) -> PyResult<()> {
        self.call(py, |txn| txn.dec_data(begin..end))
    }

    fn data_count(&self, py: Python<'_>, block: u64) -> PyResult<u32> {
        self.call(py, |txn| txn.data_count(block))
    }

    fn block_is_shared(&self, py: Python<'_>, block: u64) -> PyResult<bool> {
        self.call(py, |txn| txn.block_is_shared(block))
    }

    fn device_ids(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        self.call(py, thin::PoolTransaction::device_ids)
    }

    fn device(&self, py: Python<'_>, device_id: u64) -> PyResult<DeviceRow> {
        let info = self.call(py, |txn| txn.device(device_id))?;
        Ok((
            info.id,
            info.mapped_blocks,
            info.transaction_id,
            info.creation_time,
            info.snapshotted_time,
        ))
    }

    fn find(
        &self,
        py: Python<'_>,
        device_id: u64,
        virtual_block: u64,
    ) -> PyResult<Option<BlockMapping>> {
        let found = self.call(py, |txn| txn.find(device_id, virtual_block))?;
        Ok(found.map(BlockMapping::from))
    }

    fn is_changed(&self, py: Python<'_>, device_id: u64) -> PyResult<bool> {
        self.call(py, |txn| txn.is_changed(device_id))
    }

    fn changed(&self, py: Python<'_>) -> PyResult<bool> {
        self.call(py, thin::PoolTransaction::changed)
    }

    /// The transaction id, the clock, and the block of the metadata snapshot.
    fn numbers(&self, py: Python<'_>) -> PyResult<(u64, u32, u64)> {
        self.call(py, thin::PoolTransaction::numbers)
    }

    /// Data blocks, those in use, and metadata blocks.
    fn sizes(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        self.call(py, thin::PoolTransaction::sizes)
    }

    /// Free blocks of data and of metadata, as the kernel counts them.
    fn free_blocks(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        self.call(py, thin::PoolTransaction::free_blocks)
    }
}

/// What lets go of a transaction.
struct Parting(Arc<State>, Weak<thin::PoolTransaction>);

impl Drop for Parting {
    fn drop(&mut self) {
        self.0.let_go(&self.1);
    }
}

impl Drop for PoolTransaction {
    fn drop(&mut self) {
        if self.transaction.strong_count() > 0 {
            let parting = Parting(Arc::clone(&self.state), self.transaction.clone());
            drop_detached(self.born, parting);
        }
    }
}
