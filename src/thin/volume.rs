//! A volume's bytes, put together from metadata and data without a kernel.

use std::ops::Range;
use std::sync::Arc;

use zerocopy::little_endian::U64;

use super::ThinDevice;
use super::mappings::MappingValue;
use crate::device::Device;
use crate::error::{Error, Result};

/// How to read a volume.
#[derive(Clone, Default)]
pub struct VolumeOptions {
    /// Size of the volume. The metadata does not know it: `None` takes the end
    /// of the highest mapped block.
    pub size_bytes: Option<u64>,
    /// What is read where nothing is mapped; zeros without one, and past its end.
    pub external_origin: Option<Arc<dyn Device>>,
}

/// A thin device with its data.
#[derive(Clone)]
pub struct Volume {
    device: ThinDevice,
    data: Arc<dyn Device>,
    external_origin: Option<Arc<dyn Device>>,
    block_bytes: u64,
    size_bytes: u64,
    size_is_known: bool,
}

/// Bytes of the volume that come from one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where in the volume, in bytes.
    pub bytes: Range<u64>,
    /// Byte offset on the data device; `None` where nothing is mapped.
    pub data_offset_bytes: Option<u64>,
}

impl Volume {
    /// The content of `device`, whose pool has to know its data device.
    ///
    /// # Errors
    /// [`Error::Usage`] without a data device.
    pub fn new(device: &ThinDevice, options: VolumeOptions) -> Result<Self> {
        let pool = device.pool();
        let data = pool.data().ok_or_else(|| {
            Error::usage(
                "a volume's content needs the pool's data device: open the pool with data=",
            )
        })?;
        let block_bytes = pool.superblock().data_block_bytes();
        let size_is_known = options.size_bytes.is_some();
        let size_bytes = match options.size_bytes {
            Some(size) => size,
            None => device
                .last_mapped()?
                .map_or(Some(0), |last| {
                    last.checked_add(1)?.checked_mul(block_bytes)
                })
                .ok_or_else(|| {
                    Error::usage("the highest mapped block ends past 2^64 bytes: give the size")
                })?,
        };
        Ok(Self {
            device: device.clone(),
            data: Arc::clone(data),
            external_origin: options.external_origin,
            block_bytes,
            size_bytes,
            size_is_known,
        })
    }

    /// Size of the volume in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Whether the size was given, and not guessed from the mappings.
    #[must_use]
    pub fn size_is_known(&self) -> bool {
        self.size_is_known
    }

    /// Bytes in a data block.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    /// Whether unmapped blocks read as something else than zeros.
    #[must_use]
    pub fn has_external_origin(&self) -> bool {
        self.external_origin.is_some()
    }

    /// Fills `buffer` from `offset_bytes` on; fewer bytes only at the end.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Io`], and [`Error::Unsupported`] when the
    /// data device is too short for a mapping.
    pub fn read_at(&self, buffer: &mut [u8], offset_bytes: u64) -> Result<usize> {
        let left = self.size_bytes.saturating_sub(offset_bytes);
        let length = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let end = offset_bytes + length as u64;
        let mut extents = self.extents(offset_bytes..end);
        while let Some(extent) = extents.next_extent()? {
            let begin = usize::try_from(extent.bytes.start - offset_bytes).unwrap_or(length);
            let end = usize::try_from(extent.bytes.end - offset_bytes).unwrap_or(length);
            self.read_extent(&extent, &mut buffer[begin..end])?;
        }
        self.confirm()?;
        Ok(length)
    }

    /// Whether the metadata snapshot that the volume is read through is still held;
    /// see [`Pool::confirm`](super::Pool::confirm).
    pub fn confirm(&self) -> Result<()> {
        self.device.pool().confirm()
    }

    /// Where the bytes of a range come from, in order and without gaps.
    #[must_use]
    pub fn extents(&self, bytes: Range<u64>) -> Extents<'_> {
        let blocks = bytes.start / self.block_bytes..bytes.end.div_ceil(self.block_bytes);
        let runs = self.device.runs(blocks.start, Some(blocks.end));
        Extents {
            volume: self,
            runs,
            leaf: None,
            at: bytes.start,
            end: bytes.end,
            waiting: None,
        }
    }

    /// Fills `buffer` with the bytes of `extent`, which is as long.
    pub fn read_extent(&self, extent: &Extent, buffer: &mut [u8]) -> Result<()> {
        match (extent.data_offset_bytes, &self.external_origin) {
            (Some(offset), _) => self.read_data(extent, offset, buffer),
            (None, None) => {
                buffer.fill(0);
                Ok(())
            }
            (None, Some(origin)) => {
                let there = origin.size_bytes().saturating_sub(extent.bytes.start);
                let there = usize::try_from(there)
                    .unwrap_or(usize::MAX)
                    .min(buffer.len());
                let (from_origin, past) = buffer.split_at_mut(there);
                past.fill(0);
                if from_origin.is_empty() {
                    return Ok(());
                }
                origin.read_exact_at(from_origin, extent.bytes.start)
            }
        }
    }

    fn read_data(&self, extent: &Extent, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let (end, have) = (
            offset.saturating_add(buffer.len() as u64),
            self.data.size_bytes(),
        );
        if end <= have {
            return self.data.read_exact_at(buffer, offset);
        }
        let missing = have.saturating_sub(offset) / self.block_bytes;
        let reason = format!(
            "virtual block {} of device {} is mapped to data block {}, bytes {} to {end}, \
             but the data device has only {have} bytes",
            extent.bytes.start / self.block_bytes + missing,
            self.device.info().id,
            offset / self.block_bytes + missing,
            offset + missing * self.block_bytes,
        );
        Err(Error::Unsupported {
            path: self.data.path().to_owned(),
            reason,
        })
    }
}

/// Iterates the extents of a byte range.
pub struct Extents<'v> {
    volume: &'v Volume,
    runs: super::RunCursor,
    /// The leaf at hand and its next entry.
    leaf: Option<(crate::btree::LeafSlice, usize)>,
    at: u64,
    end: u64,
    /// A mapped extent found behind a hole that was given out first.
    waiting: Option<Extent>,
}

impl Extents<'_> {
    /// The next extent; `None` at the end of the range.
    pub fn next_extent(&mut self) -> Result<Option<Extent>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let mapped = match self.waiting.take() {
            Some(extent) => Some(extent),
            None => self.next_mapped()?,
        };
        let extent = match mapped {
            Some(mapped) if mapped.bytes.start > self.at => {
                let hole = self.at..mapped.bytes.start;
                self.waiting = Some(mapped);
                Extent {
                    bytes: hole,
                    data_offset_bytes: None,
                }
            }
            Some(mapped) => mapped,
            None => Extent {
                bytes: self.at..self.end,
                data_offset_bytes: None,
            },
        };
        self.at = extent.bytes.end;
        Ok(Some(extent))
    }

    /// The next mapped blocks that follow each other on the data device.
    fn next_mapped(&mut self) -> Result<Option<Extent>> {
        let size = self.volume.block_bytes;
        let mut found: Option<(u64, u64, u64)> = None; // first, data, blocks
        loop {
            if self.leaf.is_none() {
                self.leaf = self.runs.next_leaf()?.map(|leaf| (leaf, 0));
            }
            let Some((leaf, next)) = &mut self.leaf else {
                break;
            };
            let (keys, values) = leaf.entries::<U64>()?;
            let Some((key, value)) = keys.get(*next).zip(values.get(*next)) else {
                self.leaf = None;
                continue;
            };
            let (key, data) = (key.get(), MappingValue(value.get()).data_block());
            match &mut found {
                None => found = Some((key, data, 1)),
                Some((first, begin, blocks))
                    if *first + *blocks == key && *begin + *blocks == data =>
                {
                    *blocks += 1;
                }
                Some(_) => break,
            }
            *next += 1;
        }
        let Some((first, data, blocks)) = found else {
            return Ok(None);
        };
        // The range's ends may lie inside a block. Neither product can pass 2^64:
        // the range ends there, and data blocks have 40 bits of at most 2^30 bytes.
        let begin = (u128::from(first) * u128::from(size)).max(self.at.into());
        let end = (u128::from(first + blocks) * u128::from(size)).min(self.end.into());
        let skip = begin - u128::from(first) * u128::from(size);
        let offset = u128::from(data) * u128::from(size) + skip;
        let (Ok(begin), Ok(end), Ok(offset)) =
            (begin.try_into(), end.try_into(), offset.try_into())
        else {
            return Err(Error::usage("a mapping lies past 2^64 bytes"));
        };
        Ok(Some(Extent {
            bytes: begin..end,
            data_offset_bytes: Some(offset),
        }))
    }
}
