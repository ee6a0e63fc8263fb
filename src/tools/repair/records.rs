//! Details of devices, as they were from commit to commit.

use rustc_hash::FxHashMap;

use crate::thin::{DeviceInfo, MAX_DEVICE_ID};

/// Details of one device that are kept; those of the latest times are.
const MOST_KEPT: usize = 1 << 12;

/// All details of a device that there are.
#[derive(Default)]
pub(super) struct Record {
    /// By the number of mappings.
    infos: Vec<DeviceInfo>,
    /// The latest of them.
    pub newest: Option<DeviceInfo>,
    /// When it was made, unless several devices have had its id.
    pub made_at: Option<u32>,
}

impl Record {
    fn new(mut infos: Vec<DeviceInfo>) -> Self {
        infos.sort_unstable_by_key(|info| std::cmp::Reverse(lateness(info)));
        infos.dedup();
        infos.truncate(MOST_KEPT);
        let newest = infos.first().copied();
        let made_at = newest.map(|info| info.creation_time);
        let same = |info: &DeviceInfo| Some(info.creation_time) == made_at;
        let made_at = made_at.filter(|_| infos.iter().all(same));
        infos.sort_unstable_by_key(|info| (info.mapped_blocks, lateness(info)));
        Self {
            infos,
            newest,
            made_at,
        }
    }

    /// Each once.
    pub fn infos(&self) -> &[DeviceInfo] {
        &self.infos
    }

    /// Those that speak of so many mappings, the latest last.
    pub fn of_size(&self, mapped_blocks: u64) -> &[DeviceInfo] {
        let infos = &self.infos;
        let begin = infos.partition_point(|info| info.mapped_blocks < mapped_blocks);
        let end = infos.partition_point(|info| info.mapped_blocks <= mapped_blocks);
        &infos[begin..end]
    }
}

/// Those of all devices, by id.
#[derive(Default)]
pub(super) struct Records {
    records: FxHashMap<u64, Record>,
    none: Record,
}

impl Records {
    /// Of details in any order, any number of times.
    pub fn new(all: impl IntoIterator<Item = DeviceInfo>) -> Self {
        let mut by_id: FxHashMap<u64, Vec<DeviceInfo>> = FxHashMap::default();
        for info in all {
            if info.id <= MAX_DEVICE_ID {
                by_id.entry(info.id).or_default().push(info);
            }
        }
        let records = by_id.into_iter();
        let records = records.map(|(id, infos)| (id, Record::new(infos)));
        Self {
            records: records.collect(),
            none: Record::default(),
        }
    }

    /// Those of a device.
    pub fn of(&self, id: u64) -> &Record {
        self.records.get(&id).unwrap_or(&self.none)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Record)> {
        self.records.iter().map(|(id, record)| (*id, record))
    }
}

/// What tells the later of two details of a device.
fn lateness(info: &DeviceInfo) -> impl Ord + use<> {
    let times = (info.creation_time, info.snapshotted_time);
    (info.transaction_id, times, info.mapped_blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_details_are_known_and_those_of_a_size() {
        let info = |id, mapped_blocks, snapshotted_time, creation_time| DeviceInfo {
            id,
            mapped_blocks,
            transaction_id: 4,
            creation_time,
            snapshotted_time,
        };
        let all = [
            (1, 5, 3, 0),
            (1, 9, 2, 0),
            (1, 5, 3, 0),
            (1, 5, 1, 0),
            (2, 5, 0, 7),
        ];
        let more = [(2, 5, 9, 8)];
        let all = all.into_iter().chain(more);
        let records =
            Records::new(all.map(|(id, mapped, last, made)| info(id, mapped, last, made)));
        let one = records.of(1);
        assert_eq!(one.infos().len(), 3);
        assert_eq!(one.newest, Some(info(1, 5, 3, 0)));
        assert_eq!(one.of_size(5), [info(1, 5, 1, 0), info(1, 5, 3, 0)]);
        assert_eq!((one.of_size(6).len(), one.made_at), (0, Some(0)));
        assert_eq!(records.of(2).made_at, None);
        assert_eq!(records.of(3).newest, None);
        assert_eq!(records.iter().count(), 2);
    }
}
