//! Ways to spoil an image. Each answers with its story, and whether it made a
//! checksum right again: only then may a reader be fooled.

use super::law::{Verdict, judge};
use super::shapes::{
    bent_pointer, cycle, deep_chain, graft, other_kind, overwrite, swap, swap_sealed, truncate,
};
use super::victim::{Role, Victim};
use crate::model::{Node, node};
use crate::support::chance::Chance;
use crate::support::image::{BLOCK, Image, Kind, read_field};

/// What was done.
pub struct Done {
    pub story: String,
    pub sealed: bool,
}

impl Done {
    pub fn sealed(story: String) -> Self {
        Self {
            story,
            sealed: true,
        }
    }

    pub fn raw(story: String) -> Self {
        Self {
            story,
            sealed: false,
        }
    }
}

/// A way to spoil an image.
pub type Mutation = fn(&Victim, &mut Chance<'_>, &mut Image) -> Done;

/// One byte of a reachable block.
pub fn flip_reachable(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    flip(chance.pick(&victim.reachable), chance, image)
}

/// One byte anywhere.
pub fn flip_anywhere(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    flip(chance.below(victim.image.nr_blocks()), chance, image)
}

fn flip(at: u64, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let bits = 1 + chance.below(255) as u8;
    // The beginning of a block has the most to say.
    let end = chance.pick(&[64, BLOCK, BLOCK]);
    let offset = chance.index(end);
    image.change(at, |block| block[offset] ^= bits);
    Done::raw(format!("byte {offset} of block {at} ^ {bits:#x}"))
}

/// Zero, the largest, something random, or near what is there.
fn number(chance: &mut Chance<'_>, now: u64, near: &[u64]) -> u64 {
    let near = match near {
        [] => now,
        near => chance.pick(near),
    };
    match chance.below(16) {
        0 => 0,
        1 => 1,
        2 | 3 => u64::MAX,
        4 => u64::MAX >> 1,
        5 => 1 << chance.below(64),
        6 => chance.word(),
        7 => chance.below(512),
        8 => near,
        9 | 10 => near.wrapping_add(1),
        11 | 12 => near.wrapping_sub(1),
        13 => now.wrapping_add(1 << 24),
        14 => now.wrapping_sub(1 << 24),
        _ => now ^ 1 << chance.below(64),
    }
}

fn set_field(
    at: u64,
    kind: Kind,
    (offset, size): (usize, usize),
    near: &[u64],
    chance: &mut Chance<'_>,
    image: &mut Image,
) -> Done {
    let now = image
        .block(at)
        .map_or(0, |block| read_field(block, offset, size));
    let value = number(chance, now, near);
    image.set(at, kind, offset, size, value);
    Done::sealed(format!("{kind:?} {at} at {offset}: {now} = {value}"))
}

/// Fields of a superblock: offset and size.
pub const SUPERBLOCK_FIELDS: [(usize, usize); 27] = [
    (4, 4),
    (8, 8),
    (16, 8),
    (24, 8),
    (32, 8),
    (40, 4),
    (44, 4),
    (48, 8),
    (56, 8),
    (64, 8),
    (72, 8),
    (80, 8),
    (88, 8),
    (96, 8),
    (192, 8),
    (200, 8),
    (208, 8),
    (216, 8),
    (224, 8),
    (320, 8),
    (328, 8),
    (336, 4),
    (340, 4),
    (344, 8),
    (352, 4),
    (356, 4),
    (360, 4),
];

/// A field of block 0 or of the metadata snapshot.
pub fn superblock_field(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.blocks_of(Role::Superblock));
    let field = chance.pick(&SUPERBLOCK_FIELDS);
    set_field(at, Kind::Superblock, field, &[], chance, image)
}

/// Sizes that no device has: of the space maps, of a data block.
pub fn extreme_size(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.blocks_of(Role::Superblock));
    let (field, values): ((usize, usize), &[u64]) = match chance.below(3) {
        0 => (
            (336, 4),
            &[0, 1, 64, 127, 192, 2_097_152, 2_097_280, 1 << 31, u64::MAX],
        ),
        _ => (
            (chance.pick(&[64, 72, 192, 200]), 8),
            &[
                0,
                1,
                16_320,
                16_321,
                4_161_600,
                4_161_601,
                1 << 32,
                1 << 40,
                1 << 63,
                u64::MAX,
            ],
        ),
    };
    let value = chance.pick(values);
    image.set(at, Kind::Superblock, field.0, field.1, value);
    Done::sealed(format!("superblock {at} at {}: {value}", field.0))
}

/// A field of a node's header.
pub fn node_header(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.nodes);
    let field = chance.pick(&[(4, 4), (8, 8), (16, 4), (20, 4), (24, 4), (28, 4)]);
    set_field(at, Kind::Node, field, &[], chance, image)
}

/// The node as it was before anything was spoiled.
pub(super) fn whole(victim: &Victim, at: u64) -> Node<'_> {
    node(&victim.image, at).unwrap()
}

/// A key, or the first slot behind the keys.
pub fn node_key(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.nodes);
    let node = whole(victim, at);
    let index = chance.index(node.entries + 1).min(node.capacity - 1);
    let around = [index.saturating_sub(1), index, index + 1];
    let near = around.map(|index| node.key(index.min(node.capacity - 1)));
    set_field(at, Kind::Node, (32 + 8 * index, 8), &near, chance, image)
}

/// A value, or a field of one.
pub fn node_value(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.nodes);
    let node = whole(victim, at);
    let index = chance.index(node.entries + 1).min(node.capacity - 1);
    let field = match node.value_size {
        24 => chance.pick(&[(0, 8), (8, 8), (16, 4), (20, 4)]),
        16 => chance.pick(&[(0, 8), (8, 4), (12, 4)]),
        size => (0, size),
    };
    let around = [index.saturating_sub(1), index + 1];
    let near = around.map(|index| {
        let offset = node.value_offset(index.min(node.capacity - 1));
        read_field(node.bytes, offset + field.0, field.1)
    });
    let field = (node.value_offset(index) + field.0, field.1);
    set_field(at, Kind::Node, field, &near, chance, image)
}

/// The two bits of one block in a bitmap.
pub fn bitmap_entry(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.blocks_of(Role::Bitmap));
    let end = chance.pick(&[64, 1024, 16_320]);
    let index = chance.index(end);
    let bits = 1 + chance.below(3) as u8;
    image.reseal(at, Kind::Bitmap, |block| {
        block[16 + index / 4] ^= bits << (2 * (index % 4));
    });
    Done::sealed(format!("entry {index} of bitmap {at} ^ {bits}"))
}

/// A field of the metadata index, used or not; of a bitmap's or an index's header.
pub fn index_entry(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let index = victim.live.metadata.bitmap_root;
    let at = match chance.below(4) {
        0 => chance.pick(&victim.blocks_of(Role::Bitmap)),
        _ => index,
    };
    let entry = 16 + 16 * chance.index(2);
    let field = match chance.below(4) {
        0 => chance.pick(&[(4, 4), (8, 8)]),
        _ => chance.pick(&[(entry, 8), (entry + 8, 4), (entry + 12, 4)]),
    };
    let kind = victim.roles[&at].kind();
    set_field(at, kind, field, &[], chance, image)
}

/// All that spoil one thing.
const SINGLE: [Mutation; 18] = [
    flip_reachable,
    flip_anywhere,
    superblock_field,
    extreme_size,
    node_header,
    node_key,
    node_value,
    bitmap_entry,
    index_entry,
    bent_pointer,
    cycle,
    deep_chain,
    swap,
    swap_sealed,
    other_kind,
    overwrite,
    truncate,
    graft,
];

/// One of them.
pub fn any(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    chance.pick(&SINGLE)(victim, chance, image)
}

/// Two to five of them.
pub fn several_at_once(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let many = 2 + chance.below(4);
    let done: Vec<Done> = (0..many).map(|_| any(victim, chance, image)).collect();
    let stories: Vec<&str> = done.iter().map(|done| &done.story[..]).collect();
    Done {
        sealed: done.iter().any(|done| done.sealed),
        story: stories.join("; "),
    }
}

/// A case by a fuzzer's bytes: which image, what is done to it, as long as there
/// are bytes, and what is asked then. Says what was done where the law is broken.
pub fn judge_bytes(victims: &[Victim], bytes: &[u8]) -> Result<Verdict, String> {
    let mut chance = Chance::Bytes(bytes);
    let victim = &victims[chance.index(victims.len())];
    let (mut image, mut done) = (victim.image.clone(), Vec::new());
    let questions = chance.word();
    while done.len() < 8 && !chance.is_empty() {
        done.push(any(victim, &mut chance, &mut image));
    }
    let sealed = done.iter().any(|done| done.sealed);
    let verdict = judge(victim, &image, sealed, &mut Chance::Seed(questions));
    verdict.map_err(|law| {
        let stories: Vec<&str> = done.iter().map(|done| &done.story[..]).collect();
        format!("{}: {}\n    {law}", victim.name, stories.join("; "))
    })
}
