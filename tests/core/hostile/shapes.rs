//! Ways to spoil how blocks hang together: pointers, loops, whole blocks.

use super::mutation::{Done, whole};
use super::victim::{Role, Victim};
use crate::model::node;
use crate::support::chance::Chance;
use crate::support::image::{BLOCK, Image, Kind, read_u64, write_field};

/// A root or child that leads to another block in use: up, sideways, elsewhere.
pub fn bent_pointer(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let mut from = victim.internal.clone();
    from.extend(victim.blocks_of(Role::TopLevel));
    from.push(0);
    let at = chance.pick(&from);
    let target = match chance.below(4) {
        0 => at,
        1 => chance.pick(&victim.nodes),
        _ => chance.pick(&victim.reachable),
    };
    if at == 0 {
        let place = chance.pick(&[56, 80, 88, 208, 216, 320, 328]);
        image.set(0, Kind::Superblock, place, 8, target);
        return Done::sealed(format!("root at {place} = {target}"));
    }
    let node = whole(victim, at);
    let index = chance.index(node.entries.max(1));
    image.set(at, Kind::Node, node.value_offset(index), 8, target);
    Done::sealed(format!("pointer {index} of node {at} = {target}"))
}

/// A node all of whose children are itself, its ancestors, its siblings.
pub fn cycle(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.nodes);
    let ways = [at, chance.pick(&victim.nodes), chance.pick(&victim.nodes)];
    let entries = chance.pick(&[1, 2, 84, 252]);
    // Keys that rise from what is there, so that bounds alone do not end it.
    let first = match whole(victim, at) {
        node if node.entries > 0 => node.key(0),
        _ => 0,
    };
    let order = chance.word();
    image.reseal(at, Kind::Node, |block| {
        header(block, 1, entries, 252, 8);
        for index in 0..entries {
            let key = first.saturating_add(index as u64);
            write_field(block, 32 + 8 * index, 8, key);
            let way = ways[(order >> (index % 32) & 1) as usize + index % 2];
            write_field(block, 32 + 8 * 252 + 8 * index, 8, way);
        }
    });
    Done::sealed(format!("node {at} leads to {ways:?} {entries} times"))
}

fn header(block: &mut [u8], flags: u64, entries: usize, capacity: usize, value_size: u64) {
    for (offset, value) in [
        (4, flags),
        (16, entries as u64),
        (20, capacity as u64),
        (24, value_size),
    ] {
        write_field(block, offset, 4, value);
    }
}

/// Nodes with one child each, put between a pointer and what it leads to.
pub fn deep_chain(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let levels = chance.pick(&[1, 2, 13, 14, 15, 16, 17, 40]);
    let places: Vec<u64> = victim.unused.iter().copied().take(levels).collect();
    let (at, offset) = match chance.below(3) {
        0 => (0, chance.pick(&[320, 328, 80, 88, 216])),
        _ => {
            let at = chance.pick(&victim.blocks_of(Role::TopLevel));
            let node = whole(victim, at);
            (at, node.value_offset(chance.index(node.entries.max(1))))
        }
    };
    let block = victim.image.block(at).unwrap();
    let mut below = read_u64(block, offset);
    let first = node(&victim.image, below).map_or(0, |node| match node.entries {
        0 => 0,
        _ => node.key(0),
    });
    for place in &places {
        image.reseal(*place, Kind::Node, |block| {
            block.fill(0);
            header(block, 1, 1, 252, 8);
            write_field(block, 8, 8, *place);
            write_field(block, 32, 8, first);
            write_field(block, 32 + 8 * 252, 8, below);
        });
        below = *place;
    }
    image.set(at, victim.roles[&at].kind(), offset, 8, below);
    Done::sealed(format!(
        "{} nodes before block {at}'s pointer at {offset}",
        places.len()
    ))
}

fn two(victim: &Victim, chance: &mut Chance<'_>) -> (u64, u64) {
    let (one, other) = (
        chance.pick(&victim.reachable),
        chance.pick(&victim.reachable),
    );
    let any = chance.below(victim.image.nr_blocks());
    (one, if one == other { any } else { other })
}

/// Two blocks each in the other's place, as misdirected writes leave them.
pub fn swap(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let (one, other) = two(victim, chance);
    let (first, second) = (
        *victim.image.block(one).unwrap(),
        *victim.image.block(other).unwrap(),
    );
    image.change(one, |block| *block = second);
    image.change(other, |block| *block = first);
    Done::raw(format!("blocks {one} and {other} swapped"))
}

/// The same, each claiming to belong where it is; or one in both places.
pub fn swap_sealed(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let (one, other) = two(victim, chance);
    let (first, second) = (
        *victim.image.block(one).unwrap(),
        *victim.image.block(other).unwrap(),
    );
    let mut place = |at: u64, bytes: [u8; BLOCK]| {
        if let Some(kind) = Kind::of(&bytes) {
            image.reseal(at, kind, |block| {
                *block = bytes;
                write_field(block, 8, 8, at);
            });
        }
    };
    place(one, second);
    if chance.one_in(2) {
        place(other, first);
    }
    Done::sealed(format!("blocks {one} and {other} swapped and sealed"))
}

/// A sound block under the checksum of another kind.
pub fn other_kind(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.reachable);
    let kind = chance.pick(&Kind::ALL);
    image.reseal(at, kind, |_| {});
    Done::sealed(format!("block {at} sealed as {kind:?}"))
}

/// A block overwritten, its checksum right or not.
pub fn overwrite(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let at = chance.pick(&victim.reachable);
    let kind = victim.roles[&at].kind();
    let what = chance.below(4);
    image.change(at, |block| match what {
        0 => block.fill(0),
        1 => block.fill(0xff),
        _ => block
            .chunks_mut(8)
            .for_each(|word| write_field(word, 0, 8, chance.word())),
    });
    let sealed = what == 3;
    if sealed {
        image.reseal(at, kind, |block| write_field(block, 8, 8, at));
    }
    Done {
        story: format!("block {at} overwritten ({what})"),
        sealed,
    }
}

/// A file cut off, at a block's end or anywhere.
pub fn truncate(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let block = BLOCK as u64;
    let at = match chance.below(2) {
        0 => chance.pick(&victim.reachable),
        _ => chance.below(victim.image.nr_blocks()),
    };
    let odd = match chance.below(4) {
        0 => 512 * chance.below(8),
        1 => chance.below(block),
        _ => 0,
    };
    image.truncate(at * block + odd);
    Done::raw(format!("cut to {} bytes", at * block + odd))
}

/// A subtree put where another one of its kind belongs.
pub fn graft(victim: &Victim, chance: &mut Chance<'_>, image: &mut Image) -> Done {
    let parents = victim.internal.iter().copied();
    let parents: Vec<u64> = parents.chain(victim.blocks_of(Role::TopLevel)).collect();
    let at = chance.pick(&parents);
    let to = whole(victim, at);
    // A value of the same node half the time: then the kind fits.
    let from = match chance.below(2) {
        0 => to,
        _ => whole(victim, chance.pick(&parents)),
    };
    if to.entries == 0 || from.entries == 0 {
        return Done::raw("nothing".to_owned());
    }
    let (source, target) = (chance.index(from.entries), chance.index(to.entries));
    let child = from.child(source);
    image.set(at, Kind::Node, to.value_offset(target), 8, child);
    Done::sealed(format!(
        "pointer {target} of node {at} = that at {source} of node {}",
        from.at
    ))
}
