//! Space that runs out: nothing of the last commit is touched.

use thinmeta::Error;
use thinmeta::thin::{PoolState, PoolTransaction, PoolWriter};

use crate::hostile::victim::Victim;
use crate::pool::script::{Op, scattered};
use crate::pool::world::{Model, cached, change, create, judge, judge_device, memory};
use crate::support::chance::Chance;
use crate::support::image::Image;

/// Mappings all over the place.
fn fill_up(
    txn: &PoolTransaction,
    model: &mut Model,
    chance: &mut Chance<'_>,
) -> thinmeta::Result<()> {
    let id = (0..).find(|id| !model.devices.contains_key(id)).unwrap();
    let many = Op::MapMany(id, scattered(3000 + chance.below(8000)));
    [Op::Create(id..id + 1), many]
        .iter()
        .try_for_each(|op| op.apply(txn, model))
}

/// With a cache for everything no byte is written; with none early write-back has
/// written, but nothing that the last commit reaches.
#[test]
fn running_out_of_space_changes_no_byte_of_the_last_commit() {
    for cache_bytes in [1 << 20, 0] {
        let (mut in_a_call, mut in_a_commit, mut written) = (0, 0, 0);
        for seed in 0..60 {
            let mut chance = Chance::of_case(seed, "no space", cache_bytes);
            // More than the cache has, where that is to be filled.
            let (blocks, most, data_blocks) = match cache_bytes {
                0 => (70, 60, 30_000),
                _ => (20, 50, 2000),
            };
            let device = memory(blocks + chance.index(most));
            let (writer, mut committed) = create(device.clone(), data_blocks);
            drop(writer);
            let options = cached(cache_bytes);
            let writer = PoolWriter::from_devices(device.clone(), None, &options).unwrap();
            for _ in 0..10 {
                let before = device.contents();
                let txn = writer.transaction().unwrap();
                let mut model = committed.clone();
                let fill = cache_bytes == 0 && chance.one_in(2);
                let done = match fill {
                    true => fill_up(&txn, &mut model, &mut chance),
                    false => Ok(()),
                };
                let steps = 1 + chance.below(10);
                let mut changes = 0..steps;
                let done = done
                    .and_then(|()| changes.try_for_each(|_| change(&txn, &mut model, &mut chance)));
                let called = done.is_err();
                match done.and_then(|()| txn.commit()) {
                    Ok(()) => {
                        model.commit();
                        committed = model;
                        continue;
                    }
                    Err(Error::NoSpace { .. }) if called => {
                        in_a_call += 1;
                        txn.abort().unwrap();
                    }
                    Err(Error::NoSpace { .. }) => in_a_commit += 1,
                    Err(error) => panic!("seed {seed}: {error}"),
                }
                assert!(txn.has_ended());
                assert_ne!(writer.state(), PoolState::ReadOnly, "seed {seed}");
                let now = device.contents();
                let (now, grown) = now.split_at(before.len());
                if now != before.as_slice() {
                    written += 1;
                    assert_eq!(cache_bytes, 0, "seed {seed}: something was written");
                    let whole = Victim::new("the last commit", Image::new(before));
                    let is_touched = whole.is_touched(&Image::new(now.to_vec()));
                    assert!(!is_touched, "seed {seed}");
                }
                assert!(cache_bytes == 0 || grown.iter().all(|byte| *byte == 0));
                judge(&writer.current().unwrap(), &committed);
                judge_device(device.clone(), &committed);
            }
        }
        println!("{in_a_call} in a call, {in_a_commit} in a commit, {written} early");
        assert!(
            in_a_call > 20,
            "{in_a_call} in a call, {in_a_commit} in a commit"
        );
        assert!(cache_bytes > 0 || written > 2, "{written}");
    }
}
