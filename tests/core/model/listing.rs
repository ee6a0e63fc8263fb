//! What is in a pool: its devices and their mappings.

use super::{Fault, Walk, superblock};
use crate::support::image::{Image, read_u32, read_u64};

/// A virtual block, where it lies, and since when.
pub type Mapping = (u64, u64, u32);

/// A thin device.
#[derive(Clone, Debug)]
pub struct Device {
    pub id: u64,
    pub mapped_blocks: u64,
    pub transaction_id: u64,
    pub creation_time: u32,
    pub snapshotted_time: u32,
    /// All of them, or why they cannot be read.
    pub mappings: Result<Vec<Mapping>, Fault>,
}

impl Device {
    /// All but the mappings.
    pub fn details(&self) -> [u64; 5] {
        let times = [self.creation_time, self.snapshotted_time].map(u64::from);
        [
            self.id,
            self.mapped_blocks,
            self.transaction_id,
            times[0],
            times[1],
        ]
    }
}

/// Everything that a reader tells of a pool.
#[derive(Clone, Debug)]
pub struct Listing {
    pub time: u32,
    pub transaction_id: u64,
    pub data_blocks: u64,
    pub data_block_sectors: u32,
    pub devices: Vec<Device>,
}

impl Listing {
    /// Whether every device could be read whole.
    pub fn is_whole(&self) -> bool {
        self.devices.iter().all(|device| device.mappings.is_ok())
    }

    /// Whether both tell the same, faults apart.
    pub fn agrees_with(&self, other: &Self) -> bool {
        let header = |listing: &Self| {
            (
                listing.time,
                listing.transaction_id,
                listing.data_blocks,
                listing.data_block_sectors,
            )
        };
        header(self) == header(other)
            && self.devices.len() == other.devices.len()
            && self.devices.iter().zip(&other.devices).all(|(one, two)| {
                one.details() == two.details()
                    && one.mappings.as_ref().ok() == two.mappings.as_ref().ok()
            })
    }
}

/// Lists what the superblock in block `at` leads to; what a tolerant reader can use.
pub fn list(image: &Image, at: u64) -> Result<Listing, Fault> {
    let blocks = image.nr_blocks();
    let live = superblock(image, 0, blocks)?;
    let read = superblock(image, at, blocks)?;
    let mut details = Vec::new();
    Walk::lenient(image, 24).visit(read.details_root, &mut |node| {
        if node.is_leaf {
            details.extend((0..node.entries).map(|index| (node.key(index), node.value(index))));
        }
    })?;
    let mut roots = Vec::new();
    let tops = Walk::lenient(image, 8).visit(read.mapping_root, &mut |node| {
        if node.is_leaf {
            roots.extend((0..node.entries).map(|index| (node.key(index), node.child(index))));
        }
    });
    let devices = details.into_iter().map(|(id, value)| {
        let root = roots.binary_search_by_key(&id, |root| root.0);
        let mappings = match (&tops, root) {
            (_, Ok(found)) => mappings(image, roots[found].1, live.data.nr_blocks),
            (Ok(()), Err(_)) => Err(format!("device {id} has no tree")),
            (Err(fault), Err(_)) => Err(fault.clone()),
        };
        Device {
            id,
            mapped_blocks: read_u64(value, 0),
            transaction_id: read_u64(value, 8),
            creation_time: read_u32(value, 16),
            snapshotted_time: read_u32(value, 20),
            mappings,
        }
    });
    Ok(Listing {
        time: read.time,
        transaction_id: read.transaction_id,
        data_blocks: live.data.nr_blocks,
        data_block_sectors: read.data_block_sectors,
        devices: devices.collect(),
    })
}

fn mappings(image: &Image, root: u64, data_blocks: u64) -> Result<Vec<Mapping>, Fault> {
    let mut found: Vec<Mapping> = Vec::new();
    Walk::lenient(image, 8).visit(root, &mut |node| {
        if node.is_leaf {
            found.extend((0..node.entries).map(|index| {
                let value = read_u64(node.value(index), 0);
                let time = u32::try_from(value & 0xff_ffff).unwrap();
                (node.key(index), value >> 24, time)
            }));
        }
    })?;
    match found.iter().find(|mapping| mapping.1 >= data_blocks) {
        Some(beyond) => Err(format!("{beyond:?} is beyond {data_blocks} data blocks")),
        None => Ok(found),
    }
}
