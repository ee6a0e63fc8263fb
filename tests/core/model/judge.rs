//! Is anything wrong at all? Every row of docs/format.md, "What a strict reader
//! checks", by counting everything anew.

use std::collections::{BTreeMap, BTreeSet};

use super::{Fault, MapRoot, Superblock, Walk, superblock};
use crate::support::image::{Image, Kind, read_u32, read_u64};

/// The first thing that is wrong with the live roots, the held ones and the
/// space maps.
pub fn first_fault(image: &Image) -> Result<(), Fault> {
    let live = superblock(image, 0, image.nr_blocks())?;
    let mut judge = Judge::new(image, live.metadata.nr_blocks, &live);
    let limit = judge.limit;
    if [live.mapping_root, live.details_root]
        .iter()
        .any(|root| *root >= limit)
    {
        return Err("a root beyond the metadata".to_owned());
    }
    judge.refer(0)?;
    let mut roots = vec![live];
    if live.held_root != 0 {
        judge.refer(live.held_root)?;
        roots.push(superblock(image, live.held_root, limit)?);
    }
    judge.trees(&roots, live.time)?;
    for map in [live.data, live.metadata] {
        judge.refer(map.bitmap_root)?;
        judge.refer(map.ref_count_root)?;
    }
    let data_index = judge.data_index(&live.data)?;
    let metadata_index = judge.metadata_index(&live.metadata)?;
    let data_counts = judge.overflow(&live.data)?;
    let metadata_counts = judge.overflow(&live.metadata)?;
    let data = std::mem::take(&mut judge.data);
    judge.map("data", &live.data, &data_index, &data_counts, &data)?;
    let metadata = std::mem::take(&mut judge.metadata);
    judge.map(
        "metadata",
        &live.metadata,
        &metadata_index,
        &metadata_counts,
        &metadata,
    )
}

/// The first thing that is wrong with the trees of the metadata snapshot in
/// block `at`, as far as it can be told beside a running pool.
pub fn first_fault_held(image: &Image, at: u64) -> Result<(), Fault> {
    let blocks = image.nr_blocks();
    let live = superblock(image, 0, blocks)?;
    let held = superblock(image, at, blocks)?;
    Judge::new(image, blocks.min(255 * 16320), &live).trees(&[held], held.time)
}

/// Free entries of a bitmap, as the index says, and where it is.
struct IndexEntry {
    bitmap: u64,
    nr_free: u32,
    none_free_before: u32,
}

struct Judge<'i> {
    image: &'i Image,
    limit: u64,
    data_blocks: u64,
    /// Virtual blocks that lie within 2^64 bytes.
    virtual_blocks: u64,
    metadata: BTreeMap<u64, u32>,
    data: BTreeMap<u64, u32>,
    /// Nodes whose references are counted.
    counted: BTreeSet<u64>,
}

impl<'i> Judge<'i> {
    fn new(image: &'i Image, limit: u64, live: &Superblock) -> Self {
        Self {
            image,
            limit,
            data_blocks: live.data.nr_blocks,
            virtual_blocks: u64::MAX / (512 * u64::from(live.data_block_sectors)),
            metadata: BTreeMap::new(),
            data: BTreeMap::new(),
            counted: BTreeSet::new(),
        }
    }

    fn refer(&mut self, block: u64) -> Result<(), Fault> {
        if block >= self.limit {
            return Err(format!("a pointer to {block}"));
        }
        *self.metadata.entry(block).or_default() += 1;
        Ok(())
    }

    /// Walks a tree, counts what its nodes refer to and collects its leaves'
    /// entries, each with the leaf and whether that is met for the first time.
    fn tree(
        &mut self,
        root: u64,
        value_size: usize,
        is_root: &dyn Fn(u64) -> bool,
        mut entry: impl FnMut(bool, u64, &'i [u8]),
    ) -> Result<(), Fault> {
        let walk = Walk {
            image: self.image,
            value_size,
            limit: self.limit,
            strict: true,
            is_root,
        };
        let (metadata, counted) = (&mut self.metadata, &mut self.counted);
        walk.visit(root, &mut |node| {
            let first = counted.insert(node.at);
            for index in 0..node.entries {
                match node.is_leaf {
                    true => entry(first, node.key(index), node.value(index)),
                    false if first => *metadata.entry(node.child(index)).or_default() += 1,
                    false => {}
                }
            }
        })
    }

    /// Details, top level and mappings of all roots.
    fn trees(&mut self, roots: &[Superblock], time: u32) -> Result<(), Fault> {
        let mut devices = Vec::new();
        for root in roots {
            self.refer(root.mapping_root)?;
            self.refer(root.details_root)?;
            let mut details = BTreeMap::new();
            self.tree(root.details_root, 24, &|_| false, |_, id, value| {
                details.insert(id, read_u64(value, 0));
            })?;
            let mut tops = Vec::new();
            self.tree(root.mapping_root, 8, &|_| false, |first, id, value| {
                tops.push((first, id, read_u64(value, 0)));
            })?;
            if !details.keys().eq(tops.iter().map(|top| &top.1)) {
                return Err("details and mappings know different devices".to_owned());
            }
            for (first, id, tree) in tops {
                if id >= 1 << 24 {
                    return Err(format!("device id {id}"));
                }
                if tree == 0 || tree >= self.limit {
                    return Err(format!("the root of device {id} is {tree}"));
                }
                if first {
                    self.refer(tree)?;
                }
                devices.push((tree, details[&id]));
            }
        }
        let tops: BTreeSet<u64> = devices.iter().map(|device| device.0).collect();
        for (tree, mapped_blocks) in devices {
            self.mappings(tree, mapped_blocks, time, &|at| tops.contains(&at))?;
        }
        Ok(())
    }

    fn mappings(
        &mut self,
        tree: u64,
        mapped_blocks: u64,
        time: u32,
        is_root: &dyn Fn(u64) -> bool,
    ) -> Result<(), Fault> {
        let (mut found, mut bad, mut data) = (0, None, Vec::new());
        let (data_blocks, virtual_blocks) = (self.data_blocks, self.virtual_blocks);
        self.tree(tree, 8, is_root, |first, key, value| {
            let value = read_u64(value, 0);
            found += 1;
            let late = value & 0xff_ffff > u64::from(time);
            if late || value >> 24 >= data_blocks || key >= virtual_blocks {
                bad = Some(format!("virtual block {key} of {tree} maps {value:#x}"));
            } else if first {
                data.push(value >> 24);
            }
        })?;
        for block in data {
            *self.data.entry(block).or_default() += 1;
        }
        match bad {
            Some(bad) => Err(bad),
            None if found != mapped_blocks => {
                Err(format!("{found} mappings, details say {mapped_blocks}"))
            }
            None => Ok(()),
        }
    }

    fn data_index(&mut self, map: &MapRoot) -> Result<Vec<IndexEntry>, Fault> {
        let mut entries = Vec::new();
        let mut pointed = Vec::new();
        self.tree(map.bitmap_root, 16, &|_| false, |first, key, value| {
            entries.push((key, index_entry(value)));
            pointed.extend(first.then(|| read_u64(value, 0)));
        })?;
        for bitmap in pointed {
            self.refer(bitmap)?;
        }
        if !entries
            .iter()
            .map(|entry| entry.0)
            .eq(0..map.nr_blocks.div_ceil(16320))
        {
            return Err("keys of the data index".to_owned());
        }
        Ok(entries.into_iter().map(|entry| entry.1).collect())
    }

    fn metadata_index(&mut self, map: &MapRoot) -> Result<Vec<IndexEntry>, Fault> {
        let at = map.bitmap_root;
        let block = self.image.block(at).ok_or("no index block")?;
        if self.image.kind(at) != Some(Kind::Index) || read_u64(block, 8) != at {
            return Err("the index block".to_owned());
        }
        let bitmaps = usize::try_from(map.nr_blocks.div_ceil(16320)).unwrap();
        let entries: Vec<_> = block[16..]
            .chunks(16)
            .take(bitmaps)
            .map(index_entry)
            .collect();
        for entry in &entries {
            self.refer(entry.bitmap)?;
        }
        Ok(entries)
    }

    fn overflow(&mut self, map: &MapRoot) -> Result<BTreeMap<u64, u32>, Fault> {
        let mut counts = BTreeMap::new();
        self.tree(map.ref_count_root, 4, &|_| false, |_, key, value| {
            counts.insert(key, read_u32(value, 0));
        })?;
        Ok(counts)
    }

    fn map(
        &self,
        name: &str,
        map: &MapRoot,
        index: &[IndexEntry],
        overflow: &BTreeMap<u64, u32>,
        found: &BTreeMap<u64, u32>,
    ) -> Result<(), Fault> {
        let fault = |what: &str| Err(format!("{name} map: {what}"));
        let (mut allocated, mut many) = (0, 0);
        for (number, entry) in index.iter().enumerate() {
            let at = entry.bitmap;
            let Some(block) = self.image.block(at).filter(|_| at != 0 && at < self.limit) else {
                return fault("no bitmap");
            };
            if self.image.kind(at) != Some(Kind::Bitmap) || read_u64(block, 8) != at {
                return fault("a bitmap");
            }
            let first = number as u64 * 16320;
            let real = usize::try_from((map.nr_blocks - first).min(16320)).unwrap();
            // The lower bit of the two is the more significant.
            let counts: Vec<u32> = (0..16320)
                .map(|entry| block[16 + entry / 4] >> (2 * (entry % 4)))
                .map(|pair| u32::from(pair & 1) << 1 | u32::from(pair >> 1 & 1))
                .collect();
            let spread = |sparse: &BTreeMap<u64, u32>| {
                let mut here = vec![None; real];
                for (block, count) in sparse.range(first..first + real as u64) {
                    here[usize::try_from(block - first).unwrap()] = Some(*count);
                }
                here
            };
            let stored = counts[..real]
                .iter()
                .zip(spread(overflow))
                .zip(spread(found));
            for (index, ((count, above), found)) in stored.enumerate() {
                let stored = match (count, above) {
                    (3, Some(above)) if above >= 3 => above,
                    (0..=2, None) => *count,
                    _ => return fault(&format!("overflow of entry {index}")),
                };
                many += u64::from(*count == 3);
                allocated += u64::from(*count != 0);
                if stored != found.unwrap_or(0) {
                    return fault(&format!("entry {index} counts {stored}"));
                }
            }
            let free = |counts: &[u32]| counts.iter().filter(|count| **count == 0).count();
            let all = [free(&counts), free(&counts[..real])];
            let first_free = counts.iter().position(|count| *count == 0).unwrap_or(16320);
            if !all.contains(&(entry.nr_free as usize))
                || entry.none_free_before as usize > first_free
            {
                return fault(&format!("summary of bitmap {number}"));
            }
        }
        match () {
            () if many != overflow.len() as u64 => fault("overflow entries without blocks"),
            () if allocated != map.nr_allocated => fault("nr_allocated"),
            () => Ok(()),
        }
    }
}

fn index_entry(value: &[u8]) -> IndexEntry {
    IndexEntry {
        bitmap: read_u64(value, 0),
        nr_free: read_u32(value, 8),
        none_free_before: read_u32(value, 12),
    }
}
