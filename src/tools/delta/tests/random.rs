//! Random pairs of trees against a plain map, and damaged ones against plain cursors.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Range;

use super::*;
use crate::testing::Random;
use crate::thin::ThinDevice;

/// Virtual block to data block.
type Model = BTreeMap<u64, u64>;

#[derive(Clone)]
struct Leaf {
    at: BlockNr,
    entries: Vec<(u64, u64)>,
}

impl Leaf {
    fn first(&self) -> u64 {
        self.entries[0].0
    }

    fn last(&self) -> u64 {
        self.entries[self.entries.len() - 1].0
    }
}

/// A node with the lowest key that it names and the last that lies under it.
#[derive(Clone, Copy)]
struct Part {
    at: BlockNr,
    low: u64,
    last: u64,
}

/// Makes trees that share what nodes they can, the way copies on write do.
struct Grower {
    builder: PoolBuilder,
    random: Random,
    /// Internal nodes by their children.
    known: HashMap<Vec<u64>, Part>,
    children: HashMap<u64, Vec<u64>>,
    largest_leaf: u64,
    fan_out: u64,
}

impl Grower {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self {
            builder: PoolBuilder::new(DATA_BLOCKS),
            largest_leaf: random.within(1, 6),
            fan_out: random.within(2, 5),
            random,
            known: HashMap::new(),
            children: HashMap::new(),
        }
    }

    /// Mappings in runs, with gaps between some.
    fn entries(&mut self, count: u64) -> Vec<(u64, u64)> {
        let (mut key, mut data) = (self.random.below(20), self.random.below(1000));
        let mut entries = Vec::new();
        for _ in 0..count {
            entries.push((key, self.value(data)));
            key += 1 + if self.random.chance(20) {
                self.random.below(9)
            } else {
                0
            };
            data = if self.random.chance(20) {
                self.random.below(1000)
            } else {
                data + 1
            };
        }
        entries
    }

    fn value(&mut self, data: u64) -> u64 {
        mapping(data, self.random.below(3))
    }

    fn leaf(&mut self, entries: Vec<(u64, u64)>) -> Leaf {
        let at = self.builder.leaf(&entries);
        Leaf { at, entries }
    }

    fn cut(&mut self, mut entries: Vec<(u64, u64)>) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        while !entries.is_empty() {
            let most = self.largest_leaf.min(entries.len() as u64);
            let size = self.random.within(1, most);
            let rest = entries.split_off(usize::try_from(size).unwrap());
            leaves.push(self.leaf(std::mem::replace(&mut entries, rest)));
        }
        leaves
    }

    /// What becomes of a device's leaves after so many of a hundred were written to.
    fn written(&mut self, leaves: &[Leaf], percent: u64) -> Vec<Leaf> {
        let mut written: Vec<Leaf> = Vec::new();
        for (index, leaf) in leaves.iter().enumerate() {
            if !self.random.chance(percent) {
                written.push(leaf.clone());
                continue;
            }
            let begin = written.last().map_or(0, |leaf| leaf.last() + 1);
            let end = leaves.get(index + 1).map_or(leaf.last() + 10, Leaf::first);
            let entries = self.changed(&leaf.entries, begin, end);
            if self.random.chance(50) {
                written.extend(self.cut(entries));
            } else if !entries.is_empty() {
                written.push(self.leaf(entries));
            }
        }
        written
    }

    /// Entries with some taken away, some remapped and some new in `begin..end`.
    fn changed(&mut self, old: &[(u64, u64)], begin: u64, end: u64) -> Vec<(u64, u64)> {
        if self.random.chance(15) {
            return Vec::new();
        }
        let [remove, remap, retime] = [0; 3].map(|_: u64| self.random.below(60));
        let mut entries: BTreeMap<u64, u64> = old.iter().copied().collect();
        entries.retain(|_, _| !self.random.chance(remove));
        for value in entries.values_mut() {
            if self.random.chance(remap) {
                *value = mapping(self.random.below(1000), 3);
            } else if self.random.chance(retime) {
                *value |= 4;
            }
        }
        for _ in 0..self.random.below(3) {
            let key = self.random.within(begin, end - 1);
            let data = self.random.below(1000);
            entries.insert(key, self.value(data));
        }
        entries.into_iter().collect()
    }

    /// A tree over leaves. Internal nodes end where chance and the child's own
    /// number say, so that equal stretches of two trees end up under equal nodes.
    fn tree(&mut self, leaves: &[Leaf]) -> BlockNr {
        let mut parts: Vec<Part> = leaves
            .iter()
            .map(|leaf| Part {
                at: leaf.at,
                low: leaf.first(),
                last: leaf.last(),
            })
            .collect();
        if parts.is_empty() {
            return self.builder.leaf::<u64>(&[]);
        }
        let mut more = if self.random.chance(30) {
            self.random.within(1, 3)
        } else {
            0
        };
        while parts.len() > 1 || more > 0 {
            more = if parts.len() > 1 { more } else { more - 1 };
            let (mut parents, mut group) = (Vec::new(), Vec::new());
            for (index, part) in parts.iter().enumerate() {
                group.push(*part);
                let mixed = Random::new(part.at.0).below(self.fan_out) == 0;
                let ends = mixed && group.len() > 1 || group.len() > 8 || self.random.chance(2);
                if ends || index + 1 == parts.len() {
                    let before = parents.last().map(|part: &Part| part.last);
                    parents.push(self.parent(&std::mem::take(&mut group), before));
                }
            }
            parts = parents;
        }
        parts[0].at
    }

    /// A node over `group`, an old one where that fits behind the key `before`.
    fn parent(&mut self, group: &[Part], mut before: Option<u64>) -> Part {
        let numbers: Vec<u64> = group.iter().map(|part| part.at.0).collect();
        if let Some(known) = self.known.get(&numbers)
            && before.is_none_or(|before| before < known.low)
            && self.random.chance(90)
        {
            return *known;
        }
        let mut entries = Vec::new();
        for part in group {
            let lowest = before.map_or(0, |before| before + 1);
            let shifted = self.random.within(lowest, part.low);
            let key = if self.random.chance(25) {
                shifted
            } else {
                part.low
            };
            entries.push((key, part.at));
            before = Some(part.last);
        }
        let at = self.builder.internal(&entries);
        let (low, last) = (entries[0].0, group[group.len() - 1].last);
        let part = Part { at, low, last };
        self.children.insert(at.0, numbers.clone());
        self.known.insert(numbers, part);
        part
    }

    fn reachable(&self, root: BlockNr) -> BTreeSet<u64> {
        let (mut found, mut waiting) = (BTreeSet::new(), vec![root.0]);
        while let Some(at) = waiting.pop() {
            if found.insert(at) {
                waiting.extend(self.children.get(&at).into_iter().flatten());
            }
        }
        found
    }
}

fn model(leaves: &[Leaf]) -> Model {
    let entries = leaves.iter().flat_map(|leaf| &leaf.entries);
    entries.map(|(key, value)| (*key, value >> 24)).collect()
}

/// Two devices of one history.
struct Pair {
    grower: Grower,
    models: [Model; 2],
    /// Nodes that only one of the two trees has.
    unshared: u64,
}

fn random_pair(seed: u64) -> Pair {
    let mut grower = Grower::new(seed);
    let count = [0, 3, 20, 200, 600][usize::try_from(grower.random.below(5)).unwrap()];
    let entries = grower.entries(count);
    let origin = grower.cut(entries);
    let sides = [0; 2].map(|_: u64| {
        let percent = [0, 2, 10, 50, 100][usize::try_from(grower.random.below(5)).unwrap()];
        let leaves = grower.written(&origin, percent);
        (grower.tree(&leaves), model(&leaves))
    });
    let [(left, left_model), (right, right_model)] = sides;
    grower.builder.device(1, left);
    grower.builder.device(2, right);
    let (left, right) = (grower.reachable(left), grower.reachable(right));
    Pair {
        unshared: left.symmetric_difference(&right).count() as u64,
        models: [left_model, right_model],
        grower,
    }
}

/// The same rows, by the shortest way.
fn expected([left, right]: &[Model; 2], same: bool) -> Vec<Plain> {
    let mut rows: Vec<Plain> = Vec::new();
    let keys: BTreeSet<u64> = left.keys().chain(right.keys()).copied().collect();
    for key in keys {
        let (l, r) = (left.get(&key).copied(), right.get(&key).copied());
        let kind = match (l, r) {
            (Some(_), None) => Kind::LeftOnly,
            (None, _) => Kind::RightOnly,
            _ if l == r => Kind::Same,
            _ => Kind::Changed,
        };
        if kind == Kind::Same && !same {
            continue;
        }
        match rows.last_mut() {
            Some((last, begin, length, left, right))
                if *last == kind
                    && *begin + *length == key
                    && left.map(|data| data + *length) == l
                    && right.map(|data| data + *length) == r =>
            {
                *length += 1;
            }
            _ => rows.push((kind, key, 1, l, r)),
        }
    }
    rows
}

#[test]
fn random_trees_differ_as_their_models_do() {
    compare_random_trees(0..400);
}

#[test]
#[ignore = "long"]
fn many_more_random_trees_differ_as_their_models_do() {
    compare_random_trees(400..100_000);
}

fn compare_random_trees(seeds: Range<u64>) {
    for seed in seeds {
        let pair = random_pair(seed);
        let (found, reads) = counted(&pair.grower.builder);
        let found = found.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(plain(&found), expected(&pair.models, false), "seed {seed}");
        let all = delta_of(&pair.grower.builder.open(), true);
        let all = all.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        assert_eq!(plain(&all), expected(&pair.models, true), "seed {seed}");
        assert_eq!(all.changed_blocks(), found.changed_blocks(), "seed {seed}");
        // A shared node is read now and then to see that it begins later.
        let most = pair.unshared + (2 * pair.unshared).min(pair.unshared / 8 + 16);
        assert!(reads <= most, "seed {seed}: {reads} reads, {most} at most");
    }
}

/// Replaces a field or two of nodes that were sound, under a good checksum.
fn hurt(builder: &mut PoolBuilder, random: &mut Random) {
    for _ in 0..random.within(1, 3) {
        let nodes = builder.nr_blocks();
        let at = BlockNr(random.within(1, nodes - 1));
        let capacity = 252;
        let slot = usize::try_from(random.below(7)).unwrap();
        let value = match random.below(6) {
            0 => 0,
            1 => u64::MAX,
            2 => at.0,
            3 => random.next(),
            4 => random.below(2000),
            _ => random.within(1, nodes - 1),
        };
        let place = random.below(8);
        builder.change(at, |bytes| match place {
            0 => bytes[4..8].copy_from_slice(&u32::try_from(value % 4).unwrap().to_le_bytes()),
            1 => bytes[16..20].copy_from_slice(&u32::try_from(value % 9).unwrap().to_le_bytes()),
            2 | 3 => bytes[32 + 8 * slot..][..8].copy_from_slice(&value.to_le_bytes()),
            _ => bytes[32 + 8 * (capacity + slot)..][..8].copy_from_slice(&value.to_le_bytes()),
        });
    }
}

/// A device's mappings by an ordinary cursor.
fn listed(device: &ThinDevice) -> Result<Model> {
    let (mut runs, mut cursor) = (Vec::new(), device.runs(0, None));
    cursor.fill(&mut runs, usize::MAX)?;
    let blocks = runs.iter().flat_map(|run| {
        (0..run.length_blocks).map(|index| (run.virtual_begin + index, run.data_begin + index))
    });
    Ok(blocks.collect())
}

#[test]
fn damaged_trees_give_an_error_or_what_cursors_list() {
    compare_damaged_trees(0..600);
}

#[test]
#[ignore = "long"]
fn many_more_damaged_trees_give_an_error_or_what_cursors_list() {
    compare_damaged_trees(600..200_000);
}

fn compare_damaged_trees(seeds: Range<u64>) {
    let (mut sound, mut refused) = (0, 0);
    for seed in seeds {
        let mut pair = random_pair(seed);
        hurt(&mut pair.grower.builder, &mut pair.grower.random);
        let (pool, device) = pair.grower.builder.open_counted();
        let (left, right) = (pool.device_by_id(1).unwrap(), pool.device_by_id(2).unwrap());
        let listed = (listed(&left), listed(&right));
        device.take_blocks_read();
        for same in [false, true] {
            let found = delta(&left, &right, same, &Task::default());
            match (&listed, found) {
                ((Ok(left), Ok(right)), Ok(found)) => {
                    let models = [left.clone(), right.clone()];
                    assert_eq!(plain(&found), expected(&models, same), "seed {seed}");
                    sound += 1;
                }
                ((Ok(_), Ok(_)), Err(Error::Damaged(damage))) => {
                    // Cursors do not mind keys whose bytes cannot be counted.
                    assert_eq!(damage.check, "virtual block", "seed {seed}");
                }
                // What both sides share may be damaged and need not be seen.
                (_, Ok(found)) => {
                    let rows: Vec<Row> = found.rows().collect();
                    let ascends = |pair: &[Row]| pair[0].begin + pair[0].length <= pair[1].begin;
                    assert!(rows.windows(2).all(ascends), "seed {seed}");
                }
                (_, Err(_)) => refused += 1,
            }
        }
        let most = 64 * pair.grower.builder.nr_blocks();
        assert!(device.take_blocks_read() <= most, "seed {seed}");
    }
    assert!(
        sound > 100 && refused > 100,
        "{sound} sound, {refused} refused"
    );
}
