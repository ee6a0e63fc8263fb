//! Whether an image holds what it should, and whether all its sums are right.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::block::Validator;
use thinmeta::btree::{self, NODE_NAME, NODE_VALIDATOR, Node};
use thinmeta::device::Device;
use thinmeta::disk_space::{
    BITMAP_NAME, BITMAP_VALIDATOR, Bitmap, INDEX_NAME, INDEX_VALIDATOR, IndexEntry, MetadataIndex,
    SpaceMapRoot,
};
use thinmeta::store::{
    STORE_NAME, STORE_VALIDATOR, Store, StoreOptions, StoreSuperblock, StoreView, TreeEntry,
};
use thinmeta::task::Task;
use thinmeta::walk::{BlockSet, Counts, Reader, each_leaf_in_order, tree_shape};
use thinmeta::{BlockNr, Error};
use zerocopy::little_endian::U32;

use super::state::{Columns, Content, State};

pub type Verdict<T = ()> = Result<T, String>;

const PER_BITMAP: u64 = 16320;

/// Fails with what was found instead.
pub fn equal<T: PartialEq + std::fmt::Debug>(what: &str, found: T, wanted: T) -> Verdict {
    if found == wanted {
        return Ok(());
    }
    Err(format!("{what}: found {found:?}, wanted {wanted:?}"))
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Opens an image and holds all of it against `wanted`.
pub fn judge(device: &Arc<dyn Device>, wanted: &State) -> Verdict {
    let options = StoreOptions {
        cache_bytes: 0,
        ..StoreOptions::default()
    };
    let opened = Store::open_on(Arc::clone(device), &options);
    match (opened, wanted) {
        (Err(Error::NotFormatted(_) | Error::Unsupported { .. }), State::Nothing) => Ok(()),
        (Ok(_), State::Nothing) => Err("a store was opened where there is none".to_owned()),
        (Err(error), _) => Err(format!("it does not open: {error}")),
        (Ok(store), State::Store(content)) => {
            let generation = walk(&**device)?;
            equal("generation", generation, content.generation)?;
            read_back(&store.view().map_err(text)?, content)
        }
    }
}

/// As [`judge`], of a store that is open and has nothing to write.
pub fn judge_open(store: &Arc<Store>, content: &Content) -> Verdict {
    let device = store.manager().blocks().device();
    let generation = walk(&**device)?;
    equal("generation", generation, content.generation)?;
    read_back(&store.view().map_err(text)?, content)?;
    let free = allocatable(&**device)?;
    equal("free blocks", store.space().map_err(text)?.1, free)
}

/// Reads every tree of a view as users do.
pub fn read_back(view: &StoreView, content: &Content) -> Verdict {
    let names = view.names().map_err(text)?;
    let wanted: Vec<String> = content.columns.keys().cloned().collect();
    equal("names", names, wanted)?;
    for (name, wanted) in &content.columns {
        let tree = view.tree(name).map_err(text)?;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        let all = (0, None);
        let (root, bytes) = (tree.root, tree.value_bytes);
        let read = btree::scan(view.blocks(), root, bytes, all, &mut keys, &mut values);
        read.map_err(|error| format!("tree {name}: {error}"))?;
        let found = Columns {
            value_bytes: bytes,
            keys,
            values,
        };
        if found != *wanted {
            let (found, wanted) = (found.keys.len(), wanted.keys.len());
            return Err(format!(
                "tree {name} has other entries, {found} of them instead of {wanted}"
            ));
        }
    }
    Ok(())
}

/// One image, read past the library's own caches and sums.
pub struct Walk<'d> {
    reader: Reader<'d>,
    task: Task<'d>,
    counts: Counts,
    counted: BlockSet,
}

impl Walk<'_> {
    /// Walks a tree, checks its form, and counts what it refers to.
    fn tree(&mut self, root: u64, value_bytes: usize) -> Verdict<Vec<u32>> {
        self.counts.add(root);
        let (counts, counted) = (&mut self.counts, &mut self.counted);
        let shape = tree_shape(&self.reader, &self.task, root, value_bytes, counts, counted);
        let shape = shape.map_err(text)?;
        let bad = shape.damages.iter().map(|bad| &bad.damage);
        match bad.chain(&shape.irregular).next() {
            None => Ok(shape.leaves),
            Some(damage) => Err(format!("tree at {root}: {damage}")),
        }
    }

    /// All leaves are equally deep.
    fn depth(&self, root: u64) -> Verdict<usize> {
        let block = self
            .reader
            .read_block(BlockNr(root), NODE_NAME, &NODE_VALIDATOR);
        let block = block.map_err(text)?;
        let node = Node::parse(BlockNr(root), &block).map_err(text)?;
        if node.is_leaf() {
            return Ok(1);
        }
        let children = node.children().map_err(text)?.iter();
        let depths: Verdict<Vec<usize>> = children.map(|child| self.depth(child.get())).collect();
        let depths = depths?;
        match depths.iter().find(|depth| **depth != depths[0]) {
            Some(other) => Err(format!("leaves {other} and {} deep", depths[0])),
            None => Ok(depths[0] + 1),
        }
    }

    fn values<T: btree::Value + Copy>(&self, leaves: &[u32]) -> Verdict<Vec<(u64, T)>> {
        let mut all = Vec::new();
        let read = each_leaf_in_order(&self.reader, leaves, |leaf| {
            let leaf = leaf?;
            let keys = leaf.keys().iter().map(|key| key.get());
            all.extend(keys.zip(leaf.values::<T>()?.iter().copied()));
            Ok(())
        });
        read.map_err(text)?;
        Ok(all)
    }

    fn block(&self, at: u64, name: &'static str, validator: &dyn Validator) -> Verdict<Block> {
        let block = self.reader.read_block(BlockNr(at), name, validator);
        block.map_err(text)
    }
}

type Block = thinmeta::block::BlockData;

/// Walks all that a store's superblock reaches and holds every count and every
/// sum of the space map against it; the store's generation.
pub fn walk(device: &dyn Device) -> Verdict<u64> {
    walk_with(device, |walk, superblock| {
        let root = superblock.catalogue_root.get();
        let catalogue = walk.tree(root, size_of::<TreeEntry>())?;
        walk.depth(root)?;
        for (_, entry) in walk.values::<TreeEntry>(&catalogue)? {
            let bytes = usize::try_from(entry.value_bytes.get()).unwrap();
            walk.tree(entry.root.get(), bytes)?;
            walk.depth(entry.root.get())?;
        }
        Ok(())
    })
}

/// As [`walk`], of a superblock under which something else is kept: `also` counts that.
pub fn walk_with(
    device: &dyn Device,
    also: impl FnOnce(&mut Walk<'_>, &StoreSuperblock) -> Verdict,
) -> Verdict<u64> {
    let mut walk = Walk {
        reader: Reader::new(device, true),
        task: Task::new(None, Some(1)),
        counts: Counts::new(0),
        counted: BlockSet::new(0),
    };
    let block = walk.block(0, STORE_NAME, &STORE_VALIDATOR)?;
    let superblock: StoreSuperblock = *block.view();
    let constant = &block.bytes()[512..];
    equal(
        "bytes past 512",
        constant.iter().any(|byte| *byte != 0),
        false,
    )?;
    let space = superblock.space_root().map_err(text)?;
    let size = space.nr_blocks.get();
    (walk.counts, walk.counted) = (Counts::new(size), BlockSet::new(size));
    walk.counts.add(0);

    let index = walk.block(space.bitmap_root.get(), INDEX_NAME, &INDEX_VALIDATOR)?;
    walk.counts.add(space.bitmap_root.get());
    let entries = &index.view::<MetadataIndex>().entries;
    let bitmaps = usize::try_from(size.div_ceil(PER_BITMAP)).unwrap();
    let (used, unused) = entries.split_at(bitmaps);
    for entry in used {
        walk.counts.add(entry.blocknr.get());
    }
    let left_over = unused.iter().any(|entry| entry.blocknr.get() != 0);
    equal("index entries past the end", left_over, false)?;
    let overflow = walk.overflow(&space)?;
    also(&mut walk, &superblock)?;
    let counts: Vec<u32> = (0..size).map(|block| walk.counts.get(block)).collect();
    walk.compare(&space, used, &overflow, &counts)?;
    Ok(superblock.generation.get())
}

impl Walk<'_> {
    /// One more reference, which nothing on the device makes.
    pub fn held(&mut self, block: u64) {
        self.counts.add(block);
    }

    fn overflow(&mut self, space: &SpaceMapRoot) -> Verdict<BTreeMap<u64, u32>> {
        let root = space.ref_count_root.get();
        let leaves = self.tree(root, size_of::<U32>())?;
        self.depth(root)?;
        let counts = self.values::<U32>(&leaves)?.into_iter();
        Ok(counts.map(|(block, count)| (block, count.get())).collect())
    }

    /// Walks a data map and holds it against plain counts.
    pub fn data_map(&mut self, space: &SpaceMapRoot, counts: &[u32]) -> Verdict {
        equal("data blocks", space.nr_blocks.get(), counts.len() as u64)?;
        let root = space.bitmap_root.get();
        let leaves = self.tree(root, size_of::<IndexEntry>())?;
        let entries = self.values::<IndexEntry>(&leaves)?;
        let numbers: Vec<u64> = entries.iter().map(|(number, _)| *number).collect();
        let wanted: Vec<u64> = (0..space.nr_blocks.get().div_ceil(PER_BITMAP)).collect();
        equal("index entries", numbers, wanted)?;
        let entries: Vec<IndexEntry> = entries.into_iter().map(|(_, entry)| entry).collect();
        for entry in &entries {
            self.counts.add(entry.blocknr.get());
        }
        let overflow = self.overflow(space)?;
        self.compare(space, &entries, &overflow, counts)
    }

    /// Holds what a map says against what was counted.
    fn compare(
        &self,
        space: &SpaceMapRoot,
        entries: &[IndexEntry],
        overflow: &BTreeMap<u64, u32>,
        counts: &[u32],
    ) -> Verdict {
        let numbered = (0_u64..).zip(counts.iter().copied());
        let many: BTreeMap<u64, u32> = numbered.filter(|(_, count)| *count > 2).collect();
        equal("overflow counts", overflow, &many)?;
        let mut allocated = 0;
        let mut parts = counts.chunks(PER_BITMAP as usize);
        for (number, entry) in entries.iter().enumerate() {
            let block = self.block(entry.blocknr.get(), BITMAP_NAME, &BITMAP_VALIDATOR)?;
            let bitmap: &Bitmap = block.view();
            let part = parts.next().unwrap_or_default();
            let mut used = 0;
            let mut first_free = PER_BITMAP;
            let wanted = part.iter().copied().chain(std::iter::repeat(0));
            for (offset, wanted) in (0..PER_BITMAP).zip(wanted) {
                let found = bitmap.entry(usize::try_from(offset).unwrap());
                if found != wanted.min(3) {
                    let block = number as u64 * PER_BITMAP + offset;
                    return equal(&format!("count of block {block}"), found, wanted.min(3));
                }
                used += u64::from(found > 0);
                if found == 0 {
                    first_free = first_free.min(offset);
                }
            }
            allocated += used;
            let free = u64::from(entry.nr_free.get());
            equal("nr_free of a bitmap", free, PER_BITMAP - used)?;
            let hint = u64::from(entry.none_free_before.get());
            if hint > first_free {
                return Err(format!(
                    "none_free_before {hint} is past free block {first_free}"
                ));
            }
        }
        equal("nr_allocated", space.nr_allocated.get(), allocated)
    }
}

/// Blocks of a sound image that a transaction can take.
fn allocatable(device: &dyn Device) -> Verdict<u64> {
    let reader = Reader::new(device, true);
    let block = reader.read_block(BlockNr(0), STORE_NAME, &STORE_VALIDATOR);
    let block = block.map_err(text)?;
    let root = block.view::<StoreSuperblock>().space_root().map_err(text)?;
    Ok(root.nr_blocks.get() - root.nr_allocated.get())
}
