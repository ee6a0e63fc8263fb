//! Transactions of pools, written down: each step changes a pool and its model.

use std::ops::Range;

use thinmeta::Error;
use thinmeta::thin::PoolTransaction;

use super::world::{Model, ModelDevice, change};
use crate::support::chance::Chance;

/// One step, on devices that are there.
#[derive(Clone, Debug)]
pub enum Op {
    Create(Range<u64>),
    /// A device, and what it is a snapshot of.
    Snapshot(u64, u64),
    Delete(Range<u64>),
    /// A new data block for each, one call each.
    Map(u64, Vec<u64>),
    /// A new data block for each, one call for all.
    MapMany(u64, Vec<u64>),
    /// All to one data block of their own.
    MapToOne(u64, Range<u64>),
    Remove(u64, Vec<u64>),
    RemoveRange(u64, Range<u64>),
    TransactionId(u64),
    Reserve,
    Release,
    GrowData(u64),
    /// By so many blocks.
    GrowMetadata(u64),
    /// So many changes that chance makes.
    Any(u64, u64),
}

/// A transaction: its steps, and whether it is committed.
#[derive(Clone, Debug)]
pub struct Txn {
    pub ops: Vec<Op>,
    pub commits: bool,
}

pub fn commit(ops: Vec<Op>) -> Txn {
    Txn { ops, commits: true }
}

pub fn abort(ops: Vec<Op>) -> Txn {
    Txn {
        ops,
        commits: false,
    }
}

/// Keys all over the place, always the same.
pub fn scattered(count: u64) -> Vec<u64> {
    (0..count).map(|index| index * 7919 % 100_003).collect()
}

impl Op {
    /// Does it to both, call by call: the model has what was done when one fails.
    pub fn apply(&self, txn: &PoolTransaction, model: &mut Model) -> thinmeta::Result<()> {
        match self {
            Self::Create(ids) => {
                for id in ids.clone() {
                    txn.create_thin(id)?;
                    let device = ModelDevice {
                        transaction_id: model.trans_id,
                        creation_time: model.time,
                        snapshotted_time: model.time,
                        ..ModelDevice::default()
                    };
                    model.devices.insert(id, device);
                }
            }
            Self::Snapshot(id, origin) => {
                txn.create_snapshot(*id, *origin)?;
                model.time += 1;
                let from = model.devices.get_mut(origin).unwrap();
                from.snapshotted_time = model.time;
                let device = ModelDevice {
                    transaction_id: model.trans_id,
                    creation_time: model.time,
                    ..from.clone()
                };
                model.devices.insert(*id, device);
            }
            Self::Delete(ids) => {
                for id in ids.clone() {
                    txn.delete(id)?;
                    model.devices.remove(&id);
                }
            }
            Self::Map(id, keys) => {
                for key in keys {
                    let block = txn.allocate_data()?;
                    insert(txn, model, *id, *key, block)?;
                }
            }
            Self::MapToOne(id, keys) => {
                let block = txn.allocate_data()?;
                for key in keys.clone() {
                    insert(txn, model, *id, key, block)?;
                }
            }
            Self::MapMany(id, keys) => {
                let blocks = keys.iter().map(|_| txn.allocate_data());
                let blocks = blocks.collect::<thinmeta::Result<Vec<u64>>>()?;
                let rows = &mut |part: Range<usize>, k: &mut Vec<u64>, d: &mut Vec<u64>| {
                    (*k, *d) = (keys[part.clone()].to_vec(), blocks[part].to_vec());
                    Ok(())
                };
                let added = txn.insert_many(*id, keys.len(), rows)?;
                let mappings = &mut model.devices.get_mut(id).unwrap().mappings;
                let before = mappings.len();
                let pairs = keys.iter().zip(blocks);
                mappings.extend(pairs.map(|(key, block)| (*key, (block, model.time))));
                assert_eq!(added, (mappings.len() - before) as u64);
            }
            Self::Remove(id, keys) => {
                for key in keys {
                    let removed = txn.remove(*id, *key)?;
                    let mappings = &mut model.devices.get_mut(id).unwrap().mappings;
                    assert_eq!(removed, mappings.remove(key).is_some());
                }
            }
            Self::RemoveRange(id, range) => {
                let removed = txn.remove_range(*id, range.clone())?;
                let mappings = &mut model.devices.get_mut(id).unwrap().mappings;
                let before = mappings.len();
                mappings.retain(|key, _| !range.contains(key));
                assert_eq!(removed, (before - mappings.len()) as u64);
            }
            Self::TransactionId(id) => {
                txn.set_transaction_id(model.trans_id, *id)?;
                model.trans_id = *id;
            }
            Self::Reserve => {
                txn.reserve_metadata_snapshot()?;
                model.to_hold = true;
            }
            Self::Release => {
                txn.release_metadata_snapshot()?;
                (model.held, model.to_hold) = (None, false);
            }
            Self::GrowData(blocks) => {
                txn.grow_data(*blocks)?;
                model.data_blocks = *blocks;
            }
            Self::GrowMetadata(more) => {
                let pool = txn.writer().current()?;
                let now = pool.superblock().metadata_space_map_root.root.nr_blocks;
                txn.grow_metadata(now.get() + more)?;
            }
            Self::Any(seed, changes) => {
                let mut chance = Chance::of_case(*seed, "any change", 0);
                (0..*changes).try_for_each(|_| change(txn, model, &mut chance))?;
            }
        }
        Ok(())
    }
}

fn insert(
    txn: &PoolTransaction,
    model: &mut Model,
    id: u64,
    key: u64,
    block: u64,
) -> thinmeta::Result<()> {
    let added = txn.insert(id, key, block)?;
    let mappings = &mut model.devices.get_mut(&id).unwrap().mappings;
    assert_eq!(added, mappings.insert(key, (block, model.time)).is_none());
    Ok(())
}

/// Does all of it and ends it; whether it committed. Space that runs out takes it
/// back, and is an answer too.
pub fn transact(
    txn: &PoolTransaction,
    script: &Txn,
    committed: &mut Model,
) -> thinmeta::Result<bool> {
    let mut model = committed.clone();
    let done = script
        .ops
        .iter()
        .try_for_each(|op| op.apply(txn, &mut model));
    let done = match script.commits {
        true => done.and_then(|()| txn.commit()),
        false => done.and_then(|()| txn.abort()),
    };
    match done {
        Ok(()) if script.commits => {
            model.commit();
            *committed = model;
            Ok(true)
        }
        Ok(()) => Ok(false),
        Err(Error::NoSpace { .. }) => {
            if !txn.has_ended() {
                txn.abort()?;
            }
            Ok(false)
        }
        Err(error) => Err(error),
    }
}
