//! Telling all of a pool's mappings, in text.
//!
//! Leaves are listed in key order from the nodes above them and cut into jobs;
//! threads read a job's leaves in order of location, check them and write their
//! runs; the calling thread joins what they wrote. A dump is strict: it ends with
//! an error at the first damage in what it tells. Memory: a fixed number of jobs,
//! whatever the size of the pool, and for shared nodes what [`shared`] says.

mod crew;
mod format;
mod human;
mod jsonl;
pub(super) mod nodes;
mod output;
mod plan;
mod shared;
#[cfg(test)]
mod tests;
pub(super) mod text;
mod work;
mod xml;

use std::io::Write;
use std::sync::Arc;

pub(super) use format::Header;
use format::{Format, Section};
use nodes::{NodeReader, NodeRef, metadata_blocks, usable};
use output::Output;
use plan::{Planner, Source};
use shared::Shared;
pub(super) use text::{Line, Text};

use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, Pool};
use crate::units::BlockNr;

#[cfg(doc)]
use crate::error::Error;

/// The words of a dump.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DumpFormat {
    /// The XML of `thin_dump` 0.9.0, to the byte.
    #[default]
    Xml,
    /// The `human_readable` format of `thin_dump` 0.9.0, to the byte.
    Human,
    /// The XML of `thin_dump` 1.1.0.
    NewerXml,
    /// The `human_readable` format of `thin_dump` 1.1.0.
    NewerHuman,
    /// One JSON object a line, told apart by `type`: `superblock`, `device`, `run`,
    /// `def`, `ref`, and `end` as the last.
    JsonLines,
}

/// What to dump, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DumpOptions {
    /// The words.
    pub format: DumpFormat,
    /// Tell nodes that several trees have in common once (`def`) and refer to
    /// them (`ref`), as `thin_dump` 1.x does, instead of every device in full.
    pub shared: bool,
    /// Only these devices. Ids that the pool has not are passed over, as
    /// `thin_dump --dev-id` does.
    pub device_ids: Option<Vec<u64>>,
    /// Tell the devices, and not what they have mapped.
    pub skip_mappings: bool,
    /// Tell this transaction id, whatever the pool's is.
    pub transaction_id: Option<u64>,
    /// Tell this size of data blocks, in sectors.
    pub data_block_size_sectors: Option<u32>,
    /// Tell this number of data blocks.
    pub nr_data_blocks: Option<u64>,
}

impl DumpOptions {
    /// What is told of the pool itself.
    fn header(&self, pool: &Pool) -> Header {
        let own = Header::of(pool);
        Header {
            transaction_id: self.transaction_id.unwrap_or(own.transaction_id),
            data_block_size_sectors: self
                .data_block_size_sectors
                .unwrap_or(own.data_block_size_sectors),
            nr_data_blocks: self.nr_data_blocks.unwrap_or(own.nr_data_blocks),
            ..own
        }
    }
}

/// Writes all mappings of `pool` to `out`.
///
/// # Errors
/// [`Error::Damaged`] for any damage met, with all before it written at most;
/// [`Error::Io`] at the path `<output>` for what `out` reports.
pub fn dump(
    pool: &Arc<Pool>,
    options: &DumpOptions,
    out: &mut dyn Write,
    task: &Task<'_>,
) -> Result<()> {
    pool.confirmed(match options.format {
        DumpFormat::Xml => dump_as::<xml::Xml>(pool, options, out, task),
        DumpFormat::Human => dump_as::<human::Human>(pool, options, out, task),
        DumpFormat::NewerXml => dump_as::<xml::Xml<true>>(pool, options, out, task),
        DumpFormat::NewerHuman => dump_as::<human::Human<true>>(pool, options, out, task),
        DumpFormat::JsonLines => dump_as::<jsonl::JsonLines>(pool, options, out, task),
    })
}

/// Leaves of a job. More threads have smaller ones, so that memory stays the same.
fn job_leaves(threads: usize) -> usize {
    if threads <= 4 { 64 } else { 32 }
}

fn dump_as<F: Format>(
    pool: &Pool,
    options: &DumpOptions,
    out: &mut dyn Write,
    task: &Task<'_>,
) -> Result<()> {
    let devices = devices(pool, options)?;
    let mut output = Output::<F>::new(out);
    if options.skip_mappings {
        output.begin(&options.header(pool))?;
        for device in &devices {
            output.empty(&device.section)?;
        }
        return output.end();
    }
    let shared = match options.shared {
        true => Some(find_shared(pool, &devices, task)?),
        false => None,
    };
    task.expect(match &shared {
        Some(shared) => shared.leaves,
        None => mapped_blocks(&devices),
    });
    let defs = shared.iter().flat_map(|shared| &shared.nodes);
    let sources = defs.map(|def| Source {
        section: Section::Def(def.node.block),
        root: def.node,
        height: Some(def.height),
    });
    let height = |root: NodeRef| shared.as_ref()?.height(root.block);
    let sources = sources.chain(devices.iter().map(|device| Source {
        height: height(device.root),
        ..*device
    }));
    let job_leaves = job_leaves(crew::threads(task));
    let planner = Planner::new(NodeReader::new(pool), sources, shared.as_ref(), job_leaves);
    output.begin(&options.header(pool))?;
    crew::run(pool, planner, &mut output, task)?;
    output.end()
}

fn find_shared(pool: &Pool, devices: &[Source], task: &Task<'_>) -> Result<Shared> {
    let roots: Vec<u32> = devices.iter().map(|device| device.root.block).collect();
    Shared::find(&roots, &mut NodeReader::new(pool), task)
}

/// The devices to dump, in ascending id.
fn devices(pool: &Pool, options: &DumpOptions) -> Result<Vec<Source>> {
    let mut wanted = options.device_ids.clone();
    if let Some(ids) = &mut wanted {
        ids.sort_unstable();
    }
    let is_wanted = |id: u64| match &wanted {
        Some(ids) => ids.binary_search(&id).is_ok(),
        None => true,
    };
    let mut infos = pool.devices()?;
    infos.retain(|info| is_wanted(info.id));
    let mut roots = pool.device_roots()?;
    roots.retain(|(id, _)| is_wanted(*id));
    check_same_devices(pool, &infos, &roots)?;
    let at = BlockNr(pool.superblock().data_mapping_root.get());
    let limit = metadata_blocks(pool);
    let sources = infos.iter().zip(roots).map(|(info, (_, root))| {
        Ok(Source {
            section: Section::Device(*info),
            root: NodeRef::root(usable(at, root, limit)?),
            height: None,
        })
    });
    sources.collect()
}

/// Mappings of all devices, as the details tree counts them.
fn mapped_blocks(devices: &[Source]) -> u64 {
    let counts = devices.iter().map(|device| match device.section {
        Section::Device(info) => info.mapped_blocks,
        Section::Def(_) => 0,
    });
    counts.fold(0, u64::saturating_add)
}

/// Refuses a device that only one of the pool's two trees knows.
fn check_same_devices(
    pool: &Pool,
    infos: &[DeviceInfo],
    roots: &[(u64, u64)],
) -> Result<(), Damage> {
    let both = infos.iter().zip(roots);
    let same = both.take_while(|(info, root)| info.id == root.0).count();
    let superblock = pool.superblock();
    let missing = |tree, root: u64, id: u64| {
        let expected = format!("device {id}, which the other tree has");
        Err(Damage::new(
            BlockNr(root),
            tree,
            "device",
            "nothing",
            expected,
        ))
    };
    match (infos.get(same), roots.get(same)) {
        (Some(info), root) if root.is_none_or(|root| info.id < root.0) => {
            missing("mapping tree", superblock.data_mapping_root.get(), info.id)
        }
        (_, Some(root)) => missing("details tree", superblock.device_details_root.get(), root.0),
        (_, None) => Ok(()),
    }
}
