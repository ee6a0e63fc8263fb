//! The data blocks that were asked for.

use std::ops::Range;

use crate::error::{Error, Result};

/// Regions in ascending order that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions(Vec<Range<u64>>);

impl Regions {
    /// Those that were asked for, or everything for none.
    ///
    /// # Errors
    /// [`Error::Usage`] for one that holds no block.
    pub fn new(asked: &[Range<u64>]) -> Result<Self> {
        if let Some(wrong) = asked.iter().find(|region| region.is_empty()) {
            let (begin, end) = (wrong.start, wrong.end);
            return Err(Error::usage(format!(
                "region {begin}..{end} ends before it has a block"
            )));
        }
        let mut sorted = asked.to_vec();
        if sorted.is_empty() {
            sorted.push(0..u64::MAX);
        }
        sorted.sort_unstable_by_key(|region| region.start);
        let mut joined: Vec<Range<u64>> = Vec::with_capacity(sorted.len());
        for region in sorted {
            match joined.last_mut() {
                Some(last) if region.start <= last.end => last.end = last.end.max(region.end),
                _ => joined.push(region),
            }
        }
        Ok(Self(joined))
    }

    /// First block, and one past the last.
    pub(super) fn span(&self) -> Range<u64> {
        let first = self.0.first().map_or(0, |region| region.start);
        first..self.0.last().map_or(0, |region| region.end)
    }

    /// The parts of a run of data blocks that were asked for.
    pub(super) fn parts(&self, run: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.0.partition_point(|region| region.end <= run.start);
        let regions = self.0[first..].iter();
        let end = run.end;
        regions
            .take_while(move |region| region.start < end)
            .map(move |region| region.start.max(run.start)..region.end.min(run.end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_touches_is_one_region() {
        let regions = Regions::new(&[8..9, 2..4, 4..6, 3..5, 20..30]).unwrap();
        assert_eq!(regions.0, [2..6, 8..9, 20..30]);
        let parts: Vec<_> = regions.parts(5..25).collect();
        assert_eq!(parts, [5..6, 8..9, 20..25]);
        assert_eq!(regions.parts(6..8).count(), 0);
        assert_eq!(regions.span(), 2..30);
        for (begin, end) in [(3, 3), (5, 4)] {
            assert!(Regions::new(std::slice::from_ref(&(begin..end))).is_err());
        }
    }
}
