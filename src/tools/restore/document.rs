//! What the XML says, checked as far as that goes without building anything.

use std::collections::hash_map::Entry;

use quick_xml::events::BytesStart;
use rustc_hash::{FxHashMap, FxHashSet};

use super::RestoreOptions;
use super::attributes::{Attributes, Wrong, shown};
use crate::build::BuildOptions;
use crate::disk_space::MAX_DATA_BLOCKS;
use crate::thin::{DeviceInfo, MAX_DEVICE_ID, MAX_TIME, Run, check_data_block_size};

/// A step of the building.
pub(super) enum Item {
    Superblock(BuildOptions),
    BeginDevice(DeviceInfo),
    EndDevice,
    BeginPart,
    EndPart,
    /// The part of this number, in the order in which they began.
    UsePart(usize),
    /// Mappings, and how many bytes of the XML were read for them.
    Runs(Vec<Run>, u64),
}

/// Where we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Section {
    Before,
    Superblock,
    Device,
    Def(usize),
    After,
}

/// A `def`: its blocks, if it has any, begin here and end there.
struct Def {
    number: usize,
    begin: Option<u64>,
    end: u64,
}

pub(super) struct Document {
    options: RestoreOptions,
    section: Section,
    data_blocks: u64,
    defs: FxHashMap<String, Def>,
    /// The name of the one that is being told.
    own_name: String,
    devices: FxHashSet<u64>,
    /// First block of the section, and one past the last.
    begin: Option<u64>,
    next: u64,
}

impl Document {
    pub fn new(options: &RestoreOptions) -> Self {
        Self {
            options: options.clone(),
            section: Section::Before,
            data_blocks: 0,
            defs: FxHashMap::default(),
            own_name: String::new(),
            devices: FxHashSet::default(),
            begin: None,
            next: 0,
        }
    }

    /// Whether mappings may come.
    pub fn takes_mappings(&self) -> bool {
        matches!(self.section, Section::Device | Section::Def(_))
    }

    /// A mapping as it came.
    #[inline]
    pub fn mapping(&mut self, run: &Run) -> Result<(), Wrong> {
        let begin = run.virtual_begin;
        if begin < self.next {
            return Err(format!(
                "block {begin} comes after block {}: mappings have to ascend and not to overlap",
                self.next - 1
            ));
        }
        let Some(end) = begin.checked_add(run.length_blocks) else {
            let length = run.length_blocks;
            return Err(format!(
                "{length} blocks from {begin} on are past the last one"
            ));
        };
        if run.length_blocks == 0 {
            return Err("a range of no blocks".to_owned());
        }
        let data_end = run.data_begin.checked_add(run.length_blocks);
        if data_end.is_none_or(|end| end > self.data_blocks) {
            let last = run.data_begin.saturating_add(run.length_blocks - 1);
            return Err(format!(
                "data block {last} is past the end: there are {}",
                self.data_blocks
            ));
        }
        if run.time > MAX_TIME {
            return Err(format!("time {}: it is at most {MAX_TIME}", run.time));
        }
        self.begin.get_or_insert(begin);
        self.next = end;
        Ok(())
    }

    /// A tag begins. `None`: a mapping, which is the caller's to gather.
    pub fn start(&mut self, tag: &BytesStart<'_>) -> Result<Start, Wrong> {
        let name = tag.name();
        let name = name.as_ref();
        match (self.section, name) {
            (Section::Before, "superblock") => {
                let options = self.superblock(tag)?;
                self.section = Section::Superblock;
                Ok(Start::Item(Item::Superblock(options)))
            }
            (Section::After, "superblock") => Err("a second superblock".to_owned()),
            (Section::Before, _) => Err(format!("<{}> before the superblock", shown(name))),
            (Section::After, _) => Err(format!("<{}> after the superblock", shown(name))),
            (Section::Superblock, "device") => self.device(tag).map(Start::Item),
            (Section::Superblock, "def") => self.def(tag).map(Start::Item),
            (Section::Device | Section::Def(_), "single_mapping" | "range_mapping") => {
                let run = mapping(tag)?;
                self.mapping(&run)?;
                Ok(Start::Mapping(run))
            }
            (Section::Device | Section::Def(_), "ref") => self.reference(tag).map(Start::Item),
            (Section::Superblock, "single_mapping" | "range_mapping" | "ref") => {
                Err(format!("<{name}> outside of a device or a def"))
            }
            (_, "superblock" | "device" | "def") => {
                Err(format!("<{name}> inside of another section"))
            }
            _ => Err(format!("an unknown tag <{}>", shown(name))),
        }
    }

    fn superblock(&mut self, tag: &BytesStart<'_>) -> Result<BuildOptions, Wrong> {
        let known = [
            "uuid",
            "time",
            "transaction",
            "flags",
            "version",
            "data_block_size",
            "nr_data_blocks",
        ];
        let found = Attributes::read(tag, &known)?;
        // The kernel has no use for it, and writes zeros.
        found.text("uuid")?;
        let own = &self.options;
        let options = BuildOptions {
            uuid: [0; 16],
            time: found.number("time")?,
            transaction_id: match own.transaction_id {
                Some(id) if !own.only_raise => id,
                least => found.number::<u64>("transaction")?.max(least.unwrap_or(0)),
            },
            flags: match own.flags {
                Some(flags) => flags,
                None => found.number_or("flags", 0)?,
            },
            version: found.number_or("version", 2)?,
            data_block_size_sectors: match own.data_block_size_sectors {
                Some(sectors) => sectors,
                None => found.number("data_block_size")?,
            },
            data_blocks: match own.nr_data_blocks {
                Some(blocks) if !own.only_raise => blocks,
                least => found
                    .number::<u64>("nr_data_blocks")?
                    .max(least.unwrap_or(0)),
            },
        };
        check_data_block_size(options.data_block_size_sectors)
            .map_err(|error| error.to_string())?;
        if options.data_blocks > MAX_DATA_BLOCKS {
            let found = options.data_blocks;
            return Err(format!(
                "{found} data blocks: there are at most {MAX_DATA_BLOCKS}"
            ));
        }
        if !(1..=2).contains(&options.version) {
            let found = options.version;
            return Err(format!("pools of version {found}: 1 and 2 are known"));
        }
        if options.time > MAX_TIME {
            return Err(format!("time {}: it is at most {MAX_TIME}", options.time));
        }
        self.data_blocks = options.data_blocks;
        Ok(options)
    }

    fn device(&mut self, tag: &BytesStart<'_>) -> Result<Item, Wrong> {
        let known = [
            "dev_id",
            "mapped_blocks",
            "transaction",
            "creation_time",
            "snap_time",
        ];
        let found = Attributes::read(tag, &known)?;
        let device = DeviceInfo {
            id: found.number("dev_id")?,
            mapped_blocks: found.number("mapped_blocks")?,
            transaction_id: found.number("transaction")?,
            creation_time: found.number("creation_time")?,
            snapshotted_time: found.number("snap_time")?,
        };
        if device.id > MAX_DEVICE_ID {
            let id = device.id;
            return Err(format!("device {id}: ids are at most {MAX_DEVICE_ID}"));
        }
        if !self.devices.insert(device.id) {
            return Err(format!("device {} comes twice", device.id));
        }
        self.begin_section(Section::Device);
        Ok(Item::BeginDevice(device))
    }

    fn def(&mut self, tag: &BytesStart<'_>) -> Result<Item, Wrong> {
        let found = Attributes::read(tag, &["name"])?;
        let name = found.text("name")?;
        if self.defs.contains_key(name) {
            return Err(format!("def {} comes twice", shown(name)));
        }
        self.own_name = name.to_owned();
        self.begin_section(Section::Def(self.defs.len()));
        Ok(Item::BeginPart)
    }

    fn begin_section(&mut self, section: Section) {
        self.section = section;
        self.begin = None;
        self.next = 0;
    }

    fn reference(&mut self, tag: &BytesStart<'_>) -> Result<Item, Wrong> {
        let found = Attributes::read(tag, &["name"])?;
        let name = found.text("name")?;
        let Some(def) = self.defs.get(name) else {
            return Err(format!("no def of the name {} came before", shown(name)));
        };
        if let Some(begin) = def.begin {
            if begin < self.next {
                return Err(format!(
                    "def {} begins with block {begin} and comes after block {}: mappings have to \
                     ascend and not to overlap",
                    shown(name),
                    self.next - 1
                ));
            }
            self.begin.get_or_insert(begin);
            self.next = def.end;
        }
        Ok(Item::UsePart(def.number))
    }

    /// A tag ends.
    pub fn end(&mut self) -> Result<Option<Item>, Wrong> {
        let item = match self.section {
            Section::Device => Item::EndDevice,
            Section::Def(number) => {
                let (begin, end) = (self.begin, self.next);
                let name = std::mem::take(&mut self.own_name);
                if let Entry::Vacant(place) = self.defs.entry(name) {
                    place.insert(Def { number, begin, end });
                }
                Item::EndPart
            }
            Section::Superblock => {
                self.section = Section::After;
                return Ok(None);
            }
            Section::Before | Section::After => return Err("an end of nothing".to_owned()),
        };
        self.section = Section::Superblock;
        Ok(Some(item))
    }

    /// The input ends.
    pub fn finish(&self) -> Result<(), Wrong> {
        let text = match self.section {
            Section::After => return Ok(()),
            Section::Before => "it ends without a superblock",
            Section::Superblock => "it ends inside of <superblock>",
            Section::Device => "it ends inside of <device>",
            Section::Def(_) => "it ends inside of <def>",
        };
        Err(text.to_owned())
    }
}

/// What a tag begins.
pub(super) enum Start {
    Item(Item),
    Mapping(Run),
}

/// A mapping's tag, in whatever order its attributes are.
fn mapping(tag: &BytesStart<'_>) -> Result<Run, Wrong> {
    if tag.name().as_ref() == "single_mapping" {
        let found = Attributes::read(tag, &["origin_block", "data_block", "time"])?;
        return Ok(Run {
            virtual_begin: found.number("origin_block")?,
            data_begin: found.number("data_block")?,
            length_blocks: 1,
            time: found.number("time")?,
        });
    }
    let known = ["origin_begin", "data_begin", "length", "time"];
    let found = Attributes::read(tag, &known)?;
    Ok(Run {
        virtual_begin: found.number("origin_begin")?,
        data_begin: found.number("data_begin")?,
        length_blocks: found.number("length")?,
        time: found.number("time")?,
    })
}
