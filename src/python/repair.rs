//! A new pool from what can be read of a damaged one.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::call::watched;
use super::new_metadata::{built_fields, work_output};
use crate::device::{Claim, Device, FileDevice};
use crate::error::Damage;
use crate::task::Task;
use crate::thin::DeviceInfo;
use crate::tools::repair::{
    self as core, BasisSource, Candidate, DeletedDevice, DeviceOutlook, RepairOptions, Undelete,
    Undeleted, Version,
};
use crate::units::BlockNr;

/// A repair that is planned. The input is ours until this is dropped.
#[pyclass(frozen, module = "thinmeta._core")]
pub(super) struct Repair(core::Repair);

#[pymethods]
impl Repair {
    #[new]
    #[allow(clippy::too_many_arguments)] // They are keywords.
    #[pyo3(signature = (
        path, *, transaction_id=None, data_block_size_sectors=None, nr_data_blocks=None,
        only_raise=false, undelete=Vec::new(), keep_overwritten=false, list_deleted=false,
        progress=None
    ))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        transaction_id: Option<u64>,
        data_block_size_sectors: Option<u32>,
        nr_data_blocks: Option<u64>,
        only_raise: bool,
        undelete: Vec<(u64, Option<u64>)>,
        keep_overwritten: bool,
        list_deleted: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let options = RepairOptions {
            transaction_id,
            data_block_size_sectors,
            nr_data_blocks,
            only_raise,
            undelete: undelete
                .into_iter()
                .map(|(id, root)| Undelete {
                    id,
                    root: root.map(BlockNr),
                })
                .collect(),
            keep_overwritten,
            list_deleted,
        };
        let work = |task: &Task<'_>| {
            let device: Arc<dyn Device> = Arc::new(FileDevice::open(path, Claim::Unused)?);
            core::Repair::plan(device, &options, task)
        };
        watched(py, progress, None, work).map(Self)
    }

    /// What will be done.
    fn outlook<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let outlook = self.0.outlook();
        let basis = &outlook.basis;
        let fields = PyDict::new(py);
        let (source, copy) = match basis.source {
            BasisSource::Superblock => ("superblock", None),
            BasisSource::Copy(block) => ("copy", Some(block.0)),
            BasisSource::Options => ("options", None),
        };
        fields.set_item("superblock_source", source)?;
        fields.set_item("superblock_copy", copy)?;
        fields.set_item("transaction_id", basis.transaction_id)?;
        fields.set_item("time", basis.time)?;
        fields.set_item("data_block_size_sectors", basis.data_block_size_sectors)?;
        fields.set_item("data_blocks", basis.data_blocks)?;
        let devices: Vec<_> = outlook
            .devices
            .iter()
            .map(|device| device_fields(py, device))
            .collect::<PyResult<_>>()?;
        fields.set_item("devices", devices)?;
        let lost: Vec<_> = outlook.lost_devices.iter().map(row).collect();
        fields.set_item("lost_devices", lost)?;
        fields.set_item("maybe_more_devices", outlook.maybe_more_devices)?;
        fields.set_item("scanned", outlook.scanned)?;
        let candidates: Vec<_> = outlook
            .candidates
            .iter()
            .map(|candidate| candidate_fields(py, candidate))
            .collect::<PyResult<_>>()?;
        fields.set_item("candidates", candidates)?;
        fields.set_item("loose_trees", outlook.loose_trees)?;
        let deleted: Vec<_> = outlook
            .deleted
            .iter()
            .map(|device| deleted_fields(py, device))
            .collect::<PyResult<_>>()?;
        fields.set_item("deleted_devices", deleted)?;
        let field = |damage: &Damage| {
            let (found, right) = (damage.found.to_string(), damage.expected.to_string());
            (damage.block.0, damage.check, found, right)
        };
        let mended: Vec<_> = outlook.mended.iter().map(field).collect();
        fields.set_item("mended", mended)?;
        Ok(fields)
    }

    /// Does it, in a file of the caller's.
    #[pyo3(signature = (out_fd, out_name, *, grows, progress=None))]
    fn build<'py>(
        &self,
        py: Python<'py>,
        out_fd: RawFd,
        out_name: PathBuf,
        grows: bool,
        progress: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyDict>> {
        let output = work_output(py, out_fd, out_name, grows)?;
        let built = watched(py, progress, None, |task| self.0.build(output, task))?;
        built_fields(py, &built)
    }
}

/// Id, mapped blocks, transaction id, creation time, snapshotted time.
fn row(info: &DeviceInfo) -> (u64, u64, u64, u32, u32) {
    (
        info.id,
        info.mapped_blocks,
        info.transaction_id,
        info.creation_time,
        info.snapshotted_time,
    )
}

fn device_fields<'py>(py: Python<'py>, device: &DeviceOutlook) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("device_id", device.info.id)?;
    fields.set_item("transaction_id", device.info.transaction_id)?;
    fields.set_item("creation_time", device.info.creation_time)?;
    fields.set_item("snapshotted_time", device.info.snapshotted_time)?;
    fields.set_item("source", device.source.as_str())?;
    fields.set_item("kept_blocks", device.info.mapped_blocks)?;
    fields.set_item("found_blocks", device.found_blocks)?;
    fields.set_item("older_blocks", device.older_blocks)?;
    fields.set_item("impossible_blocks", device.impossible_blocks)?;
    fields.set_item("doubled_blocks", device.doubled_blocks)?;
    fields.set_item("recorded_blocks", device.recorded_blocks)?;
    let lost: Vec<_> = device
        .lost
        .iter()
        .map(|lost| (lost.begin, lost.end, lost.block.0))
        .collect();
    fields.set_item("lost_ranges", lost)?;
    fields.set_item("lost_ranges_total", device.lost_ranges)?;
    let back = device.undeleted.as_ref();
    let back = back.map(|back| undeleted_fields(py, back)).transpose()?;
    fields.set_item("undeleted", back)?;
    Ok(fields)
}

fn candidate_fields<'py>(py: Python<'py>, found: &Candidate) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("mapping_root", found.mapping_root.0)?;
    fields.set_item("details_root", found.details_root.map(|root| root.0))?;
    fields.set_item("devices", found.devices)?;
    fields.set_item("whole_devices", found.whole_devices)?;
    fields.set_item("live_devices", found.live_devices)?;
    fields.set_item("mapped_blocks", found.mapped_blocks)?;
    fields.set_item("transaction_id", found.transaction_id)?;
    fields.set_item("time", found.time)?;
    Ok(fields)
}

/// Trees of a deleted device that are told of.
const MOST_VERSIONS: usize = 16;

fn deleted_fields<'py>(py: Python<'py>, device: &DeletedDevice) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("device_id", device.id)?;
    let versions = device.versions.iter().take(MOST_VERSIONS).map(version);
    fields.set_item("versions", versions.collect::<Vec<_>>())?;
    fields.set_item("versions_total", device.versions.len())?;
    Ok(fields)
}

/// Root, mappings, whether that is all of it, whether the top level leads there, and details.
type VersionRow = (u64, u64, bool, bool, Option<(u64, u64, u64, u32, u32)>);

fn version(version: &Version) -> VersionRow {
    let info = version.info.as_ref().map(row);
    let root = version.root.0;
    (
        root,
        version.mapped_blocks,
        version.is_whole,
        version.is_led,
        info,
    )
}

fn undeleted_fields<'py>(py: Python<'py>, back: &Undeleted) -> PyResult<Bound<'py, PyDict>> {
    let fields = PyDict::new(py);
    fields.set_item("version", version(&back.version))?;
    fields.set_item("free_blocks", back.free_blocks)?;
    fields.set_item("doubtful_blocks", back.doubtful_blocks)?;
    fields.set_item("shared_blocks", back.shared_blocks)?;
    fields.set_item("overwritten_blocks", back.overwritten_blocks)?;
    fields.set_item("keeps_overwritten", back.keeps_overwritten)?;
    let ranges: Vec<_> = back
        .ranges
        .iter()
        .map(|range| (range.begin, range.end, range.fate.as_str(), range.owner))
        .collect();
    fields.set_item("ranges", ranges)?;
    fields.set_item("ranges_total", back.ranges_total)?;
    Ok(fields)
}
