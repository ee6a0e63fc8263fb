//! The two small trees of a pool: what they say, and where they say nothing.

use rustc_hash::FxHashSet;
use zerocopy::little_endian::U64;

use crate::btree::{NODE_NAME, Value};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, MAX_DEVICE_ID};
use crate::units::BlockNr;
use crate::walk::{BlockSet, Counts, Reader, each_leaf_in_order, tree_shape};

/// Ids that a damaged node takes along: from the first to before the second.
pub(super) type Ids = (u64, Option<u64>);

/// What roots lead to.
#[derive(Clone, Debug, Default)]
pub(super) struct Trees {
    /// Devices in the details, ascending.
    pub details: Vec<DeviceInfo>,
    pub details_lost: Vec<Ids>,
    /// Id and root of each device's mappings, ascending.
    pub roots: Vec<(u64, u32)>,
    pub roots_lost: Vec<Ids>,
    /// An id that cannot be, which is taken for the only one that is not in both trees.
    pub renamed: Option<Damage>,
    /// Roots of which it is not known whose they are, with the ids that they have there, and
    /// whether they are met for the first time.
    pub strays: Vec<(u64, u32, bool)>,
    /// Devices that have none.
    missing: Vec<u64>,
}

/// References that were met.
pub(super) struct Met {
    pub counts: Counts,
    /// Nodes whose own references are in there.
    pub counted: BlockSet,
}

impl Met {
    pub fn new(limit: u64) -> Self {
        Self {
            counts: Counts::new(limit),
            counted: BlockSet::new(limit),
        }
    }
}

impl Trees {
    /// Whether there may have been devices of which not even the id is left.
    pub fn may_have_more(&self) -> bool {
        let meets = |one: &Ids, other: &Ids| {
            other.1.is_none_or(|end| one.0 < end) && one.1.is_none_or(|end| other.0 < end)
        };
        let mut lost = self.roots_lost.iter();
        lost.any(|one| self.details_lost.iter().any(|other| meets(one, other)))
    }

    /// The ids of a root and of details that belong to each other, as there are no others
    /// that have none.
    pub fn two_ids(&self) -> Option<(u64, u64)> {
        match (&self.strays[..], &self.missing[..]) {
            ([stray], [missing]) => Some((stray.0, *missing)),
            _ => None,
        }
    }

    /// Makes one id of the two.
    pub fn take_id(&mut self, right: u64, met: &mut Met) {
        let Some((_, missing)) = self.two_ids() else {
            return;
        };
        for (_, block, first) in self.strays.drain(..) {
            self.roots.push((right, block));
            if first {
                met.counts.add(block.into());
            }
        }
        self.roots.sort_unstable();
        for info in self.details.iter_mut().filter(|info| info.id == missing) {
            info.id = right;
        }
        self.details.sort_unstable_by_key(|info| info.id);
        self.roots_lost.retain(|lost| lost.0 != missing);
        self.missing.clear();
    }

    /// Reads what is under these roots.
    pub fn read(
        reader: &Reader<'_>,
        (mapping_root, details_root): (u64, u64),
        met: &mut Met,
        task: &Task<'_>,
    ) -> Result<Self> {
        let mut own = Self::default();
        let limit = met.counts.nr_blocks();
        let details = &mut own.details;
        let mut anonymous = Vec::new();
        own.details_lost = read_tree(reader, details_root, met, task, |at, _, id, value| {
            if id <= MAX_DEVICE_ID {
                details.push(DeviceInfo::new(id, value));
            } else {
                anonymous.push((at, id, *value));
            }
            None
        })?;
        let known: FxHashSet<u64> = own.details.iter().map(|info| info.id).collect();
        let roots = &mut own.roots;
        let (mut wrong, mut strays, mut nameless) = (Vec::new(), Vec::new(), Vec::new());
        let mut root_of = |at: BlockNr, first: bool, id: u64, value: &U64| {
            let root = value.get();
            match u32::try_from(root) {
                Ok(block) if root != 0 && root < limit => {
                    if id > MAX_DEVICE_ID {
                        nameless.push((at, id, block, first));
                        return None;
                    }
                    if own.details_lost.is_empty() && !known.contains(&id) {
                        strays.push((id, block, first));
                        return None;
                    }
                    roots.push((id, block));
                    first.then_some(root)
                }
                _ => {
                    wrong.push((id, id.checked_add(1)));
                    None
                }
            }
        };
        own.roots_lost = read_tree(reader, mapping_root, met, task, &mut root_of)?;
        let found: FxHashSet<u64> = own.roots.iter().map(|root| root.0).collect();
        let missing = known.iter().filter(|id| !found.contains(id));
        let mut missing: Vec<Ids> = missing.map(|id| (*id, id.checked_add(1))).collect();
        let told = own.details_lost.is_empty() && strays.is_empty();
        if let ([(at, was, block, first)], [(id, _)], true) = (&nameless[..], &missing[..], told) {
            own.renamed = Some(Damage::new(*at, NODE_NAME, "key", *was, *id));
            own.roots.push((*id, *block));
            if *first {
                met.counts.add((*block).into());
            }
            missing.clear();
        } else {
            wrong.extend(nameless.iter().map(|each| (each.1, each.1.checked_add(1))));
        }
        if let ([(at, was, value)], [(id, ..)], true) =
            (&anonymous[..], &strays[..], missing.is_empty())
        {
            own.renamed = Some(Damage::new(*at, NODE_NAME, "key", *was, *id));
            own.details.push(DeviceInfo::new(*id, value));
            own.details.sort_unstable_by_key(|info| info.id);
        } else if !anonymous.is_empty() {
            own.details_lost.push((0, None));
        }
        if strays.is_empty() || missing.is_empty() {
            for (id, block, first) in strays {
                own.roots.push((id, block));
                if first {
                    met.counts.add(block.into());
                }
            }
            own.roots.sort_unstable();
        } else {
            // The one has a root and no details, the other details and no root: an id is
            // wrong, and the tree is one to be found.
            own.missing = missing.iter().map(|ids| ids.0).collect();
            wrong.extend(missing);
            own.strays = strays;
        }
        own.roots_lost.extend(wrong);
        Ok(own)
    }
}

/// Reads a small tree; `entry` says what block a value refers to, if one. The keys that
/// are lost.
fn read_tree<V: Value>(
    reader: &Reader<'_>,
    root: u64,
    met: &mut Met,
    task: &Task<'_>,
    mut entry: impl FnMut(BlockNr, bool, u64, &V) -> Option<u64>,
) -> Result<Vec<Ids>> {
    let Met { counts, counted } = met;
    let shape = tree_shape(reader, task, root, size_of::<V>(), counts, counted)?;
    let mut lost: Vec<Ids> = shape
        .damages
        .iter()
        .map(|bad| (bad.begin, bad.end))
        .collect();
    each_leaf_in_order(reader, &shape.leaves, |leaf| {
        // It was sound a moment ago.
        let Ok(node) = leaf else {
            lost.push((0, None));
            return Ok(());
        };
        let first = counted.insert(node.location().0);
        for (key, value) in node.keys().iter().zip(node.values::<V>()?) {
            if let Some(block) = entry(node.location(), first, key.get(), value) {
                counts.add(block);
            }
        }
        Ok(())
    })?;
    Ok(lost)
}

/// Whether an id is among those that are lost.
pub(super) fn is_lost(lost: &[Ids], id: u64) -> bool {
    lost.iter()
        .any(|(begin, end)| *begin <= id && end.is_none_or(|end| id < end))
}
