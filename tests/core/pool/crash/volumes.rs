//! What volumes hold, sector by sector, and histories that write them.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use thinmeta::Error;
use thinmeta::device::{Device, MemoryDevice};
use thinmeta::thin::{CreateOptions, OpenOptions, Pool, PoolWriter, WritableVolume};

use super::sectors::{
    GARBAGE, ORIGIN, ORIGIN_SECTORS, SECTORS, Tag, VOLUME_BLOCKS, VOLUME_SECTORS, judge_tags,
    tagged, tags, unmapped,
};
use crate::crash::history::Milestone;
use crate::crash::judge::{Verdict, equal};
use crate::pool::world::{Devices, cached, listing, options};
use crate::support::chance::Chance;
use crate::support::paired::{Pair, PairLog, Side};

/// Few enough that blocks which were freed are wanted again.
const DATA_BLOCKS: u64 = 14;
const METADATA_BLOCKS: usize = 60;
/// A block of a volume.
#[derive(Clone, Debug)]
pub struct Block {
    /// Another one for each data block that was ever taken.
    pub place: u64,
    pub tags: Vec<Tag>,
    /// Nobody else had it when it was mapped, or since.
    owned: bool,
}

/// Volumes by their ids, and their mapped blocks.
pub type Content = BTreeMap<u64, BTreeMap<u64, Block>>;

/// A sector that was written where it is.
#[derive(Clone, Copy, Debug)]
pub struct InPlace {
    /// Operations before it.
    pub begin: usize,
    pub place: u64,
    pub sector: u64,
    pub tag: Tag,
}

/// What is committed.
pub struct Committed {
    pub devices: Devices,
    pub content: Content,
    /// What was written in place from this commit to the next.
    pub in_place: Vec<InPlace>,
}

/// A history that was run.
pub struct Recorded {
    pub log: PairLog,
    pub origin: Option<Arc<dyn Device>>,
    pub milestones: Vec<Milestone>,
    /// `states[i]` and `states[i + 1]` lie before and after `milestones[i]`.
    pub states: Vec<Committed>,
}

/// Why a history ended early.
#[derive(Debug)]
pub enum Stop {
    /// The pool said so.
    Failed(Error),
    /// Something is not as it should be.
    Wrong(String),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<String> for Stop {
    fn from(problem: String) -> Self {
        Self::Wrong(problem)
    }
}

type Done = Result<(), Stop>;

impl Stop {
    pub fn text(self) -> String {
        match self {
            Self::Failed(error) => error.to_string(),
            Self::Wrong(problem) => problem,
        }
    }
}

/// A history that is being run.
pub struct Run {
    pub pair: Arc<Pair>,
    pub writer: Arc<PoolWriter>,
    pub origin: Option<Arc<dyn Device>>,
    /// What volumes hold now.
    pub live: Content,
    /// What they hold if the commit in progress is done.
    pub next: Option<Content>,
    /// What was written in place, or was to be, since the last commit.
    pub in_place: Vec<InPlace>,
    last_tag: Tag,
    last_place: u64,
    /// Operations when the last commit was done.
    begin: usize,
    milestones: Vec<Milestone>,
    pub states: Vec<Committed>,
}

/// A history that chance makes.
pub fn random(seed: u64) -> Verdict<Recorded> {
    let mut chance = Chance::of_case(seed, "volumes", 0);
    let mut run = Run::new(&mut chance, |_, device| device);
    let done = run.create(1).and_then(|()| {
        (0..60).try_for_each(|_| {
            run.step(&mut chance)?;
            run.judge_live()
        })
    });
    done.and_then(|()| run.flush()).map_err(Stop::text)?;
    run.states.last_mut().unwrap().in_place = run.in_place;
    Ok(Recorded {
        log: run.pair.log(),
        origin: run.origin,
        milestones: run.milestones,
        states: run.states,
    })
}

impl Run {
    /// A pool without volumes; `over` puts something over each device.
    pub fn new(
        chance: &mut Chance<'_>,
        over: impl Fn(Side, Arc<dyn Device>) -> Arc<dyn Device>,
    ) -> Self {
        let garbage = tagged((0..DATA_BLOCKS * SECTORS).map(|sector| GARBAGE + sector));
        let pair = Pair::new(vec![0; METADATA_BLOCKS * 4096], garbage);
        let [metadata, data] =
            [Side::Metadata, Side::Data].map(|side| over(side, pair.device(side)));
        let options = CreateOptions {
            open: cached(0),
            ..options(DATA_BLOCKS)
        };
        let writer = PoolWriter::create_on(metadata, Some(data), &options).unwrap();
        let origin = tagged((0..ORIGIN_SECTORS).map(|sector| ORIGIN + sector));
        let origin = Arc::new(MemoryDevice::new(origin)) as Arc<dyn Device>;
        let mut run = Self {
            begin: pair.operations(),
            pair,
            writer,
            origin: chance.one_in(2).then_some(origin),
            live: Content::new(),
            next: None,
            in_place: Vec::new(),
            last_tag: 0,
            last_place: 0,
            milestones: Vec::new(),
            states: Vec::new(),
        };
        run.states.push(run.state());
        run
    }

    /// Past whatever is over the devices.
    fn state(&self) -> Committed {
        let device = self.pair.device(Side::Metadata);
        let pool = Pool::from_devices(device, None, &OpenOptions::default());
        Committed {
            devices: listing(&Arc::new(pool.unwrap())),
            content: self.live.clone(),
            in_place: Vec::new(),
        }
    }

    /// What was done is committed.
    fn committed(&mut self) {
        let end = self.pair.operations();
        let begin = std::mem::replace(&mut self.begin, end);
        self.milestones.push(Milestone { begin, end });
        let written = std::mem::take(&mut self.in_place);
        self.states.last_mut().unwrap().in_place = written;
        self.states.push(self.state());
    }

    pub fn flush(&mut self) -> Done {
        self.writer.flush_volumes()?;
        self.committed();
        Ok(())
    }

    pub fn volume(&self, id: u64) -> WritableVolume {
        let origin = self.origin.clone();
        WritableVolume::again(&self.writer, id, VOLUME_SECTORS * 512, origin)
    }

    pub fn create(&mut self, id: u64) -> Done {
        let txn = self.writer.transaction()?;
        txn.create_thin(id).and_then(|()| txn.commit())?;
        self.live.insert(id, BTreeMap::new());
        self.committed();
        Ok(())
    }

    pub fn step(&mut self, chance: &mut Chance<'_>) -> Done {
        let ids: Vec<u64> = self.live.keys().copied().collect();
        let id = chance.pick(&ids);
        let begin = chance.below(VOLUME_SECTORS);
        let most = VOLUME_SECTORS - begin;
        match chance.below(12) {
            0..3 => self.write(id, begin..begin + 1 + chance.below(most.min(20))),
            3 | 4 => self.write(id, begin..begin + 1 + chance.below(most)),
            5 | 6 => {
                let begin = begin / SECTORS * SECTORS;
                self.write(id, begin..VOLUME_SECTORS.min(begin + SECTORS))
            }
            7 | 8 => {
                let length = 1 + chance.below(most.min(3 * SECTORS));
                self.discard(id, begin..begin + length)
            }
            9 => self.flush(),
            _ => {
                self.flush()?;
                self.transaction(id, chance)
            }
        }
    }

    fn write(&mut self, id: u64, sectors: Range<u64>) -> Done {
        let first = self.last_tag + 1;
        let tags = first..first + (sectors.end - sectors.start);
        self.last_tag = tags.end;
        let begin = self.pair.operations();
        let bytes = tagged(tags.clone());
        for (sector, tag) in sectors.clone().zip(tags.clone()) {
            let block = self.live[&id].get(&(sector / SECTORS));
            self.in_place
                .extend(block.filter(|block| block.owned).map(|block| InPlace {
                    begin,
                    place: block.place,
                    sector: sector % SECTORS,
                    tag,
                }));
        }
        match self.volume(id).write_at(&bytes, sectors.start * 512) {
            Ok(written) => equal("bytes written", written, bytes.len())?,
            // Nothing of it was written: what was freed comes back with a commit.
            Err(Error::NoSpace { space: "data", .. }) => {
                equal("operations", self.pair.operations(), begin)?;
                return self.flush();
            }
            Err(error) => return Err(error.into()),
        }
        let blocks = self.live.get_mut(&id).unwrap();
        for (sector, tag) in sectors.zip(tags) {
            let (at, within) = (sector / SECTORS, sector % SECTORS);
            let old = blocks.get(&at);
            if old.is_none_or(|old| !old.owned) {
                let unmapped = |within| unmapped(self.origin.is_some(), at * SECTORS + within);
                let tags = match old {
                    Some(old) => old.tags.clone(),
                    None => (0..SECTORS).map(unmapped).collect(),
                };
                self.last_place += 1;
                let block = Block {
                    place: self.last_place,
                    tags,
                    owned: true,
                };
                blocks.insert(at, block);
            }
            let block = blocks.get_mut(&at).unwrap();
            block.tags[usize::try_from(within).unwrap()] = tag;
        }
        Ok(())
    }

    fn discard(&mut self, id: u64, sectors: Range<u64>) -> Done {
        let bytes = sectors.start * 512..sectors.end * 512;
        let removed = self.volume(id).discard(bytes)?;
        let whole = sectors.start.div_ceil(SECTORS)..match sectors.end {
            VOLUME_SECTORS => VOLUME_BLOCKS,
            end => end / SECTORS,
        };
        let blocks = self.live.get_mut(&id).unwrap();
        let before = blocks.len();
        blocks.retain(|at, _| !whole.contains(at));
        let removed_blocks = (before - blocks.len()) as u64;
        equal("bytes discarded", removed, removed_blocks * SECTORS * 512)?;
        Ok(())
    }

    /// What is not done by volumes.
    fn transaction(&mut self, id: u64, chance: &mut Chance<'_>) -> Done {
        let txn = self.writer.transaction()?;
        let other = (1..5).find(|id| !self.live.contains_key(id));
        let mut live = self.live.clone();
        let done = match (chance.below(4), other) {
            (0 | 1, Some(other)) => {
                let blocks = live.get_mut(&id).unwrap();
                blocks.values_mut().for_each(|block| block.owned = false);
                let copy = blocks.clone();
                live.insert(other, copy);
                txn.create_snapshot(other, id)
            }
            (2, _) if live.len() > 1 => {
                live.remove(&id);
                txn.delete(id)
            }
            _ => {
                let begin = VOLUME_BLOCKS - 1 - chance.below(3);
                live.get_mut(&id).unwrap().retain(|at, _| *at < begin);
                txn.remove_range(id, begin..VOLUME_BLOCKS).map(drop)
            }
        };
        done?;
        if chance.one_in(5) {
            return Ok(txn.abort()?);
        }
        self.next = Some(live);
        txn.commit()?;
        self.live = self.next.take().unwrap_or_default();
        self.committed();
        Ok(())
    }

    /// Volumes read what was written last, committed or not.
    pub fn judge_live(&self) -> Done {
        for (id, blocks) in &self.live {
            let mut bytes = vec![0; usize::try_from(VOLUME_SECTORS).unwrap() * 512];
            let read = self.volume(*id).read_at(&mut bytes, 0)?;
            equal("bytes read", read, bytes.len())?;
            judge_tags(
                *id,
                &tags(&bytes)?,
                blocks,
                self.origin.is_some(),
                |_, _| None::<Tag>,
            )?;
        }
        Ok(())
    }
}
