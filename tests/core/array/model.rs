//! Random histories against vectors: shared roots, commits, aborts, counted elements.

use thinmeta::array::{self, Array, ArrayType, capacity};
use thinmeta::btree::{Plain, ValueType, Wait};
use thinmeta::transaction::Transaction;
use thinmeta::{BlockNr, Error, Result};

use super::world::{Refs, Walk, World};
use crate::support::chance::Chance;

/// An array and what it should hold, element after element.
#[derive(Clone)]
struct Known {
    root: BlockNr,
    elements: Vec<u8>,
}

/// Everything that a commit makes durable.
#[derive(Clone, Default)]
struct Content {
    arrays: Vec<Known>,
    /// Blocks that the test itself has a reference on, for elements to refer to.
    targets: Vec<BlockNr>,
}

struct History {
    world: World,
    chance: Chance<'static>,
    value_bytes: usize,
    counted: bool,
    longest: u64,
    now: Content,
    committed: Content,
}

impl History {
    fn new(seed: u64, value_bytes: usize, counted: bool, longest: u64) -> Self {
        let mut history = Self {
            world: World::new(4096),
            chance: Chance::of_case(seed, "arrays", value_bytes as u64),
            value_bytes,
            counted,
            longest,
            now: Content::default(),
            committed: Content::default(),
        };
        for _ in 0..3 {
            history.add_target();
        }
        history
    }

    fn add_target(&mut self) {
        if self.counted {
            // What it is does not matter: nobody reads it.
            let made = self.world.change(|txn| thinmeta::btree::empty(txn, 8));
            self.now.targets.push(made);
        }
    }

    fn change<T>(&self, work: impl FnOnce(&mut Transaction, &mut ArrayType<'_>) -> Result<T>) -> T {
        let (mut refs, mut plain) = (Refs(self.value_bytes), Plain);
        let values: &mut dyn ValueType = if self.counted { &mut refs } else { &mut plain };
        let mut array = ArrayType {
            value_bytes: self.value_bytes,
            values,
        };
        self.world.change(|txn| work(txn, &mut array))
    }

    fn element(&mut self) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::new();
        if self.counted {
            let target = self.chance.pick(&self.now.targets);
            bytes.extend_from_slice(&target.0.to_le_bytes());
        }
        let filler = self.chance.word().to_le_bytes();
        // Few kinds, so that equal ones meet.
        let filler = filler.map(|byte| byte & 3);
        let rest = self.value_bytes - bytes.len();
        bytes.extend(filler.iter().cycle().take(rest));
        bytes
    }

    fn elements(&mut self, count: u64) -> Vec<u8> {
        (0..count).flat_map(|_| self.element()).collect()
    }

    fn some_array(&mut self) -> Option<usize> {
        let count = self.now.arrays.len();
        (count > 0).then(|| self.chance.index(count))
    }

    fn step(&mut self) {
        let what = self.chance.below(100);
        let Some(place) = self.some_array().filter(|_| what >= 8) else {
            return self.make(what);
        };
        let Known { root, mut elements } = self.now.arrays[place].clone();
        let len = (elements.len() / self.value_bytes) as u64;
        let each = self.value_bytes;
        match what {
            8..44 if len > 0 => {
                let index = self.chance.below(len);
                let value = self.element();
                let new =
                    self.change(|txn, array| array::set(txn, array, root, len, index, &value));
                elements[index as usize * each..][..each].copy_from_slice(&value);
                self.put(place, new, elements);
            }
            44..56 if len > 0 => {
                let first = self.chance.below(len);
                let count = self.chance.below(len - first + 1);
                let values = self.elements(count);
                let new = self
                    .change(|txn, array| array::set_range(txn, array, root, len, first, &values));
                elements[first as usize * each..][..values.len()].copy_from_slice(&values);
                self.put(place, new, elements);
            }
            56..62 if len > 0 => {
                let first = self.chance.below(len);
                let end = first + self.chance.below(len - first + 1);
                let value = self.element();
                let new = self
                    .change(|txn, array| array::fill(txn, array, root, len, first..end, &value));
                let chunk = first as usize * each..end as usize * each;
                elements[chunk.clone()].copy_from_slice(&value.repeat(chunk.len() / each));
                self.put(place, new, elements);
            }
            62..78 => {
                let size = self.some_size(len);
                let default = self.element();
                let new =
                    self.change(|txn, array| array::resize(txn, array, root, len, size, &default));
                let extra = size.saturating_sub(len) as usize;
                elements.truncate(size as usize * each);
                elements.extend_from_slice(&default.repeat(extra));
                self.put(place, new, elements);
            }
            78..88 if self.now.arrays.len() < 6 => {
                // A snapshot: the history goes on in both.
                self.world.change(|txn| txn.inc(root));
                self.now.arrays.push(Known { root, elements });
            }
            88..94 => {
                self.change(|txn, array| array::delete(txn, array, root));
                self.now.arrays.swap_remove(place);
            }
            94..99 => self.commit(),
            _ => {
                self.world.manager.abort().unwrap();
                self.now = self.committed.clone();
                if self.counted && self.now.targets.is_empty() {
                    self.add_target();
                }
            }
        }
    }

    /// Often where a block begins, or one more or fewer.
    fn some_size(&mut self, len: u64) -> u64 {
        let capacity = capacity(self.value_bytes) as u64;
        let size = match self.chance.below(4) {
            0 => self.chance.below(self.longest),
            1 => len,
            2 => self.chance.below(self.longest / capacity + 1) * capacity,
            _ => len + self.chance.below(2 * capacity),
        };
        (size + self.chance.below(3)).saturating_sub(1)
    }

    fn put(&mut self, place: usize, root: BlockNr, elements: Vec<u8>) {
        self.now.arrays[place] = Known { root, elements };
    }

    fn make(&mut self, what: u64) {
        if self.now.arrays.len() >= 6 {
            return self.add_target();
        }
        let len = self.chance.below(self.longest);
        let each = self.value_bytes;
        let elements = self.elements(len);
        let root = match what % 3 {
            0 => self.change(|txn, array| array::from_slice(txn, array, &elements)),
            1 => self.change(|txn, array| {
                array::generate(txn, array, len, &mut |index, out| {
                    out.copy_from_slice(&elements[index as usize * each..][..each]);
                    Ok(())
                })
            }),
            _ => {
                let root = self.world.change(array::empty);
                return self.now.arrays.push(Known {
                    root,
                    elements: Vec::new(),
                });
            }
        };
        self.now.arrays.push(Known { root, elements });
    }

    fn commit(&mut self) {
        self.world.commit();
        self.committed = self.now.clone();
        let mut walk = Walk::new(&self.world, self.value_bytes, self.counted);
        for known in &self.now.arrays {
            assert!(walk.array(known.root) == known.elements);
        }
        for at in &self.now.targets {
            walk.meet(*at);
        }
        walk.check_counts(&self.world);
    }

    /// What readers say, here and behind a cache of their own.
    fn read_back(&mut self) {
        let fresh = self.world.read_again();
        let content = [(self.world.blocks(), &self.now), (&fresh, &self.committed)];
        for (blocks, content) in content {
            for known in &content.arrays {
                let each = self.value_bytes;
                let len = (known.elements.len() / each) as u64;
                let array = Array::new(blocks, known.root, each, len).unwrap();
                let first = self.chance.below(len + 1);
                let count = self.chance.below(len - first + 1);
                let mut out = vec![0; count as usize * each];
                array.read(first, &mut out).unwrap();
                assert!(out == known.elements[first as usize * each..][..out.len()]);
                if count > 0 {
                    let mut one = vec![0; each];
                    array.get(first, &mut one, Wait::Yes).unwrap();
                    assert_eq!(one, out[..each]);
                    // It is cached by now; but somebody may be reading ahead, who may have
                    // to wait for a processor himself, or have made room for what he reads.
                    let cached = std::iter::repeat_with(|| {
                        std::thread::sleep(std::time::Duration::from_micros(50));
                        match array.get(first, &mut one, Wait::No) {
                            Err(Error::WouldBlock) => {
                                array.get(first, &mut one, Wait::Yes).unwrap();
                                Err(Error::WouldBlock)
                            }
                            answer => answer,
                        }
                    });
                    let mut cached = cached.take(10_000);
                    let busy = |answer: &Result<()>| matches!(answer, Err(Error::WouldBlock));
                    cached.find(|answer| !busy(answer)).unwrap().unwrap();
                    drop(cached);
                    assert_eq!(one, out[..each]);
                }
                let beyond = array.get(len, &mut vec![0; each], Wait::Yes);
                assert!(matches!(beyond, Err(Error::Usage(_))));
            }
        }
    }

    fn play(mut self, steps: u64) {
        for step in 0..steps {
            self.step();
            if step % 25 == 0 {
                self.read_back();
            }
        }
        self.commit();
        self.read_back();
        for known in std::mem::take(&mut self.now.arrays) {
            self.change(|txn, array| array::delete(txn, array, known.root));
        }
        // Nothing but the space map and the targets is left.
        self.commit();
    }
}

#[test]
fn arrays_keep_what_a_vector_keeps_through_snapshots_commits_and_aborts() {
    for (value_bytes, longest) in [(8, 2600), (4, 3100), (1, 9000), (1000, 300), (4072, 200)] {
        for seed in 0..3 {
            History::new(seed, value_bytes, false, longest).play(250);
        }
    }
}

#[test]
fn every_element_of_an_array_is_counted_once_for_each_block_that_it_is_in() {
    for (value_bytes, longest) in [(8, 2000), (400, 500), (1500, 80)] {
        for seed in 0..4 {
            History::new(seed, value_bytes, true, longest).play(250);
        }
    }
}

#[test]
fn arrays_of_several_levels_share_what_is_under_every_node() {
    // 4 elements to a block: 900 blocks hang under several leaves.
    for seed in 0..2 {
        History::new(seed, 1000, true, 1800).play(160);
    }
}

/// A snapshot of the same transaction: its blocks are not shared themselves,
/// only the nodes above them are.
#[test]
fn a_snapshot_in_the_same_transaction_keeps_its_elements() {
    for counted in [false, true] {
        let mut history = History::new(9, 8, counted, 1);
        let elements = history.elements(1600);
        let root = history.change(|txn, array| array::from_slice(txn, array, &elements));
        history.world.change(|txn| txn.inc(root));
        let value = history.element();
        let new = history.change(|txn, array| array::set(txn, array, root, 1600, 700, &value));
        assert_ne!(new, root);
        let mut changed = elements.clone();
        changed[5600..5608].copy_from_slice(&value);
        for (root, elements) in [(root, elements), (new, changed)] {
            history.now.arrays.push(Known { root, elements });
        }
        history.commit();
    }
}

/// What a change in place costs: no block but the first time.
#[test]
fn a_second_change_of_a_block_is_made_in_place() {
    let mut history = History::new(1, 8, false, 1);
    let elements = history.elements(3000);
    let root = history.change(|txn, array| array::from_slice(txn, array, &elements));
    history.now.arrays.push(Known { root, elements });
    history.commit();
    let free = |history: &History| history.world.change(|txn| Ok(txn.nr_free()));
    let before = free(&history);
    let value = [7; 8];
    let set = |root, index| {
        history.change(|txn, array| array::set(txn, array, root, 3000, index, &value))
    };
    let first = set(root, 5);
    let after = free(&history);
    // The array block, the leaf above, and the bitmap that counts both; what they
    // replace is free after the commit.
    assert_eq!(before - after, 3);
    assert_eq!(set(first, 508), first);
    assert_eq!(free(&history), after);
    assert_eq!(set(first, 509), first);
    assert_eq!(free(&history), after - 1);
}
