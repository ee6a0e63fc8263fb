//! Layer 6: reference counts on disk.
//!
//! Promises: counts of both kinds of map, the metadata's own (an index block)
//! and the data's (an index tree); a block is handed out only when it is free
//! now and was at the last commit. The metadata's map is changed inside the
//! transaction whose blocks it counts.
//! May use: layers 0 to 5.

mod bitmap;
mod core;
mod data;
mod free;
mod grow;
mod index;
mod mend;
mod metadata;
mod search;

use std::sync::Arc;

use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

pub use bitmap::{
    BITMAP_NAME, BITMAP_VALIDATOR, Bitmap, ENTRIES_PER_BITMAP, ENTRIES_PER_WORD, MANY,
};
pub(crate) use data::metadata_blocks_for;
pub use data::{DataMap, MAX_DATA_BLOCKS};
pub(crate) use grow::{create as create_metadata, extend as extend_metadata};
pub use index::{INDEX_NAME, INDEX_VALIDATOR, IndexEntry, MAX_METADATA_BITMAPS, MetadataIndex};
pub(crate) use mend::Mender;
pub use metadata::LowSpace;
pub(crate) use metadata::{
    MetadataMap, allocate, committed as metadata_committed, count_references,
    pre_commit as pre_commit_metadata, set_count, views_closed as metadata_views_closed,
};

use crate::block::BlockManager;
use crate::btree::{BTree, Wait};
use crate::error::{Damage, Error, Result};
use crate::space::SpaceMap;
use crate::units::BlockNr;

/// The root of a space map, in a superblock. Source: docs/format.md, "Space map root".
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct SpaceMapRoot {
    /// Blocks that are counted.
    pub nr_blocks: U64,
    /// Blocks whose count is not zero.
    pub nr_allocated: U64,
    /// The index block (metadata), or the root of the index tree (data).
    pub bitmap_root: U64,
    /// Root of the tree of counts of three and more.
    pub ref_count_root: U64,
}
const _: () = assert!(size_of::<SpaceMapRoot>() == 32);

impl SpaceMapRoot {
    /// The root at the start of the area that a superblock has for it.
    ///
    /// # Errors
    /// [`Error::Usage`] for an area of less than 32 bytes.
    pub fn from_area(area: &[u8]) -> Result<Self> {
        let root = Self::read_from_prefix(area).map(|(root, _)| root);
        root.map_err(|_| {
            let text = format!("a space map root takes 32 bytes, not {}", area.len());
            Error::Usage(text)
        })
    }
}

/// Where the index entries are kept.
enum Index {
    Block(BlockNr),
    Tree(BTree<IndexEntry>),
}

/// A space map of either kind.
pub struct DiskSpaceMap {
    blocks: Arc<BlockManager>,
    root: SpaceMapRoot,
    index: Index,
    overflow: BTree<U32>,
}

impl DiskSpaceMap {
    /// The map that counts metadata blocks.
    #[must_use]
    pub fn metadata(blocks: &Arc<BlockManager>, root: SpaceMapRoot) -> Self {
        Self::new(blocks, root, Index::Block(BlockNr(root.bitmap_root.get())))
    }

    /// The map that counts data blocks.
    #[must_use]
    pub fn data(blocks: &Arc<BlockManager>, root: SpaceMapRoot) -> Self {
        let tree = BTree::new(blocks, BlockNr(root.bitmap_root.get()));
        Self::new(blocks, root, Index::Tree(tree))
    }

    fn new(blocks: &Arc<BlockManager>, root: SpaceMapRoot, index: Index) -> Self {
        let overflow = BTree::new(blocks, BlockNr(root.ref_count_root.get()));
        Self {
            blocks: Arc::clone(blocks),
            root,
            index,
            overflow,
        }
    }

    /// As much of a count as the bitmap alone says, which stops at 3.
    pub fn least_count(&self, block: u64) -> Result<u32> {
        Ok(self.entry(block)?.1)
    }

    /// What the bitmap says of a block, and where that is.
    fn entry(&self, block: u64) -> Result<(BlockNr, u32)> {
        if block >= self.nr_blocks() {
            let text = format!(
                "block {block} is past the {} of the space map",
                self.nr_blocks()
            );
            return Err(Error::Usage(text));
        }
        let per_bitmap = ENTRIES_PER_BITMAP as u64;
        let at = BlockNr(self.index_entry(block / per_bitmap)?.blocknr.get());
        let index = usize::try_from(block % per_bitmap).unwrap_or_default();
        let bitmap = self.blocks.read_lock(at, &BITMAP_VALIDATOR)?;
        let entry = bitmap.view::<Bitmap>().entry(index);
        drop(bitmap);
        Ok((at, entry))
    }

    /// The index entry of a bitmap.
    pub fn index_entry(&self, bitmap: u64) -> Result<IndexEntry> {
        let missing = |at, name| {
            Damage::new(
                at,
                name,
                "index entry",
                format!("none for bitmap {bitmap}"),
                "one",
            )
        };
        match &self.index {
            Index::Block(at) => {
                let block = self.blocks.read_lock(*at, &INDEX_VALIDATOR)?;
                let entries = &block.view::<MetadataIndex>().entries;
                let entry = usize::try_from(bitmap)
                    .ok()
                    .and_then(|number| entries.get(number));
                entry
                    .copied()
                    .ok_or_else(|| missing(*at, INDEX_NAME).into())
            }
            Index::Tree(tree) => tree
                .lookup(bitmap, Wait::Yes)?
                .ok_or_else(|| missing(tree.root(), "space map").into()),
        }
    }
}

impl SpaceMap for DiskSpaceMap {
    fn nr_blocks(&self) -> u64 {
        self.root.nr_blocks.get()
    }

    fn nr_free(&self) -> u64 {
        self.nr_blocks()
            .saturating_sub(self.root.nr_allocated.get())
    }

    fn get_count(&self, block: u64) -> Result<u32> {
        let (at, entry) = self.entry(block)?;
        if entry < MANY {
            return Ok(entry);
        }
        let missing = || Damage::new(at, BITMAP_NAME, "overflow", "no entry", "a count above 2");
        let count = self
            .overflow
            .lookup(block, Wait::Yes)?
            .ok_or_else(missing)?;
        Ok(count.get())
    }
}
