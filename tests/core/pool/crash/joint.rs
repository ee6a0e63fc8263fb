//! The claim for metadata and data together: after a crash each volume holds what it
//! held at a commit. Only sectors that were written in their places since may hold
//! what was written, and nothing that is anybody else's.

use std::sync::Arc;

use thinmeta::device::{Device, MemoryDevice};
use thinmeta::thin::{OpenOptions, Pool, PoolWriter, WritableVolume};

use super::sectors::{SECTORS, Tag, VOLUME_SECTORS, judge_tags, read_volume, tagged};
use super::volumes::{Committed, Recorded, random};
use crate::crash::images::{WORK_WITH_ONE_IN, is_superblock};
use crate::crash::judge::Verdict;
use crate::crash::number;
use crate::pool::world::{cached, clean, listing, same, text};
use crate::support::chance::Chance;
use crate::support::paired::{PairCrash, Side};

/// Images in a plain test run; a tenth of `THINMETA_CRASH_IMAGES` where there is more.
const IMAGES: usize = 500;
const OF_ONE_HISTORY: usize = 25;

impl Recorded {
    /// A crash anywhere, most of them while something is committed.
    fn crash(&self, chance: &mut Chance<'_>) -> PairCrash {
        let first = self.milestones[0].begin;
        let at = match chance.one_in(3) {
            true => first + chance.index(self.log.operations() + 1 - first),
            false => {
                let milestone = &self.milestones[chance.index(self.milestones.len())];
                milestone.end.saturating_sub(chance.index(8)).max(first)
            }
        };
        self.log.crash(at, chance)
    }

    /// What has to be there, and whether something may have been written in place since.
    fn expected(&self, crash: &PairCrash) -> (&Committed, bool) {
        let at = crash.operations;
        let settled = self.milestones.iter().filter(|one| one.end <= at).count();
        let old = (&self.states[settled], true);
        let Some(next) = self.milestones.get(settled) else {
            return old;
        };
        let log = self.log.of(Side::Metadata);
        let begin = self.log.done(Side::Metadata, next.begin.min(at));
        let written = &log.operations()[begin..crash.metadata.operations];
        let Some(write) = written.iter().rposition(is_superblock) else {
            return old;
        };
        let new = (&self.states[settled + 1], false);
        let pieces = log.volatile(crash.metadata.operations);
        let piece = pieces
            .iter()
            .position(|piece| piece.operation == begin + write && piece.skip_bytes == 0);
        let Some(piece) = piece else {
            // A flush came after it.
            return new;
        };
        let torn_off = |(torn, sectors): (usize, u8)| torn == piece && sectors & 1 == 0;
        if crash.metadata.lost.contains(&piece) || crash.metadata.torn.is_some_and(torn_off) {
            return old;
        }
        new
    }

    fn judge(&self, crash: &PairCrash, chance: &mut Chance<'_>) -> Verdict {
        let image = |side: Side, crash| {
            let image = self.log.of(side).image(crash);
            Arc::new(MemoryDevice::writable(image)) as Arc<dyn Device>
        };
        let metadata = image(Side::Metadata, &crash.metadata);
        let data = image(Side::Data, &crash.data);
        let opened = Pool::from_devices(
            Arc::clone(&metadata),
            Some(Arc::clone(&data)),
            &OpenOptions::default(),
        );
        let pool = Arc::new(opened.map_err(text)?);
        clean(&pool)?;
        let (state, since) = self.expected(crash);
        same("the listing", &listing(&pool), &state.devices)?;
        let written = |place: u64, sector: u64| {
            let all = state.in_place.iter();
            all.filter(move |one| {
                let there = (one.place, one.sector) == (place, sector);
                since && there && one.begin < crash.operations
            })
            .map(|one| one.tag)
        };
        for (id, blocks) in &state.content {
            let found = read_volume(&pool, *id, self.origin.as_ref())?;
            judge_tags(*id, &found, blocks, self.origin.is_some(), written)?;
        }
        match chance.one_in(WORK_WITH_ONE_IN) {
            true => self
                .work_with(metadata, data, &pool, chance)
                .map_err(|problem| format!("in a write after it: {problem}")),
            false => Ok(()),
        }
    }

    /// Writes one volume on what a crash left: nothing but those sectors changes.
    fn work_with(
        &self,
        metadata: Arc<dyn Device>,
        data: Arc<dyn Device>,
        before: &Arc<Pool>,
        chance: &mut Chance<'_>,
    ) -> Verdict {
        let ids: Vec<u64> = before
            .devices()
            .map_err(text)?
            .iter()
            .map(|info| info.id)
            .collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = chance.pick(&ids);
        let origin = self.origin.as_ref();
        let read = |pool: &Arc<Pool>| -> Verdict<Vec<Vec<Tag>>> {
            ids.iter()
                .map(|id| read_volume(pool, *id, origin))
                .collect()
        };
        let mut wanted = read(before)?;
        let writer = PoolWriter::from_devices(metadata, Some(data), &cached(0)).map_err(text)?;
        let volume = WritableVolume::again(&writer, id, VOLUME_SECTORS * 512, self.origin.clone());
        let at = chance.below(VOLUME_SECTORS - SECTORS);
        let tags = 1 << 40..(1 << 40) + 1 + chance.below(SECTORS);
        let written = volume.write_at(&tagged(tags.clone()), at * 512);
        match written.and_then(|_| volume.flush()) {
            Ok(()) => {}
            Err(thinmeta::Error::NoSpace { .. }) => return Ok(()),
            Err(error) => return Err(text(error)),
        }
        let place = ids.iter().position(|other| *other == id).unwrap();
        for (sector, tag) in (usize::try_from(at).unwrap()..).zip(tags) {
            wanted[place][sector] = tag;
        }
        let pool = writer.current().map_err(text)?;
        clean(&pool)?;
        match read(&pool)? == wanted {
            true => Ok(()),
            false => Err("volumes hold something else".to_owned()),
        }
    }
}

#[test]
fn after_a_crash_of_both_devices_volumes_hold_what_they_held_at_a_commit() {
    let wanted = IMAGES.max(number("THINMETA_CRASH_IMAGES", 0) / 10);
    let seed = number("THINMETA_CRASH_SEED", 1) as u64;
    let (mut images, mut histories) = (0, 0);
    while images < wanted {
        let history = seed << 32 | histories;
        let at = |problem: String| {
            panic!("seed {seed}, after {images} sound images, volumes {history}: {problem}")
        };
        let recorded = random(history).unwrap_or_else(at);
        let mut chance = Chance::of_case(history, "joint crash", 0);
        for _ in 0..OF_ONE_HISTORY {
            let crash = recorded.crash(&mut chance);
            if let Err(problem) = recorded.judge(&crash, &mut chance) {
                let all = recorded.log.operations();
                let (metadata, data) = (crash.metadata.lost.len(), crash.data.lost.len());
                panic!(
                    "seed {seed}, after {images} sound images, volumes {history}: power cut after \
                     operation {} of {all}, {metadata} metadata blocks and {data} pieces of data \
                     lost: {problem}",
                    crash.operations
                );
            }
            images += 1;
        }
        histories += 1;
    }
    println!("{images} joint crash images of {histories} histories of volumes, all of them sound");
}
