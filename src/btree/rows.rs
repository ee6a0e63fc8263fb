//! Sorting the keys of a batch without losing where they stood.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::task::Task;

/// A key, and what goes with it: its place in the batch, or its value.
pub(super) type Row<P> = (u64, P);

/// Rows of a bucket, on average: so few that they are sorted in the processor's first cache.
const ROWS_PER_BUCKET: usize = 512;
/// More buckets than this and the first pass misses its own cache.
const MOST_BUCKETS: usize = 1 << 12;
/// Fewer rows are not worth a second thread.
const FEWEST_SHARED_ROWS: usize = 1 << 16;

/// The places of keys in ascending order, equal ones in the order given. Takes 16
/// bytes for each key.
pub(super) fn sorted_places(keys: &[u64], task: &Task<'_>) -> Result<Vec<Row<u32>>> {
    if u32::try_from(keys.len()).is_err() {
        return Err(Error::usage("more than 2^32 keys in one batch"));
    }
    sorted_rows(keys, 0_u32.., task)
}

/// Keys with what goes with them in ascending order, equal ones in the order
/// given: one pass that spreads them to buckets by their leading bits, then each
/// bucket by itself.
pub(super) fn sorted_rows<P: Copy + Default + Send>(
    keys: &[u64],
    payloads: impl Iterator<Item = P>,
    task: &Task<'_>,
) -> Result<Vec<Row<P>>> {
    let (mut rows, mut buckets) = spread(keys, payloads);
    let threads = if rows.len() < FEWEST_SHARED_ROWS {
        1
    } else {
        task.threads()
    };
    if threads < 2 {
        for bucket in buckets {
            rows[bucket].sort_by_key(|row| row.0);
        }
        return Ok(rows);
    }
    // Pieces of whole buckets, a few for each thread.
    buckets.retain(|bucket| !bucket.is_empty());
    let most = rows.len().div_ceil(4 * threads);
    let mut pieces = Vec::new();
    let mut rest = &mut rows[..];
    for run in buckets.chunk_by(|one, next| one.start / most == next.start / most) {
        let piece: usize = run.iter().map(Range::len).sum();
        let (own, others) = rest.split_at_mut(piece);
        rest = others;
        pieces.push(std::sync::Mutex::new((own, run)));
    }
    task.share_out(
        pieces.len(),
        || (),
        |(), _, piece| {
            let mut piece = pieces[piece]
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let (rows, run) = &mut *piece;
            let begin = run.first().map_or(0, |bucket| bucket.start);
            for bucket in *run {
                rows[bucket.start - begin..bucket.end - begin].sort_by_key(|row| row.0);
            }
            Ok(())
        },
    )?;
    drop(pieces);
    Ok(rows)
}

/// The rows by buckets whose keys rise, as given within, and where each bucket lies.
fn spread<P: Copy + Default>(
    keys: &[u64],
    payloads: impl Iterator<Item = P>,
) -> (Vec<Row<P>>, Vec<Range<usize>>) {
    let (low, high) = keys.iter().fold((u64::MAX, 0), |(low, high), key| {
        (low.min(*key), high.max(*key))
    });
    let wanted = (keys.len() / ROWS_PER_BUCKET).clamp(1, MOST_BUCKETS);
    let span = high.saturating_sub(low);
    // The fewest bits to drop that leave no more buckets than wanted.
    let mut shift = 0;
    while span >> shift >= wanted as u64 && shift < 63 {
        shift += 1;
    }
    // Below `MOST_BUCKETS`, but for a span of 2^64 and one bucket wanted: then 2.
    let bucket = |key: u64| usize::try_from((key - low) >> shift).unwrap_or(0);
    let mut ends = vec![0_usize; bucket(high.max(low)) + 1];
    for key in keys {
        ends[bucket(*key)] += 1;
    }
    let mut end = 0;
    let mut ranges = Vec::with_capacity(ends.len());
    for count in &mut ends {
        let begin = end;
        end += *count;
        ranges.push(begin..end);
        *count = begin;
    }
    let mut rows = vec![(0, P::default()); keys.len()];
    for (key, payload) in keys.iter().zip(payloads) {
        let next = &mut ends[bucket(*key)];
        rows[*next] = (*key, payload);
        *next += 1;
    }
    (rows, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    #[test]
    fn rows_come_out_as_a_stable_sort_has_them() {
        let mut random = Random::new(5);
        for count in [0, 1, 2, 700, 20_000, 100_000] {
            for span in [1, 2, 1000, 1 << 40, u64::MAX] {
                for base in [0, 77, u64::MAX - span] {
                    let mut keys: Vec<u64> = (0..count)
                        .map(|_| base.saturating_add(random.below(span)))
                        .collect();
                    if count > 2 {
                        keys[0] = base.saturating_add(span);
                        keys[1] = base;
                    }
                    let mut expected: Vec<Row<u32>> = keys.iter().copied().zip(0..).collect();
                    expected.sort_by_key(|row| row.0);
                    for threads in [1, 3] {
                        let rows = sorted_places(&keys, &Task::new(None, Some(threads))).unwrap();
                        assert!(rows == expected, "{count} keys from {base} over {span}");
                    }
                }
            }
        }
    }
}
