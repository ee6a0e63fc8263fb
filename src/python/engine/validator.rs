//! Who checks a block after it was read and seals it before it is written.

use std::sync::Arc;

use pyo3::exceptions::PyNotImplementedError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple, PyType};

use super::arguments::{Block, Magic, Offset, Salt};
use super::own_validator::{Asked, Named};
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
/// A subclass is a kind of your own. It defines ``check(self, location, data)``, which
/// raises :class:`DamagedBlockError`, or anything, unless the read-only memoryview
/// ``data`` shows such a block, and ``prepare(self, location, data)``, which makes what
/// the writable memoryview shows one that ``check`` accepts. What they raise comes out
/// of the call that asked them. They run on the thread of that call, must not use the
/// engine, and the view is released afterwards. Each object is a kind of its own.
///
/// Attributes:
///     name: The kind, as :class:`DamagedBlockError` names it. A subclass sets it in
///         its body, or is called as the class is.
#[pyclass(frozen, subclass, module = "thinmeta._core")]
pub(crate) struct Validator {
    kind: Kind,
}

enum Kind {
    /// Written in Rust.
    Core(Checks),
    /// A subclass's object. It is not kept here: it would keep itself.
    Own(Named),
}

impl Validator {
    fn of(checks: impl Into<Checks>) -> Self {
        let kind = Kind::Core(checks.into());
        Self { kind }
    }

    /// What locks ask for.
    pub fn checks(this: &Bound<'_, Self>) -> Checks {
        match &this.get().kind {
            Kind::Core(checks) => checks.clone(),
            Kind::Own(named) => {
                let asked: Arc<dyn crate::block::Validator> =
                    Arc::new(Asked::new(named, this.as_any().clone().unbind()));
                asked.into()
            }
        }
    }

    /// For what a subclass defines itself.
    fn core(&self) -> PyResult<&Checks> {
        match &self.kind {
            Kind::Core(checks) => Ok(checks),
            Kind::Own(_) => Err(PyNotImplementedError::new_err(
                "a validator of your own has no other check and prepare than its own",
            )),
        }
    }
}

#[pymethods]
impl Validator {
    #[new]
    #[classmethod]
    #[pyo3(signature = (*args, **kwargs))]
    fn new(
        cls: &Bound<'_, PyType>,
        args: &Bound<'_, PyTuple>,
        kwargs: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Self> {
        // They are for the subclass's `__init__`.
        let _ = (args, kwargs);
        let kind = Kind::Own(Named::of(cls)?);
        Ok(Self { kind })
    }

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
        match &self.kind {
            Kind::Core(checks) => checks.validator().name(),
            Kind::Own(named) => &named.name,
        }
    }

    /// Check a block's bytes as a lock would.
    ///
    /// Args:
    ///     location: The block's number.
    ///     data: Its 4096 bytes, in any buffer.
    ///
    /// Raises:
    ///     DamagedBlockError: They are not those of such a block.
    ///     UsageError: They are not 4096 bytes.
    fn check(&self, py: Python<'_>, location: Block, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let data = block_of(py, &copy_of_bytes(data)?)?;
        let at = BlockNr(location.0);
        let checks = self.core()?;
        detached(py, || Ok(checks.validator().check(at, &data)?))
    }

    /// Seal a block's bytes as a write would: location, then checksum.
    ///
    /// Args:
    ///     location: The block's number.
    ///     data: Its 4096 bytes, in a writable buffer.
    ///
    /// Raises:
    ///     UsageError: They are not 4096 bytes.
    fn prepare(&self, py: Python<'_>, location: Block, data: &Bound<'_, PyAny>) -> PyResult<()> {
        let mut bytes = WritableBytes::new(data)?;
        let mut block = block_of(py, bytes.bytes())?;
        let at = BlockNr(location.0);
        self.core()?.validator().seal(at, &mut block);
        bytes.bytes().copy_from_slice(block.bytes());
        Ok(())
    }

    fn __repr__(&self) -> String {
        format!("<thinmeta.engine.Validator {:?}>", self.name())
    }

    fn __eq__(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Core(own), Kind::Core(other)) => own.same_as(other),
            (Kind::Own(own), Kind::Own(other)) => own == other,
            _ => false,
        }
    }

    fn __hash__(&self) -> u64 {
        let identity = match &self.kind {
            Kind::Core(checks) => checks.validator().identity(),
            Kind::Own(named) => named.serial,
        };
        self.name().bytes().fold(identity, |hash, byte| {
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
