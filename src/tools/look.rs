//! look: one metadata block, decoded as far as its bytes go.
//!
//! For people who want to see what stands on a disk. So, unlike everywhere else, damage
//! does not hide the rest: what a block says comes beside what is wrong with it, and
//! whoever shows the one shows the other.

use zerocopy::little_endian::{U32, U64};

use super::check::{Finding, Severity};
use crate::block::{BlockData, Validator, kind_of};
use crate::btree::{NODE_NAME, NODE_VALIDATOR, Node, NodeHeader, check_bounds};
use crate::device::Device;
use crate::disk_space::{
    BITMAP_NAME, BITMAP_VALIDATOR, Bitmap, ENTRIES_PER_BITMAP, INDEX_NAME, INDEX_VALIDATOR,
    IndexEntry, MetadataIndex,
};
use crate::error::Damage;
use crate::thin::{
    DeviceDetails, SUPERBLOCK_NAME, SUPERBLOCK_VALIDATOR, Superblock, describe_foreign,
};
use crate::units::{BLOCK_BYTES, BlockNr};
use crate::walk::irregularities;

/// What a block has to be, by the way that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Block 0, or a metadata snapshot's.
    Superblock,
    /// A node of a tree of this kind, if that is known.
    Node(Option<Tree>),
    /// A bitmap of a space map.
    Bitmap,
    /// The index block of the metadata space map.
    Index,
}

/// What the leaves of a tree hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Numbers: the roots of devices' trees.
    TopLevel,
    /// The same numbers, taken as a device's mappings.
    Mappings,
    /// Details of devices.
    Details,
    /// Entries of a data space map's index.
    Index,
    /// Counts of three and more.
    Counts,
}

/// How a block was come by.
#[derive(Clone, Copy, Debug, Default)]
pub struct Way {
    /// What it has to be.
    pub expected: Option<Expected>,
    /// Its keys are not below this one, where a parent says so. A root has none.
    pub low: Option<u64>,
    /// And below this one.
    pub high: Option<u64>,
}

/// What is in a block.
#[derive(Debug)]
pub struct Looked<'a> {
    /// The kind that its checksum says, if it is a known one's.
    pub kind: Option<&'static str>,
    /// What is wrong with it, by itself and by the way that led to it.
    pub findings: Vec<Finding>,
    /// What its bytes mean; not to be trusted beside a finding.
    pub content: Content<'a>,
}

/// What the bytes mean.
#[derive(Debug)]
pub enum Content<'a> {
    /// Nothing: they are all zero.
    Zeros,
    /// Nothing that is known here.
    Unknown,
    /// A superblock.
    Superblock(&'a Superblock),
    /// A node.
    Node {
        /// As it stands there.
        header: &'a NodeHeader,
        /// `None`: the header lies about them.
        entries: Option<(&'a [U64], Values<'a>)>,
    },
    /// The entries of a bitmap, each 0 to 3.
    Bitmap(Vec<u8>),
    /// All entries of an index block, in use or not.
    Index(&'a [IndexEntry]),
}

/// The values of a node, as many as keys.
#[derive(Debug)]
pub enum Values<'a> {
    /// Blocks of an internal node's children.
    Children(&'a [U64]),
    /// Roots of trees, or mappings: numbers.
    Numbers(&'a [U64]),
    /// Details of devices.
    Details(&'a [DeviceDetails]),
    /// Entries of an index.
    Index(&'a [IndexEntry]),
    /// Reference counts.
    Counts(&'a [U32]),
    /// Of a size that no tree of a pool has.
    Other,
}

/// Reads a block. One that cannot be read is a finding as well.
///
/// # Errors
/// The finding, where there are no bytes to be shown.
pub fn read(
    device: &dyn Device,
    at: BlockNr,
    expected: Option<Expected>,
) -> Result<BlockData, Box<Finding>> {
    let name = expected.map_or(NODE_NAME, Expected::name);
    let bad = |check, found: String, expected: String| {
        let damage = Damage::new(at, name, check, found, expected);
        Box::new(Finding::from_damage(name, &damage))
    };
    let blocks = device.size_bytes() / BLOCK_BYTES as u64;
    if at.0 >= blocks {
        return Err(bad("pointer", at.to_string(), format!("below {blocks}")));
    }
    let mut block = BlockData::zeroed();
    match device.read_exact_at(block.bytes_mut(), at.0 * BLOCK_BYTES as u64) {
        Ok(()) => Ok(block),
        Err(error) => Err(bad("read", error.to_string(), "4096 bytes".to_owned())),
    }
}

/// Decodes a block of a device of so many.
#[must_use]
pub fn look(at: BlockNr, block: &BlockData, way: Way, device_blocks: u64) -> Looked<'_> {
    let kind = kind_of(block).map(|(kind, _)| kind);
    let expected = way.expected.or_else(|| kind.and_then(Expected::of_kind));
    let Some(wanted) = expected else {
        let content = if block.is_zero() {
            Content::Zeros
        } else {
            Content::Unknown
        };
        return Looked {
            kind,
            findings: Vec::new(),
            content,
        };
    };
    let mut damage = wanted.validator().check(at, block).err();
    // What stands there is shown, not what should.
    let content = match kind.map(Expected::of_kind) {
        Some(None) => Content::Unknown,
        Some(Some(found)) if found.name() != wanted.name() => decode(at, block, found, &mut damage),
        _ if block.is_zero() => Content::Zeros,
        _ => decode(at, block, wanted, &mut damage),
    };
    let findings = match damage {
        Some(damage) => vec![tell(at, block, wanted, &damage)],
        None => further(at, block, &content, way, device_blocks),
    };
    Looked {
        kind,
        findings,
        content,
    }
}

/// What is wrong with a block that its validator accepts.
fn further(
    at: BlockNr,
    block: &BlockData,
    content: &Content<'_>,
    way: Way,
    device_blocks: u64,
) -> Vec<Finding> {
    match content {
        Content::Superblock(superblock) => {
            if let Some(reason) = superblock.unsupported() {
                let severity = Severity::Fatal;
                return vec![Finding::new("superblock-damaged", severity, reason)];
            }
            let wrong = superblock.check_geometry(at, device_blocks).err();
            let finding = wrong.map(|damage| {
                let mut finding = Finding::from_damage(SUPERBLOCK_NAME, &damage);
                finding.code = "bad-geometry";
                finding
            });
            finding.into_iter().collect()
        }
        Content::Node { .. } => {
            let Ok(node) = Node::parse(at, block) else {
                return Vec::new();
            };
            let strays = check_bounds(&node, way.low, way.high).err();
            let damages = strays
                .into_iter()
                .chain(irregularities(&node, way.low.is_none()));
            damages
                .map(|damage| Finding::from_damage(NODE_NAME, &damage))
                .collect()
        }
        _ => Vec::new(),
    }
}

fn tell(at: BlockNr, block: &BlockData, wanted: Expected, damage: &Damage) -> Finding {
    let mut finding = Finding::from_damage(wanted.name(), damage);
    if at.0 == 0 && wanted == Expected::Superblock {
        let what = block.is_zero().then_some("zeros and nothing else");
        if let Some(what) = what.or_else(|| describe_foreign(block)) {
            finding.message = format!("{}: this looks like {what}", finding.message);
        }
    }
    finding
}

fn decode<'a>(
    at: BlockNr,
    block: &'a BlockData,
    kind: Expected,
    damage: &mut Option<Damage>,
) -> Content<'a> {
    match kind {
        Expected::Superblock => Content::Superblock(block.view()),
        Expected::Bitmap => {
            let bitmap: &Bitmap = block.view();
            let entries = 0..ENTRIES_PER_BITMAP;
            Content::Bitmap(
                entries
                    .map(|index| bitmap.entry(index).to_le_bytes()[0])
                    .collect(),
            )
        }
        Expected::Index => Content::Index(&block.view::<MetadataIndex>().entries),
        Expected::Node(tree) => {
            let entries = Node::parse(at, block).and_then(|node| entries_of(&node, tree));
            Content::Node {
                header: block.view(),
                entries: entries.map_err(|found| damage.get_or_insert(found)).ok(),
            }
        }
    }
}

fn entries_of<'a>(node: &Node<'a>, tree: Option<Tree>) -> Result<(&'a [U64], Values<'a>), Damage> {
    let values = if !node.is_leaf() {
        Values::Children(node.children()?)
    } else {
        match (tree, node.header().value_size.get()) {
            (Some(Tree::TopLevel | Tree::Mappings), _) | (None, 8) => {
                Values::Numbers(node.values()?)
            }
            (Some(Tree::Details), _) | (None, 24) => Values::Details(node.values()?),
            (Some(Tree::Index), _) | (None, 16) => Values::Index(node.values()?),
            (Some(Tree::Counts), _) | (None, 4) => Values::Counts(node.values()?),
            (None, _) => Values::Other,
        }
    };
    Ok((node.keys(), values))
}

impl Expected {
    fn of_kind(kind: &str) -> Option<Self> {
        Some(match kind {
            SUPERBLOCK_NAME => Self::Superblock,
            NODE_NAME => Self::Node(None),
            BITMAP_NAME => Self::Bitmap,
            INDEX_NAME => Self::Index,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Self::Superblock => SUPERBLOCK_NAME,
            Self::Node(_) => NODE_NAME,
            Self::Bitmap => BITMAP_NAME,
            Self::Index => INDEX_NAME,
        }
    }

    fn validator(self) -> &'static dyn Validator {
        match self {
            Self::Superblock => &SUPERBLOCK_VALIDATOR,
            Self::Node(_) => &NODE_VALIDATOR,
            Self::Bitmap => &BITMAP_VALIDATOR,
            Self::Index => &INDEX_VALIDATOR,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::MemoryDevice;

    /// A leaf for counts with one entry, in block 2.
    fn leaf() -> BlockData {
        let mut block = BlockData::zeroed();
        for (offset, word) in [(4, 2_u32), (16, 1), (20, 336), (24, 4), (32, 70)] {
            block.bytes_mut()[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
        }
        block.bytes_mut()[32 + 8 * 336] = 5;
        NODE_VALIDATOR.seal(BlockNr(2), &mut block);
        block
    }

    fn codes(looked: &Looked<'_>) -> Vec<&'static str> {
        looked.findings.iter().map(|finding| finding.code).collect()
    }

    /// Of a device of ten blocks.
    fn looked_at(at: u64, block: &BlockData, expected: Option<Expected>) -> Looked<'_> {
        let way = Way {
            expected,
            ..Way::default()
        };
        look(BlockNr(at), block, way, 10)
    }

    #[test]
    fn a_sound_leaf_is_decoded_with_and_without_knowing_its_tree() {
        let block = leaf();
        for tree in [None, Some(Tree::Counts)] {
            for expected in [None, Some(Expected::Node(tree))] {
                let looked = looked_at(2, &block, expected);
                assert_eq!((looked.kind, codes(&looked)), (Some(NODE_NAME), vec![]));
                let Content::Node { entries, .. } = looked.content else {
                    panic!("{:?}", looked.content)
                };
                let Some(([key], Values::Counts([count]))) = entries else {
                    panic!("{entries:?}")
                };
                assert_eq!((key.get(), count.get()), (70, 5));
            }
        }
    }

    #[test]
    fn a_leaf_of_another_tree_is_a_finding_without_entries() {
        let block = leaf();
        let looked = looked_at(2, &block, Some(Expected::Node(Some(Tree::Details))));
        assert_eq!(codes(&looked), ["node-damaged"]);
        assert!(matches!(
            looked.content,
            Content::Node { entries: None, .. }
        ));
    }

    #[test]
    fn a_flipped_bit_is_a_finding_beside_what_stands_there() {
        let mut block = leaf();
        block.bytes_mut()[32 + 8 * 336] ^= 2;
        let looked = looked_at(2, &block, Some(Expected::Node(None)));
        assert_eq!((looked.kind, codes(&looked)), (None, vec!["node-damaged"]));
        assert!(matches!(
            looked.content,
            Content::Node {
                entries: Some(_),
                ..
            }
        ));
        let unasked = looked_at(2, &block, None);
        assert!(matches!(unasked.content, Content::Unknown));
    }

    #[test]
    fn what_a_parent_promises_is_looked_for() {
        let block = leaf();
        let under = |low, high| {
            let way = Way {
                expected: None,
                low,
                high,
            };
            codes(&look(BlockNr(2), &block, way, 10))
        };
        assert_eq!(under(Some(71), None), ["bad-key-order", "node-underfull"]);
        assert_eq!(under(None, Some(70)), ["bad-key-order"]);
        assert_eq!(under(Some(70), Some(71)), ["node-underfull"]);
        assert_eq!(under(None, None), [""; 0]);
    }

    #[test]
    fn another_kind_than_expected_is_shown_as_what_it_is() {
        let block = leaf();
        let looked = looked_at(2, &block, Some(Expected::Bitmap));
        assert_eq!(codes(&looked), ["space-map-damaged"]);
        assert!(matches!(looked.content, Content::Node { .. }));
    }

    #[test]
    fn zeros_and_places_beyond_the_end_are_told() {
        let zeros = BlockData::zeroed();
        assert!(matches!(looked_at(9, &zeros, None).content, Content::Zeros));
        let looked = looked_at(0, &zeros, Some(Expected::Superblock));
        assert_eq!(codes(&looked), ["superblock-damaged"]);
        assert!(looked.findings[0].message.ends_with("nothing else"));
        let device = MemoryDevice::writable(vec![0; 2 * BLOCK_BYTES]);
        assert!(read(&device, BlockNr(1), None).is_ok());
        for beyond in [2, u64::MAX] {
            let found = read(&device, BlockNr(beyond), None).err();
            assert_eq!(found.map(|finding| finding.code), Some("bad-pointer"));
        }
    }

    #[test]
    fn sizes_that_cannot_be_are_told_of_a_sound_superblock() {
        let mut block = BlockData::zeroed();
        let superblock: &mut Superblock = block.view_mut();
        superblock.magic = 27_022_010.into();
        superblock.version = 2.into();
        SUPERBLOCK_VALIDATOR.seal(BlockNr(0), &mut block);
        let looked = looked_at(0, &block, None);
        assert_eq!(codes(&looked), ["bad-geometry"]);
        block.view_mut::<Superblock>().version = 3.into();
        SUPERBLOCK_VALIDATOR.seal(BlockNr(0), &mut block);
        assert_eq!(codes(&looked_at(0, &block, None)), ["superblock-damaged"]);
    }
}
