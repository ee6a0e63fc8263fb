//! What is known of each device's mappings: every node is looked at once, however many
//! devices share it, and what is known of it joined to what is known of its parents.

use rustc_hash::FxHashMap;
use zerocopy::little_endian::U64;

use super::lengths::{Lengths, Stretch};
use crate::block::{BlockData, Validator};
use crate::btree::{NODE_NAME, NODE_VALIDATOR, Node};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::MappingValue;
use crate::units::BlockNr;
use crate::walk::{Counts, Crew, Forest, FrozenCounts, Reader, Scatter};

/// Runs of a leaf have fewer than 2^8 blocks.
const LEAF_BINS: usize = 8;

/// What is known of a leaf; small, as there are many.
#[derive(Clone, Copy, Default)]
struct Leaf {
    /// Virtual and data block of the first mapping.
    first: (u64, u64),
    /// The same of the last.
    last: (u64, u64),
    entries: u16,
    runs: u16,
    head: u16,
    tail: u16,
    seeks: u16,
    exclusive: u16,
    inner_runs: [u8; LEAF_BINS],
    inner_blocks: [u16; LEAF_BINS],
}

/// What is known of a sub-tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Volume {
    first: (u64, u64),
    last: (u64, u64),
    stretch: Stretch,
    /// Mappings.
    pub entries: u64,
    /// How often data do not go on where they ended, read in order.
    pub seeks: u64,
    /// Mappings whose data block nobody else has.
    pub exclusive: u64,
    /// Nodes, and leaves among them.
    pub nodes: u64,
    pub leaves: u64,
    /// Mappings of the emptiest and of the fullest leaf.
    pub least: u64,
    pub most: u64,
}

impl Volume {
    fn of_leaf(leaf: &Leaf) -> Self {
        let mut inner = Lengths::default();
        for bin in 0..LEAF_BINS {
            inner.runs[bin] = leaf.inner_runs[bin].into();
            inner.blocks[bin] = leaf.inner_blocks[bin].into();
        }
        Self {
            first: leaf.first,
            last: leaf.last,
            stretch: Stretch {
                runs: leaf.runs.into(),
                head: leaf.head.into(),
                tail: leaf.tail.into(),
                inner,
            },
            entries: leaf.entries.into(),
            seeks: leaf.seeks.into(),
            exclusive: leaf.exclusive.into(),
            nodes: 1,
            leaves: 1,
            least: leaf.entries.into(),
            most: leaf.entries.into(),
        }
    }

    /// What comes next in order of virtual blocks.
    fn join(&mut self, next: &Self) {
        self.nodes += next.nodes;
        self.least = if self.leaves == 0 {
            next.least
        } else {
            self.least.min(next.least)
        };
        self.leaves += next.leaves;
        self.most = self.most.max(next.most);
        self.exclusive += next.exclusive;
        if next.entries == 0 {
            return;
        }
        let (data_goes_on, goes_on) = follows(self.last, next.first);
        if self.entries == 0 {
            self.first = next.first;
        } else if !data_goes_on {
            self.seeks += 1;
        }
        self.seeks += next.seeks;
        self.stretch
            .join(&next.stretch, goes_on && self.entries > 0);
        self.entries += next.entries;
        self.last = next.last;
    }

    /// Its runs.
    pub fn lengths(&self) -> Lengths {
        self.stretch.lengths()
    }
}

/// Whether data go on from one mapping to the next, and whether the volume does as well.
fn follows(last: (u64, u64), next: (u64, u64)) -> (bool, bool) {
    let data = last.1.wrapping_add(1) == next.1;
    (data, data && last.0.wrapping_add(1) == next.0)
}

/// All of them.
pub(super) struct Volumes {
    /// One for each of the roots that were asked for.
    pub each: Vec<Volume>,
    /// Data blocks by how many mappings have them: 1, 2, 3 to 4, 5 to 8 and so on.
    pub owners: Vec<u64>,
    /// Distinct nodes and leaves.
    pub nodes: u64,
    pub leaves: u64,
    /// Mappings in distinct leaves.
    pub entries: u64,
    /// Distinct leaves by how full they are, in tenths of their capacity.
    pub fill: [u64; 10],
}

/// How full a leaf is, in tenths.
pub(super) fn tenth(entries: u64, capacity: u64) -> usize {
    let tenths = (entries * 10).div_ceil(capacity.max(1));
    usize::try_from(tenths.saturating_sub(1)).map_or(9, |tenth| tenth.min(9))
}

/// Looks at all leaves of a forest that is sound, and joins what it finds.
///
/// # Errors
/// What has become damaged since.
pub(super) fn volumes(
    reader: &Reader<'_>,
    task: &Task<'_>,
    forest: &Forest,
    roots: &[u32],
    metadata_blocks: u64,
    data_blocks: u64,
    capacity: u64,
) -> Result<Volumes> {
    let inner = children(reader, task, forest)?;
    refuse_empty_leaves(forest, &inner)?;
    let owners = owners(forest, &inner, roots, metadata_blocks);
    let is_leaf = |block: &u32| {
        forest
            .summary(*block)
            .is_some_and(|found| found.height == 0)
    };
    let limit = u32::try_from(metadata_blocks).unwrap_or(u32::MAX);
    let leaves: Vec<u32> = (0..limit).filter(is_leaf).collect();
    let counts = Counts::new(data_blocks);
    let mut known = look(reader, task, &leaves, &owners, &counts)?;
    let counts = counts.freeze();
    count_exclusive(reader, task, &leaves, &owners, &counts, &mut known)?;
    let mut fill = [0; 10];
    let mut entries = 0;
    for leaf in &known {
        fill[tenth(leaf.entries.into(), capacity)] += 1;
        entries += u64::from(leaf.entries);
    }
    Ok(Volumes {
        each: join(forest, &inner, roots, &leaves, &known),
        owners: by_owners(&counts),
        nodes: forest.nodes(),
        leaves: leaves.len() as u64,
        entries,
        fill,
    })
}

/// An internal node, and what is below it.
type Inner = (u32, Vec<u32>);

/// All internal nodes, the lowest ones first.
fn children(reader: &Reader<'_>, task: &Task<'_>, forest: &Forest) -> Result<Vec<Inner>> {
    let mut blocks: Vec<u32> = forest.internals.iter().flatten().copied().collect();
    blocks.sort_unstable();
    let read = |(): &mut (), at: BlockNr, block: Result<&BlockData, Damage>| {
        let block = block?;
        NODE_VALIDATOR.check(at, block)?;
        let children = Node::parse(at, block)?;
        let children = children.children()?.iter();
        // They were all found to be below that.
        Ok(children
            .map(|child| u32::try_from(child.get()).unwrap_or(0))
            .collect::<Vec<u32>>())
    };
    let (found, _) = reader.visit(task, &blocks, NODE_NAME, Vec::new(), || (), read)?;
    let mut inner: Vec<Inner> = blocks.into_iter().zip(found).collect();
    inner.sort_by_key(|(block, _)| forest.summary(*block).map_or(0, |found| found.height));
    Ok(inner)
}

/// A leaf without mappings is the root of a device that has none, and of that alone. The forest
/// cannot tell where it is both, as devices share it.
fn refuse_empty_leaves(forest: &Forest, inner: &[Inner]) -> Result<(), Damage> {
    let is_empty = |block: &u32| {
        let found = forest.summary(*block);
        found.is_some_and(|found| found.height == 0 && found.entries == 0)
    };
    let empty = inner
        .iter()
        .flat_map(|(_, children)| children)
        .find(|child| is_empty(child));
    empty.map_or(Ok(()), |block| {
        let at = BlockNr((*block).into());
        let expected = "at least 1 below the root";
        Err(Damage::new(at, NODE_NAME, "entries", 0_u64, expected))
    })
}

/// How many devices reach each node.
fn owners(forest: &Forest, inner: &[Inner], roots: &[u32], metadata_blocks: u64) -> Vec<u32> {
    let mut owners = vec![0_u32; usize::try_from(metadata_blocks).unwrap_or(0)];
    for root in roots {
        owners[*root as usize] += 1;
    }
    for (block, children) in inner.iter().rev() {
        let here = owners[*block as usize];
        for child in children
            .iter()
            .filter(|child| forest.summary(**child).is_some())
        {
            let owners = &mut owners[*child as usize];
            *owners = owners.saturating_add(here);
        }
    }
    owners
}

/// What there is in each leaf; and counts who has its data blocks.
fn look(
    reader: &Reader<'_>,
    task: &Task<'_>,
    leaves: &[u32],
    owners: &[u32],
    counts: &Counts,
) -> Result<Vec<Leaf>> {
    let crew = Crew::new(counts, task.threads());
    let visit = |scatter: &mut Scatter<'_>, at: BlockNr, block: Result<&BlockData, Damage>| {
        let owners = usize::try_from(at.0).map_or(0, |at| owners[at]);
        let block = block?;
        let values = leaf_of(at, block)?;
        let blocks = values
            .1
            .iter()
            .map(|value| MappingValue(value.get()).data_block());
        if owners == 1 {
            blocks.for_each(|block| scatter.add(block));
        } else {
            counts.add_times(blocks, owners);
        }
        Ok(summarize(values.0, values.1))
    };
    let (found, _) = reader.visit(
        task,
        leaves,
        NODE_NAME,
        Leaf::default(),
        || crew.join(),
        visit,
    )?;
    Ok(found)
}

/// Keys and values of a leaf.
fn leaf_of(at: BlockNr, block: &BlockData) -> Result<(&[U64], &[U64]), Damage> {
    NODE_VALIDATOR.check(at, block)?;
    let node = Node::parse(at, block)?;
    let values = node.is_leaf().then(|| node.values::<U64>()).transpose()?;
    match values {
        Some(values) => Ok((node.keys(), values)),
        None => Err(Damage::new(
            at,
            NODE_NAME,
            "kind",
            "an internal node",
            "a leaf",
        )),
    }
}

fn summarize(keys: &[U64], values: &[U64]) -> Leaf {
    let mut leaf = Leaf::default();
    let mappings = keys
        .iter()
        .zip(values)
        .map(|(key, value)| (key.get(), MappingValue(value.get()).data_block()));
    let mut length = 0_u16;
    for here in mappings {
        if leaf.entries == 0 {
            leaf.first = here;
        } else {
            let (data_goes_on, goes_on) = follows(leaf.last, here);
            leaf.seeks += u16::from(!data_goes_on);
            if !goes_on {
                end_run(&mut leaf, length);
                length = 0;
            }
        }
        length += 1;
        leaf.entries += 1;
        leaf.last = here;
    }
    if length > 0 {
        end_run(&mut leaf, length);
    }
    leaf
}

/// As [`Stretch::push`].
fn end_run(leaf: &mut Leaf, length: u16) {
    match leaf.runs {
        0 => leaf.head = length,
        1 => {}
        _ => {
            let bin = (leaf.tail.max(1).ilog2() as usize).min(LEAF_BINS - 1);
            leaf.inner_runs[bin] += 1;
            leaf.inner_blocks[bin] += leaf.tail;
        }
    }
    leaf.tail = length;
    leaf.runs += 1;
}

/// How many mappings of each leaf have a data block that no other mapping has.
fn count_exclusive(
    reader: &Reader<'_>,
    task: &Task<'_>,
    leaves: &[u32],
    owners: &[u32],
    counts: &FrozenCounts,
    known: &mut [Leaf],
) -> Result<()> {
    if counts.at_most_one() {
        known
            .iter_mut()
            .for_each(|leaf| leaf.exclusive = leaf.entries);
        return Ok(());
    }
    let alone: Vec<usize> = (0..leaves.len())
        .filter(|index| owners[leaves[*index] as usize] == 1)
        .collect();
    let blocks: Vec<u32> = alone.iter().map(|index| leaves[*index]).collect();
    let visit = |(): &mut (), at: BlockNr, block: Result<&BlockData, Damage>| {
        let values = leaf_of(at, block?)?.1;
        let alone = |value: &&U64| counts.get(MappingValue(value.get()).data_block()) == 1;
        Ok(u16::try_from(values.iter().filter(alone).count()).unwrap_or(u16::MAX))
    };
    let (found, _) = reader.visit(task, &blocks, NODE_NAME, 0, || (), visit)?;
    for (index, exclusive) in alone.into_iter().zip(found) {
        known[index].exclusive = exclusive;
    }
    Ok(())
}

/// Blocks by how many have them.
fn by_owners(counts: &FrozenCounts) -> Vec<u64> {
    let mut bins = Vec::new();
    counts.tally(|count, blocks| {
        let bin = count
            .saturating_sub(1)
            .checked_ilog2()
            .map_or(0, |power| power as usize + 1);
        if bins.len() <= bin {
            bins.resize(bin + 1, 0);
        }
        bins[bin] += blocks;
    });
    bins
}

/// From the leaves up to the roots.
fn join(
    forest: &Forest,
    inner: &[Inner],
    roots: &[u32],
    leaves: &[u32],
    known: &[Leaf],
) -> Vec<Volume> {
    let mut above: FxHashMap<u32, Volume> = FxHashMap::default();
    let of = |block: u32, above: &FxHashMap<u32, Volume>| match leaves.binary_search(&block) {
        Ok(index) => Volume::of_leaf(&known[index]),
        Err(_) => above.get(&block).cloned().unwrap_or_default(),
    };
    for (block, children) in inner {
        let mut volume = Volume::default();
        for child in children
            .iter()
            .filter(|child| forest.summary(**child).is_some())
        {
            volume.join(&of(*child, &above));
        }
        volume.nodes += 1;
        above.insert(*block, volume);
    }
    roots.iter().map(|root| of(*root, &above)).collect()
}
