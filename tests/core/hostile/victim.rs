//! An image to be spoiled, and what it is made of.

use std::collections::BTreeMap;

use thinmeta::task::Task;
use thinmeta::thin::Snapshot;

use super::law::{check, told};
use crate::model::{Listing, Superblock, Walk, list, superblock};
use crate::support::image::{BLOCK, Image, Kind, read_u64};

/// What a reachable block is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    Superblock,
    Details,
    TopLevel,
    Mappings,
    DataIndex,
    Overflow,
    MetadataIndex,
    Bitmap,
}

impl Role {
    pub fn kind(self) -> Kind {
        match self {
            Self::Superblock => Kind::Superblock,
            Self::MetadataIndex => Kind::Index,
            Self::Bitmap => Kind::Bitmap,
            _ => Kind::Node,
        }
    }
}

/// A whole image, and everything known of it.
pub struct Victim {
    pub name: &'static str,
    pub image: Image,
    pub live: Superblock,
    pub listing: Listing,
    /// The metadata snapshot's block and listing.
    pub held: Option<(u64, Listing)>,
    /// Every reachable block.
    pub roles: BTreeMap<u64, Role>,
    pub reachable: Vec<u64>,
    pub nodes: Vec<u64>,
    pub internal: Vec<u64>,
    pub unused: Vec<u64>,
    /// What a check says of it.
    pub told: String,
}

impl Victim {
    pub fn new(name: &'static str, image: Image) -> Self {
        let live = superblock(&image, 0, image.nr_blocks()).unwrap();
        let mut roles = BTreeMap::new();
        name_roots(&image, 0, &live, &mut roles);
        name_maps(&image, &live, &mut roles);
        let mut held = None;
        if live.held_root != 0 {
            let there = superblock(&image, live.held_root, image.nr_blocks()).unwrap();
            name_roots(&image, live.held_root, &there, &mut roles);
            held = Some((live.held_root, list(&image, live.held_root).unwrap()));
        }
        let is_node = |at: &u64| roles[at].kind() == Kind::Node;
        let nodes: Vec<u64> = roles.keys().copied().filter(is_node).collect();
        let is_internal = |at: &u64| image.block(*at).unwrap()[4] == 1;
        Self {
            name,
            live,
            listing: list(&image, 0).unwrap(),
            held,
            reachable: roles.keys().copied().collect(),
            internal: nodes.iter().copied().filter(is_internal).collect(),
            nodes,
            unused: (0..image.nr_blocks())
                .filter(|at| !roles.contains_key(at))
                .collect(),
            told: told(&check(&image, Snapshot::None, &Task::new(None, Some(1)))),
            roles,
            image,
        }
    }

    /// Whether `image` differs from the whole one in a reachable block.
    pub fn is_touched(&self, image: &Image) -> bool {
        image.nr_blocks() < self.image.nr_blocks()
            || self
                .reachable
                .iter()
                .any(|at| image.block(*at) != self.image.block(*at))
    }

    /// Some block with this role, if there is one.
    pub fn blocks_of(&self, role: Role) -> Vec<u64> {
        let of_role = self.roles.iter().filter(|(_, is)| **is == role);
        of_role.map(|(at, _)| *at).collect()
    }
}

/// Names the blocks that a superblock's two trees reach.
pub fn name_roots(image: &Image, at: u64, read: &Superblock, roles: &mut BTreeMap<u64, Role>) {
    let mut name = |role, root, value_size| {
        let mut leaves = Vec::new();
        let walk = Walk::lenient(image, value_size);
        let visited = walk.visit(root, &mut |node| {
            roles.insert(node.at, role);
            if node.is_leaf && role == Role::TopLevel {
                leaves.extend((0..node.entries).map(|index| node.child(index)));
            }
        });
        visited.unwrap();
        leaves
    };
    name(Role::Details, read.details_root, 24);
    for root in name(Role::TopLevel, read.mapping_root, 8) {
        name(Role::Mappings, root, 8);
    }
    roles.insert(at, Role::Superblock);
}

fn name_maps(image: &Image, live: &Superblock, roles: &mut BTreeMap<u64, Role>) {
    for map in [&live.data, &live.metadata] {
        let walk = Walk::lenient(image, 4);
        let overflow = walk.visit(map.ref_count_root, &mut |node| {
            roles.insert(node.at, Role::Overflow);
        });
        overflow.unwrap();
    }
    let mut bitmaps = Vec::new();
    let walk = Walk::lenient(image, 16);
    let index = walk.visit(live.data.bitmap_root, &mut |node| {
        roles.insert(node.at, Role::DataIndex);
        if node.is_leaf {
            bitmaps.extend((0..node.entries).map(|index| read_u64(node.value(index), 0)));
        }
    });
    index.unwrap();
    let at = live.metadata.bitmap_root;
    roles.insert(at, Role::MetadataIndex);
    let many = usize::try_from(live.metadata.nr_blocks.div_ceil(16320)).unwrap();
    let block = image.block(at).unwrap();
    bitmaps.extend((0..many.min(BLOCK / 16)).map(|index| read_u64(block, 16 + 16 * index)));
    roles.extend(bitmaps.into_iter().map(|at| (at, Role::Bitmap)));
}
