//! Layer 8: the metadata of a whole pool, made in one pass.
//!
//! Promises: devices' mappings come in order and become full leaves, one block after
//! the other; runs that devices have in common become nodes that they share, whether
//! the caller says so ([`PoolBuilder::use_part`]) or not; counts are kept in memory
//! and written as both space maps at the end. Block 0 is zero until everything else
//! is on the device. Memory does not depend on the number of mappings, but for a byte
//! for each data block in use.
//! May use: layers 0 to 7, and the counters of `walk`.

mod blocks;
mod content;
mod entries;
mod level;
mod nodes;
mod parts;
mod plain;
mod publish;
#[cfg(test)]
mod sizes;
mod space;
#[cfg(test)]
mod tests;
mod tree;

use zerocopy::FromZeros;
use zerocopy::little_endian::U64;

use blocks::Blocks;
use content::Content;
use parts::Part;
pub use parts::PartId;
pub use publish::{Output, publish, publish_image};
pub use space::has_room;
use tree::Tree;

use crate::block::Validator;
use crate::disk_space::MAX_DATA_BLOCKS;
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::{
    DeviceInfo, MAX_DEVICE_ID, MAX_TIME, MappingValue, NewSuperblock, Run, SUPERBLOCK_VALIDATOR,
    Superblock, check_data_block_size,
};
use crate::units::BlockNr;

/// What the new pool's superblock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildOptions {
    /// Unused by the kernel; zeros.
    pub uuid: [u8; 16],
    /// The pool's clock, unless a mapping is later.
    pub time: u32,
    /// Userspace's own number.
    pub transaction_id: u64,
    /// Bit 0: `needs_check`.
    pub flags: u32,
    /// 1 or 2.
    pub version: u32,
    /// Sectors of 512 bytes in a data block.
    pub data_block_size_sectors: u32,
    /// Blocks of the data device.
    pub data_blocks: u64,
}

impl BuildOptions {
    fn check(&self) -> Result<()> {
        check_data_block_size(self.data_block_size_sectors)?;
        if self.data_blocks > MAX_DATA_BLOCKS {
            let found = self.data_blocks;
            let text = format!("a data device has at most {MAX_DATA_BLOCKS} blocks, not {found}");
            return Err(Error::Usage(text));
        }
        if !(1..=2).contains(&self.version) {
            let text = format!("pools are of version 1 or 2, not {}", self.version);
            return Err(Error::Usage(text));
        }
        Ok(())
    }
}

/// What was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Built {
    /// Metadata blocks that are in use, the superblock included.
    pub metadata_blocks_used: u64,
    /// Metadata blocks there are.
    pub metadata_blocks: u64,
    /// Data blocks that something refers to.
    pub data_blocks_used: u64,
    /// Thin devices.
    pub devices: u64,
    /// Mappings, those of shared nodes for each device that has them.
    pub mapped_blocks: u64,
}

/// What is being told.
enum Telling {
    Nothing,
    Device(DeviceInfo, Tree),
    Part(Tree, Part),
}

/// Makes a pool's metadata on a device, all of it anew.
///
/// After an error it is of no use, and block 0 of the device is zero.
pub struct PoolBuilder {
    options: BuildOptions,
    blocks: Blocks,
    content: Content,
    telling: Telling,
    parts: Vec<Part>,
    devices: Vec<(DeviceInfo, BlockNr)>,
    /// One past the last virtual block of what is being told.
    next_virtual: u64,
    mapped_blocks: u64,
    /// The latest time of a mapping.
    latest: u32,
}

impl PoolBuilder {
    /// Begins: block 0 becomes zero.
    ///
    /// # Errors
    /// [`Error::Usage`] for sizes that cannot be; [`Error::NoSpace`] where the data
    /// device's bitmaps alone do not fit; [`Error::Io`].
    pub fn new(output: Output, options: &BuildOptions) -> Result<Self> {
        options.check()?;
        let blocks = Blocks::new(output)?;
        space::check_room(&blocks, options.data_blocks)?;
        Ok(Self {
            content: Content::new(options.data_blocks),
            options: options.clone(),
            blocks,
            telling: Telling::Nothing,
            parts: Vec::new(),
            devices: Vec::new(),
            next_virtual: 0,
            mapped_blocks: 0,
            latest: 0,
        })
    }

    /// Begins a device. Its `mapped_blocks` are counted, whatever it says of them.
    ///
    /// # Errors
    /// [`Error::Usage`] for an id that no device can have, or inside of another one.
    pub fn begin_device(&mut self, device: &DeviceInfo) -> Result<()> {
        self.check_idle("a device")?;
        if device.id > MAX_DEVICE_ID {
            let text = format!(
                "a device's id is at most {MAX_DEVICE_ID}, not {}",
                device.id
            );
            return Err(Error::Usage(text));
        }
        let mut device = *device;
        device.mapped_blocks = 0;
        self.next_virtual = 0;
        self.telling = Telling::Device(device, Tree::new());
        Ok(())
    }

    /// Begins mappings that several devices may have; see [`Self::use_part`].
    ///
    /// # Errors
    /// [`Error::Usage`] inside of a device or of another part.
    pub fn begin_part(&mut self) -> Result<()> {
        self.check_idle("a part")?;
        self.next_virtual = 0;
        self.telling = Telling::Part(Tree::of_part(), Part::default());
        Ok(())
    }

    fn check_idle(&self, what: &str) -> Result<()> {
        match self.telling {
            Telling::Nothing => Ok(()),
            _ => Err(Error::usage(format!("{what} begins inside of another one"))),
        }
    }

    /// Adds mappings to what is being told: in ascending order, none of them twice.
    ///
    /// # Errors
    /// [`Error::Usage`] for any other order and numbers out of range;
    /// [`Error::NoSpace`]; [`Error::Io`].
    pub fn runs(&mut self, runs: &[Run]) -> Result<()> {
        let mut added = 0_u64;
        for run in runs {
            self.check_run(run)?;
            self.latest = self.latest.max(run.time);
            self.next_virtual = run.virtual_begin + run.length_blocks;
            added += run.length_blocks;
            let tree = match &mut self.telling {
                Telling::Device(_, tree) | Telling::Part(tree, _) => tree,
                Telling::Nothing => return Err(Error::usage("mappings of no device")),
            };
            let mut done = 0;
            while done < run.length_blocks {
                let count = tree.room().min(run.length_blocks - done);
                let (key, block) = (run.virtual_begin + done, run.data_begin + done);
                tree.push(
                    (0..count).map(|at| (key + at, MappingValue::new(block + at, run.time).0)),
                );
                done += count;
                if tree.room() == 0 {
                    tree.settle(&mut self.blocks, &mut self.content)?;
                }
            }
        }
        self.told(added)
    }

    fn told(&mut self, added: u64) -> Result<()> {
        match &mut self.telling {
            Telling::Device(device, _) => {
                device.mapped_blocks += added;
                self.mapped_blocks += added;
                Ok(())
            }
            Telling::Part(_, part) => {
                part.mapped_blocks += added;
                Ok(())
            }
            Telling::Nothing => Err(Error::usage("mappings of no device")),
        }
    }

    fn check_run(&self, run: &Run) -> Result<()> {
        let begin = run.virtual_begin;
        if begin < self.next_virtual {
            return Err(Error::usage(format!(
                "block {begin} comes after block {}: mappings have to ascend",
                self.next_virtual - 1
            )));
        }
        let end = begin.checked_add(run.length_blocks);
        if run.length_blocks == 0 || end.is_none() {
            let text = format!("{} blocks from {begin} on", run.length_blocks);
            return Err(Error::usage(text));
        }
        let data_end = run.data_begin.checked_add(run.length_blocks);
        if data_end.is_none_or(|end| end > self.options.data_blocks) {
            return Err(Error::usage(format!(
                "{} data blocks from {} on, and there are {}",
                run.length_blocks, run.data_begin, self.options.data_blocks
            )));
        }
        if run.time > MAX_TIME {
            let text = format!("a mapping's time is at most {MAX_TIME}, not {}", run.time);
            return Err(Error::Usage(text));
        }
        Ok(())
    }

    /// Ends a part; how to refer to it.
    ///
    /// # Errors
    /// [`Error::Usage`] where none was begun; as [`Self::runs`].
    pub fn end_part(&mut self) -> Result<PartId> {
        match std::mem::replace(&mut self.telling, Telling::Nothing) {
            Telling::Part(tree, mut part) => {
                part.end_virtual = self.next_virtual;
                part.children = tree.end_part(&mut self.blocks, &mut self.content)?;
                self.parts.push(part);
                Ok(PartId(self.parts.len() - 1))
            }
            _ => Err(Error::usage("no part was begun")),
        }
    }

    /// Adds all mappings of a part: its leaves become leaves of what is being told.
    ///
    /// # Errors
    /// [`Error::Usage`] where they begin below what was told; as [`Self::runs`].
    pub fn use_part(&mut self, id: PartId) -> Result<()> {
        let part = self.parts.get(id.0);
        let part = part.ok_or_else(|| Error::usage("no such part"))?;
        let Some(first) = part.children.first() else {
            return Ok(());
        };
        if first.key < self.next_virtual {
            return Err(Error::usage(format!(
                "block {} comes after block {}: mappings have to ascend",
                first.key,
                self.next_virtual - 1
            )));
        }
        let tree = match &mut self.telling {
            Telling::Device(_, tree) | Telling::Part(tree, _) => tree,
            Telling::Nothing => return Err(Error::usage("mappings of no device")),
        };
        tree.place_leaves(&mut self.blocks, &mut self.content, &part.children)?;
        self.next_virtual = part.end_virtual;
        let added = part.mapped_blocks;
        self.told(added)
    }

    /// Ends a device.
    ///
    /// # Errors
    /// [`Error::Usage`] where none was begun; as [`Self::runs`].
    pub fn end_device(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.telling, Telling::Nothing) {
            Telling::Device(device, mut tree) => {
                let root = tree.end(&mut self.blocks, &mut self.content)?;
                self.devices.push((device, root));
                Ok(())
            }
            _ => Err(Error::usage("no device was begun")),
        }
    }

    /// Writes what is left: the trees above the devices, the space maps, and when all
    /// is durable, block 0.
    ///
    /// # Errors
    /// [`Error::Usage`] for a device that comes twice; [`Error::NoSpace`];
    /// [`Error::Io`]; [`Error::Interrupted`] by the task's monitor.
    pub fn finish(mut self, task: &Task<'_>) -> Result<Built> {
        self.check_idle("the end")?;
        self.devices.sort_unstable_by_key(|(device, _)| device.id);
        let twice = self
            .devices
            .windows(2)
            .find(|two| two[0].0.id == two[1].0.id);
        if let Some(two) = twice {
            let text = format!("device {} comes twice", two[0].0.id);
            return Err(Error::Usage(text));
        }
        task.step(0, 0)?;
        let (blocks, devices) = (&mut self.blocks, &self.devices);
        let roots = devices
            .iter()
            .map(|(device, root)| (device.id, U64::new(root.0)));
        let mapping_root = plain::tree(blocks, devices.len() as u64, roots)?;
        let details = devices
            .iter()
            .map(|(device, _)| (device.id, device.details()));
        let details_root = plain::tree(blocks, devices.len() as u64, details)?;
        let data = space::write_data(blocks, self.content.counts(), task)?;
        let metadata = space::write_metadata(blocks, task)?;
        let superblock = Superblock::of_new_pool(&NewSuperblock {
            flags: self.options.flags,
            uuid: self.options.uuid,
            version: self.options.version,
            // A clock behind a mapping would not tell that it is shared after a snapshot.
            time: self.options.time.max(self.latest),
            transaction_id: self.options.transaction_id,
            data_block_size_sectors: self.options.data_block_size_sectors,
            data_space: data,
            metadata_space: metadata,
            mapping_root,
            details_root,
        });
        blocks.flush()?;
        task.step(0, 0)?;
        let mut block = crate::block::BlockData::new_zeroed();
        *block.view_mut() = superblock;
        SUPERBLOCK_VALIDATOR.seal(BlockNr(0), &mut block);
        blocks.write_first(&block)?;
        Ok(Built {
            metadata_blocks_used: metadata.nr_allocated.get(),
            metadata_blocks: metadata.nr_blocks.get(),
            data_blocks_used: data.nr_allocated.get(),
            devices: devices.len() as u64,
            mapped_blocks: self.mapped_blocks,
        })
    }
}
