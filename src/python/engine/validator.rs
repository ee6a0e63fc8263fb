//! Who checks a block after it was read and seals it before it is written.

use std::sync::Arc;

use pyo3::prelude::*;

use super::arguments::{Block, Magic, Offset, Salt};
use crate::array::ARRAY_VALIDATOR;
use crate::block::{BlockData, Checks, CrcValidator as Crc};
use crate::btree::NODE_VALIDATOR;
use crate::disk_space::{BITMAP_VALIDATOR, INDEX_VALIDATOR};
use crate::error::Error;
use crate::python::buffer::{WritableBytes, copy_of_bytes};
use crate::python::call::detached;
use crate::python::error::exception;
use crate::store::STORE_VALIDATOR;
use crate::thin::SUPERBLOCK_VALIDATOR;
use crate::units::{BLOCK_BYTES, BlockNr};

/// What one kind of block has to look like.
///
/// It checks a block when it is read, before anybody sees a byte of it, and seals it
/// (location, then checksum) right before it is written. A block that one kind has
/// accepted cannot be locked as another.
///
/// Attributes:
///     name: The kind, as :class:`DamagedBlockError` names it.
#[pyclass(frozen, subclass, module = "thinmeta._core")]
pub(crate) struct Validator {
    checks: Checks,
}

impl Validator {
    fn of(checks: impl Into<Checks>) -> Self {
        let checks = checks.into();
        Self { checks }
    }

    pub fn checks(&self) -> &Checks {
        &self.checks
    }
}

#[pymethods]
impl Validator {
    /// Nodes of B-trees.
    #[staticmethod]
    fn btree_node() -> Self {
        Self::of(&NODE_VALIDATOR)
    }

    /// Bitmaps of space maps.
    #[staticmethod]
    fn bitmap() -> Self {
        Self::of(&BITMAP_VALIDATOR)
    }

    /// Index blocks of metadata space maps.
    #[staticmethod]
    fn index() -> Self {
        Self::of(&INDEX_VALIDATOR)
    }

    /// Blocks of arrays.
    #[staticmethod]
    fn array_block() -> Self {
        Self::of(&ARRAY_VALIDATOR)
    }

    /// The superblock of a thin pool's metadata.
    #[staticmethod]
    fn thin_superblock() -> Self {
        Self::of(&SUPERBLOCK_VALIDATOR)
    }

    /// The superblock of a :class:`Store`.
    #[staticmethod]
    fn store_superblock() -> Self {
        Self::of(&STORE_VALIDATOR)
    }

    #[getter]
    fn name(&self) -> &str {
        self.checks.validator().name()
    }

    /// Check a block's bytes as a lock would.
    ///
    /// Args:
    ///     location: The block's number.
    ///     block: Its 4096 bytes, in any buffer.
    ///
    /// Raises:
    ///     DamagedBlockError: They are not those of such a block.
    ///     UsageError: They are not 4096 bytes.
    fn check(&self, py: Python<'_>, location: Block, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = block_of(py, &copy_of_bytes(block)?)?;
        let at = BlockNr(location.0);
        detached(py, || Ok(self.checks.validator().check(at, &data)?))
    }

    /// Seal a block's bytes as a write would: location, then checksum.
    ///
    /// Args:
    ///     location: The block's number.
    ///     block: Its 4096 bytes, in a writable buffer.
    ///
    /// Raises:
    ///     UsageError: They are not 4096 bytes.
    fn prepare(&self, py: Python<'_>, location: Block, block: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut bytes = WritableBytes::new(block)?;
        let mut data = block_of(py, bytes.bytes())?;
        self.checks.validator().seal(BlockNr(location.0), &mut data);
        bytes.bytes().copy_from_slice(data.bytes());
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<thinmeta.engine.Validator {:?}>", self.name())
    }

    fn __eq__(&self, other: &Self) -> bool {
        self.checks.same_as(&other.checks)
    }

    fn __hash__(&self) -> u64 {
        let name = self.name().bytes();
        name.fold(self.checks.validator().identity(), |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(u64::from(byte))
        })
    }
}

fn block_of(py: Python<'_>, bytes: &[u8]) -> PyResult<Box<BlockData>> {
    let mut block = Box::new(BlockData::zeroed());
    if bytes.len() != BLOCK_BYTES {
        let text = format!("a block has {BLOCK_BYTES} bytes, not {}", bytes.len());
        return Err(exception(py, Error::Usage(text)));
    }
    block.bytes_mut().copy_from_slice(bytes);
    Ok(block)
}

/// A kind of block of your own: the location at byte 8 and a CRC-32C at byte 0.
///
/// The checksum covers bytes 4 to 4095 and is combined with the salt, so that a block
/// of one kind is never taken for another.
///
/// Args:
///     name: What errors call it.
///     salt: 32 bits of your choice, another one for each kind.
///     magic: 64 bits that the block holds, little-endian; put in when it is
///         written and checked when it is read. ``None``: no such number.
///     magic_offset: Where they are, in bytes from the block's start; 16 or more.
///
/// Raises:
///     UsageError: A number that does not fit, or a place where it does not fit.
#[pyclass(frozen, extends = Validator, module = "thinmeta._core")]
pub(crate) struct CrcValidator;

#[pymethods]
impl CrcValidator {
    #[new]
    #[pyo3(
        signature = (name, *, salt, magic=None, magic_offset=Offset(32)),
        text_signature = "(name, *, salt, magic=None, magic_offset=32)"
    )]
    fn new(
        py: Python<'_>,
        name: String,
        salt: Salt,
        magic: Option<Magic>,
        magic_offset: Offset,
    ) -> PyResult<PyClassInitializer<Self>> {
        let magic = magic.map(|magic| (magic.0, magic_offset.0));
        let made = Crc::new(name, salt.0, magic).map_err(|error| exception(py, error))?;
        let checks: Arc<dyn crate::block::Validator> = Arc::new(made);
        Ok(PyClassInitializer::from(Validator::of(checks)).add_subclass(Self))
    }
}
