//! Checking a pool.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyDict};

use super::call::watched;
use super::pool::{MetadataSnapshot, Pool};
use crate::task::Task;
use crate::tools::check as core;
use crate::tools::check::{
    CheckOptions, CheckReport, Finding, Leniency, MendOptions, check_path, check_pool, mend_path,
};

/// What is to be checked.
#[derive(FromPyObject)]
pub(super) enum Source {
    Pool(Py<Pool>),
    Path(PathBuf),
}

/// Lists everything that is wrong with a pool's metadata.
#[pyfunction]
#[pyo3(signature = (
    source, *, metadata_snapshot=None, superblock_only=false, skip_mappings=false,
    mapping_root=None, details_root=None, threads=None, progress=None
))]
#[allow(clippy::too_many_arguments)] // they are Python's
pub(super) fn check(
    py: Python<'_>,
    source: Source,
    metadata_snapshot: Option<MetadataSnapshot>,
    superblock_only: bool,
    skip_mappings: bool,
    mapping_root: Option<u64>,
    details_root: Option<u64>,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let snapshot = MetadataSnapshot::convert(py, metadata_snapshot)?;
    let options = CheckOptions {
        superblock_only,
        skip_mappings,
        mapping_root,
        details_root,
    };
    let report = match source {
        Source::Path(path) => {
            let work = |task: &Task<'_>| check_path(path, snapshot, &options, task);
            watched(py, progress, threads, work)?
        }
        Source::Pool(pool) => {
            let pool = pool.get().state().pool(py)?;
            let work = |task: &Task<'_>| check_pool(&pool, &options, task);
            watched(py, progress, threads, work)?
        }
    };
    report_fields(py, &report)
}

/// Checks what nobody uses, and clears `needs_check` if it is sound; with `minor`, also
/// if it is not in order; with `like_1_x`, if 1.x find it so. Says whether it was cleared.
#[pyfunction]
#[pyo3(signature = (
    path, *, superblock_only=false, skip_mappings=false, minor=false, like_1_x=false,
    threads=None, progress=None
))]
#[allow(clippy::too_many_arguments)] // they are Python's
pub(super) fn check_and_clear(
    py: Python<'_>,
    path: PathBuf,
    superblock_only: bool,
    skip_mappings: bool,
    minor: bool,
    like_1_x: bool,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Bound<'_, PyDict>, bool)> {
    let options = CheckOptions {
        superblock_only,
        skip_mappings,
        ..CheckOptions::default()
    };
    let leniency = Leniency { minor, like_1_x };
    let work = |task: &Task<'_>| core::check_and_clear(path, &options, leniency, task);
    let (report, cleared) = watched(py, progress, threads, work)?;
    Ok((report_fields(py, &report)?, cleared))
}

/// Checks what nobody uses, and puts right what the trees prove.
#[pyfunction]
#[pyo3(signature = (
    path, *, clear_needs_check=false, like_1_x=false, threads=None, progress=None
))]
pub(super) fn auto_repair(
    py: Python<'_>,
    path: PathBuf,
    clear_needs_check: bool,
    like_1_x: bool,
    threads: Option<usize>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Bound<'_, PyDict>> {
    let options = MendOptions {
        clear_needs_check,
        like_1_x,
    };
    let work = |task: &Task<'_>| mend_path(path, options, task);
    let mended = watched(py, progress, threads, work)?;
    let after = mended.after.as_ref();
    let after = after.map(|after| report_fields(py, after)).transpose()?;
    let fields = PyDict::new(py);
    fields.set_item("before", report_fields(py, &mended.before)?)?;
    fields.set_item("after", after)?;
    fields.set_item("refused", mended.refused)?;
    fields.set_item("needs_check_cleared", mended.cleared)?;
    Ok(fields)
}

fn report_fields<'py>(py: Python<'py>, report: &CheckReport) -> PyResult<Bound<'py, PyDict>> {
    let findings = report.findings.iter();
    let findings: Vec<_> = findings
        .map(|finding| finding_fields(py, finding))
        .collect::<PyResult<_>>()?;
    let superblock = report.superblock.as_ref();
    let fields = PyDict::new(py);
    fields.set_item("clean", report.is_clean())?;
    fields.set_item("findings", findings)?;
    let omitted = report.omitted.iter().copied().into_py_dict(py)?;
    fields.set_item("findings_omitted", omitted)?;
    fields.set_item("metadata_blocks_checked", report.metadata_blocks_checked)?;
    fields.set_item("mappings_checked", report.mappings_checked)?;
    fields.set_item("devices", report.devices)?;
    fields.set_item("overcounted", report.overcounted)?;
    let transaction_id = superblock.map(|superblock| superblock.trans_id.get());
    fields.set_item("transaction_id", transaction_id)?;
    let block_sectors = superblock.map(|superblock| superblock.data_block_size.get());
    fields.set_item("data_block_size_sectors", block_sectors)?;
    Ok(fields)
}

fn finding_fields<'py>(py: Python<'py>, finding: &Finding) -> PyResult<Bound<'py, PyDict>> {
    let path: Vec<u64> = finding.path.iter().map(|block| block.0).collect();
    let affected = finding.affected.iter();
    let affected: Vec<_> = affected
        .map(|range| (range.device_id, range.begin_block, range.end_block))
        .collect();
    let fields = PyDict::new(py);
    fields.set_item("code", finding.code)?;
    fields.set_item("severity", finding.severity.as_str())?;
    fields.set_item("message", &finding.message)?;
    fields.set_item("block", finding.block.map(|block| block.0))?;
    fields.set_item("tree", finding.tree)?;
    fields.set_item("path", path)?;
    fields.set_item("affected", affected)?;
    fields.set_item("affected_total", finding.affected_total)?;
    fields.set_item("counted", finding.counted)?;
    Ok(fields)
}
