//! An open pool.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::bookmark::Bookmark;
use super::call::{detached, watched};
use super::delta::Delta;
use super::error::exception;
use super::handle::State;
use super::output::Out;
use super::pool_transaction::PoolTransaction;
use super::rmap::ReverseMap;
use super::stat::{Numbers, numbers};
use crate::block::DEFAULT_CACHE_BYTES;
use crate::disk_space::SpaceMapRoot;
use crate::error::Error;
use crate::task::Task;
use crate::thin::{
    self, CreateOptions, OpenOptions, PoolState, PoolWriter, Snapshot, Superblock, WriteOptions,
};
use crate::tools::deleted::freed_if_deleted;
use crate::tools::delta::{Named, Sided, delta, delta_against, write_delta};
use crate::tools::dump::{DumpFormat, DumpOptions, dump};
use crate::tools::list::{exclusive_blocks, last_mapped, same_devices};
use crate::tools::rmap::{RmapOptions, rmap};
use crate::units::BlockNr;

/// An open pool, or one that was closed.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Pool {
    path: OsString,
    state: Arc<State>,
}

/// Id, mapped blocks, transaction id, creation time, snapshotted time.
type DeviceRow = (u64, u64, u64, u32, u32);

/// Which roots to read, as Python says it.
#[derive(FromPyObject)]
pub(super) enum MetadataSnapshot {
    Held(String),
    At(u64),
}

impl MetadataSnapshot {
    pub fn convert(py: Python<'_>, wanted: Option<Self>) -> PyResult<Snapshot> {
        match wanted {
            None => Ok(Snapshot::None),
            Some(Self::Held(word)) if word == "held" => Ok(Snapshot::Held),
            Some(Self::Held(word)) => {
                let text = format!("metadata_snapshot is {word:?}, not \"held\" or a block");
                Err(exception(py, Error::usage(text)))
            }
            Some(Self::At(block)) => Ok(Snapshot::At(BlockNr(block))),
        }
    }
}

/// One side of a comparison.
#[derive(FromPyObject)]
pub(super) enum DeltaSide {
    Device(u64),
    Saved(Py<Bookmark>),
}

impl DeltaSide {
    /// The volume that an id means.
    pub fn device(&self, pool: &Arc<thin::Pool>) -> crate::Result<Option<thin::ThinDevice>> {
        match self {
            Self::Device(id) => pool.device_by_id(*id).map(Some),
            Self::Saved(_) => Ok(None),
        }
    }

    /// As the core takes it; `device` is what [`Self::device`] has found.
    pub fn sided<'a>(&'a self, device: Option<&'a thin::ThinDevice>) -> crate::Result<Sided<'a>> {
        match (self, device) {
            (Self::Saved(saved), _) => Ok(Sided::Saved(saved.get().core())),
            (Self::Device(_), Some(device)) => Ok(Sided::Device(device)),
            (Self::Device(id), None) => Err(Error::NoSuchDevice(*id)),
        }
    }
}

/// Compares two bookmarks, which needs no pool.
#[pyfunction]
#[pyo3(signature = (left, right, *, same=false, progress=None))]
pub(super) fn delta_of_bookmarks(
    py: Python<'_>,
    left: Py<Bookmark>,
    right: Py<Bookmark>,
    same: bool,
    progress: Option<Py<PyAny>>,
) -> PyResult<Delta> {
    let (left, right) = (left.get().core(), right.get().core());
    let work =
        |task: &Task<'_>| delta_against(&Sided::Saved(left), &Sided::Saved(right), same, task);
    watched(py, progress, None, work).map(Delta::new)
}

impl Pool {
    /// One that was opened for reading.
    pub fn over(path: OsString, pool: thin::Pool) -> Self {
        let state = State::new(pool);
        Self { path, state }
    }

    /// What its handles keep.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }
}

#[pymethods]
impl Pool {
    /// Opened to be changed.
    #[staticmethod]
    #[pyo3(signature = (path, *, data=None, cache_bytes=DEFAULT_CACHE_BYTES))]
    fn open_writable(
        py: Python<'_>,
        path: PathBuf,
        data: Option<PathBuf>,
        cache_bytes: u64,
    ) -> PyResult<Self> {
        let options = WriteOptions {
            cache_bytes,
            data,
            checked: false,
        };
        let state = detached(py, || State::of_writer(PoolWriter::open(&path, &options)?))?;
        Ok(Self {
            path: path.into_os_string(),
            state,
        })
    }

    #[staticmethod]
    #[pyo3(signature = (
        path, *, data_block_size_sectors, data_blocks, metadata_blocks=None, overwrite=false,
        data=None, cache_bytes=DEFAULT_CACHE_BYTES
    ))]
    #[allow(clippy::too_many_arguments)] // they are Python's
    fn create(
        py: Python<'_>,
        path: PathBuf,
        data_block_size_sectors: u32,
        data_blocks: u64,
        metadata_blocks: Option<u64>,
        overwrite: bool,
        data: Option<PathBuf>,
        cache_bytes: u64,
    ) -> PyResult<Self> {
        let options = CreateOptions {
            data_block_size_sectors,
            data_blocks,
            metadata_blocks,
            overwrite,
            open: WriteOptions {
                cache_bytes,
                data,
                checked: false,
            },
        };
        let state = detached(py, || {
            State::of_writer(PoolWriter::create(&path, &options)?)
        })?;
        Ok(Self {
            path: path.into_os_string(),
            state,
        })
    }

    #[getter]
    fn writable(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.state.writer(py)?.is_some())
    }

    /// What the pool allows, in a word.
    fn condition(&self, py: Python<'_>) -> PyResult<&'static str> {
        let Some(writer) = self.state.writer(py)? else {
            return Ok("read_only");
        };
        Ok(match py.detach(|| writer.state()) {
            PoolState::Write => "write",
            PoolState::OutOfDataSpace => "out_of_data_space",
            PoolState::ReadOnly => "read_only",
            PoolState::Failed => "failed",
        })
    }

    /// Free blocks of data and of metadata, as the kernel counts them.
    fn free_blocks(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let pool = self.state.pool(py)?;
        Ok(pool.free_blocks())
    }

    fn transaction(&self, py: Python<'_>) -> PyResult<PoolTransaction> {
        PoolTransaction::begin(py, &self.state)
    }

    #[new]
    #[pyo3(signature = (path, *, metadata_snapshot=None, data=None, cache_bytes=DEFAULT_CACHE_BYTES))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        metadata_snapshot: Option<MetadataSnapshot>,
        data: Option<PathBuf>,
        cache_bytes: u64,
    ) -> PyResult<Self> {
        let options = OpenOptions {
            snapshot: MetadataSnapshot::convert(py, metadata_snapshot)?,
            cache_bytes,
            data,
        };
        let pool = detached(py, || thin::Pool::open(&path, &options))?;
        Ok(Self {
            path: path.into_os_string(),
            state: State::new(pool),
        })
    }

    #[getter]
    fn path(&self) -> &OsString {
        &self.path
    }

    #[getter]
    fn closed(&self, py: Python<'_>) -> bool {
        self.state.is_closed(py)
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.state.close(py)
    }

    fn superblock<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        superblock_fields(py, self.state.pool(py)?.superblock())
    }

    /// That of block 0, also beside a metadata snapshot.
    fn live_superblock<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        superblock_fields(py, self.state.pool(py)?.live_superblock())
    }

    /// Whichever superblock is read, the live one knows.
    fn metadata_snapshot_held(&self, py: Python<'_>) -> PyResult<bool> {
        let pool = self.state.pool(py)?;
        Ok(pool.live_superblock().held_root.get() != 0)
    }

    fn metadata_space(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let pool = self.state.pool(py)?;
        let root = &pool.live_superblock().metadata_space_map_root.root;
        Ok((root.nr_blocks.get(), root.nr_allocated.get()))
    }

    fn data_space(&self, py: Python<'_>) -> PyResult<(u64, u64)> {
        let pool = self.state.pool(py)?;
        let root = &pool.live_superblock().data_space_map_root.root;
        Ok((root.nr_blocks.get(), root.nr_allocated.get()))
    }

    fn device_ids(&self, py: Python<'_>) -> PyResult<Vec<u64>> {
        let pool = self.state.pool(py)?;
        let devices = detached(py, || pool.devices())?;
        Ok(devices.iter().map(|device| device.id).collect())
    }

    fn device_rows(&self, py: Python<'_>) -> PyResult<Vec<DeviceRow>> {
        let pool = self.state.pool(py)?;
        let devices = detached(py, || pool.devices())?;
        let rows = devices.iter().map(|device| {
            (
                device.id,
                device.mapped_blocks,
                device.transaction_id,
                device.creation_time,
                device.snapshotted_time,
            )
        });
        Ok(rows.collect())
    }

    #[pyo3(signature = (*, threads=None, progress=None))]
    fn exclusive_blocks<'py>(
        &self,
        py: Python<'py>,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let pool = self.state.pool(py)?;
        let devices = watched(py, progress, threads, |task| exclusive_blocks(&pool, task))?;
        let pairs = devices
            .iter()
            .map(|each| (each.id, (each.exclusive_blocks, each.shared_blocks)));
        pairs.into_py_dict(py)
    }

    /// Data and metadata blocks that deleting devices would free.
    #[pyo3(signature = (ids, *, threads=None, progress=None))]
    fn freed_if_deleted(
        &self,
        py: Python<'_>,
        ids: Vec<u64>,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<(u64, u64)> {
        let pool = self.state.pool(py)?;
        let work = |task: &Task<'_>| freed_if_deleted(&pool, &ids, task);
        let freed = watched(py, progress, threads, work)?;
        Ok((freed.data_blocks, freed.metadata_blocks))
    }

    #[pyo3(signature = (left, right, *, same=false, threads=None, progress=None))]
    fn delta(
        &self,
        py: Python<'_>,
        left: DeltaSide,
        right: DeltaSide,
        same: bool,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Delta> {
        // Both of one commit.
        let pool = self.state.pool(py)?;
        let work = |task: &Task<'_>| match (&left, &right) {
            (DeltaSide::Device(left), DeltaSide::Device(right)) => {
                let (left, right) = (pool.device_by_id(*left)?, pool.device_by_id(*right)?);
                delta(&left, &right, same, task)
            }
            (left, right) => {
                let devices = [left.device(&pool)?, right.device(&pool)?];
                let (left, right) = (
                    left.sided(devices[0].as_ref())?,
                    right.sided(devices[1].as_ref())?,
                );
                delta_against(&left, &right, same, task)
            }
        };
        watched(py, progress, threads, work).map(Delta::new)
    }

    /// Writes a comparison as `thin_delta` does; each side is a device's id, or the root of
    /// a tree.
    #[pyo3(signature = (
        out, left, right, *, left_is_root=false, right_is_root=false, verbose=false,
        threads=None, progress=None
    ))]
    #[allow(clippy::too_many_arguments)] // they are Python's
    fn write_delta(
        &self,
        py: Python<'_>,
        out: Out,
        left: u64,
        right: u64,
        left_is_root: bool,
        right_is_root: bool,
        verbose: bool,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let pool = self.state.pool(py)?;
        let sides = [(left, left_is_root), (right, right_is_root)];
        let sides = sides.map(|(number, is_root)| match is_root {
            false => Named::Device(number),
            true => Named::Root(BlockNr(number)),
        });
        let mut out = out.open(py)?;
        let work = |task: &Task<'_>| write_delta(&pool, sides, verbose, &mut *out, task);
        watched(py, progress, threads, work)
    }

    /// What lies in regions of the data, given as begin and end.
    #[pyo3(signature = (regions, *, shared_once=false, threads=None, progress=None))]
    fn rmap(
        &self,
        py: Python<'_>,
        regions: Vec<(u64, u64)>,
        shared_once: bool,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<ReverseMap> {
        let pool = self.state.pool(py)?;
        let options = RmapOptions {
            regions: regions.into_iter().map(|(begin, end)| begin..end).collect(),
            shared_once,
        };
        let work = |task: &Task<'_>| rmap(&pool, &options, task);
        watched(py, progress, threads, work).map(ReverseMap::new)
    }

    /// What the pool is like.
    #[pyo3(signature = (*, threads=None, progress=None))]
    fn statistics(
        &self,
        py: Python<'_>,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Numbers> {
        let pool = self.state.pool(py)?;
        watched(py, progress, threads, |task| numbers(&pool, task))
    }

    /// The highest mapped block of each device, with its id.
    #[pyo3(signature = (*, progress=None))]
    fn last_mapped(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Vec<(u64, Option<u64>)>> {
        let pool = self.state.pool(py)?;
        watched(py, progress, None, |task| last_mapped(&pool, task))
    }

    /// Refuses a pool of which only one tree has a device.
    fn same_devices(&self, py: Python<'_>) -> PyResult<()> {
        let pool = self.state.pool(py)?;
        detached(py, || same_devices(&pool))
    }

    #[pyo3(signature = (
        out, *, format="xml", shared=false, device_ids=None, skip_mappings=false,
        transaction_id=None, data_block_size_sectors=None, nr_data_blocks=None, threads=None,
        progress=None
    ))]
    #[allow(clippy::too_many_arguments)] // they are Python's
    fn dump(
        &self,
        py: Python<'_>,
        out: Out,
        format: &str,
        shared: bool,
        device_ids: Option<Vec<u64>>,
        skip_mappings: bool,
        transaction_id: Option<u64>,
        data_block_size_sectors: Option<u32>,
        nr_data_blocks: Option<u64>,
        threads: Option<usize>,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let pool = self.state.pool(py)?;
        let options = DumpOptions {
            format: dump_format(py, format)?,
            shared,
            device_ids,
            skip_mappings,
            transaction_id,
            data_block_size_sectors,
            nr_data_blocks,
        };
        let mut out = out.open(py)?;
        let work = |task: &Task<'_>| dump(&pool, &options, &mut *out, task);
        watched(py, progress, threads, work)
    }
}

fn dump_format(py: Python<'_>, name: &str) -> PyResult<DumpFormat> {
    match name {
        "xml" => Ok(DumpFormat::Xml),
        "human" => Ok(DumpFormat::Human),
        "jsonl" => Ok(DumpFormat::JsonLines),
        "xml-1.x" => Ok(DumpFormat::NewerXml),
        "human-1.x" => Ok(DumpFormat::NewerHuman),
        other => {
            let text = format!("format is {other:?}, not \"xml\", \"human\" or \"jsonl\"");
            Err(exception(py, Error::usage(text)))
        }
    }
}

/// Every field, under the name that the kernel gives it.
pub(super) fn superblock_fields<'py>(
    py: Python<'py>,
    superblock: &Superblock,
) -> PyResult<Bound<'py, PyDict>> {
    let uuid: String = superblock
        .uuid
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let fields = PyDict::new(py);
    fields.set_item("csum", superblock.csum.get())?;
    fields.set_item("flags", superblock.flags.get())?;
    fields.set_item("blocknr", superblock.blocknr.get())?;
    fields.set_item("uuid", uuid)?;
    fields.set_item("magic", superblock.magic.get())?;
    fields.set_item("version", superblock.version.get())?;
    fields.set_item("time", superblock.time.get())?;
    fields.set_item("trans_id", superblock.trans_id.get())?;
    fields.set_item("held_root", superblock.held_root.get())?;
    let data = root_fields(py, &superblock.data_space_map_root.root)?;
    fields.set_item("data_space_map_root", data)?;
    let metadata = root_fields(py, &superblock.metadata_space_map_root.root)?;
    fields.set_item("metadata_space_map_root", metadata)?;
    fields.set_item("data_mapping_root", superblock.data_mapping_root.get())?;
    fields.set_item("device_details_root", superblock.device_details_root.get())?;
    fields.set_item("data_block_size", superblock.data_block_size.get())?;
    fields.set_item("metadata_block_size", superblock.metadata_block_size.get())?;
    fields.set_item("metadata_nr_blocks", superblock.metadata_nr_blocks.get())?;
    fields.set_item("compat_flags", superblock.compat_flags.get())?;
    fields.set_item("compat_ro_flags", superblock.compat_ro_flags.get())?;
    fields.set_item("incompat_flags", superblock.incompat_flags.get())?;
    fields.set_item("needs_check", superblock.needs_check())?;
    Ok(fields)
}

fn root_fields<'py>(py: Python<'py>, root: &SpaceMapRoot) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("nr_blocks", root.nr_blocks.get())?;
    fields.set_item("nr_allocated", root.nr_allocated.get())?;
    fields.set_item("bitmap_root", root.bitmap_root.get())?;
    fields.set_item("ref_count_root", root.ref_count_root.get())?;
    Ok(fields)
}
