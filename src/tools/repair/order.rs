//! Leaves in which a key is out of order.

use super::slips::Facts;
use crate::block::BlockData;
use crate::btree::{NodeHeader, max_entries};

/// A key that is wrong, by its index, and what it has to be; `None`: it cannot be told, and
/// what it belongs to is left out.
pub(super) type Fix = (usize, Option<u64>);

/// What to do for keys to rise, where one alone is wrong. `low`: the parent's key.
pub(super) fn in_order(keys: &[u64], low: Option<u64>) -> Option<Vec<Fix>> {
    let mut falls = (1..keys.len()).filter(|next| keys[next - 1] >= keys[*next]);
    let (next, None) = (falls.next()?, falls.next()) else {
        return None;
    };
    // Either the one before the fall is too large, or the one after it too small.
    let fixes: Vec<Fix> = [next - 1, next]
        .into_iter()
        .filter_map(|at| Some((at, fit(keys, at, low)?)))
        .collect();
    match &fixes[..] {
        [] => None,
        [one] => Some(vec![*one]),
        // It cannot be told which.
        both => Some(both.iter().map(|(at, _)| (*at, None)).collect()),
    }
}

/// Whether keys rise but for the one at `at`, with room for another: that one, if there is
/// no choice.
fn fit(keys: &[u64], at: usize, low: Option<u64>) -> Option<Option<u64>> {
    let before = at.checked_sub(1).map(|before| keys[before]);
    let after = keys.get(at + 1).copied();
    if let (None, Some(low), Some(after)) = (before, low, after) {
        // The parent's, if there is room for no other: it stays behind when a leaf loses
        // its first ones.
        return (low < after).then(|| (low + 1 == after).then_some(low));
    }
    match (before, after) {
        (Some(before), Some(after)) => match after.checked_sub(before)? {
            0 | 1 => None,
            2 => Some(Some(before + 1)),
            _ => Some(None),
        },
        (Some(before), None) => (before < u64::MAX).then_some(None),
        (None, Some(after)) => (after > 0).then_some(None),
        (None, None) => None,
    }
}

/// What to do where keys are ids of devices, of which none may be left out: the other tree
/// that has them tells which is missing.
pub(super) fn by_ids(keys: &[u64], fixes: &[Fix], ids: &[u64]) -> Option<Vec<Fix>> {
    if fixes.iter().all(|fix| fix.1.is_none()) {
        let mut told = fixes.iter().filter_map(|(at, _)| {
            let others =
                |id: &&u64| (0..keys.len()).all(|index| index == *at || keys[index] != **id);
            let mut missing = ids.iter().filter(others);
            let (Some(id), None) = (missing.next(), missing.next()) else {
                return None;
            };
            let mut now = keys.to_vec();
            now[*at] = *id;
            let rises = now.windows(2).all(|two| two[0] < two[1]);
            rises.then_some((*at, Some(*id)))
        });
        return match (told.next(), told.next()) {
            (Some(only), None) => Some(vec![only]),
            _ => None,
        };
    }
    let told = fixes.iter().all(|fix| fix.1.is_some());
    told.then(|| fixes.to_vec())
}

/// Where a key is, or a value of eight bytes behind the keys.
fn place(index: usize) -> usize {
    size_of::<NodeHeader>() + 8 * index
}

fn set_word(block: &mut BlockData, index: usize, word: [u8; 8]) {
    block.bytes_mut()[place(index)..place(index + 1)].copy_from_slice(&word);
}

/// Changes the keys of a leaf, and leaves out mappings.
pub(super) fn put_in_order(block: &mut BlockData, keys: &[u64], fixes: &[Fix]) -> Option<Facts> {
    let mut now = keys.to_vec();
    for (index, key) in fixes.iter().filter_map(|fix| Some((fix.0, fix.1?))) {
        now[index] = key;
        set_word(block, index, key.to_le_bytes());
    }
    let out: Vec<usize> = fixes
        .iter()
        .filter(|fix| fix.1.is_none())
        .map(|fix| fix.0)
        .collect();
    if !out.is_empty() {
        let header: &NodeHeader = block.view();
        let capacity = max_entries(8);
        if header.value_size.get() != 8 || keys.len() > capacity {
            return None;
        }
        let kept: Vec<usize> = (0..keys.len())
            .filter(|index| !out.contains(index))
            .collect();
        for (to, from) in kept.iter().enumerate() {
            let value = *block.bytes()[place(capacity + from)..].first_chunk::<8>()?;
            set_word(block, to, now[*from].to_le_bytes());
            set_word(block, capacity + to, value);
        }
        now = kept.iter().map(|index| now[*index]).collect();
        let header: &mut NodeHeader = block.view_mut();
        header.nr_entries.set(u32::try_from(now.len()).ok()?);
    }
    Some(Facts {
        first: *now.first()?,
        last: *now.last()?,
        height: 0,
    })
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;
    use crate::block::BlockData;
    use crate::btree::Node;
    use crate::testing::PoolBuilder;
    use crate::units::{BLOCK_BYTES, BlockNr};

    fn leaf(entries: &[(u64, u64)]) -> BlockData {
        let mut builder = PoolBuilder::new(100);
        let at = builder.leaf(entries).0 as usize;
        builder.device(1, BlockNr(at as u64));
        let mut block = BlockData::zeroed();
        let bytes = &builder.image()[at * BLOCK_BYTES..][..BLOCK_BYTES];
        block.as_mut_bytes().copy_from_slice(bytes);
        block
    }

    #[test]
    fn what_is_left_out_takes_its_value_along() {
        let keys = [1, 20, 7, 40, 41];
        let entries: Vec<_> = keys.iter().map(|key| (*key, key * 100)).collect();
        let mut block = leaf(&entries);
        let facts = put_in_order(&mut block, &keys, &[(1, None), (2, None)]).unwrap();
        assert_eq!((facts.first, facts.last, facts.height), (1, 41, 0));
        let node = Node::parse(BlockNr(1), &block).unwrap();
        let values = node.values::<zerocopy::little_endian::U64>().unwrap();
        let left: Vec<_> = node
            .keys()
            .iter()
            .zip(values)
            .map(|(k, v)| (k.get(), v.get()))
            .collect();
        assert_eq!(left, [(1, 100), (40, 4000), (41, 4100)]);

        let mut block = leaf(&entries);
        put_in_order(&mut block, &keys, &[(1, Some(6))]).unwrap();
        let node = Node::parse(BlockNr(1), &block).unwrap();
        let left: Vec<_> = node.keys().iter().map(|key| key.get()).collect();
        assert_eq!(left, [1, 6, 7, 40, 41]);
    }

    #[test]
    fn one_key_that_is_wrong_is_told_by_those_around_it() {
        let fixed = |keys: &[u64], low| in_order(keys, low);
        // Only one number fits, or none can be told.
        assert_eq!(fixed(&[1, 2, 0, 4, 5], Some(1)), Some(vec![(2, Some(3))]));
        assert_eq!(fixed(&[1, 2, 99, 4, 5], Some(1)), Some(vec![(2, Some(3))]));
        assert_eq!(fixed(&[1, 3, 3, 4, 5], Some(1)), Some(vec![(1, Some(2))]));
        assert_eq!(
            fixed(&[1, 20, 7, 40], Some(1)),
            Some(vec![(1, None), (2, None)])
        );
        assert_eq!(fixed(&[1, 20, 7, 21], Some(1)), Some(vec![(1, None)]));
        // The first is the parent's only if no other fits.
        assert_eq!(fixed(&[50, 20, 30], Some(19)), Some(vec![(0, Some(19))]));
        assert_eq!(fixed(&[50, 20, 30], Some(7)), Some(vec![(0, None)]));
        assert_eq!(fixed(&[50, 20, 30], None), Some(vec![(0, None)]));
        assert_eq!(fixed(&[5, 20, 3], Some(5)), Some(vec![(2, None)]));
        // Of ids, what the other tree has more.
        let by = |ids: &[u64]| by_ids(&[50, 20, 30], &[(0, None)], ids);
        assert_eq!(by(&[4, 20, 30]), Some(vec![(0, Some(4))]));
        assert_eq!(by(&[4, 5, 20, 30]), None);
        assert_eq!(by(&[20, 25, 30]), None);
        assert_eq!(by(&[]), None);
        // Either may be wrong, but only one of them for this.
        let by = |ids: &[u64]| by_ids(&[13, 6], &[(0, None), (1, None)], ids);
        assert_eq!(by(&[5, 6]), Some(vec![(0, Some(5))]));
        assert_eq!(by(&[13, 20]), Some(vec![(1, Some(20))]));
        assert_eq!(by(&[5, 20]), None);
        // Two that are wrong.
        assert_eq!(fixed(&[1, 9, 3, 4, 2, 6], Some(1)), None);
    }
}
