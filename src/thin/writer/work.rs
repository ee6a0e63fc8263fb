//! What is known of a pool while it is being changed.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

use super::SUPERBLOCK;
use super::holds::Holds;
use super::refs::{DataRefs, Pending, RootRefs, WORD};
use crate::block::{BlockData, BlockManager};
use crate::btree::{self, BTree, Plain, TreeType, Wait};
use crate::disk_space::DataMap;
use crate::error::{Damage, Error, Result};
use crate::thin::{DeviceDetails, DeviceInfo, MappingValue, Superblock};
use crate::transaction::{Transaction, TransactionManager};
use crate::units::BlockNr;

/// The kernel keeps a tenth of the metadata back, and no more than this, so that
/// what frees space can always be done.
const MOST_RESERVED: u64 = 4096;
const RESERVED_PART: u64 = 10;

/// A device that was looked at in the open transaction.
#[derive(Clone, Copy)]
pub(super) struct Live {
    /// As of now. The details tree has it as of the last commit.
    pub info: DeviceInfo,
    /// Where its mappings start.
    pub root: BlockNr,
    /// Something of it is another than at the last commit.
    pub changed: bool,
    /// The way to its root through the top level is this transaction's own, so that
    /// the root's count tells who shares it.
    own: bool,
}

/// The open transaction's state. What it knows is the disk's, or will be.
pub(super) struct Work {
    pub map: DataMap,
    pub pending: Pending,
    /// Block 0 as of the last commit.
    pub committed: Box<BlockData>,
    pub mapping_root: BlockNr,
    pub details_root: BlockNr,
    pub time: u32,
    pub trans_id: u64,
    pub held_root: u64,
    /// The held root is a block of this transaction, to be filled in by the commit.
    pub fresh_snapshot: Option<BlockNr>,
    live: FxHashMap<u64, Live>,
    /// Data blocks that were handed out and are not mapped yet.
    pub reservations: FxHashSet<u64>,
    /// What callers hold now, and held at the last commit.
    pub holds: Holds,
    committed_holds: Holds,
    /// There is something to commit.
    pub changed: bool,
}

/// How the details tree is changed.
pub(super) fn details_tree(values: &mut Plain) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes: size_of::<DeviceDetails>(),
        values,
    }
}

/// How the top level of the mapping tree is changed.
pub(super) fn top_level(values: &mut RootRefs) -> TreeType<'_> {
    TreeType {
        levels: 1,
        value_bytes: WORD,
        values,
    }
}

/// Metadata blocks that only what frees space may take.
pub(in crate::thin) fn reserved_blocks(nr_blocks: u64) -> u64 {
    MOST_RESERVED.min(nr_blocks / RESERVED_PART)
}

impl Work {
    /// As block 0 has it.
    pub fn new(map: DataMap, committed: Box<BlockData>) -> Self {
        let superblock: Superblock = *committed.view();
        Self {
            map,
            pending: Pending::default(),
            committed,
            mapping_root: BlockNr(superblock.data_mapping_root.get()),
            details_root: BlockNr(superblock.device_details_root.get()),
            time: superblock.time.get(),
            trans_id: superblock.trans_id.get(),
            held_root: superblock.held_root.get(),
            fresh_snapshot: None,
            live: FxHashMap::default(),
            reservations: FxHashSet::default(),
            holds: Holds::default(),
            committed_holds: Holds::default(),
            changed: false,
        }
    }

    /// Goes back to the last commit.
    pub fn go_back(&mut self, blocks: &Arc<BlockManager>) -> Result<()> {
        let superblock = *self.superblock();
        self.map
            .go_back(blocks, &superblock.data_space_map_root.root)?;
        self.mapping_root = BlockNr(superblock.data_mapping_root.get());
        self.details_root = BlockNr(superblock.device_details_root.get());
        self.time = superblock.time.get();
        self.trans_id = superblock.trans_id.get();
        self.held_root = superblock.held_root.get();
        self.pending.clear();
        self.holds.clone_from(&self.committed_holds);
        self.begin();
        Ok(())
    }

    /// The transaction is durable, and another begins.
    pub fn has_committed(&mut self, superblock: Box<BlockData>) {
        self.committed = superblock;
        self.committed_holds.clone_from(&self.holds);
        self.begin();
    }

    /// What the last commit has freed can be used again, but for what is being read of
    /// the commits before it.
    pub fn hand_back(&mut self, manager: &TransactionManager) -> Result<()> {
        let (generation, _, newest) = manager.open_views();
        self.map.committed_beside_views(generation, newest)
    }

    /// Takes note of readers that are done.
    pub fn notice_readers(&mut self, manager: &TransactionManager) {
        if self.map.withheld_blocks() > 0 {
            let (_, oldest, _) = manager.open_views();
            self.map.views_closed(oldest);
        }
    }

    fn begin(&mut self) {
        self.live.clear();
        self.reservations.clear();
        self.fresh_snapshot = None;
        self.changed = false;
    }

    /// Block 0 as of the last commit.
    pub fn superblock(&self) -> &Superblock {
        self.committed.view()
    }

    /// Refuses what would take of the metadata that is kept back.
    pub fn check_room(&self, txn: &Transaction) -> Result<()> {
        let (free, reserved) = (txn.nr_free(), reserved_blocks(txn.nr_blocks()));
        if free > reserved {
            return Ok(());
        }
        let reason = format!(
            "{free} of {} blocks are free, and {reserved} are kept for what frees space: remove \
             something, commit, or grow the metadata",
            txn.nr_blocks()
        );
        Err(Error::no_metadata_space(reason))
    }

    /// Whether there is a device of this id.
    pub fn exists(&self, txn: &Transaction, id: u64) -> Result<bool> {
        Ok(self.live.contains_key(&id) || self.details(txn, id)?.is_some())
    }

    fn details(&self, txn: &Transaction, id: u64) -> Result<Option<DeviceDetails>> {
        BTree::new(txn.blocks(), self.details_root).lookup(id, Wait::Yes)
    }

    /// A device as it is now.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Damaged`] when only one of the trees has it.
    pub fn device(&self, txn: &Transaction, id: u64) -> Result<Live> {
        if let Some(live) = self.live.get(&id) {
            return Ok(*live);
        }
        let details = self.details(txn, id)?.ok_or(Error::NoSuchDevice(id))?;
        let tree: BTree<U64> = BTree::new(txn.blocks(), self.mapping_root);
        let root = tree.lookup(id, Wait::Yes)?.ok_or_else(|| {
            let found = format!("no mappings of device {id}");
            Damage::new(self.mapping_root, "mapping tree", "device", found, "a tree")
        })?;
        Ok(Live {
            info: DeviceInfo::new(id, &details),
            root: BlockNr(root.get()),
            changed: false,
            own: false,
        })
    }

    /// Ids of all devices as of now, ascending.
    pub fn ids(&self, txn: &Transaction) -> Result<Vec<u64>> {
        let tree: BTree<DeviceDetails> = BTree::new(txn.blocks(), self.details_root);
        let mut cursor = tree.range(0, None);
        let mut ids = Vec::new();
        while let Some(leaf) = cursor.next_leaf()? {
            let (keys, _) = leaf.entries::<DeviceDetails>()?;
            ids.extend(keys.iter().map(|key| key.get()));
        }
        Ok(ids)
    }

    /// Whether something of a device is another than at the last commit.
    pub fn is_changed(&self, id: u64) -> bool {
        self.live.get(&id).is_some_and(|live| live.changed)
    }

    /// Takes note of a device that is as no tree has it yet, or not any more.
    pub fn note(&mut self, info: DeviceInfo, root: BlockNr) {
        let own = self.live.get(&info.id).is_some_and(|live| live.own);
        let live = Live {
            info,
            root,
            changed: true,
            own,
        };
        self.live.insert(info.id, live);
        self.changed = true;
    }

    /// A device is gone.
    pub fn forget(&mut self, id: u64) {
        self.live.remove(&id);
        self.changed = true;
    }

    /// Makes the way to a device's root this transaction's own. Where a metadata
    /// snapshot shares it, the root has another owner from then on, which its count
    /// did not tell before.
    fn own(&mut self, txn: &mut Transaction, id: u64) -> Result<Live> {
        let mut live = self.device(txn, id)?;
        if !live.own {
            self.set_root(txn, id, live.root)?;
            live.own = true;
            self.live.insert(id, live);
            self.changed = true;
        }
        Ok(live)
    }

    /// Hangs a tree under a device, without counting it.
    pub fn set_root(&mut self, txn: &mut Transaction, id: u64, root: BlockNr) -> Result<()> {
        let mut roots = RootRefs;
        let mut tree = top_level(&mut roots);
        let value = U64::new(root.0);
        let done = btree::insert(txn, &mut tree, self.mapping_root, &[id], value.as_bytes())?;
        self.mapping_root = done.root;
        Ok(())
    }

    /// Changes the mappings of a device: `change` is given their tree, and says
    /// where it starts then.
    pub fn change_mappings<T>(
        &mut self,
        txn: &mut Transaction,
        id: u64,
        takes_over: bool,
        change: impl FnOnce(&mut Transaction, &mut TreeType<'_>, BlockNr) -> Result<(BlockNr, T)>,
    ) -> Result<T> {
        let live = self.own(txn, id)?;
        let mut refs = DataRefs {
            map: &mut self.map,
            pending: &mut self.pending,
            takes_over,
        };
        let (root, answer) = change(txn, &mut refs.tree(), live.root)?;
        self.pending.settle(txn, &mut self.map)?;
        if root != live.root {
            self.set_root(txn, id, root)?;
        }
        if let Some(live) = self.live.get_mut(&id) {
            live.root = root;
        }
        Ok(answer)
    }

    /// A device has so many mappings more, and less.
    pub fn count_mappings(&mut self, id: u64, more: u64, less: u64) -> Result<()> {
        self.changed = true;
        let Some(live) = self.live.get_mut(&id) else {
            return Ok(());
        };
        live.changed = true;
        let mapped = live.info.mapped_blocks.checked_add(more);
        let mapped = mapped.and_then(|mapped| mapped.checked_sub(less));
        let mapped = mapped.ok_or_else(|| {
            let found = live.info.mapped_blocks;
            let expected = format!("at least {less}, of device {id}");
            Damage::new(
                SUPERBLOCK,
                "device details",
                "mapped blocks",
                found,
                expected,
            )
        })?;
        live.info.mapped_blocks = mapped;
        Ok(())
    }

    /// The mapping of a virtual block as of now.
    pub fn find(
        &self,
        txn: &Transaction,
        live: &Live,
        virtual_block: u64,
    ) -> Result<Option<MappingValue>> {
        let tree: BTree<U64> = BTree::new(txn.blocks(), live.root);
        let found = match tree.lookup(virtual_block, Wait::No) {
            Err(Error::WouldBlock) => tree.lookup(virtual_block, Wait::Yes)?,
            answer => answer?,
        };
        Ok(found.map(|value| MappingValue(value.get())))
    }

    /// Writes the details of every device that changed.
    pub fn write_details(&mut self, txn: &mut Transaction) -> Result<()> {
        let changed = self.live.values().filter(|live| live.changed);
        let mut changed: Vec<DeviceInfo> = changed.map(|live| live.info).collect();
        changed.sort_unstable_by_key(|info| info.id);
        changed
            .iter()
            .try_for_each(|info| self.set_details(txn, info))
    }

    /// Writes the details of a device.
    pub fn set_details(&mut self, txn: &mut Transaction, info: &DeviceInfo) -> Result<()> {
        let mut plain = Plain;
        let details = info.details();
        let done = btree::insert(
            txn,
            &mut details_tree(&mut plain),
            self.details_root,
            &[info.id],
            details.as_bytes(),
        )?;
        self.details_root = done.root;
        Ok(())
    }
}
