//! A transaction manager without a store: a data map, and references that only
//! the caller knows of.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::block::BlockManager;
use thinmeta::btree::NODE_VALIDATOR;
use thinmeta::device::{Device, RecordingDevice};
use thinmeta::disk_space::{DataMap, SpaceMapRoot};
use thinmeta::store::{STORE_VALIDATOR, StoreSuperblock};
use thinmeta::transaction::{Transaction, TransactionManager};
use thinmeta::{BlockNr, Error};
use zerocopy::IntoBytes;

use super::history::{Milestone, Recorded};
use super::images::WORK_WITH_ONE_IN;
use super::judge::{Verdict, equal, walk_with};
use crate::support::chance::Chance;

const SUPERBLOCK: BlockNr = BlockNr(0);
/// Where the data map's root is in the superblock's area for space maps.
const DATA_ROOT: std::ops::Range<usize> = 32..64;
const METADATA_BLOCKS: usize = 900;

/// What should be there.
#[derive(Clone, Default)]
pub struct Plain {
    generation: u64,
    /// Counts of all data blocks.
    data: Vec<u32>,
    /// Counts of metadata blocks that the caller took.
    held: BTreeMap<u64, u32>,
}

struct Bare {
    manager: Arc<TransactionManager>,
    data: DataMap,
    plain: Plain,
    committed: Plain,
    data_root: SpaceMapRoot,
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn blocks(device: &Arc<dyn Device>) -> Arc<BlockManager> {
    BlockManager::new(Arc::clone(device), 0)
}

impl Bare {
    fn create(device: &Arc<dyn Device>) -> thinmeta::Result<Self> {
        let checked = super::hold_to_laws();
        let manager = TransactionManager::create(&blocks(device), SUPERBLOCK, checked)?;
        let data = manager.change(|txn| DataMap::create(txn, checked))?;
        let mut bare = Self {
            manager,
            data,
            plain: Plain::default(),
            committed: Plain::default(),
            data_root: SpaceMapRoot::default(),
        };
        bare.commit()?;
        Ok(bare)
    }

    fn open(device: &Arc<dyn Device>, plain: &Plain) -> thinmeta::Result<Self> {
        let checked = super::hold_to_laws();
        let blocks = blocks(device);
        let superblock: StoreSuperblock = *blocks.read(SUPERBLOCK, &STORE_VALIDATOR)?.view();
        let root = superblock.space_root()?;
        let data_root = SpaceMapRoot::from_area(&superblock.metadata_space_map_root[DATA_ROOT])?;
        Ok(Self {
            manager: TransactionManager::open(&blocks, SUPERBLOCK, &root, checked)?,
            data: DataMap::open(&blocks, &data_root, checked)?,
            plain: plain.clone(),
            committed: plain.clone(),
            data_root,
        })
    }

    /// Changes the data map and the plain counts.
    fn data<T>(
        &mut self,
        work: impl FnOnce(&mut DataMap, &mut Transaction) -> thinmeta::Result<T>,
    ) -> thinmeta::Result<T> {
        let data = &mut self.data;
        self.manager.change(|txn| work(data, txn))
    }

    fn step(&mut self, chance: &mut Chance<'_>) -> thinmeta::Result<()> {
        let size = self.plain.data.len() as u64;
        let begin = chance.below(size + 1);
        let end = begin + chance.below((size - begin).min(400) + 1);
        let part = usize::try_from(begin).unwrap()..usize::try_from(end).unwrap();
        match chance.below(8) {
            0 if size < 40_000 => {
                let more = 1 + chance.pick(&[50, 3000, 17_000]);
                self.data(|data, txn| data.extend(txn, more))?;
                let size = usize::try_from(size + more).unwrap();
                self.plain.data.resize(size, 0);
            }
            1 | 2 => {
                for _ in 0..chance.below(60) {
                    let block = match self.data(DataMap::new_block) {
                        Err(Error::NoSpace { space: "data", .. }) => break,
                        block => usize::try_from(block?).unwrap(),
                    };
                    for plain in [&self.plain, &self.committed] {
                        let count = plain.data.get(block).copied().unwrap_or(0);
                        assert_eq!(count, 0, "data block {block} was handed out");
                    }
                    self.plain.data[block] = 1;
                }
            }
            3 | 4 => {
                self.data(|data, txn| data.inc(txn, begin..end))?;
                self.plain.data[part]
                    .iter_mut()
                    .for_each(|count| *count += 1);
            }
            5 => {
                let positive = self.plain.data[part.clone()].iter().all(|count| *count > 0);
                match self.data(|data, txn| data.dec(txn, begin..end)) {
                    Err(Error::Usage(_)) if !positive => return Ok(()),
                    done => done?,
                }
                assert!(positive);
                self.plain.data[part]
                    .iter_mut()
                    .for_each(|count| *count -= 1);
            }
            6 => {
                let count = u32::try_from(1 + chance.below(30)).unwrap();
                self.hold(count, 1 + u32::try_from(chance.below(4)).unwrap())?;
            }
            _ => {
                let some: Vec<u64> = self.plain.held.keys().copied().collect();
                for block in some.into_iter().filter(|_| chance.one_in(3)) {
                    self.release(block)?;
                }
            }
        }
        Ok(())
    }

    /// Takes metadata blocks, with so many references each.
    fn hold(&mut self, blocks: u32, references: u32) -> thinmeta::Result<()> {
        for _ in 0..blocks {
            let taken = self.manager.change(|txn| {
                let at = txn.new_block(&NODE_VALIDATOR)?.location();
                (1..references).try_for_each(|_| txn.inc(at))?;
                Ok(at.0)
            });
            self.plain.held.insert(taken?, references);
        }
        Ok(())
    }

    fn release(&mut self, block: u64) -> thinmeta::Result<()> {
        self.manager.change(|txn| txn.dec(BlockNr(block)))?;
        let count = self.plain.held.get_mut(&block).unwrap();
        *count -= 1;
        if *count == 0 {
            self.plain.held.remove(&block);
        }
        Ok(())
    }

    fn commit(&mut self) -> thinmeta::Result<()> {
        self.data(DataMap::commit)?;
        let data_root = self.data.root();
        self.manager.pre_commit()?;
        let mut superblock = StoreSuperblock::new(BlockNr(0));
        superblock.generation = (self.plain.generation + 1).into();
        superblock.set_space_root(&self.manager.space_root());
        superblock.metadata_space_map_root[DATA_ROOT].copy_from_slice(data_root.as_bytes());
        let blocks = self.manager.blocks();
        let mut guard = blocks.write_lock_zero(SUPERBLOCK, &STORE_VALIDATOR)?;
        *guard.view_mut() = superblock;
        self.manager.commit(guard)?;
        self.data.committed()?;
        self.plain.generation += 1;
        self.committed = self.plain.clone();
        self.data_root = data_root;
        Ok(())
    }

    fn abort(&mut self) -> thinmeta::Result<()> {
        self.manager.abort()?;
        let checked = super::hold_to_laws();
        self.data = DataMap::open(self.manager.blocks(), &self.data_root, checked)?;
        self.plain = self.committed.clone();
        Ok(())
    }

    /// Does some steps and commits them, or takes them back; whether it committed.
    fn transaction(&mut self, chance: &mut Chance<'_>) -> thinmeta::Result<bool> {
        let steps = 1 + chance.below(6);
        let done = (0..steps).try_for_each(|_| self.step(chance));
        let stays = !chance.one_in(5);
        match done.and_then(|()| if stays { self.commit() } else { Ok(()) }) {
            Ok(()) if stays => return Ok(true),
            Ok(()) | Err(Error::NoSpace { .. }) => self.abort()?,
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

/// A history in the making.
struct Run {
    device: Arc<RecordingDevice>,
    bare: Bare,
    milestones: Vec<Milestone>,
    states: Vec<Option<Plain>>,
}

impl Run {
    fn new() -> Verdict<Self> {
        let device = Arc::new(RecordingDevice::new(vec![0; METADATA_BLOCKS * 4096]));
        let bare = Bare::create(&(Arc::clone(&device) as Arc<dyn Device>)).map_err(text)?;
        let mut run = Self {
            device,
            bare,
            milestones: Vec::new(),
            states: vec![None],
        };
        run.committed(0);
        Ok(run)
    }

    fn operations(&self) -> usize {
        self.device.log().operations().len()
    }

    fn committed(&mut self, begin: usize) {
        let end = self.operations();
        self.milestones.push(Milestone { begin, end });
        self.states.push(Some(self.bare.committed.clone()));
    }

    fn end(self, name: String) -> Verdict<Recorded<Option<Plain>>> {
        let device = Arc::clone(&self.device) as Arc<dyn Device>;
        judge_plain(&device, &self.bare.committed)?;
        Ok(Recorded {
            name,
            log: self.device.log(),
            milestones: self.milestones,
            states: self.states,
        })
    }
}

/// Whatever comes to mind.
pub fn random(seed: u64) -> Verdict<Recorded<Option<Plain>>> {
    let mut chance = Chance::of_case(seed, "bare", 0);
    let mut run = Run::new()?;
    for _ in 0..12 {
        let begin = run.operations();
        if run.bare.transaction(&mut chance).map_err(text)? {
            run.committed(begin);
        }
    }
    run.end(format!("bare {seed}"))
}

/// The tree of the counts above two, from two leaves down to one, a count a
/// transaction: the first step of one of them merges leaves that it copies for
/// that, so that their blocks come into use and go out of it in one change.
pub fn one_at_a_time() -> Verdict<Recorded<Option<Plain>>> {
    let mut run = Run::new()?;
    let begin = run.operations();
    run.bare
        .hold(400, 3)
        .and_then(|()| run.bare.commit())
        .map_err(text)?;
    run.committed(begin);
    let held: Vec<u64> = run.bare.plain.held.keys().copied().collect();
    let (many, few) = held.split_at(165);
    for blocks in std::iter::once(many).chain(few.chunks(1).take(25)) {
        let begin = run.operations();
        let released = blocks.iter().try_for_each(|block| run.bare.release(*block));
        released.and_then(|()| run.bare.commit()).map_err(text)?;
        run.committed(begin);
    }
    run.end("one count at a time".to_owned())
}

fn judge_plain(device: &Arc<dyn Device>, plain: &Plain) -> Verdict {
    let generation = walk_with(&**device, |walk, superblock| {
        let area = &superblock.metadata_space_map_root[DATA_ROOT];
        let data_root = SpaceMapRoot::from_area(area).map_err(text)?;
        walk.data_map(&data_root, &plain.data)?;
        for (block, count) in &plain.held {
            (0..*count).for_each(|_| walk.held(*block));
        }
        Ok(())
    })?;
    equal("generation", generation, plain.generation)
}

/// Judges an image, and sometimes works with it.
pub fn judge(device: &Arc<dyn Device>, state: &Option<Plain>, chance: &mut Chance<'_>) -> Verdict {
    let Some(plain) = state else {
        let mut block = [1; 4096];
        device.read_exact_at(&mut block, 0).map_err(text)?;
        return equal("block 0", block.iter().any(|byte| *byte != 0), false);
    };
    judge_plain(device, plain)?;
    if !chance.one_in(WORK_WITH_ONE_IN) {
        return Ok(());
    }
    let mut bare = Bare::open(device, plain).map_err(text)?;
    bare.transaction(chance).map_err(text)?;
    judge_plain(device, &bare.committed)
}
