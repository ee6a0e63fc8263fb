//! Packs: blocks of content, stored once.

use std::collections::HashSet;
use std::fs::File;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyIndexError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffer::{Column, ReadableBytes, copy_of_bytes, duplicate};
use super::call::detached;
use super::error::exception;
use crate::error::Error;
use crate::pack::{self, ContentHash, HASH_BYTES, Hash};

fn hash_of(py: Python<'_>, bytes: &[u8]) -> PyResult<Hash> {
    bytes.try_into().map_err(|_| {
        let text = format!("a hash has {HASH_BYTES} bytes, not {}", bytes.len());
        exception(py, Error::usage(text))
    })
}

fn content_hash(py: Python<'_>, key: Option<Vec<u8>>) -> PyResult<ContentHash> {
    let keyed = |key: Vec<u8>| hash_of(py, &key).map(ContentHash::keyed);
    key.map_or(Ok(ContentHash::default()), keyed)
}

/// Which pieces are stored, and where.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct BlockIndex(pack::BlockIndex);

#[pymethods]
impl BlockIndex {
    #[new]
    #[pyo3(signature = (*, key=None))]
    fn new(py: Python<'_>, key: Option<Vec<u8>>) -> PyResult<Self> {
        Ok(Self(pack::BlockIndex::of(content_hash(py, key)?)))
    }

    #[pyo3(signature = (path, *, without=Vec::new()))]
    fn add_file(&self, py: Python<'_>, path: PathBuf, without: Vec<Vec<u8>>) -> PyResult<()> {
        let names = without.iter().map(|name| hash_of(py, name));
        let without: HashSet<Hash> = names.collect::<PyResult<_>>()?;
        detached(py, || self.0.add_file(&path, &without))
    }

    fn record<'py>(&self, py: Python<'py>, table: &PackTable) -> Bound<'py, PyBytes> {
        let name = py.detach(|| self.0.record(&table.0));
        PyBytes::new(py, &name)
    }

    #[getter]
    fn fresh_pieces(&self, py: Python<'_>) -> usize {
        py.detach(|| self.0.fresh_pieces())
    }

    fn export(&self, py: Python<'_>) -> Option<Column> {
        py.detach(|| self.0.export()).map(Column::of)
    }

    fn settle(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        detached(py, || self.0.settle(&path))
    }

    #[pyo3(signature = (offsets, lengths, hashes, *, most_bytes=16 << 20))]
    fn locate(
        &self,
        py: Python<'_>,
        offsets: Vec<u64>,
        lengths: Vec<u32>,
        hashes: &Bound<'_, PyAny>,
        most_bytes: u64,
    ) -> PyResult<Wanted> {
        let hashes = copy_of_bytes(hashes)?;
        let found = || pack::Wanted::locate(&self.0, &offsets, &lengths, &hashes, most_bytes);
        detached(py, found).map(Wanted)
    }

    /// Notes that pieces are needed, and says how many of them no file has.
    fn mark(&self, py: Python<'_>, hashes: &Bound<'_, PyAny>) -> PyResult<usize> {
        let hashes = copy_of_bytes(hashes)?;
        detached(py, || {
            let mut missing = 0;
            for hash in hashes.as_chunks::<HASH_BYTES>().0 {
                missing += usize::from(!self.0.mark(hash)?);
            }
            Ok(missing)
        })
    }

    #[allow(clippy::type_complexity)] // rows of Python's
    fn usage<'py>(&self, py: Python<'py>) -> PyResult<Vec<(Bound<'py, PyBytes>, u64, u64)>> {
        let usage = detached(py, || self.0.usage())?;
        let named = |(name, all, needed): (Hash, u64, u64)| (PyBytes::new(py, &name), all, needed);
        Ok(usage.into_iter().map(named).collect())
    }
}

/// What is in a pack.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct PackTable(pack::PackTable);

#[pymethods]
impl PackTable {
    /// The table from the last bytes of a pack, or how many of those are needed.
    #[staticmethod]
    fn read(py: Python<'_>, tail: &Bound<'_, PyAny>, pack_bytes: u64) -> PyResult<PyTableOr> {
        let tail = ReadableBytes::new(tail)?;
        let bytes = tail.bytes();
        let read = detached(py, || pack::PackTable::read(bytes, pack_bytes))?;
        Ok(match read {
            Ok(table) => PyTableOr::Table(Self(table)),
            Err(needed) => PyTableOr::Needed(needed),
        })
    }

    #[getter]
    fn name<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.name())
    }

    fn __len__(&self) -> usize {
        self.0.entries.len()
    }

    /// Hashes of the pieces that are not what they should be in a whole pack.
    #[pyo3(signature = (pack, *, key=None))]
    fn damaged<'py>(
        &self,
        py: Python<'py>,
        pack: &Bound<'py, PyAny>,
        key: Option<Vec<u8>>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let content = content_hash(py, key)?;
        let pack = ReadableBytes::new(pack)?;
        let bytes = pack.bytes();
        let damaged = detached(py, || Ok(self.0.damaged(bytes, &content)))?;
        Ok(damaged.iter().map(|hash| PyBytes::new(py, hash)).collect())
    }
}

#[derive(IntoPyObject)]
pub(super) enum PyTableOr {
    Table(PackTable),
    Needed(usize),
}

/// Makes packs of pieces that are not stored yet.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct PackBuilder(Mutex<pack::PackBuilder>);

impl PackBuilder {
    fn lock(&self) -> MutexGuard<'_, pack::PackBuilder> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl PackBuilder {
    #[new]
    #[pyo3(signature = (*, level=1))]
    fn new(py: Python<'_>, level: i32) -> PyResult<Self> {
        let builder = pack::PackBuilder::new(level).map_err(|error| exception(py, error))?;
        Ok(Self(Mutex::new(builder)))
    }

    /// Bytes of the pack, and pieces that came, since it was begun.
    fn add(
        &self,
        py: Python<'_>,
        index: &BlockIndex,
        data: &Bound<'_, PyAny>,
        offset_bytes: u64,
        piece_bytes: usize,
    ) -> PyResult<(usize, usize)> {
        let data = ReadableBytes::new(data)?;
        let bytes = data.bytes();
        detached(py, || {
            let mut builder = self.lock();
            builder.add(bytes, offset_bytes, piece_bytes, &index.0)?;
            Ok((builder.len_bytes(), builder.pieces()))
        })
    }

    /// Takes over the marked pieces of a whole pack; how long the new one is then.
    fn take_over(
        &self,
        py: Python<'_>,
        index: &BlockIndex,
        table: &PackTable,
        pack: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let pack = ReadableBytes::new(pack)?;
        let bytes = pack.bytes();
        detached(py, || {
            let mut builder = self.lock();
            builder.take_over_marked(&table.0, bytes, &index.0)?;
            Ok(builder.len_bytes())
        })
    }

    fn finish(&self, py: Python<'_>) -> Packed {
        Packed(py.detach(|| Mutex::new(Some(self.lock().finish()))))
    }
}

/// A pack, and what the pieces were that came for it; each part can be taken once.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Packed(Mutex<Option<pack::Packed>>);

#[pymethods]
impl Packed {
    /// Pack, its table, columns of offsets, lengths and hashes, bytes stored anew.
    #[allow(clippy::type_complexity)] // a row of Python's
    fn take(&self, py: Python<'_>) -> PyResult<(Column, PackTable, Column, Column, Column, u64)> {
        let packed = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let packed = packed.ok_or_else(|| exception(py, Error::usage("taken already")))?;
        Ok((
            Column::of(packed.pack),
            PackTable(packed.table),
            Column::of(packed.offsets),
            Column::of(packed.lengths),
            Column::of(packed.hashes.into_flattened()),
            packed.stored_anew,
        ))
    }
}

/// Pieces that are wanted, by the parts of packs that hold them.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Wanted(pack::Wanted);

impl Wanted {
    fn group(&self, index: usize) -> PyResult<&pack::Group> {
        let group = self.0.groups.get(index);
        group.ok_or_else(|| PyIndexError::new_err("no such group"))
    }
}

#[pymethods]
impl Wanted {
    /// Of each group the pack's name, first byte, one past the last, and pieces.
    #[allow(clippy::type_complexity)] // rows of Python's
    fn groups<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, u64, u64, usize)> {
        let groups = self.0.groups.iter();
        let row = |group: &pack::Group| {
            let name = PyBytes::new(py, &group.pack);
            (name, group.begin, group.end, group.len())
        };
        groups.map(row).collect()
    }

    #[getter]
    fn missing(&self) -> Vec<(u64, u32)> {
        self.0.missing.clone()
    }

    fn write(
        &self,
        py: Python<'_>,
        index: usize,
        part: &Bound<'_, PyAny>,
        out_fd: RawFd,
    ) -> PyResult<u64> {
        let group = self.group(index)?;
        let out = File::from(duplicate(py, out_fd)?);
        let part = ReadableBytes::new(part)?;
        let bytes = part.bytes();
        detached(py, || group.write(bytes, &out))
    }

    /// Place and bytes of each piece.
    fn unpack<'py>(
        &self,
        py: Python<'py>,
        index: usize,
        part: &Bound<'py, PyAny>,
    ) -> PyResult<Vec<(u64, Bound<'py, PyBytes>)>> {
        let group = self.group(index)?;
        let part = ReadableBytes::new(part)?;
        let bytes = part.bytes();
        let mut pieces = Vec::new();
        detached(py, || {
            let take = |offset: u64, piece: &[u8]| {
                pieces.push((offset, piece.to_vec()));
                Ok(())
            };
            group.each(bytes, take, |_, _, error| Err(error))
        })?;
        let object = |(offset, piece): (u64, Vec<u8>)| (offset, PyBytes::new(py, &piece));
        Ok(pieces.into_iter().map(object).collect())
    }

    /// Place, length and what is wrong of each piece that is damaged.
    fn damaged(
        &self,
        py: Python<'_>,
        index: usize,
        part: &Bound<'_, PyAny>,
    ) -> PyResult<Vec<(u64, u32, String)>> {
        let group = self.group(index)?;
        let part = ReadableBytes::new(part)?;
        let bytes = part.bytes();
        let mut damaged = Vec::new();
        detached(py, || {
            group.each(
                bytes,
                |_, _| Ok(()),
                |offset, length, error| {
                    damaged.push((offset, length, error.to_string()));
                    Ok(())
                },
            )
        })?;
        Ok(damaged)
    }
}
