//! Blocks whose checksum is right and one of whose fields is not: whoever wrote them did
//! so from memory that was wrong. What such a field has to be is told by what is around it:
//! a node's place by the parent that leads there, a key in a parent by the child.
//!
//! What is found is read in the place of what is there; whether it fits is then verified
//! as with any other node.

use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::little_endian::U64;

use super::kinds::LEAF;
use super::order::{by_ids, in_order, put_in_order};
use super::overlay::Blocks;
use super::trees::Trees;
use crate::block::{BlockData, Validator, kind_of};
use crate::btree::{MAX_DEPTH, NODE_NAME, NODE_VALIDATOR, Node, NodeHeader, max_entries};
use crate::device::Device;
use crate::error::{Damage, Error, Result, Value};
use crate::task::Task;
use crate::thin::{MAGIC, MappingValue, SUPERBLOCK_NAME, SUPERBLOCK_VALIDATOR, Superblock};
use crate::tools::check::leading_to;
use crate::units::{BLOCK_BYTES, BlockNr, MAX_METADATA_BLOCKS};
use crate::walk::{Forest, Reader, State};

/// Bytes of a pointer, and of a mapping.
pub(super) const POINTER: u32 = 8;
/// Bytes of a device's details.
const DETAILS: u32 = 24;

/// Block 0 as it should be, and what was wrong, if that is its place or its magic number.
pub(super) fn superblock(device: &dyn Device) -> Result<Option<(Box<BlockData>, Vec<Damage>)>> {
    let zero = BlockNr(0);
    if device.size_bytes() < BLOCK_BYTES as u64 {
        return Ok(None);
    }
    let mut block = read(device, 0)?;
    let is_one = kind_of(&block).is_some_and(|(kind, _)| kind == SUPERBLOCK_NAME);
    if !is_one || SUPERBLOCK_VALIDATOR.check(zero, &block).is_ok() {
        return Ok(None);
    }
    let own: &mut Superblock = block.view_mut();
    let mut wrong = Vec::new();
    for (name, field, right) in [
        ("location", &mut own.blocknr, 0),
        ("magic", &mut own.magic, MAGIC),
    ] {
        if field.get() != right {
            wrong.push(Damage::new(zero, SUPERBLOCK_NAME, name, field.get(), right));
            field.set(right);
        }
    }
    let blocks = (device.size_bytes() / BLOCK_BYTES as u64).min(MAX_METADATA_BLOCKS);
    // A metadata snapshot's, written to the wrong place, has no space maps.
    if own.unsupported().is_some() || own.check_geometry(zero, blocks).is_err() {
        return Ok(None);
    }
    SUPERBLOCK_VALIDATOR.seal(zero, &mut block);
    Ok(Some((block, wrong)))
}

/// What a node has below it.
#[derive(Clone, Copy)]
pub(super) struct Facts {
    pub first: u64,
    pub last: u64,
    pub height: u8,
}

/// What is known of a node before it is read.
#[derive(Clone, Copy)]
pub(super) struct Expected {
    /// The parent's key; `None` above the root.
    low: Option<u64>,
    /// Levels below it, if its neighbours tell.
    pub height: Option<u8>,
    /// Bytes of a value of the leaves.
    pub leaf_bytes: u32,
    /// Whether the leaves hold mappings, of which one may be left out.
    pub maps: bool,
    depth: usize,
}

/// The search, in all trees of a pool.
pub(super) struct Slips<'s> {
    device: &'s dyn Device,
    /// The mappings, as far as they can be read as they are.
    forest: &'s Forest,
    pub(super) limit: u64,
    /// Leaves with mappings that cannot be, and nodes of another capacity than anybody
    /// gives them: values are looked for in the wrong place then.
    pub(super) odd: FxHashSet<u32>,
    /// Ids of devices by the other one of the two small trees, if it is whole.
    pub(super) ids: Vec<u64>,
    /// Mappings of devices by their roots, where their details are there.
    sizes: FxHashMap<u32, u64>,
    /// Nodes above these.
    leading: FxHashSet<u32>,
    /// Nodes that were looked at.
    known: FxHashMap<u32, Option<Facts>>,
    /// Nodes as they should be.
    pub blocks: Blocks,
    /// What was wrong with them.
    pub wrong: Vec<Damage>,
}

impl<'s> Slips<'s> {
    pub fn new(device: &'s dyn Device, forest: &'s Forest, limit: u64) -> Self {
        Self {
            device,
            forest,
            limit,
            odd: odd(forest).collect(),
            ids: Vec::new(),
            sizes: FxHashMap::default(),
            leading: FxHashSet::default(),
            known: FxHashMap::default(),
            blocks: Blocks::new(),
            wrong: Vec::new(),
        }
    }

    /// Looks at all nodes that are not sound, from the roots of mappings and details.
    pub fn find(
        &mut self,
        (mapping_root, details_root): (u64, u64),
        live: &Trees,
        task: &Task<'_>,
    ) -> Result<()> {
        if !self.odd.is_empty() {
            let reader = Reader::new(self.device, false);
            self.leading = leading_to(&reader, task, self.forest, &self.odd)?.collect();
        }
        let small = [
            (mapping_root, POINTER, &live.roots_lost),
            (details_root, DETAILS, &live.details_lost),
        ];
        for (root, leaf_bytes, lost) in small {
            if let Ok(root) = u32::try_from(root)
                && !lost.is_empty()
            {
                self.ids = match leaf_bytes {
                    POINTER if live.details_lost.is_empty() => {
                        live.details.iter().map(|info| info.id).collect()
                    }
                    DETAILS if live.roots_lost.is_empty() => {
                        live.roots.iter().map(|root| root.0).collect()
                    }
                    _ => Vec::new(),
                };
                self.look(root, Expected::root(leaf_bytes, false), task)?;
            }
        }
        let recorded: FxHashMap<u64, u64> = live
            .details
            .iter()
            .map(|info| (info.id, info.mapped_blocks))
            .collect();
        let sized = live.roots.iter();
        self.sizes = sized
            .filter_map(|(id, root)| Some((*root, *recorded.get(id)?)))
            .collect();
        let strays = live.strays.iter().map(|stray| stray.1);
        for root in live.roots.iter().map(|root| root.1).chain(strays) {
            self.look(root, Expected::root(POINTER, true), task)?;
        }
        Ok(())
    }

    fn look(&mut self, at: u32, expected: Expected, task: &Task<'_>) -> Result<Option<Facts>> {
        if at == 0 || u64::from(at) >= self.limit || expected.depth >= MAX_DEPTH {
            return Ok(None);
        }
        if let Some(summary) = self.forest.summary(at)
            && summary.state == State::Sound
            && !self.odd.contains(&at)
            && !self.leading.contains(&at)
        {
            return Ok(Some(Facts {
                first: summary.first,
                last: summary.last,
                height: summary.height,
            }));
        }
        if let Some(known) = self.known.get(&at) {
            return Ok(*known);
        }
        // For whatever leads back to here.
        self.known.insert(at, None);
        task.step(0, 0)?;
        let facts = self.judge(at, expected, task)?;
        self.known.insert(at, facts);
        Ok(facts)
    }

    fn judge(&mut self, at: u32, expected: Expected, task: &Task<'_>) -> Result<Option<Facts>> {
        let Some(mut block) = self.read(at)? else {
            return Ok(None);
        };
        let place = BlockNr(at.into());
        let location = match kind_of(&block) {
            Some((NODE_NAME, location)) => location,
            _ => return Ok(None),
        };
        let mut wrong = self.flags(at, &mut block, expected)?;
        wrong.extend(header(place, &mut block, expected));
        let Ok(node) = Node::parse(place, &block) else {
            return Ok(None);
        };
        let leaf = node.is_leaf();
        let keys: Vec<u64> = node.keys().iter().map(|key| key.get()).collect();
        let (Some(&first), Some(&last)) = (keys.first(), keys.last()) else {
            return Ok(None);
        };
        if location != place.0 {
            // Keys of a parent stay behind when a child loses its first ones; then what is
            // here is no accident only if one bit is all that is wrong.
            let one_bit = (location ^ place.0).is_power_of_two();
            let size = self
                .sizes
                .get(&at)
                .filter(|_| leaf && expected.low.is_none());
            let fits = match (expected.low, size) {
                (Some(low), _) => low == first || one_bit && low < first,
                // Nothing leads to a root with a key; but its device has so many mappings.
                (None, Some(size)) => keys.len() as u64 == *size,
                (None, None) => one_bit || !expected.maps || location >= self.limit,
            };
            let has_sign = one_bit || size.is_some();
            if !fits || self.is_somebody_elses(location, &block, has_sign)? {
                return Ok(None);
            }
            wrong.push(Damage::new(place, NODE_NAME, "location", location, place.0));
        }
        let facts = if leaf {
            match keys.windows(2).all(|two| two[0] < two[1]) {
                true => Facts {
                    first,
                    last,
                    height: 0,
                },
                false => {
                    let fixes = in_order(&keys, expected.low);
                    let fixes = match expected.maps {
                        true => fixes,
                        false => fixes.and_then(|fixes| by_ids(&keys, &fixes, &self.ids)),
                    };
                    let Some(fixes) = fixes else {
                        return Ok(None);
                    };
                    wrong.extend(fixes.iter().map(|(index, now)| {
                        let key =
                            |what: Value| Damage::new(place, NODE_NAME, "key", keys[*index], what);
                        key(now.map_or("no mapping".into(), Value::Number))
                    }));
                    let Some(facts) = put_in_order(&mut block, &keys, &fixes) else {
                        return Ok(None);
                    };
                    facts
                }
            }
        } else {
            let children = node.children()?.iter().map(|child| child.get());
            let children: Vec<u64> = children.collect();
            let Some((facts, keys_now)) = self.inner(&keys, &children, expected, task)? else {
                return Ok(None);
            };
            for (index, (now, was)) in keys_now.iter().zip(&keys).enumerate() {
                if now != was {
                    wrong.push(Damage::new(place, NODE_NAME, "key", *was, *now));
                    let offset = size_of::<NodeHeader>() + 8 * index;
                    block.bytes_mut()[offset..offset + 8].copy_from_slice(&now.to_le_bytes());
                }
            }
            facts
        };
        if !wrong.is_empty() {
            NODE_VALIDATOR.seal(place, &mut block);
            self.blocks.insert(place.0, block);
            self.wrong.extend(wrong);
        }
        Ok(Some(facts))
    }

    /// An internal node's keys as its children tell them.
    fn inner(
        &mut self,
        keys: &[u64],
        children: &[u64],
        expected: Expected,
        task: &Task<'_>,
    ) -> Result<Option<(Facts, Vec<u64>)>> {
        let block = |child: &u64| u32::try_from(*child).ok();
        let sound = |child: &u64| self.forest.summary(block(child)?);
        let height = children
            .iter()
            .filter_map(sound)
            .find(|child| child.state == State::Sound)
            .map(|child| child.height)
            .or(expected.height.and_then(|height| height.checked_sub(1)));
        let mut below: Vec<Option<Facts>> = Vec::with_capacity(children.len());
        for (key, child) in keys.iter().zip(children) {
            let expected = Expected {
                low: Some(*key),
                height,
                leaf_bytes: expected.leaf_bytes,
                maps: expected.maps,
                depth: expected.depth + 1,
            };
            below.push(match block(child) {
                Some(child) => self.look(child, expected, task)?,
                None => None,
            });
        }
        let height = height.or_else(|| below.iter().flatten().map(|child| child.height).next());
        for child in &mut below {
            // Whatever this leads to, it is no child of this node.
            *child = child.filter(|child| Some(child.height) == height);
        }
        let mut now = keys.to_vec();
        for index in 0..keys.len() {
            let Some(child) = below[index] else {
                continue;
            };
            let before = below[..index].iter().rev().flatten().next();
            let after = below[index + 1..].iter().flatten().next();
            let has_room = before.is_none_or(|before| before.last < child.first)
                && after.is_none_or(|after| child.last < after.first);
            let follows = index == 0 || now[index - 1] < keys[index];
            let is_below = keys.get(index + 1).is_none_or(|next| keys[index] < *next);
            let leaves_room = before.is_none_or(|before| before.last < keys[index]);
            let is_right = keys[index] <= child.first && leaves_room && follows && is_below;
            if has_room && !is_right {
                now[index] = child.first;
            }
        }
        if !now.windows(2).all(|two| two[0] < two[1]) {
            return Ok(None);
        }
        let (Some(&first), Some(&last)) = (now.first(), now.last()) else {
            return Ok(None);
        };
        let ends = below.iter().flatten().map(|child| child.last).max();
        let facts = Facts {
            first,
            last: ends.unwrap_or(last).max(last),
            height: height.unwrap_or(0).saturating_add(1),
        };
        Ok(Some((facts, now)))
    }

    /// Whether what is in a block may belong where it says that it does: it was written to
    /// the wrong place then, and what was there before is there still.
    fn is_somebody_elses(&self, location: u64, block: &BlockData, has_sign: bool) -> Result<bool> {
        let Some(other) = u32::try_from(location).ok() else {
            return Ok(false);
        };
        if other == 0 || location >= self.limit {
            return Ok(false);
        }
        let summary = self.forest.summary(other);
        let is_lost = summary.is_some_and(|summary| summary.state == State::Damaged);
        let Some(there) = self.read(other)? else {
            return Ok(is_lost);
        };
        // Blocks changed places, two or more in turn, or it is there as well.
        let moved = kind_of(&there).is_some_and(|(_, own)| own != location);
        if moved || there.bytes()[16..] == block.bytes()[16..] {
            return Ok(true);
        }
        // What is below it may be what is wrong with it, and this may be just that.
        if NODE_VALIDATOR.check(BlockNr(location), &there).is_err() {
            return Ok(is_lost);
        }
        // An earlier state of it, perhaps, or whatever had its place before.
        let (was, is): (&NodeHeader, &NodeHeader) = (there.view(), block.view());
        let same_kind = was.flags == is.flags && was.value_size == is.value_size;
        let is_another = self.sizes.get(&other) == Some(&was.nr_entries.get().into())
            && !share_entries(&there, block);
        Ok(same_kind && !(has_sign && (summary.is_none() || is_another)))
    }

    /// A block, unless the device cannot read it.
    pub(super) fn read(&self, at: u32) -> Result<Option<Box<BlockData>>> {
        match read(self.device, at.into()) {
            Ok(block) => Ok(Some(block)),
            Err(Error::Io { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Expected {
    fn root(leaf_bytes: u32, maps: bool) -> Self {
        Self {
            low: None,
            height: None,
            leaf_bytes,
            maps,
            depth: 0,
        }
    }
}

/// Whether two leaves map a virtual block to the same data block: one may be a state of
/// the other.
fn share_entries(one: &BlockData, other: &BlockData) -> bool {
    let entries = |block: &BlockData| {
        let header: &NodeHeader = block.view();
        let at = BlockNr(header.blocknr.get());
        let node = Node::parse(at, block).ok()?;
        let values = node.values::<U64>().ok()?;
        let data = values
            .iter()
            .map(|value| MappingValue(value.get()).data_block());
        let all = node.keys().iter().map(|key| key.get()).zip(data);
        Some(all.collect::<FxHashSet<(u64, u64)>>())
    };
    match (entries(one), entries(other)) {
        (Some(one), Some(other)) => !one.is_disjoint(&other),
        _ => true,
    }
}

/// Nodes that were read and may say something else.
fn odd(forest: &Forest) -> impl Iterator<Item = u32> {
    let capacity = forest
        .irregular
        .iter()
        .filter(|odd| odd.check == "capacity");
    let capacity = capacity.filter_map(|odd| u32::try_from(odd.block.0).ok());
    forest
        .bad_mappings
        .iter()
        .map(|bad| bad.leaf)
        .chain(capacity)
}

/// Whether there may be something to mend although nothing is damaged.
pub(super) fn is_odd(forest: &Forest) -> bool {
    odd(forest).next().is_some()
}

/// Sets fields of a header that cannot be right, where only one value can be.
fn header(place: BlockNr, block: &mut BlockData, expected: Expected) -> Vec<Damage> {
    let header: &mut NodeHeader = block.view_mut();
    let mut wrong = Vec::new();
    let size = if header.flags.get() == LEAF {
        expected.leaf_bytes
    } else {
        POINTER
    };
    let capacity = usize::try_from(size).map_or(0, max_entries) as u64;
    let (has_size, has_capacity) = (
        header.value_size.get() == size,
        u64::from(header.max_entries.get()) == capacity,
    );
    if !has_size && has_capacity {
        let found = header.value_size.get();
        wrong.push(Damage::new(place, NODE_NAME, "value size", found, size));
        header.value_size.set(size);
    } else if has_size && !has_capacity && u64::from(header.nr_entries.get()) <= capacity {
        let found = header.max_entries.get();
        wrong.push(Damage::new(place, NODE_NAME, "capacity", found, capacity));
        header.max_entries.set(u32::try_from(capacity).unwrap_or(0));
    }
    wrong
}

fn read(device: &dyn Device, at: u64) -> Result<Box<BlockData>> {
    let mut block = Box::new(BlockData::zeroed());
    device.read_exact_at(block.bytes_mut(), at * BLOCK_BYTES as u64)?;
    Ok(block)
}
