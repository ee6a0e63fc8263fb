//! A snapshot's content for the origin that it was made of.
//!
//! In dm-thin a snapshot is a whole volume of its own: what it does not map reads as zero,
//! or as the external origin. So the origin takes over the snapshot's mappings, all of
//! them and nothing else. A thin device that has another one of the pool as its external
//! origin is something else: what it does not map reads as that one, and to merge the two
//! is to lay its mappings over those of the other ([`MergeOptions::overlay`]).

mod overlay;

use std::sync::Arc;

use overlay::Overlay;

use crate::build::{BuildOptions, Built, Output};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{DeviceInfo, MAX_TIME, Pool, Run};
use crate::tools::retell::{Sound, used_blocks, walk};
use crate::walk::Counts;

/// What is merged into what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeOptions {
    /// The device that is changed.
    pub origin: u64,
    /// The device whose content it takes over.
    pub snapshot: u64,
    /// Whether the snapshot stays; otherwise it goes away.
    pub keep_snapshot: bool,
    /// Whether the origin keeps what the snapshot does not map.
    pub overlay: bool,
}

/// What a merge changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergeOutlook {
    /// Mappings of the origin as it is.
    pub origin_blocks: u64,
    /// Mappings of the snapshot.
    pub snapshot_blocks: u64,
    /// Mappings of the origin afterwards.
    pub merged_blocks: u64,
    /// Virtual blocks that have the same data block in both.
    pub common_blocks: u64,
    /// Virtual blocks that have another one in the snapshot.
    pub replaced_blocks: u64,
    /// Virtual blocks that only the snapshot maps.
    pub added_blocks: u64,
    /// Virtual blocks that only the origin maps: they are lost, or kept by an overlay.
    pub origin_only_blocks: u64,
    /// Data blocks that nobody uses any more.
    pub freed_blocks: u64,
}

/// A merge that is planned.
pub struct Merge {
    sound: Sound,
    options: MergeOptions,
    outlook: MergeOutlook,
    /// The origin as it will be.
    merged: DeviceInfo,
    /// The pool's clock as it will be.
    time: u32,
}

impl Merge {
    /// Finds out what would change.
    ///
    /// # Errors
    /// [`Error::NoSuchDevice`]; [`Error::Usage`] where both are one device, or where the
    /// pool's clock cannot go on; as [`Sound::read`].
    pub fn plan(pool: Arc<Pool>, options: MergeOptions, task: &Task<'_>) -> Result<Self> {
        if options.origin == options.snapshot {
            let text = format!("device {} cannot be merged into itself", options.origin);
            return Err(Error::Usage(text));
        }
        let sound = Sound::read(pool, task)?;
        let (origin, snapshot) = (
            sound.device(options.origin)?.0,
            sound.device(options.snapshot)?.0,
        );
        let mut time = sound.pool.superblock().time.get();
        // A block that others share has a time below this, in whichever of the two it was:
        // only what is later is written in its place.
        let mut snapshotted_time = origin.snapshotted_time.max(snapshot.snapshotted_time);
        if options.keep_snapshot {
            // As if a snapshot were taken now: both share all that they have.
            if time >= MAX_TIME {
                let text = format!("the pool's clock stands at {time} and cannot go on");
                return Err(Error::Usage(text));
            }
            time += 1;
            snapshotted_time = time;
        }
        let mut own = Self {
            sound,
            options,
            outlook: MergeOutlook::default(),
            merged: DeviceInfo {
                snapshotted_time,
                ..origin
            },
            time,
        };
        own.outlook = own.look(task)?;
        Ok(own)
    }

    /// What will be done.
    #[must_use]
    pub fn outlook(&self) -> &MergeOutlook {
        &self.outlook
    }

    /// The pool as it is.
    #[must_use]
    pub fn pool(&self) -> &Arc<Pool> {
        &self.sound.pool
    }

    fn overlay(&self) -> Result<Overlay> {
        let (pool, options) = (&self.sound.pool, &self.options);
        Overlay::open(pool, options.origin, options.snapshot)
    }

    fn look(&self, task: &Task<'_>) -> Result<MergeOutlook> {
        let options = &self.options;
        // What the new pool has besides the merged origin.
        let goes = |id: u64| id == options.origin || id == options.snapshot && !self.stays();
        let others = self.sound.devices.iter().filter(|each| !goes(each.0.id));
        // It was found sound when all was read.
        let (others, _) = walk(&self.sound.pool, others.map(|each| each.1), u32::MAX, task)?;
        // Of an overlay, what is in no other tree.
        let mut own = Counts::new(others.nr_blocks());
        let mut found = MergeOutlook::default();
        let mut overlay = self.overlay()?;
        while let Some(next) = overlay.next()? {
            let length = next.length();
            found.origin_blocks += if next.origin.is_some() { length } else { 0 };
            found.snapshot_blocks += if next.snapshot.is_some() { length } else { 0 };
            match (next.origin, next.snapshot) {
                (Some(one), Some(other)) if one.data_begin == other.data_begin => {
                    found.common_blocks += length;
                }
                (Some(_), Some(_)) => found.replaced_blocks += length,
                (None, _) => found.added_blocks += length,
                (_, None) => found.origin_only_blocks += length,
            }
            if options.overlay
                && let Some(run) = next.merged()
            {
                let blocks = run.data_begin..run.data_begin + run.length_blocks;
                blocks
                    .filter(|block| others.get(*block) == 0)
                    .for_each(|block| own.add(block));
            }
            task.step(0, 0)?;
        }
        found.merged_blocks = found.snapshot_blocks;
        if options.overlay {
            found.merged_blocks += found.origin_only_blocks;
        }
        let used = used_blocks(&others) + used_blocks(&own.freeze());
        found.freed_blocks = self.sound.used_blocks() - used;
        Ok(found)
    }

    /// Whether the snapshot's tree is in the new pool, under whichever name.
    fn stays(&self) -> bool {
        self.options.keep_snapshot || !self.options.overlay
    }

    /// Writes the new metadata.
    ///
    /// # Errors
    /// [`Error::NoSpace`] where `output` is too small; [`Error::Io`];
    /// [`Error::Interrupted`].
    pub fn build(&self, output: Output, task: &Task<'_>) -> Result<Built> {
        let (options, devices) = (&self.options, &self.sound.devices);
        task.expect(devices.iter().map(|each| each.0.mapped_blocks).sum());
        let source = self.sound.device(options.snapshot)?.1;
        let alter = |new: &mut BuildOptions| new.time = self.time;
        let same = |run: &Run, out: &mut Vec<Run>| out.push(*run);
        self.sound.build(output, alter, &same, task, |teller| {
            for (info, root) in devices {
                if info.id == options.origin && options.overlay {
                    teller.builder.begin_device(&self.merged)?;
                    let mut overlay = self.overlay()?;
                    while let Some(next) = overlay.next()? {
                        teller.runs(next.merged().as_slice())?;
                        task.step(0, next.length())?;
                    }
                    teller.builder.end_device()?;
                } else if info.id == options.origin {
                    teller.device(&self.merged, source)?;
                } else if info.id != options.snapshot {
                    teller.device(info, *root)?;
                } else if options.keep_snapshot {
                    let snapshotted_time = self.time;
                    let info = DeviceInfo {
                        snapshotted_time,
                        ..*info
                    };
                    teller.device(&info, *root)?;
                }
            }
            Ok(())
        })
    }
}
