//! Comparing with a bookmark: by the time rule, against a model.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::PathBuf;

use super::*;
use crate::bookmark::{Bookmark, save};
use crate::testing::Random;
use crate::thin::ThinDevice;

/// Virtual block to data block and time.
type Model = BTreeMap<u64, (u64, u32)>;

struct Saved {
    bookmark: Bookmark,
    path: PathBuf,
}

impl Drop for Saved {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn device(model: &Model, created: u32) -> ThinDevice {
    let entries: Vec<_> = model
        .iter()
        .map(|(block, (data, time))| (*block, mapping(*data, u64::from(*time))))
        .collect();
    let mut builder = PoolBuilder::new(DATA_BLOCKS);
    let root = builder.tree(&entries, 20);
    builder.snapshot(1, root, created);
    builder.open().device_by_id(1).unwrap()
}

fn saved(name: &str, model: &Model, created: u32) -> Saved {
    let path = std::env::temp_dir();
    let path = path.join(format!("thinmeta-against-{}-{name}", std::process::id()));
    let out = File::create(&path).unwrap();
    let device = device(model, created);
    save(&device, None, "", &out, &Task::default()).unwrap();
    let bookmark = Bookmark::open(&path, &Task::default()).unwrap();
    Saved { bookmark, path }
}

fn expected(left: &Model, right: &Model, before: u32) -> BTreeMap<u64, Kind> {
    let blocks = left.keys().chain(right.keys());
    let kind = |block: &u64| match (left.get(block), right.get(block)) {
        (Some(one), Some(other)) if one == other && one.1 < before => Kind::Same,
        (Some(_), Some(_)) => Kind::Changed,
        (Some(_), None) => Kind::LeftOnly,
        _ => Kind::RightOnly,
    };
    blocks.map(|block| (*block, kind(block))).collect()
}

fn found(delta: &Delta) -> BTreeMap<u64, Kind> {
    let rows = delta.rows();
    rows.flat_map(|row| (row.begin..row.begin + row.length).map(move |block| (block, row.kind)))
        .collect()
}

#[test]
fn random_states_are_compared_as_a_model_does() {
    let mut random = Random::new(11);
    for round in 0..200 {
        let created = u32::try_from(1 + random.below(4)).unwrap();
        let mut left = Model::new();
        let mut at = 0;
        for _ in 0..random.below(300) {
            at += 1 + u64::from(random.chance(20)) * random.below(50);
            let data = if random.chance(70) {
                at
            } else {
                random.below(1000)
            };
            left.insert(
                at,
                (data, u32::try_from(random.below(created.into())).unwrap()),
            );
        }
        let mut right = left.clone();
        for _ in 0..random.below(200) {
            let block = random.below(at + 20);
            // An old place and the old time or a new one, a new place, a hole.
            let time = u32::try_from(random.below(8)).unwrap();
            match (random.below(3), right.get(&block).copied()) {
                (0, Some((data, _))) => right.insert(block, (data, time)),
                (1, _) => right.insert(block, (random.below(1000), time)),
                _ => right.remove(&block),
            };
        }
        let base = saved("model", &left, created);
        let now = device(&right, created + 8);
        let (base, now) = (Sided::Saved(&base.bookmark), Sided::Device(&now));
        let task = Task::default();
        let with_same = delta_against(&base, &now, true, &task).unwrap();
        let model = expected(&left, &right, created);
        assert_eq!(found(&with_same), model, "round {round}");
        let others = delta_against(&base, &now, false, &task).unwrap();
        let rows: Vec<Row> = with_same
            .rows()
            .filter(|row| row.kind != Kind::Same)
            .collect();
        assert_eq!(others.rows().collect::<Vec<_>>(), rows);
        let turned = delta_against(&now, &base, true, &task).unwrap();
        assert_eq!(found(&turned), expected(&right, &left, created));
    }
}

#[test]
fn a_mapping_that_may_have_been_written_in_place_is_never_the_same() {
    let left = Model::from([(0, (5, 0)), (1, (6, 1)), (2, (7, 1))]);
    let base = saved("place", &left, 2);
    // The same places; block 1 was mapped anew at the snapshot's time, block 2 later.
    let right = Model::from([(0, (5, 0)), (1, (6, 2)), (2, (7, 3))]);
    let now = device(&right, 9);
    let delta = delta_against(
        &Sided::Saved(&base.bookmark),
        &Sided::Device(&now),
        true,
        &Task::default(),
    );
    let delta = delta.unwrap();
    let kinds: Vec<Kind> = found(&delta).into_values().collect();
    assert_eq!(kinds, [Kind::Same, Kind::Changed, Kind::Changed]);
    assert_eq!(delta.changed_blocks(), 2);
}

#[test]
fn what_cannot_be_a_later_state_is_refused() {
    let model = Model::from([(0, (5, 0))]);
    let base = saved("later", &model, 7);
    let earlier = device(&model, 6);
    let answer = delta_against(
        &Sided::Saved(&base.bookmark),
        &Sided::Device(&earlier),
        false,
        &Task::default(),
    );
    assert!(matches!(answer, Err(Error::WrongBase(_))), "{answer:?}");
    let devices = Sided::Device(&earlier);
    let answer = delta_against(&devices, &devices, false, &Task::default());
    assert!(matches!(answer, Err(Error::Usage(_))));
}

#[test]
fn runs_as_long_as_can_be_take_no_time() {
    let far = u64::MAX >> 16;
    let left = Model::from([(0, (5, 0)), (far, (9, 0))]);
    let base = saved("far", &left, 3);
    let now = device(&Model::new(), 9);
    let delta = delta_against(
        &Sided::Saved(&base.bookmark),
        &Sided::Device(&now),
        false,
        &Task::default(),
    );
    assert!(matches!(delta, Err(Error::Stream(_))));
}
