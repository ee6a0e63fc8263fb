//! What nodes of all sizes become, against the rules applied to lists of keys.

use super::forest::Forest;
use crate::btree::{NODE_VALIDATOR, Node, max_entries};
use crate::units::BlockNr;

/// Value sizes of leaves that hold 3, 6, 9, 12 and 24 entries.
const SMALL: [usize; 5] = [1346, 669, 443, 330, 161];

/// Keys of each child of a root.
type Lists = Vec<Vec<u64>>;

/// Ten apart, so that there is room between.
fn lists(sizes: &[usize]) -> Lists {
    let mut next = (1_u64..).map(|index| 10 * index);
    let list = |size: &usize| next.by_ref().take(*size).collect();
    sizes.iter().map(list).collect()
}

/// Cuts a row of keys into lists of these sizes.
fn cut(keys: &[u64], sizes: &[usize]) -> Lists {
    assert_eq!(sizes.iter().sum::<usize>(), keys.len());
    let mut rest = keys;
    let mut take = |size: &usize| {
        let (own, later) = rest.split_at(*size);
        rest = later;
        own.to_vec()
    };
    sizes.iter().map(&mut take).collect()
}

fn covering(lists: &Lists, key: u64) -> usize {
    let below = lists.iter().rposition(|list| list[0] <= key);
    below.unwrap_or(0)
}

/// Two neighbours before a removal.
fn pair(keys: &[u64], capacity: usize) -> Lists {
    if keys.len() < 2 * (capacity / 3 + 1) {
        return vec![keys.to_vec()];
    }
    cut(keys, &[keys.len() / 2, keys.len() - keys.len() / 2])
}

/// Three neighbours before a removal.
fn triple(keys: &[u64], capacity: usize) -> Lists {
    let (total, least) = (keys.len(), capacity / 3);
    // The exception for nodes of three keeps every node from being emptied.
    let enough = if least == 1 { 6 } else { 4 * least + 1 };
    if total < enough {
        return pair(keys, capacity);
    }
    let right = total / 3;
    let left = right + usize::from(!total.is_multiple_of(3));
    cut(keys, &[left, total - left - right, right])
}

/// The children of a root after a key went.
fn removed(mut lists: Lists, key: u64, capacity: usize) -> Lists {
    let index = covering(&lists, key);
    if lists.len() > 1 {
        let (begin, end) = match index {
            0 => (0, 2),
            _ if index + 1 == lists.len() => (index - 1, index + 1),
            _ => (index - 1, index + 2),
        };
        let row = lists[begin..end].concat();
        let new = if end - begin == 2 {
            pair(&row, capacity)
        } else {
            triple(&row, capacity)
        };
        lists.splice(begin..end, new);
    }
    lists
        .iter_mut()
        .for_each(|list| list.retain(|own| *own != key));
    lists
}

/// The children of a root after a key came; `shared` says whose siblings are left alone.
fn inserted(mut lists: Lists, key: u64, capacity: usize, shared: &[bool]) -> Lists {
    let (index, last) = (covering(&lists, key), lists.len() - 1);
    if lists[index].len() == capacity {
        let left = index.checked_sub(1);
        let right = Some(index + 1).filter(|right| *right <= last);
        let good = |at: &usize| !shared[*at] && capacity - lists[*at].len() >= 8;
        let any_shared = left.is_some_and(|at| shared[at]) || right.is_some_and(|at| shared[at]);
        let (begin, end, parts) = if let Some(left) = left.filter(good) {
            (left, index + 1, 2)
        } else if let Some(right) = right.filter(good) {
            (index, right + 1, 2)
        } else if any_shared || lists.len() <= 2 || index == 0 || index == last {
            (index, index + 1, 2)
        } else {
            (index - 1, index + 1, 3)
        };
        let row = lists[begin..end].concat();
        let first = row.len() / parts;
        let second = (row.len() - first) / (parts - 1);
        let sizes = [first, second, row.len() - first - second];
        lists.splice(begin..end, cut(&row, &sizes[..parts]));
    }
    let index = covering(&lists, key);
    let place = lists[index].partition_point(|own| *own < key);
    lists[index].insert(place, key);
    lists
}

fn plant(forest: &mut Forest, lists: &Lists) {
    let mut children = Vec::new();
    for list in lists {
        let leaf = forest.leaf(&[], list.iter().copied());
        children.push((list[0], leaf));
    }
    let root = forest.pointers(false, &children);
    forest.plant(root);
}

/// The leaves of the tree, whichever depth they are at.
fn found(forest: &Forest) -> Lists {
    fn visit(forest: &Forest, at: BlockNr, all: &mut Lists) {
        let block = forest.txn.read(at, &NODE_VALIDATOR).unwrap();
        let node = Node::parse(at, &block).unwrap();
        if node.is_leaf() {
            return all.push(node.keys().iter().map(|key| key.get()).collect());
        }
        let children = node.children().unwrap();
        children
            .iter()
            .for_each(|child| visit(forest, BlockNr(child.get()), all));
    }
    let mut all = Vec::new();
    visit(forest, forest.root, &mut all);
    all
}

/// A forest that many small scenes are played in, one after the other.
struct Stage {
    value_bytes: usize,
    forest: Forest,
}

impl Stage {
    fn new(value_bytes: usize) -> Self {
        let forest = Forest::new(64, 1, value_bytes);
        Self {
            value_bytes,
            forest,
        }
    }

    fn set(&mut self, lists: &Lists) -> &mut Forest {
        self.forest.delete();
        self.forest.commit();
        plant(&mut self.forest, lists);
        &mut self.forest
    }

    fn remove(&mut self, sizes: &[usize], child: usize) {
        let capacity = max_entries(self.value_bytes);
        let before = lists(sizes);
        let least = sizes.iter().all(|size| *size >= capacity / 3);
        for key in [before[child][0], before[child][sizes[child] - 1]] {
            let expected = removed(before.clone(), key, capacity);
            let forest = self.set(&before);
            forest.remove(&[key]);
            assert_eq!(
                found(forest),
                expected,
                "{sizes:?} of {capacity} without {key}"
            );
            if least {
                forest.check();
            }
        }
    }

    fn insert(&mut self, sizes: &[usize], child: usize, shared: &[bool]) {
        let capacity = max_entries(self.value_bytes);
        let before = lists(sizes);
        for near in [before[child][0], before[child][sizes[child] - 1]] {
            let key = near + 5;
            let expected = inserted(before.clone(), key, capacity, shared);
            let forest = self.set(&before);
            let places = forest.around(&[before[child][0]]);
            // The root comes first, then the children around this one.
            let first = child.saturating_sub(1);
            for (index, (at, level)) in places[1..].iter().enumerate() {
                if shared[first + index] && first + index != child {
                    forest.hold(*at, *level);
                }
            }
            forest.insert(&[key], key);
            assert_eq!(
                found(forest),
                expected,
                "{sizes:?} of {capacity} with {key}"
            );
            while !forest.held.is_empty() {
                forest.release(0);
            }
        }
    }
}

#[test]
fn all_pairs_of_small_nodes_become_what_the_rules_say() {
    for value_bytes in SMALL {
        let capacity = max_entries(value_bytes);
        let mut stage = Stage::new(value_bytes);
        for left in 1..=capacity {
            for right in 1..=capacity {
                stage.remove(&[left, right], 0);
                stage.remove(&[left, right], 1);
                stage.remove(&[left, right, 1], 0);
            }
        }
    }
}

#[test]
fn all_triples_of_small_nodes_become_what_the_rules_say() {
    for value_bytes in SMALL {
        let capacity = max_entries(value_bytes);
        let mut stage = Stage::new(value_bytes);
        for left in 1..=capacity {
            for centre in 1..=capacity {
                for right in 1..=capacity {
                    stage.remove(&[left, centre, right], 1);
                }
            }
        }
    }
}

#[test]
fn border_sizes_of_ordinary_nodes_become_what_the_rules_say() {
    let (capacity, least) = (252, 84);
    let mut sizes: Vec<[usize; 3]> = Vec::new();
    let borders = [
        1,
        2,
        least - 1,
        least,
        least + 1,
        least + 2,
        capacity - 1,
        capacity,
    ];
    for left in borders {
        for centre in borders {
            sizes.extend(borders.map(|right| [left, centre, right]));
        }
    }
    for total in [4 * least, 4 * least + 1, 3 * capacity - 1] {
        for left in (1..=capacity).step_by(13).chain([capacity]) {
            for centre in (1..=capacity).step_by(17).chain([capacity]) {
                let right = total.checked_sub(left + centre);
                let right = right.filter(|right| (1..=capacity).contains(right));
                sizes.extend(right.map(|right| [left, centre, right]));
            }
        }
    }
    assert!(sizes.len() > 600, "{} sizes", sizes.len());
    let mut stage = Stage::new(8);
    for triple in sizes {
        stage.remove(&triple, 1);
        stage.remove(&triple[..2], 1);
    }
}

#[test]
fn full_nodes_among_siblings_of_all_sizes_become_what_the_rules_say() {
    for value_bytes in SMALL {
        let capacity = max_entries(value_bytes);
        let mut stage = Stage::new(value_bytes);
        for one in 1..=capacity {
            for other in 1..=capacity {
                for shared in [[false; 3], [true, false, false], [false, false, true]] {
                    stage.insert(&[one, capacity, other], 1, &shared);
                }
            }
            for shared in [false, true] {
                stage.insert(&[one, capacity], 1, &[shared, false]);
                stage.insert(&[capacity, one], 0, &[false, shared]);
                stage.insert(&[capacity, one, one], 0, &[false, shared, false]);
            }
        }
    }
}

#[test]
fn full_ordinary_nodes_become_what_the_rules_say() {
    let mut stage = Stage::new(8);
    let borders = [1, 84, 126, 243, 244, 245, 251, 252];
    for one in borders {
        for other in borders {
            for shared in [[false; 3], [true, false, false], [false, false, true]] {
                stage.insert(&[one, 252, other], 1, &shared);
            }
            stage.insert(&[252, one, other], 0, &[false; 3]);
            stage.insert(&[one, other, 252], 2, &[false; 3]);
        }
        stage.insert(&[one, 252], 1, &[false; 2]);
        stage.insert(&[252, one], 0, &[false; 2]);
    }
}
