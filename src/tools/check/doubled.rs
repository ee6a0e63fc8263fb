//! Data blocks that a device has at two places: what is written to the one changes the
//! other.
//!
//! Devices that share a block have it at the same virtual block. So one that is met at
//! another virtual block than at first is doubtful; in most pools there is none, and in
//! those without shared blocks nothing is read for that. Only for doubtful ones is it
//! found out which devices reach both places.

use std::sync::atomic::{AtomicU64, Ordering};

use rustc_hash::{FxHashMap, FxHashSet};
use zerocopy::little_endian::U64;

use super::Check;
use super::affected::{Descent, MAX_LISTED};
use super::devices::MAPPINGS;
use super::finding::{Affected, Finding, Severity};
use crate::block::BlockData;
use crate::btree::{NODE_NAME, Node};
use crate::error::{Damage, Result};
use crate::task::Task;
use crate::thin::MappingValue;
use crate::walk::{Counts, Forest};

/// The code of data blocks that a device has twice.
pub(super) const DOUBLED: &str = "mapping-doubled";

/// The code of what was not looked at for them.
const NOT_CHECKED: &str = "doubled-not-checked";

/// Places that are looked at in all, so that doubtful blocks that many devices share do
/// not take for ever.
const MAX_PLACES: u64 = 8_000_000;

/// A leaf's virtual blocks and what they are mapped to.
struct Mappings<'l>(&'l [U64], &'l [U64]);

impl Mappings<'_> {
    /// Virtual blocks and data blocks.
    fn iter(&self) -> impl Iterator<Item = (u64, u64)> {
        let data = |value: &U64| MappingValue(value.get()).data_block();
        self.0
            .iter()
            .map(|key| key.get())
            .zip(self.1.iter().map(data))
    }
}

/// No virtual block yet.
const NOWHERE: u64 = 0;
/// At more than one.
const DOUBTFUL: u64 = u64::MAX;

/// Blocks of a region of [`Counts`].
const REGION_BLOCKS: usize = 1 << 16;
/// And its words of 32 bits.
const REGION_WORDS: usize = REGION_BLOCKS / 32;

/// Which of 32 blocks have several references, and how many of all blocks before them.
#[derive(Clone, Copy, Default)]
struct Word {
    several: u32,
    before: u32,
}

impl Word {
    fn has_several(self, data: u64) -> bool {
        self.several >> (data % 32) & 1 != 0
    }

    /// Of a block that has several, among all that have.
    fn index(self, data: u64) -> u32 {
        self.before + (self.several & ((1 << (data % 32)) - 1)).count_ones()
    }
}

/// What is kept from leaf to leaf only so as not to ask for memory again.
#[derive(Default)]
struct Scratch {
    words: Vec<Word>,
    /// Indices of places, and what they should be.
    found: Vec<(u32, u64)>,
}

/// Where blocks that have several references are first met.
struct FirstMet {
    /// Where the words of each region begin.
    regions: Vec<usize>,
    /// Those at the front are of all regions where no block has several references.
    words: Vec<Word>,
    /// Their virtual blocks plus one, or one of the two above.
    places: Box<[AtomicU64]>,
}

impl FirstMet {
    /// For what is counted more than once; nothing where there is no such block.
    fn new(counts: &Counts) -> Option<Self> {
        let mut bytes = vec![0; REGION_BLOCKS];
        let mut words = vec![Word::default(); REGION_WORDS];
        let mut before = 0_u32;
        let mut region = |number| {
            let begin = number * REGION_BLOCKS as u64;
            if !counts.has_any_near(begin) {
                return 0;
            }
            counts.copy_saturated(begin, &mut bytes);
            // At the speed of memory, as that is all that most regions need.
            if bytes.iter().fold(0, |most: u8, count| most.max(*count)) <= 1 {
                return 0;
            }
            let first = words.len();
            words.extend(bytes.chunks(32).map(|chunk| {
                let bit =
                    |word: u32, (bit, count): (usize, &u8)| word | u32::from(*count > 1) << bit;
                let several: u32 = chunk.iter().enumerate().fold(0, bit);
                let word = Word { several, before };
                // Never saturates: metadata has room for fewer mappings.
                before = before.saturating_add(several.count_ones());
                word
            }));
            first
        };
        let regions = counts.nr_blocks().div_ceil(REGION_BLOCKS as u64);
        let regions = (0..regions).map(&mut region).collect();
        (before > 0).then(|| Self {
            regions,
            words,
            places: (0..before).map(|_| AtomicU64::new(NOWHERE)).collect(),
        })
    }

    /// The word of a data block.
    fn word(&self, data: u64) -> Word {
        let region = usize::try_from(data / REGION_BLOCKS as u64).ok();
        let region = region.and_then(|region| self.regions.get(region));
        let offset = (data % REGION_BLOCKS as u64) as usize;
        self.words[region.unwrap_or(&0) + offset / 32]
    }

    /// A leaf's mappings were met; whether any is doubtful since then.
    ///
    /// All words are read, and then all places found, without branches, before any is
    /// looked at, so that the processor waits for many of them at once.
    fn meet(&self, mappings: &Mappings<'_>, scratch: &mut Scratch) -> bool {
        scratch.words.clear();
        scratch
            .words
            .extend(mappings.iter().map(|(_, data)| self.word(data)));
        scratch.found.resize(scratch.words.len() + 1, (0, 0));
        let mut len = 0;
        for ((key, data), word) in mappings.iter().zip(&scratch.words) {
            scratch.found[len] = (word.index(data), key.wrapping_add(1));
            len += usize::from(word.has_several(data));
        }
        let mut any = false;
        for (index, here) in &scratch.found[..len] {
            any |= meet(&self.places[*index as usize], *here);
        }
        any
    }

    fn is_doubtful(&self, data: u64) -> bool {
        let word = self.word(data);
        let place = || &self.places[word.index(data) as usize];
        word.has_several(data) && place().load(Ordering::Relaxed) == DOUBTFUL
    }
}

/// What is at a place was met `here`; whether it is doubtful since then.
fn meet(place: &AtomicU64, here: u64) -> bool {
    let order = Ordering::Relaxed;
    // Most were met there before, and to exchange something takes much longer.
    if place.load(order) == here {
        return false;
    }
    match place.compare_exchange(NOWHERE, here, order, order) {
        Err(other) if other != here => place.swap(DOUBTFUL, order) != DOUBTFUL,
        _ => false,
    }
}

/// Data block and virtual block of what is doubtful, by leaf.
type Doubtful = FxHashMap<u32, Vec<(u64, u64)>>;

impl Check<'_> {
    /// Looks for what a device has twice; `devices` are ids and roots.
    pub(super) fn check_doubled(
        &mut self,
        forest: &Forest,
        devices: &[(u64, u32)],
        counts: &Counts,
        task: &Task<'_>,
    ) -> Result<()> {
        let Some(first) = FirstMet::new(counts) else {
            return Ok(());
        };
        let leaves: Vec<u32> = forest.leaves().collect();
        let is_doubtful =
            self.each_leaf(&leaves, task, Scratch::default, |scratch, mappings| {
                first.meet(&mappings, scratch)
            })?;
        if !is_doubtful.contains(&true) {
            return Ok(());
        }
        let found = self.each_leaf(
            &leaves,
            task,
            || (),
            |(), mappings| {
                let doubtful = mappings.iter().filter(|(_, data)| first.is_doubtful(*data));
                doubtful.map(|(key, data)| (data, key)).collect()
            },
        )?;
        let some = |(_, found): &(u32, Vec<_>)| !found.is_empty();
        let doubtful = leaves.into_iter().zip(found).filter(some).collect();
        self.report_doubled(forest, devices, &doubtful, task)
    }

    /// What is made of each leaf's mappings, virtual blocks and data blocks.
    fn each_leaf<T: Clone + Default + Send, C: Send>(
        &self,
        leaves: &[u32],
        task: &Task<'_>,
        context: impl Fn() -> C + Sync,
        make: impl Fn(&mut C, Mappings<'_>) -> T + Sync,
    ) -> Result<Vec<T>> {
        let read = |context: &mut C, at, block: Result<&BlockData, Damage>| {
            let block = block?;
            let node = Node::parse(at, block)?;
            Ok(make(context, Mappings(node.keys(), node.values()?)))
        };
        let (made, _) = self.reader.visit(
            task,
            leaves,
            NODE_NAME,
            T::default(),
            context,
            // What could be read before and cannot be now says nothing.
            |context, at, block| {
                Ok(read(context, at, block).unwrap_or_else(|_: Damage| T::default()))
            },
        )?;
        Ok(made)
    }

    /// Which devices reach two places of a doubtful block.
    fn report_doubled(
        &mut self,
        forest: &Forest,
        devices: &[(u64, u32)],
        doubtful: &Doubtful,
        task: &Task<'_>,
    ) -> Result<()> {
        let leaves: FxHashSet<u32> = doubtful.keys().copied().collect();
        let mut descent = Descent::new(&self.reader, task, forest, &leaves)?;
        let (mut left, mut is_cut) = (MAX_PLACES, false);
        for (index, (device_id, root)) in devices.iter().enumerate() {
            let mut places: Vec<(u64, u64)> = Vec::new();
            descent.below(*root, &mut |met| {
                let found = &doubtful[&met.block];
                match left.checked_sub(found.len() as u64) {
                    Some(rest) => {
                        left = rest;
                        places.extend(found);
                    }
                    None => is_cut = true,
                }
            });
            task.step(0, 0)?;
            if let Some(finding) = doubled(*device_id, places) {
                self.findings.push(finding);
            }
            if is_cut || descent.is_cut() {
                let text = format!(
                    "data blocks are shared at different virtual blocks, too often to look at all: \
                     {} of {} trees may have data blocks twice that were not found",
                    devices.len() - index,
                    devices.len(),
                );
                let finding = Finding::new(NOT_CHECKED, Severity::Info, text);
                self.findings.push(finding.of(MAPPINGS));
                break;
            }
        }
        Ok(())
    }
}

/// What is wrong with a device that has these data blocks at these virtual blocks.
fn doubled(device_id: u64, mut places: Vec<(u64, u64)>) -> Option<Finding> {
    places.sort_unstable();
    places.dedup();
    let of_one: Vec<_> = places
        .chunk_by(|one, other| one.0 == other.0)
        .filter(|of_one| of_one.len() > 1)
        .collect();
    let (data, one) = *of_one.first()?.first()?;
    let (_, other) = *of_one.first()?.get(1)?;
    let several = match of_one.len() {
        1 => String::new(),
        many => format!("{many} data blocks at more than one place, "),
    };
    let text = format!(
        "device {device_id} has {several}data block {data} at virtual blocks {one} and {other}: \
         what is written to one changes the other"
    );
    let mut finding = Finding::new(DOUBLED, Severity::Fatal, text).of(MAPPINGS);
    let mut virtual_blocks: Vec<u64> = of_one.concat().iter().map(|place| place.1).collect();
    virtual_blocks.sort_unstable();
    for range in virtual_blocks.chunk_by(|one, next| one + 1 == *next) {
        finding.affected_total += 1;
        if let (Some(begin), Some(last)) = (range.first(), range.last())
            && finding.affected.len() < MAX_LISTED
        {
            finding.affected.push(Affected {
                device_id,
                begin_block: *begin,
                end_block: last.checked_add(1),
            });
        }
    }
    Some(finding)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{PoolBuilder, Random, mapping};

    const DATA_BLOCKS: u64 = 200_000;

    /// What is said of the devices' mappings.
    fn said_of(builder: &PoolBuilder) -> Vec<Finding> {
        let pool = builder.open();
        let task = Task::new(None, Some(2));
        let mut check = Check::new(&**pool.device(), *pool.superblock(), None);
        let roots = check.read_roots(pool.superblock(), &task).unwrap();
        let counts = Counts::new(DATA_BLOCKS);
        let checked = check.check_mappings(&[roots], DATA_BLOCKS, Some(&counts), &task);
        checked.unwrap();
        let ours = |finding: &Finding| [DOUBLED, NOT_CHECKED].contains(&finding.code);
        check.findings.finish().0.into_iter().filter(ours).collect()
    }

    /// A pool of these devices, each with virtual blocks and data blocks, three to a leaf.
    fn pool_of(devices: &[Vec<(u64, u64)>]) -> PoolBuilder {
        let mut builder = PoolBuilder::new(DATA_BLOCKS);
        for (id, device) in (1..).zip(devices) {
            let entry = |(key, data): &(u64, u64)| (*key, mapping(*data, 0));
            let root = builder.tree(&device.iter().map(entry).collect::<Vec<_>>(), 3);
            builder.device(id, root);
        }
        builder
    }

    #[test]
    fn what_two_devices_share_is_not_doubled_wherever_it_is() {
        let origin: Vec<_> = (0..400).map(|key| (key, 131_000 + key)).collect();
        let mut changed = origin.clone();
        changed[7].1 = 5;
        let shifted = origin.iter().map(|(key, data)| (key + 1, *data)).collect();
        assert!(said_of(&pool_of(&[origin, changed, shifted])).is_empty());
    }

    #[test]
    fn a_device_is_told_of_by_its_first_doubled_block_and_all_places() {
        let twice = vec![(3, 9), (4, 70_000), (5, 8), (90, 7), (91, 70_000), (92, 9)];
        let sound = vec![(3, 9), (4, 70_000)];
        let found = said_of(&pool_of(&[sound.clone(), twice, sound]));
        let [finding] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!((finding.code, finding.severity), (DOUBLED, Severity::Fatal));
        assert!(
            finding.message.contains("device 2 has 2 data blocks")
                && finding
                    .message
                    .contains("block 9 at virtual blocks 3 and 92"),
            "{finding:?}"
        );
        let places = finding.affected.iter();
        let places: Vec<_> = places
            .map(|at| (at.device_id, at.begin_block, at.end_block))
            .collect();
        assert_eq!(places, [(2, 3, Some(5)), (2, 91, Some(93))]);
    }

    /// Against a model: which devices have how many.
    #[test]
    fn random_devices_are_judged_as_by_a_model() {
        let mut random = Random::new(7);
        for _ in 0..200 {
            let devices: Vec<Vec<(u64, u64)>> = (0..1 + random.below(4))
                .map(|_| {
                    let mapped = random.below(40);
                    let spread = 50 + random.below(2000);
                    (0..mapped)
                        .map(|key| (key * 2, 65_500 + random.below(spread)))
                        .collect()
                })
                .collect();
            let mut expected = Vec::new();
            for (id, device) in (1_u64..).zip(&devices) {
                let mut met: FxHashMap<u64, u64> = FxHashMap::default();
                device
                    .iter()
                    .for_each(|(_, data)| *met.entry(*data).or_default() += 1);
                let places: u64 = met.values().filter(|times| **times > 1).sum();
                if places > 0 {
                    expected.push((id, places));
                }
            }
            let found = said_of(&pool_of(&devices));
            let found: Vec<_> = found
                .iter()
                .map(|each| (each.affected[0].device_id, each.affected_total))
                .collect();
            assert_eq!(found, expected);
        }
    }

    /// Each of many devices reaches all of the same doubtful leaves.
    #[test]
    fn what_would_take_for_ever_is_cut_off_and_told() {
        let mut builder = PoolBuilder::new(DATA_BLOCKS);
        let (capacity, per_leaf) = (250, 250);
        let leaves: Vec<_> = (0..capacity)
            .map(|leaf| {
                let entry = |key| (key, mapping(key, 0));
                let first = leaf * per_leaf;
                let entries: Vec<_> = (first..first + per_leaf).map(entry).collect();
                (first, builder.leaf(&entries))
            })
            .collect();
        let shifted: Vec<_> = (0..capacity * per_leaf)
            .map(|key| (key + 1, mapping(key, 0)))
            .collect();
        let shifted = builder.tree(&shifted, 250);
        builder.device(1, shifted);
        for id in 2..200 {
            let root = builder.internal(&leaves);
            builder.device(id, root);
        }
        let found = said_of(&builder);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].code, NOT_CHECKED);
        assert!(found[0].message.contains("of 199 trees"), "{found:?}");
    }
}
