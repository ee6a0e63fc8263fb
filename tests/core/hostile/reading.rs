//! The crate's own reading of an image, in the model's terms.

use std::sync::Arc;

use thinmeta::Result as Answer;
use thinmeta::thin::{OpenOptions, Pool, Snapshot};

use crate::model::{Device, Listing, Mapping};
use crate::support::devices::PatternDevice;
use crate::support::image::Image;

/// What was read.
pub struct Reading {
    pub listing: Listing,
    /// Of each device, what came before the error, or everything.
    pub partial: Vec<Vec<Mapping>>,
}

/// Opens a pool whose data device is as large as it has to be.
pub fn open(image: &Image, snapshot: Snapshot, cache_bytes: u64) -> Answer<Arc<Pool>> {
    let options = OpenOptions {
        snapshot,
        cache_bytes,
        data: None,
    };
    let data = Arc::new(PatternDevice(u64::MAX));
    let pool = Pool::from_devices(Arc::new(image.clone()), Some(data), &options)?;
    Ok(Arc::new(pool))
}

/// Every device and every run.
pub fn read(pool: &Arc<Pool>) -> Answer<Reading> {
    let (mut devices, mut partial) = (Vec::new(), Vec::new());
    for info in pool.devices()? {
        let mut found = Vec::new();
        let read = mappings(pool, info.id, &mut found);
        partial.push(found.clone());
        devices.push(Device {
            id: info.id,
            mapped_blocks: info.mapped_blocks,
            transaction_id: info.transaction_id,
            creation_time: info.creation_time,
            snapshotted_time: info.snapshotted_time,
            mappings: read.map(|()| found).map_err(|error| error.to_string()),
        });
    }
    let superblock = pool.superblock();
    let listing = Listing {
        time: superblock.time.get(),
        transaction_id: superblock.trans_id.get(),
        data_blocks: pool.live_superblock().data_blocks(),
        data_block_sectors: superblock.data_block_size.get(),
        devices,
    };
    Ok(Reading { listing, partial })
}

/// Runs, a few at a time, as single mappings.
fn mappings(pool: &Arc<Pool>, id: u64, found: &mut Vec<Mapping>) -> Answer<()> {
    let device = pool.device_by_id(id)?;
    let mut cursor = device.runs(0, None);
    loop {
        let mut runs = Vec::new();
        let answer = cursor.fill(&mut runs, 100);
        for run in &runs {
            found.extend((0..run.length_blocks).map(|offset| {
                (
                    run.virtual_begin + offset,
                    run.data_begin + offset,
                    run.time,
                )
            }));
        }
        if !answer? {
            return Ok(());
        }
    }
}
