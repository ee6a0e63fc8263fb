//! Opening a pool, and looking things up in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::mappings::{MappingLimits, MappingValue};
use super::superblock::SUPERBLOCK_VALIDATOR;
use super::writer::reserved_blocks;
use super::{
    DeviceDetails, DeviceInfo, Mapping, RunCursor, SUPERBLOCK_NAME, Superblock, describe_foreign,
};
use crate::block::{BlockData, BlockManager, DEFAULT_CACHE_BYTES, Validator};
use crate::btree::{BTree, Wait};
use crate::device::{Claim, Device, FileDevice};
use crate::disk_space::SpaceMapRoot;
use crate::error::{Damage, Error, Result};
use crate::transaction::TransactionManager;
use crate::units::{BLOCK_BYTES, BlockNr};

/// How often a superblock that the kernel may just be writing is read again.
const LIVE_TRIES: usize = 5;

/// Time between two tries: a write of one block is over by then.
const LIVE_PAUSE: std::time::Duration = std::time::Duration::from_millis(2);

/// Which of a pool's roots to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Snapshot {
    /// The superblock, of a pool that nobody uses.
    #[default]
    None,
    /// The metadata snapshot that the superblock names; the pool may be in use.
    Held,
    /// The metadata snapshot in this block; the pool may be in use.
    At(BlockNr),
}

/// How to open a pool.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// Which roots.
    pub snapshot: Snapshot,
    /// Bound of the block cache.
    pub cache_bytes: u64,
    /// Data device or image, needed only to read volumes.
    pub data: Option<PathBuf>,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self {
            snapshot: Snapshot::None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            data: None,
        }
    }
}

impl Snapshot {
    /// What opening says about other users.
    #[must_use]
    pub fn claim(self) -> Claim {
        if self == Self::None {
            Claim::Unused
        } else {
            Claim::BesideItsUser
        }
    }
}

/// A pool's metadata, opened for reading.
pub struct Pool {
    blocks: Arc<BlockManager>,
    data: Option<Arc<dyn Device>>,
    /// Block 0.
    live: Superblock,
    /// Block 0, or the metadata snapshot that is read instead.
    superblock: Superblock,
    snapshot: Option<BlockNr>,
    details: BTree<DeviceDetails>,
    mapping: BTree<U64>,
    /// What keeps the blocks from being used again, where somebody writes the pool.
    _view: Option<CommitView>,
}

/// Blocks that a commit reaches are not used again before this is dropped.
pub(super) struct CommitView {
    manager: Arc<TransactionManager>,
    generation: u64,
}

impl CommitView {
    /// Of the last commit.
    pub fn open(manager: &Arc<TransactionManager>) -> Self {
        let (generation, _) = manager.open_view();
        let manager = Arc::clone(manager);
        Self {
            manager,
            generation,
        }
    }
}

impl Drop for CommitView {
    fn drop(&mut self) {
        self.manager.view_closed(self.generation);
    }
}

/// The superblock of `device`, sound and of a known version.
///
/// # Errors
/// [`Error::Unsupported`] for what is no thin metadata, [`Error::NotFormatted`],
/// [`Error::Damaged`]. `live`: the kernel may be writing it, so that a bad check
/// is tried again.
pub fn read_superblock(device: &dyn Device, live: bool) -> Result<Superblock> {
    check_size(device).map_err(|error| describe_stump(device, error))?;
    let mut block = BlockData::zeroed();
    let mut tries = if live { LIVE_TRIES } else { 1 };
    loop {
        device.read_exact_at(block.bytes_mut(), 0)?;
        tries -= 1;
        match SUPERBLOCK_VALIDATOR.check(BlockNr(0), &block) {
            Ok(()) => break,
            Err(_) if tries > 0 => std::thread::sleep(LIVE_PAUSE),
            Err(damage) => return Err(not_a_superblock(device.path(), &block, damage)),
        }
    }
    let superblock: &Superblock = block.view();
    match superblock.unsupported() {
        Some(reason) => Err(Error::Unsupported {
            path: device.path().to_owned(),
            reason,
        }),
        None => Ok(*superblock),
    }
}

fn not_a_superblock(path: &Path, block: &BlockData, damage: Damage) -> Error {
    if block.is_zero() {
        return Error::NotFormatted(path.to_owned());
    }
    match describe_foreign(block) {
        Some(what) => foreign(path, what),
        None => Error::Damaged(damage),
    }
}

/// Something else is rarely as long as metadata: better to say what it looks like.
fn describe_stump(device: &dyn Device, error: Error) -> Error {
    let mut block = BlockData::zeroed();
    let there = device.size_bytes().min(BLOCK_BYTES as u64);
    let start = &mut block.bytes_mut()[..usize::try_from(there).unwrap_or(0)];
    match device
        .read_exact_at(start, 0)
        .map(|()| describe_foreign(&block))
    {
        Ok(Some(what)) => foreign(device.path(), what),
        _ => error,
    }
}

fn foreign(path: &Path, what: &str) -> Error {
    let reason = format!("not thin pool metadata: this looks like {what}");
    Error::Unsupported {
        path: path.to_owned(),
        reason,
    }
}

/// Refuses files that cannot be a whole metadata device.
fn check_size(device: &dyn Device) -> Result<()> {
    let (size, block) = (device.size_bytes(), BLOCK_BYTES as u64);
    let reason = match size {
        0 => "the file is empty; no metadata is here".to_owned(),
        _ if size < block => format!("only {size} bytes long, shorter than one {block}-byte block"),
        _ if !size.is_multiple_of(device.size_unit_bytes()) => {
            format!("{size} bytes long, not a whole number of {block}-byte blocks: a damaged copy?")
        }
        _ => return Ok(()),
    };
    Err(Error::Unsupported {
        path: device.path().to_owned(),
        reason,
    })
}

impl Pool {
    /// Opens the pool whose metadata is at `path`.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotFormatted`], [`Error::Unsupported`],
    /// [`Error::NoMetadataSnapshot`], [`Error::Damaged`], [`Error::Io`].
    pub fn open(path: impl Into<PathBuf>, options: &OpenOptions) -> Result<Self> {
        let claim = options.snapshot.claim();
        let device: Arc<dyn Device> = Arc::new(FileDevice::open(path, claim)?);
        let data = match &options.data {
            Some(path) => Some(Arc::new(FileDevice::open(path, claim)?) as Arc<dyn Device>),
            None => None,
        };
        Self::from_devices(device, data, options)
    }

    /// Opens a pool on devices that are open already; `options.data` is not looked at.
    ///
    /// # Errors
    /// As [`Self::open`], but for those of opening a file.
    pub fn from_devices(
        device: Arc<dyn Device>,
        data: Option<Arc<dyn Device>>,
        options: &OpenOptions,
    ) -> Result<Self> {
        let live = read_superblock(&*device, options.snapshot != Snapshot::None)?;
        let blocks = BlockManager::new(device, options.cache_bytes);
        live.check_geometry(BlockNr(0), blocks.nr_blocks())?;
        let snapshot = locate_snapshot(options.snapshot, &live, blocks.device().path())?;
        let superblock = match snapshot {
            None => live,
            Some(at) => read_snapshot(&blocks, at)?,
        };
        Ok(Self::of(blocks, data, live, (snapshot, superblock), None))
    }

    /// What the last commit of a pool that is being written has.
    pub(super) fn at_commit(
        manager: &Arc<TransactionManager>,
        data: Option<Arc<dyn Device>>,
        superblock: Superblock,
    ) -> Self {
        let view = CommitView::open(manager);
        let blocks = Arc::clone(manager.blocks());
        Self::of(blocks, data, superblock, (None, superblock), Some(view))
    }

    fn of(
        blocks: Arc<BlockManager>,
        data: Option<Arc<dyn Device>>,
        live: Superblock,
        (snapshot, superblock): (Option<BlockNr>, Superblock),
        view: Option<CommitView>,
    ) -> Self {
        let details = BTree::new(&blocks, BlockNr(superblock.device_details_root.get()));
        let mapping = BTree::new(&blocks, BlockNr(superblock.data_mapping_root.get()));
        Self {
            blocks,
            data,
            live,
            superblock,
            snapshot,
            details,
            mapping,
            _view: view,
        }
    }

    /// Name of the metadata device or file.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.blocks.device().path()
    }

    /// The metadata device.
    #[must_use]
    pub fn device(&self) -> &Arc<dyn Device> {
        self.blocks.device()
    }

    /// The data device, if one was given.
    #[must_use]
    pub fn data(&self) -> Option<&Arc<dyn Device>> {
        self.data.as_ref()
    }

    /// The superblock whose roots are read: block 0's, or the metadata snapshot's.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// Block 0, which alone knows the sizes.
    #[must_use]
    pub fn live_superblock(&self) -> &Superblock {
        &self.live
    }

    /// Block of the metadata snapshot that is read, if one is.
    #[must_use]
    pub fn snapshot(&self) -> Option<BlockNr> {
        self.snapshot
    }

    /// What opening further devices of this pool says about other users.
    #[must_use]
    pub fn claim(&self) -> Claim {
        match self.snapshot {
            None => Claim::Unused,
            Some(_) => Claim::BesideItsUser,
        }
    }

    /// The block cache.
    #[must_use]
    pub fn blocks(&self) -> &Arc<BlockManager> {
        &self.blocks
    }

    /// Whether the metadata snapshot that is read is still held. Its blocks may be
    /// used again as soon as it is released, and a node of somebody else's is as
    /// sound as ours: what was read is right only if this holds afterwards.
    ///
    /// # Errors
    /// [`Error::SnapshotReleased`]. Pools that nobody uses are not asked.
    pub fn confirm(&self) -> Result<()> {
        let Some(at) = self.snapshot.filter(|at| self.live.held_root.get() == at.0) else {
            return Ok(());
        };
        let device = &**self.device();
        let held = read_superblock(device, true)?.held_root.get() == at.0;
        // The same block may hold another snapshot by now.
        let mut block = BlockData::zeroed();
        device.read_exact_at(block.bytes_mut(), at.0 * BLOCK_BYTES as u64)?;
        let same = block.view::<Superblock>().csum == self.superblock.csum;
        if held && same {
            return Ok(());
        }
        Err(Error::SnapshotReleased {
            path: self.path().to_owned(),
            block: at,
        })
    }

    /// What was read, or why it cannot be relied on: [`Self::confirm`] afterwards.
    pub fn confirmed<T>(&self, read: Result<T>) -> Result<T> {
        if matches!(read, Ok(_) | Err(Error::Damaged(_))) {
            self.confirm()?;
        }
        read
    }

    /// What every mapping has to keep to.
    pub(crate) fn limits(&self) -> MappingLimits {
        MappingLimits {
            data_blocks: self.live.data_blocks(),
        }
    }

    /// Every device, in ascending id.
    pub fn devices(&self) -> Result<Vec<DeviceInfo>> {
        self.confirmed(self.read_devices())
    }

    fn read_devices(&self) -> Result<Vec<DeviceInfo>> {
        let mut cursor = self.details.range(0, None);
        let mut devices = Vec::new();
        while let Some(leaf) = cursor.next_leaf()? {
            let (keys, details) = leaf.entries::<DeviceDetails>()?;
            let infos = keys
                .iter()
                .zip(details)
                .map(|(id, value)| DeviceInfo::new(id.get(), value));
            devices.extend(infos);
        }
        Ok(devices)
    }

    /// Free blocks of data and of metadata, as a kernel counts them: without those
    /// of the metadata that it keeps back.
    #[must_use]
    pub fn free_blocks(&self) -> (u64, u64) {
        let free = |root: &SpaceMapRoot| {
            let blocks = root.nr_blocks.get();
            blocks.saturating_sub(root.nr_allocated.get())
        };
        let metadata = free(&self.live.metadata_space_map_root.root);
        let reserved = reserved_blocks(self.live.metadata_blocks());
        let data = free(&self.live.data_space_map_root.root);
        (data, metadata.saturating_sub(reserved))
    }

    /// Id and root of every device's mapping tree, in ascending id.
    pub fn device_roots(&self) -> Result<Vec<(u64, u64)>> {
        Self::roots_of(&self.mapping)
    }

    /// As [`Self::device_roots`], of another tree of the same kind: the held snapshot's.
    pub(crate) fn roots_under(&self, root: BlockNr) -> Result<Vec<(u64, u64)>> {
        Self::roots_of(&BTree::new(&self.blocks, root))
    }

    fn roots_of(mapping: &BTree<U64>) -> Result<Vec<(u64, u64)>> {
        let mut cursor = mapping.range(0, None);
        let mut roots = Vec::new();
        while let Some(leaf) = cursor.next_leaf()? {
            let (keys, values) = leaf.entries::<U64>()?;
            roots.extend(
                keys.iter()
                    .zip(values)
                    .map(|(id, root)| (id.get(), root.get())),
            );
        }
        Ok(roots)
    }

    /// One device.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Damaged`] when only one of the two trees has it.
    pub fn device_by_id(self: &Arc<Self>, id: u64) -> Result<ThinDevice> {
        let details = self
            .details
            .lookup(id, Wait::Yes)?
            .ok_or(Error::NoSuchDevice(id))?;
        let tree = self.mapping.subtree(id, Wait::Yes)?.ok_or_else(|| {
            let (found, expected) = (format!("no mappings of device {id}"), "a tree");
            Damage::new(
                self.mapping.root(),
                "mapping tree",
                "device",
                found,
                expected,
            )
        })?;
        Ok(ThinDevice {
            pool: Arc::clone(self),
            info: DeviceInfo::new(id, &details),
            tree,
        })
    }
}

fn locate_snapshot(wanted: Snapshot, live: &Superblock, path: &Path) -> Result<Option<BlockNr>> {
    match (wanted, live.held_root.get()) {
        (Snapshot::None, _) => Ok(None),
        (Snapshot::Held, 0) => Err(Error::NoMetadataSnapshot(path.to_owned())),
        (Snapshot::Held, root) => Ok(Some(BlockNr(root))),
        (Snapshot::At(BlockNr(0)), _) => Err(Error::usage(
            "block 0 is the live superblock, not a metadata snapshot",
        )),
        (Snapshot::At(at), _) => Ok(Some(at)),
    }
}

pub(super) fn read_snapshot(blocks: &Arc<BlockManager>, at: BlockNr) -> Result<Superblock> {
    if at.0 >= blocks.nr_blocks() {
        let expected = format!("below {}", blocks.nr_blocks());
        return Err(Damage::new(at, SUPERBLOCK_NAME, "location", at.0, expected).into());
    }
    let guard = blocks.read_lock(at, &SUPERBLOCK_VALIDATOR)?;
    let superblock: &Superblock = guard.view();
    if let Some(reason) = superblock.unsupported() {
        return Err(Error::Unsupported {
            path: blocks.device().path().to_owned(),
            reason,
        });
    }
    superblock.check_geometry(at, blocks.nr_blocks())?;
    Ok(*superblock)
}

/// One thin device of an open pool.
#[derive(Clone)]
pub struct ThinDevice {
    pool: Arc<Pool>,
    info: DeviceInfo,
    tree: BTree<U64>,
}

impl ThinDevice {
    /// Id and counters.
    #[must_use]
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The pool it belongs to.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Its tree of mappings.
    #[must_use]
    pub fn tree(&self) -> &BTree<U64> {
        &self.tree
    }

    /// The mapping of one virtual block.
    pub fn find(&self, virtual_block: u64, wait: Wait) -> Result<Option<Mapping>> {
        let read = self.tree.lookup(virtual_block, wait);
        let read = match wait {
            Wait::Yes => self.pool.confirmed(read)?,
            // What is cached was right when it was read.
            Wait::No => read?,
        };
        let Some(value) = read else {
            return Ok(None);
        };
        let checked = self
            .pool
            .limits()
            .check(self.tree.root(), virtual_block, value.get());
        if let Err(damage) = checked {
            // A cursor knows the leaf.
            let end = virtual_block.checked_add(1);
            self.runs(virtual_block, end).next_leaf()?;
            return Err(damage.into());
        }
        Ok(Some(self.interpret(MappingValue(value.get()))))
    }

    /// What a value of this device's tree means.
    pub(super) fn interpret(&self, value: MappingValue) -> Mapping {
        Mapping {
            data_block: value.data_block(),
            time: value.time(),
            shared: self.info.snapshotted_time > value.time(),
        }
    }

    /// Mapped runs in `begin..end` (`None`: to the end), in ascending order.
    #[must_use]
    pub fn runs(&self, begin: u64, end: Option<u64>) -> RunCursor {
        RunCursor::new(self.tree.range(begin, end), self.pool.limits())
    }

    /// The highest mapped virtual block.
    pub fn last_mapped(&self) -> Result<Option<u64>> {
        self.tree.last_key()
    }
}
