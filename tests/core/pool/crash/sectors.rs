//! Sectors that tell who wrote them, and what volumes should hold of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use thinmeta::device::Device;
use thinmeta::thin::{Pool, Volume, VolumeOptions};

use super::volumes::Block;
use crate::crash::judge::{Verdict, equal};
use crate::pool::world::text;

/// Sectors of a data block, and blocks of a volume, whose last one is cut off.
pub const SECTORS: u64 = 128;
pub const VOLUME_BLOCKS: u64 = 6;
pub const VOLUME_SECTORS: u64 = VOLUME_BLOCKS * SECTORS - 24;
/// The external origin ends before the volumes do.
pub const ORIGIN_SECTORS: u64 = 3 * SECTORS + 40;

/// Each sector that is written has a number of its own, all over it.
pub type Tag = u64;

pub const ORIGIN: Tag = 1 << 60;
pub const GARBAGE: Tag = 1 << 61;

pub fn tagged(tags: impl IntoIterator<Item = Tag>) -> Vec<u8> {
    let each = |tag: Tag| tag.to_le_bytes().into_iter().cycle().take(512);
    tags.into_iter().flat_map(each).collect()
}

/// The tag of each sector; one that is torn inside has none.
pub fn tags(bytes: &[u8]) -> Verdict<Vec<Tag>> {
    let sectors = bytes.chunks(512).enumerate();
    let tag = |(at, sector): (usize, &[u8])| {
        let (tag, rest) = (&sector[..8], &sector[8..]);
        match rest == &sector[..rest.len()] {
            true => Ok(Tag::from_le_bytes(tag.try_into().unwrap())),
            false => Err(format!("sector {at} is of several writes")),
        }
    };
    sectors.map(tag).collect()
}

/// What shows where nothing is mapped.
pub fn unmapped(has_origin: bool, sector: u64) -> Tag {
    match has_origin && sector < ORIGIN_SECTORS {
        true => ORIGIN + sector,
        false => 0,
    }
}

/// Holds the sectors of a volume against its blocks; `also` says what else a sector of
/// a place may hold.
pub fn judge_tags<I: IntoIterator<Item = Tag>>(
    id: u64,
    found: &[Tag],
    blocks: &BTreeMap<u64, Block>,
    has_origin: bool,
    also: impl Fn(u64, u64) -> I,
) -> Verdict {
    for (sector, found) in (0..).zip(found) {
        let block = blocks.get(&(sector / SECTORS));
        let within = sector % SECTORS;
        let wanted = match block {
            Some(block) => block.tags[usize::try_from(within).unwrap()],
            None => unmapped(has_origin, sector),
        };
        let other = |block: &Block| {
            also(block.place, within)
                .into_iter()
                .any(|tag| tag == *found)
        };
        if *found != wanted && !block.is_some_and(other) {
            return Err(format!(
                "volume {id}, sector {sector}: found {found:#x}, wanted {wanted:#x}"
            ));
        }
    }
    Ok(())
}

/// Reads a volume as of the last commit.
pub fn read_volume(
    pool: &Arc<Pool>,
    id: u64,
    origin: Option<&Arc<dyn Device>>,
) -> Verdict<Vec<Tag>> {
    let device = pool.device_by_id(id).map_err(text)?;
    let options = VolumeOptions {
        size_bytes: Some(VOLUME_SECTORS * 512),
        external_origin: origin.cloned(),
    };
    let volume = Volume::new(&device, options).map_err(text)?;
    let mut bytes = vec![0; usize::try_from(VOLUME_SECTORS).unwrap() * 512];
    let read = volume.read_at(&mut bytes, 0).map_err(text)?;
    equal("bytes read", read, bytes.len())?;
    tags(&bytes)
}
