//! Single blocks of metadata, to be looked at.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use pyo3::sync::MutexExt;
use pyo3::types::{PyBytes, PyDict};
use zerocopy::little_endian::U64;

use super::call::detached;
use super::error::exception;
use super::pool::{MetadataSnapshot, Pool, superblock_fields};
use crate::block::DEFAULT_CACHE_BYTES;
use crate::device::{Device, FileDevice};
use crate::disk_space::IndexEntry;
use crate::error::Error;
use crate::thin::{self, MappingValue, OpenOptions, Snapshot};
use crate::tools::check::Finding;
use crate::tools::look::{Content, Expected, Looked, Tree, Values, Way, look, read};
use crate::units::{BLOCK_BYTES, BlockNr};

/// Blocks of a metadata device, one at a time, as they stand there.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct MetadataReader {
    path: OsString,
    snapshot: Snapshot,
    device: Mutex<Option<Arc<FileDevice>>>,
}

impl MetadataReader {
    fn device(&self, py: Python<'_>) -> PyResult<Arc<FileDevice>> {
        let device = self.device.lock_py_attached(py);
        let device = device.unwrap_or_else(PoisonError::into_inner).clone();
        device.ok_or_else(|| exception(py, Error::usage("the reader is closed")))
    }
}

#[pymethods]
impl MetadataReader {
    #[new]
    #[pyo3(signature = (path, *, metadata_snapshot=None))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        metadata_snapshot: Option<MetadataSnapshot>,
    ) -> PyResult<Self> {
        let snapshot = MetadataSnapshot::convert(py, metadata_snapshot)?;
        let device = detached(py, || FileDevice::open(&path, snapshot.claim()))?;
        Ok(Self {
            path: path.into_os_string(),
            snapshot,
            device: Mutex::new(Some(Arc::new(device))),
        })
    }

    #[getter]
    fn nr_blocks(&self, py: Python<'_>) -> PyResult<u64> {
        Ok(self.device(py)?.size_bytes() / BLOCK_BYTES as u64)
    }

    /// The pool, on the same open device.
    fn pool(&self, py: Python<'_>) -> PyResult<Pool> {
        let device = self.device(py)?;
        let options = OpenOptions {
            snapshot: self.snapshot,
            cache_bytes: DEFAULT_CACHE_BYTES,
            data: None,
        };
        let pool = detached(py, || thin::Pool::from_devices(device, None, &options))?;
        Ok(Pool::over(self.path.clone(), pool))
    }

    /// One block: its bytes, what they mean, and what is wrong with them.
    #[pyo3(signature = (block, *, expected=None, low=None, high=None))]
    fn look<'py>(
        &self,
        py: Python<'py>,
        block: u64,
        expected: Option<&str>,
        low: Option<u64>,
        high: Option<u64>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let expected = expected.map(|word| expectation(py, word)).transpose()?;
        let (device, at) = (self.device(py)?, BlockNr(block));
        let fields = PyDict::new(py);
        match py.detach(|| read(&*device, at, expected)) {
            Ok(bytes) => {
                fields.set_item("bytes", PyBytes::new(py, bytes.bytes()))?;
                let way = Way {
                    expected,
                    low,
                    high,
                };
                let blocks = device.size_bytes() / BLOCK_BYTES as u64;
                set_content(&fields, &look(at, &bytes, way, blocks))?;
            }
            Err(finding) => fields.set_item("findings", vec![finding_row(&finding)])?,
        }
        Ok(fields)
    }

    fn close(&self, py: Python<'_>) {
        let device = self.device.lock_py_attached(py);
        let device = device.unwrap_or_else(PoisonError::into_inner).take();
        py.detach(|| drop(device));
    }
}

fn expectation(py: Python<'_>, word: &str) -> PyResult<Expected> {
    Ok(match word {
        "superblock" => Expected::Superblock,
        "node" => Expected::Node(None),
        "top_level" => Expected::Node(Some(Tree::TopLevel)),
        "mappings" => Expected::Node(Some(Tree::Mappings)),
        "details" => Expected::Node(Some(Tree::Details)),
        "index_tree" => Expected::Node(Some(Tree::Index)),
        "counts" => Expected::Node(Some(Tree::Counts)),
        "bitmap" => Expected::Bitmap,
        "index" => Expected::Index,
        other => {
            let text = format!("no block is expected to be {other:?}");
            return Err(exception(py, Error::Usage(text)));
        }
    })
}

/// Code, severity, message.
fn finding_row(finding: &Finding) -> (&'static str, &'static str, &str) {
    (finding.code, finding.severity.as_str(), &finding.message)
}

fn set_content(fields: &Bound<'_, PyDict>, looked: &Looked<'_>) -> PyResult<()> {
    let py = fields.py();
    fields.set_item("kind", looked.kind)?;
    let findings: Vec<_> = looked.findings.iter().map(finding_row).collect();
    fields.set_item("findings", findings)?;
    match &looked.content {
        Content::Zeros => fields.set_item("zeros", true),
        Content::Unknown => Ok(()),
        Content::Superblock(superblock) => {
            fields.set_item("superblock", superblock_fields(py, superblock)?)
        }
        Content::Node { header, entries } => {
            let node = PyDict::new(py);
            node.set_item("flags", header.flags.get())?;
            node.set_item("nr_entries", header.nr_entries.get())?;
            node.set_item("max_entries", header.max_entries.get())?;
            node.set_item("value_size", header.value_size.get())?;
            if let Some((keys, values)) = entries {
                node.set_item("keys", numbers(keys))?;
                set_values(&node, values)?;
            }
            fields.set_item("node", node)
        }
        Content::Bitmap(counts) => fields.set_item("bitmap", PyBytes::new(py, counts)),
        Content::Index(entries) => fields.set_item("index", index_rows(entries)),
    }
}

fn set_values(node: &Bound<'_, PyDict>, values: &Values<'_>) -> PyResult<()> {
    match values {
        Values::Children(children) => node.set_item("children", numbers(children)),
        Values::Numbers(values) => {
            node.set_item("numbers", numbers(values))?;
            let mappings = values.iter().map(|value| MappingValue(value.get()));
            let mappings: Vec<_> = mappings
                .map(|mapping| (mapping.data_block(), mapping.time()))
                .collect();
            node.set_item("mappings", mappings)
        }
        Values::Details(details) => {
            let rows: Vec<_> = details
                .iter()
                .map(|each| {
                    (
                        each.mapped_blocks.get(),
                        each.transaction_id.get(),
                        each.creation_time.get(),
                        each.snapshotted_time.get(),
                    )
                })
                .collect();
            node.set_item("details", rows)
        }
        Values::Index(entries) => node.set_item("index", index_rows(entries)),
        Values::Counts(counts) => {
            let counts: Vec<_> = counts.iter().map(|count| count.get()).collect();
            node.set_item("counts", counts)
        }
        Values::Other => Ok(()),
    }
}

fn numbers(numbers: &[U64]) -> Vec<u64> {
    numbers.iter().map(|number| number.get()).collect()
}

/// Block of the bitmap, free entries, none free before.
fn index_rows(entries: &[IndexEntry]) -> Vec<(u64, u32, u32)> {
    entries
        .iter()
        .map(|entry| {
            (
                entry.blocknr.get(),
                entry.nr_free.get(),
                entry.none_free_before.get(),
            )
        })
        .collect()
}
