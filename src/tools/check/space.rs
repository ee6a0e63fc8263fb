//! Both space maps: their structure, their summaries, and every count.

use super::counts::{Wrong, compare, sum_up};
use super::finding::{Finding, Severity};
use super::overflow::Overflow;
use super::{Check, SUMMARY};
use crate::block::{BlockData, Validator};
use crate::device::AlignedBuffer;
use crate::disk_space::{
    BITMAP_NAME, BITMAP_VALIDATOR, Bitmap, ENTRIES_PER_BITMAP, INDEX_NAME, INDEX_VALIDATOR,
    IndexEntry, MAX_METADATA_BITMAPS, MetadataIndex, SpaceMapRoot,
};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::units::BlockNr;
use crate::walk::{BlockSet, Counts, tree_shape};

/// Bitmaps looked at together.
const BATCH: usize = 64;

/// A space map whose index was read.
pub(super) struct Map {
    name: &'static str,
    low: &'static str,
    leak: &'static str,
    root: SpaceMapRoot,
    /// Entries of bitmaps 0, 1, 2 … up to the first that cannot be used.
    index: Vec<IndexEntry>,
    overflow_leaves: Vec<u32>,
    /// Whether the index could be read whole.
    whole_index: bool,
    /// Whether the overflow tree could be read whole.
    whole_overflow: bool,
}

impl Map {
    /// Blocks whose bitmap can be found.
    pub fn blocks_with_bitmaps(&self) -> u64 {
        self.index.len() as u64 * ENTRIES_PER_BITMAP as u64
    }
}

impl Check<'_> {
    /// The data map's index tree and overflow tree.
    pub(super) fn read_data_index(&mut self, task: &Task<'_>) -> Result<Map> {
        let root = self.live.data_space_map_root.root;
        let name = "data space map";
        let mut entries: Vec<IndexEntry> = Vec::new();
        let mut pointed: Vec<u64> = Vec::new();
        let mut gap = None;
        let mut seen = BlockSet::new(self.metadata_blocks);
        let limit = self.metadata_blocks;
        let tree = root.bitmap_root.get();
        let mut whole =
            self.read_tree(name, tree, task, |first_time, key, entry: &IndexEntry| {
                let block = entry.blocknr.get();
                if first_time && block != 0 && block < limit {
                    pointed.push(block);
                }
                // One block cannot be two bitmaps, so this is bounded by the metadata.
                let usable = block != 0 && block < limit && seen.insert(block);
                match gap {
                    None if key == entries.len() as u64 && usable => entries.push(*entry),
                    None => gap = Some((key, block)),
                    Some(_) => {}
                }
            })?;
        pointed.into_iter().for_each(|block| self.count(block));
        if let Some((key, block)) = gap {
            let text = format!(
                "index entry {key} (bitmap in block {block}) follows {} sound ones and is not their next",
                entries.len()
            );
            self.findings
                .push(Finding::new("space-map-damaged", Severity::Fatal, text).of(name));
            whole = false;
        }
        let (low, leak) = ("data-count-low", "data-leak");
        self.read_overflow(
            Map {
                name,
                low,
                leak,
                root,
                index: entries,
                overflow_leaves: vec![],
                whole_index: whole,
                whole_overflow: false,
            },
            task,
        )
    }

    /// The metadata map's index block and overflow tree.
    pub(super) fn read_metadata_index(&mut self, task: &Task<'_>) -> Result<Map> {
        let root = self.live.metadata_space_map_root.root;
        let name = "metadata space map";
        let at = BlockNr(root.bitmap_root.get());
        let bitmaps = root.nr_blocks.get().div_ceil(ENTRIES_PER_BITMAP as u64);
        let bitmaps = usize::try_from(bitmaps)
            .unwrap_or(usize::MAX)
            .min(MAX_METADATA_BITMAPS);
        let mut index = Vec::new();
        self.blocks_checked += 1;
        match self.reader.read_block(at, INDEX_NAME, &INDEX_VALIDATOR) {
            Ok(block) => {
                index.extend_from_slice(&block.view::<MetadataIndex>().entries[..bitmaps]);
            }
            Err(damage) => self.findings.push(Finding::from_damage(name, &damage)),
        }
        let mut whole = index.len() == bitmaps;
        let mut seen = BlockSet::new(self.metadata_blocks);
        for (number, entry) in index.iter().enumerate() {
            let block = entry.blocknr.get();
            if block == 0 || block >= self.metadata_blocks || !seen.insert(block) {
                let text = format!("bitmap {number} cannot be in block {block}");
                let finding = Finding::new("space-map-damaged", Severity::Fatal, text);
                self.findings.push(finding.at(name, at));
                whole = false;
                index.truncate(number);
                break;
            }
        }
        index
            .iter()
            .for_each(|entry| self.count(entry.blocknr.get()));
        let (low, leak) = ("metadata-count-low", "metadata-leak");
        self.read_overflow(
            Map {
                name,
                low,
                leak,
                root,
                index,
                overflow_leaves: vec![],
                whole_index: whole,
                whole_overflow: false,
            },
            task,
        )
    }

    fn read_overflow(&mut self, mut map: Map, task: &Task<'_>) -> Result<Map> {
        let (metadata, counted) = (&mut self.metadata, &mut self.counted);
        let root = map.root.ref_count_root.get();
        let shape = tree_shape(&self.reader, task, root, 4, metadata, counted)?;
        self.blocks_checked += shape.nodes;
        for bad in &shape.damages {
            self.findings.push(Finding::from_node(map.name, bad));
        }
        for odd in &shape.irregular {
            self.findings.push(Finding::from_damage(map.name, odd));
        }
        map.whole_overflow = shape.damages.is_empty();
        map.overflow_leaves = shape.leaves;
        Ok(map)
    }

    /// Compares a map with the references found, if they were looked for.
    /// `complete`: whether all references are known, so that leaks can be told.
    pub(super) fn check_map(
        &mut self,
        map: &Map,
        counts: Option<&Counts>,
        complete: bool,
        task: &Task<'_>,
    ) -> Result<()> {
        let nr_blocks = map.root.nr_blocks.get();
        if map.whole_index
            && map.index.len() as u64 != nr_blocks.div_ceil(ENTRIES_PER_BITMAP as u64)
        {
            let text = format!("{} bitmaps for {nr_blocks} blocks", map.index.len());
            let finding = Finding::new("space-map-damaged", Severity::Fatal, text);
            self.findings.push(finding.of(map.name));
        }
        let mut overflow = Overflow::new(&map.overflow_leaves);
        let mut compared = Compared::new(map, complete);
        let mut window = AlignedBuffer::new(0);
        let mut entries = Vec::new();
        let mut scratch = Box::new([0_u8; ENTRIES_PER_BITMAP]);
        task.expect(map.index.len() as u64);
        for (batch, index) in map.index.chunks(BATCH).enumerate() {
            let bitmaps = self.read_bitmaps(index, &mut window)?;
            for (offset, (entry, bitmap)) in index.iter().zip(bitmaps).enumerate() {
                let number = batch * BATCH + offset;
                let first = number as u64 * ENTRIES_PER_BITMAP as u64;
                let real = nr_blocks
                    .saturating_sub(first)
                    .min(ENTRIES_PER_BITMAP as u64);
                overflow.below(
                    &self.reader,
                    first + ENTRIES_PER_BITMAP as u64,
                    &mut entries,
                )?;
                match bitmap {
                    Ok(block) => {
                        let bitmap: &Bitmap = block.view();
                        let real = usize::try_from(real).unwrap_or(ENTRIES_PER_BITMAP);
                        let tell = |wrong| compared.wrong(wrong, &mut self.findings);
                        compare(bitmap, first, real, counts, &entries, &mut scratch, tell);
                        compared.summary(number, entry, bitmap, real, &mut self.findings);
                    }
                    Err(damage) => {
                        let mut finding = Finding::from_damage(map.name, &damage);
                        finding.counted = Some((first, first + real));
                        self.findings.push(finding);
                        compared.unread = true;
                    }
                }
            }
            task.step(0, index.len() as u64)?;
        }
        while overflow.next_batch(&self.reader, &mut entries)? {
            for (block, count) in entries.iter().copied() {
                // Of a bitmap that could not be found nothing is known.
                if map.whole_index || block >= nr_blocks {
                    compared.wrong(Wrong::StrayOverflow { block, count }, &mut self.findings);
                }
            }
            task.step(0, 0)?;
        }
        for damage in &overflow.damages {
            self.findings.push(Finding::from_damage(map.name, damage));
        }
        compared.finish(&mut self.findings);
        self.overcounted |= compared.overcounted;
        Ok(())
    }

    /// A batch of bitmaps, read in order of location, given in order of number.
    fn read_bitmaps(
        &mut self,
        index: &[IndexEntry],
        window: &mut AlignedBuffer,
    ) -> Result<Vec<Result<BlockData, Damage>>> {
        let mut order: Vec<usize> = (0..index.len()).collect();
        order.sort_unstable_by_key(|number| index[*number].blocknr.get());
        let block = |number: &usize| u32::try_from(index[*number].blocknr.get()).unwrap_or(0);
        let blocks: Vec<u32> = order.iter().map(block).collect();
        let mut bitmaps = Vec::new();
        bitmaps.resize_with(index.len(), || Ok(BlockData::zeroed()));
        self.reader
            .read(&blocks, BITMAP_NAME, window, |place, block| {
                bitmaps[order[place]] = block.and_then(|block| {
                    BITMAP_VALIDATOR.check(BlockNr(blocks[place].into()), block)?;
                    Ok(block.clone())
                });
                Ok(())
            })?;
        self.blocks_checked += index.len() as u64;
        Ok(bitmaps)
    }
}

/// Wrong counts that follow each other and are alike.
struct Run {
    begin: u64,
    end: u64,
    stored: u32,
    found: u32,
}

/// Gathers what differs in one map.
struct Compared<'m> {
    map: &'m Map,
    complete: bool,
    run: Option<Run>,
    allocated: u64,
    /// A bitmap could not be read, so the sum means nothing.
    unread: bool,
    /// A count is too high that is not one in place of none.
    overcounted: bool,
}

impl<'m> Compared<'m> {
    fn new(map: &'m Map, complete: bool) -> Self {
        Self {
            map,
            complete,
            run: None,
            allocated: 0,
            unread: !map.whole_index,
            overcounted: false,
        }
    }

    fn wrong(&mut self, wrong: Wrong, findings: &mut super::Findings) {
        let (block, text) = match wrong {
            Wrong::Count {
                block,
                stored,
                found,
            } => {
                match &mut self.run {
                    Some(run) if run.end == block && (run.stored, run.found) == (stored, found) => {
                        run.end += 1;
                    }
                    _ => {
                        self.flush(findings);
                        self.run = Some(Run {
                            begin: block,
                            end: block + 1,
                            stored,
                            found,
                        });
                    }
                }
                return;
            }
            Wrong::NoOverflow { .. } if !self.map.whole_overflow => return,
            Wrong::NoOverflow { block } => (
                block,
                format!("block {block} counts three or more, but how many is not stored"),
            ),
            Wrong::StrayOverflow { block, count } => (
                block,
                format!(
                    "block {block} has a count of {count} stored that its bitmap does not ask for"
                ),
            ),
        };
        let mut finding = Finding::new("space-map-overflow", Severity::Fatal, text);
        finding.counted = Some((block, block.saturating_add(1)));
        findings.push(finding.of(self.map.name));
    }

    /// Reports the run at hand.
    fn flush(&mut self, findings: &mut super::Findings) {
        let Some(Run {
            begin,
            end,
            stored,
            found,
        }) = self.run.take()
        else {
            return;
        };
        let which = match end - begin {
            1 => format!("block {begin}"),
            more => format!("{more} blocks from {begin} to {}", end - 1),
        };
        self.overcounted |= stored > found && stored > 1;
        let (code, severity, what) = match stored > found {
            true if !self.complete => return,
            true => (self.map.leak, Severity::NonFatal, "leaked"),
            false => (self.map.low, Severity::Fatal, "may be given out twice"),
        };
        let text = format!("{which}: {stored} references stored, {found} found: {what}");
        let mut finding = Finding::new(code, severity, text);
        finding.counted = Some((begin, end));
        findings.push(finding.of(self.map.name));
    }

    /// Compares an index entry with its bitmap.
    fn summary(
        &mut self,
        number: usize,
        entry: &IndexEntry,
        bitmap: &Bitmap,
        real: usize,
        findings: &mut super::Findings,
    ) {
        let summed = sum_up(bitmap, real);
        self.allocated += real as u64 - u64::from(summed.free_real);
        if summed.are_those_of(entry) {
            return;
        }
        let (free, hint) = (entry.nr_free.get(), entry.none_free_before.get());
        let text = format!(
            "bitmap {number}: nr_free {free}, none_free_before {hint} stored; {} free, the first at {}",
            summed.free, summed.first_free
        );
        let finding = Finding::new(SUMMARY, Severity::NonFatal, text);
        findings.push(finding.at(self.map.name, BlockNr(entry.blocknr.get())));
    }

    fn finish(&mut self, findings: &mut super::Findings) {
        self.flush(findings);
        let stored = self.map.root.nr_allocated.get();
        if self.unread || stored == self.allocated {
            return;
        }
        let text = format!(
            "nr_allocated {stored} stored, {} blocks are",
            self.allocated
        );
        let finding = Finding::new(SUMMARY, Severity::NonFatal, text);
        findings.push(finding.of(self.map.name));
    }
}
