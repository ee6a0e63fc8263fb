//! Whatever is too high or summed up wrong is right afterwards, and nothing else changed.

use std::collections::BTreeSet;
use std::sync::Arc;

use thinmeta::device::{Device, MemoryDevice};
use thinmeta::task::Task;
use thinmeta::thin::{NEEDS_CHECK, read_superblock};
use thinmeta::tools::check::{MendOptions, mend_device};

use super::spoil::Spoil;
use super::{BLOCK, check, without_sums, wrong};
use crate::crash::number;
use crate::model::node;
use crate::support::chance::Chance;
use crate::support::fixtures::{THIN, unpacked};
use crate::support::image::{Image, read_u64};

/// Rounds for each image; `THINMETA_MEND_ROUNDS` asks for more.
const ROUNDS: usize = 2;

/// Images without room for what is put right.
const FULL: &str = "metadata-full";

fn device(image: &[u8]) -> Arc<MemoryDevice> {
    Arc::new(MemoryDevice::writable(image.to_vec()))
}

#[test]
fn what_is_too_high_or_summed_up_wrong_is_put_right() {
    let mut done = 0;
    for name in THIN.into_iter().filter(|name| *name != FULL) {
        let whole = unpacked(&format!("thin/{name}/meta.img"));
        for round in 0..number("THINMETA_MEND_ROUNDS", ROUNDS) {
            let mut chance = Chance::of_case(1, name, round as u64);
            let spoil = Spoil::random(&whole, &mut chance);
            let spoilt = spoil.apply(&whole);
            let before = wrong(&check(&(device(&spoilt) as _)));
            let clears = chance.one_in(2);
            done += usize::from(judge(name, &spoil, &whole, &spoilt, &before, clears));
        }
    }
    assert!(done > THIN.len(), "{done} images had anything wrong");
}

/// Puts an image right; whether there was something to be put right.
fn judge(
    name: &str,
    spoil: &Spoil,
    whole: &[u8],
    spoilt: &[u8],
    before: &[&str],
    clears: bool,
) -> bool {
    let target = device(spoilt);
    let shared: Arc<dyn Device> = Arc::clone(&target) as _;
    let options = MendOptions {
        clear_needs_check: clears,
        ..MendOptions::default()
    };
    let mended = mend_device(Arc::clone(&shared), options, &Task::default());
    let mended = mended.unwrap_or_else(|error| panic!("{name}: {error}: {spoil:?}"));
    assert_eq!(mended.refused, None, "{name}: {before:?}");
    assert_eq!(
        mended.after.is_some(),
        !before.is_empty(),
        "{name}: {before:?}"
    );

    let image = target.contents();
    let report = check(&shared);
    // What a metadata snapshot says of its devices stays.
    let left = wrong(&report);
    let held = read_superblock(&*shared, false).unwrap().held_root.get() != 0;
    assert!(
        left.is_empty() || held && left == ["mapped-blocks-wrong"],
        "{name}: {left:?}"
    );
    let needed = spoil.needs_check || name == "needs-check";
    let needs = read_superblock(&*shared, false).unwrap().flags.get() & NEEDS_CHECK != 0;
    assert_eq!(needs, needed && !(clears && left.is_empty()), "{name}");
    assert_eq!(mended.cleared, needed && !needs, "{name}");

    // Nothing that the pool reached was written to, but block 0, and there the sums alone.
    let reached = reached(spoilt);
    for at in 1..image.len() / BLOCK {
        let same = image[at * BLOCK..][..BLOCK] == spoilt[at * BLOCK..][..BLOCK];
        assert!(
            same || !reached.contains(&(at as u64)),
            "{name}: block {at} was written"
        );
    }
    assert_eq!(without_sums(&image), without_sums(whole), "{name}");
    !before.is_empty()
}

/// Every block that the pool reaches, walked by plain code.
fn reached(bytes: &[u8]) -> BTreeSet<u64> {
    let image = Image::new(bytes.to_vec());
    let mut set = BTreeSet::new();
    let held = read_u64(image.block(0).unwrap(), 56);
    for at in [0, held] {
        set.insert(at);
        let superblock = image.block(at).unwrap();
        let root = |offset| read_u64(superblock, offset);
        walk(&image, root(320), 2, &mut set);
        walk(&image, root(328), 1, &mut set);
    }
    let root = |offset| read_u64(image.block(0).unwrap(), offset);
    // The data map's index entries begin with a block, as roots of trees do.
    walk(&image, root(64 + 16), 1, &mut set);
    for overflow in [root(64 + 24), root(192 + 24)] {
        walk(&image, overflow, 1, &mut set);
    }
    let index = root(192 + 16);
    set.insert(index);
    let entries = image.block(index).unwrap()[16..].chunks_exact(16);
    set.extend(entries.map(|entry| read_u64(entry, 0)));
    set
}

/// A tree of so many levels: leaves of all but the last have roots of others. Leaves of
/// index entries name bitmaps.
fn walk(image: &Image, at: u64, levels: usize, set: &mut BTreeSet<u64>) {
    if !set.insert(at) {
        return;
    }
    let node = node(image, at).unwrap();
    let children = (0..node.entries).map(|index| node.child(index));
    match (node.is_leaf, levels, node.value_size) {
        (false, ..) => children.for_each(|child| walk(image, child, levels, set)),
        (true, 2, _) => children.for_each(|root| walk(image, root, 1, set)),
        (true, _, 16) => set.extend(children),
        _ => {}
    }
}
