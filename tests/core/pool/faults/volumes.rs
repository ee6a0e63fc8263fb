//! The k-th request of the metadata or of the data device fails, while volumes are
//! written.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use thinmeta::Error;
use thinmeta::device::{Device, Fault, FaultyDevice, MemoryDevice, Request};
use thinmeta::thin::{OpenOptions, Pool, PoolState, PoolWriter, WriteOptions};

use crate::pool::crash::sectors::{Tag, judge_tags, read_volume};
use crate::pool::crash::volumes::{Content, Run, Stop};
use crate::pool::world::clean;
use crate::support::chance::Chance;
use crate::support::image::{Image, Kind, read_u32, write_field};
use crate::support::paired::Side;

/// Steps that all goes well in, and those of which one does not.
const BEFORE: u64 = 8;
const STEPS: u64 = 10;

/// A history whose devices fail when they are told to.
struct Trial {
    run: Run,
    devices: BTreeMap<u8, Arc<FaultyDevice>>,
    chance: Chance<'static>,
}

impl Trial {
    fn new(seed: u64) -> Self {
        let devices = Mutex::new(BTreeMap::new());
        let mut chance = Chance::of_case(seed, "volumes that fail", 0);
        let mut run = Run::new(&mut chance, |side, device| {
            let faulty = Arc::new(FaultyDevice::new(device));
            let mut devices = devices.lock().unwrap();
            devices.insert(side as u8, Arc::clone(&faulty));
            faulty
        });
        run.create(1).unwrap();
        let devices = devices.into_inner().unwrap();
        let mut trial = Self {
            run,
            devices,
            chance,
        };
        trial.go(BEFORE).map_err(Stop::text).unwrap();
        // Nothing is known of it any more: all has to be read.
        trial.run.writer.close().unwrap();
        let options = WriteOptions {
            cache_bytes: 0,
            ..WriteOptions::default()
        };
        let [metadata, data] = [Side::Metadata, Side::Data]
            .map(|side| Arc::clone(&trial.devices[&(side as u8)]) as Arc<dyn Device>);
        let writer = PoolWriter::from_devices(metadata, Some(data), &options);
        trial.run.writer = writer.unwrap();
        trial
    }

    fn device(&self, side: Side) -> &FaultyDevice {
        &self.devices[&(side as u8)]
    }

    /// So many steps, and a commit.
    fn go(&mut self, steps: u64) -> Result<(), Stop> {
        (0..steps).try_for_each(|_| self.run.step(&mut self.chance))?;
        self.run.flush()
    }

    fn heal(&self) {
        self.devices.values().for_each(|device| device.heal());
    }

    fn contents(&self, side: Side) -> Vec<u8> {
        let log = self.run.pair.log();
        log.of(side).prefix(log.of(side).operations().len())
    }

    fn needs_check(&self) -> bool {
        read_u32(&self.contents(Side::Metadata), 4) & 1 != 0
    }

    /// What is on the devices is sound, and volumes hold what they should: at the last
    /// commit, or now. Whether it is what they hold now.
    fn judge(&self, at: &str) -> bool {
        let mut metadata = Image::new(self.contents(Side::Metadata));
        metadata.reseal(0, Kind::Superblock, |block| write_field(block, 4, 4, 0));
        let data = Arc::new(MemoryDevice::new(self.contents(Side::Data))) as Arc<dyn Device>;
        let pool = Pool::from_devices(Arc::new(metadata), Some(data), &OpenOptions::default());
        let pool = Arc::new(pool.unwrap());
        clean(&pool).unwrap_or_else(|problem| panic!("{at}: {problem}"));
        let old = self.holds(&pool, &self.run.states.last().unwrap().content);
        let new = self.holds(&pool, self.run.next.as_ref().unwrap_or(&self.run.live));
        match (&old, &new) {
            (Err(old), Err(new)) => panic!("{at}: neither old ({old}) nor new ({new})"),
            _ => new.is_ok(),
        }
    }

    fn holds(&self, pool: &Arc<Pool>, content: &Content) -> Result<(), String> {
        let devices = pool.devices().unwrap();
        let ids: Vec<u64> = devices.iter().map(|info| info.id).collect();
        if !ids.iter().eq(content.keys()) {
            return Err(format!("devices {ids:?}"));
        }
        let written = |place: u64, sector: u64| {
            let all = self.run.in_place.iter();
            let there = all.filter(move |one| (one.place, one.sector) == (place, sector));
            there.map(|one| one.tag).collect::<Vec<Tag>>()
        };
        for (info, blocks) in devices.iter().zip(content.values()) {
            if info.mapped_blocks != blocks.len() as u64 {
                return Err(format!("volume {}: {} blocks", info.id, info.mapped_blocks));
            }
            let origin = self.run.origin.as_ref();
            let found = read_volume(pool, info.id, origin)?;
            judge_tags(info.id, &found, blocks, origin.is_some(), written)?;
        }
        Ok(())
    }
}

/// What became of a history of which one request failed.
#[derive(Debug, Default)]
struct Counts {
    went_on: u64,
    went_back: u64,
    commits: u64,
    failed: u64,
}

#[test]
fn whatever_request_fails_volumes_hold_what_they_held_and_the_pool_says_how_it_is() {
    let mut counts = Counts::default();
    for seed in 0..4 {
        let mut trial = Trial::new(seed);
        let kinds = [Request::Read, Request::Write, Request::Flush];
        let made = |trial: &Trial, side, request| trial.device(side).count(request);
        let all = [Side::Metadata, Side::Data].map(|side| kinds.map(|kind| (side, kind)));
        let all = all.concat();
        let before: Vec<u64> = all
            .iter()
            .map(|(side, kind)| made(&trial, *side, *kind))
            .collect();
        trial.go(STEPS).map_err(Stop::text).unwrap();
        for ((side, request), before) in all.into_iter().zip(before) {
            let many = made(&trial, side, request) - before;
            // Reads are many, and much alike.
            let stride = (many / 60).max(1);
            for after in (0..many).step_by(usize::try_from(stride).unwrap()) {
                for fault in [Fault::once(request, after), Fault::from(request, after)] {
                    fails(seed, side, fault, &mut counts);
                }
            }
        }
    }
    println!("{counts:?}");
    let Counts {
        went_on,
        went_back,
        commits,
        failed,
    } = counts;
    // What goes back, and what fails, has tests of its own: here the metadata is small.
    assert!(went_on > 50 && commits > 50, "{went_back}, {failed}");
}

fn fails(seed: u64, side: Side, fault: Fault, counts: &mut Counts) {
    let mut at = format!("seed {seed}, {side:?}, {fault:?}");
    let mut trial = Trial::new(seed);
    trial.device(side).set_fault(fault);
    let error = match trial.go(STEPS) {
        // A read ahead that fails is nobody's failure.
        Ok(()) => return,
        Err(Stop::Wrong(problem)) => panic!("{at}: {problem}"),
        Err(Stop::Failed(error)) => error,
    };
    write!(at, ": {error}").unwrap();
    assert!(trial.device(side).failed() > 0, "{at}: {error}");
    trial.heal();
    let writer = Arc::clone(&trial.run.writer);
    let state = writer.state();
    if let Error::CommitFailed {
        needs_check_set, ..
    } = error
    {
        counts.commits += 1;
        assert_ne!(state, PoolState::Write, "{at}: {error}");
        let unknown = fault.lasting && (side, fault.request) == (Side::Metadata, Request::Flush);
        if needs_check_set || !unknown {
            assert_eq!(trial.needs_check(), needs_check_set, "{at}: {error}");
        }
    } else {
        let io = matches!(error, Error::Io { .. });
        assert!(io || matches!(error, Error::Poisoned(_)), "{at}: {error}");
        assert!(!trial.needs_check(), "{at}: {error}");
    }
    match state {
        PoolState::Failed => {
            counts.failed += 1;
            assert_eq!(
                (side, fault.request),
                (Side::Metadata, Request::Read),
                "{at}"
            );
            assert!(writer.current().is_err(), "{at}");
        }
        PoolState::ReadOnly => {
            let volume = trial.run.volume(1);
            let refused = [
                volume.write_at(&[1; 512], 0).map(drop),
                volume.discard(0..0).map(drop),
            ];
            let read_only =
                |answer: &thinmeta::Result<()>| matches!(answer, Err(Error::ReadOnly(_)));
            assert!(refused.iter().all(read_only), "{at}: {refused:?}");
            writer.current().unwrap();
        }
        _ => {
            // What was done before is there still, or was taken back.
            let flushed = writer.flush_volumes();
            flushed.unwrap_or_else(|error| panic!("{at}: {error}"));
            match trial.judge(&at) {
                true => counts.went_on += 1,
                false => counts.went_back += 1,
            }
            return;
        }
    }
    let before = [Side::Metadata, Side::Data].map(|side| trial.contents(side));
    match writer.close() {
        // Volumes that were not flushed one by one have not been told.
        Ok(()) | Err(Error::TakenBack(_)) => {}
        Err(error) => panic!("{at}: {error}"),
    }
    let after = [Side::Metadata, Side::Data].map(|side| trial.contents(side));
    assert!(before == after, "{at}: something was written");
    trial.judge(&at);
}
