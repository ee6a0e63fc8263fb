//! Each row of docs/format.md, "What a strict reader checks": the defect alone,
//! below the live roots and below those of a metadata snapshot, and what `check`
//! has to say of it.

mod devices;
mod nodes;
mod places;
mod space_maps;
mod superblocks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::LazyLock;

use thinmeta::task::Task;
use thinmeta::thin::Snapshot;
use thinmeta::tools::check::{CheckReport, Severity};

use crate::hostile::law::check;
use crate::hostile::victim::{Role, name_roots};
use crate::model::{Node, Superblock, node, superblock};
use crate::support::fixtures;
use crate::support::image::{Image, Kind, write_field};

/// Every code, and how bad it is.
const CODES: [(&str, Severity); 27] = [
    ("superblock-damaged", Severity::Fatal),
    ("bad-geometry", Severity::Fatal),
    ("metadata-snapshot-damaged", Severity::Fatal),
    ("needs-check", Severity::Info),
    ("node-damaged", Severity::Fatal),
    ("bad-key-order", Severity::Fatal),
    ("bad-pointer", Severity::Fatal),
    ("tree-loop", Severity::Fatal),
    ("node-underfull", Severity::NonFatal),
    ("node-capacity", Severity::NonFatal),
    ("bad-device-id", Severity::Fatal),
    ("device-without-mappings", Severity::Fatal),
    ("mappings-without-device", Severity::Fatal),
    ("mapped-blocks-wrong", Severity::NonFatal),
    ("mapping-beyond-data", Severity::Fatal),
    ("mapping-beyond-volume", Severity::Fatal),
    ("mapping-time", Severity::Fatal),
    ("mapping-doubled", Severity::Fatal),
    ("doubled-not-checked", Severity::Info),
    ("data-count-low", Severity::Fatal),
    ("metadata-count-low", Severity::Fatal),
    ("data-leak", Severity::NonFatal),
    ("metadata-leak", Severity::NonFatal),
    ("space-map-overflow", Severity::Fatal),
    ("space-map-damaged", Severity::Fatal),
    ("space-map-summary", Severity::NonFatal),
    ("leaks-not-checked", Severity::Info),
];

/// Those after which references are missing.
const LOST: [&str; 8] = [
    "bad-key-order",
    "bad-pointer",
    "device-without-mappings",
    "mapping-beyond-data",
    "mappings-without-device",
    "metadata-snapshot-damaged",
    "node-damaged",
    "tree-loop",
];

/// Of whose trees a block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    Live,
    Held,
}

/// A clean pool with a metadata snapshot, whose roots share most of their nodes.
struct Whole {
    image: Image,
    live: Superblock,
    held: Superblock,
    /// Blocks that only these roots reach.
    own: [BTreeMap<u64, Role>; 2],
}

static WHOLE: LazyLock<Whole> = LazyLock::new(|| Whole::of("kernel-7.2"));

impl Whole {
    fn of(name: &str) -> Self {
        let image = fixtures::thin(name);
        let live = superblock(&image, 0, image.nr_blocks()).unwrap();
        let held = superblock(&image, live.held_root, image.nr_blocks()).unwrap();
        let (mut of_live, mut of_held) = (BTreeMap::new(), BTreeMap::new());
        name_roots(&image, 0, &live, &mut of_live);
        name_roots(&image, live.held_root, &held, &mut of_held);
        let without = |these: &BTreeMap<u64, Role>, those: &BTreeMap<u64, Role>| {
            let own = these.iter().filter(|(at, _)| !those.contains_key(at));
            own.map(|(at, role)| (*at, *role)).collect()
        };
        let own = [without(&of_live, &of_held), without(&of_held, &of_live)];
        Self {
            image,
            live,
            held,
            own,
        }
    }

    fn superblock_at(&self, root: Root) -> u64 {
        match root {
            Root::Live => 0,
            Root::Held => self.live.held_root,
        }
    }

    fn roots(&self, root: Root) -> &Superblock {
        match root {
            Root::Live => &self.live,
            Root::Held => &self.held,
        }
    }

    /// A node that only these roots reach, of which `wanted` holds.
    fn node(&self, root: Root, role: Role, wanted: impl Fn(&Node<'_>) -> bool) -> Node<'_> {
        let own = self.own[root as usize].iter();
        let mut nodes = own
            .filter(|(_, is)| **is == role)
            .map(|(at, _)| node(&self.image, *at).unwrap());
        nodes
            .find(wanted)
            .unwrap_or_else(|| panic!("no {role:?} of {root:?}"))
    }

    /// A mapping leaf that is no root, with its parent and its place there.
    fn leaf_below(&self, root: Root) -> (Node<'_>, Node<'_>, usize) {
        let own = &self.own[root as usize];
        let mut parent = self.node(root, Role::Mappings, |node| {
            !node.is_leaf && (0..node.entries).any(|index| own.contains_key(&node.child(index)))
        });
        let index = (0..parent.entries)
            .find(|index| own.contains_key(&parent.child(*index)))
            .unwrap();
        let mut leaf = node(&self.image, parent.child(index)).unwrap();
        if !leaf.is_leaf {
            (parent, leaf) = (leaf, node(&self.image, leaf.child(0)).unwrap());
        }
        (leaf, parent, index)
    }

    /// Blocks that nothing leads to, ascending.
    fn unused(&self) -> Vec<u64> {
        let victim = crate::hostile::victim::Victim::new("", self.image.clone());
        victim.unused
    }

    /// A mapping leaf with a few entries that only these roots reach.
    fn leaf(&self, root: Root) -> Node<'_> {
        self.node(root, Role::Mappings, |node| {
            node.is_leaf && node.entries > 90
        })
    }

    /// What the checks say of a spoiled copy: of all roots, and of the metadata
    /// snapshot alone.
    fn finds(&self, root: Root, codes: &[&str], alone: &[&str], spoil: impl Fn(&mut Image)) {
        let mut image = self.image.clone();
        spoil(&mut image);
        let told = codes_of(&image, Snapshot::None);
        let expected: BTreeSet<&str> = codes.iter().copied().collect();
        assert_eq!(told, expected, "{root:?}");
        let held = codes_of(&image, Snapshot::Held);
        assert_eq!(held, alone.iter().copied().collect(), "{root:?}, -m");
    }

    /// As [`Self::finds`], for a defect in a tree of either.
    fn finds_in_tree(&self, root: Root, codes: &[&str], spoil: impl Fn(&mut Image)) {
        let counts = |code: &&&str| !code.ends_with("-leak") && !code.ends_with("-low");
        let alone: Vec<&str> = match root {
            Root::Live => Vec::new(),
            Root::Held => codes.iter().filter(counts).copied().collect(),
        };
        self.finds(root, codes, &alone, spoil);
    }
}

fn severity(code: &str) -> Severity {
    let known = CODES.iter().find(|known| known.0 == code);
    known
        .unwrap_or_else(|| panic!("{code} is not documented"))
        .1
}

fn report(image: &Image, snapshot: Snapshot) -> CheckReport {
    check(image, snapshot, &Task::new(None, Some(2))).unwrap()
}

/// The codes of a check, each of the severity that is promised.
fn codes_of(image: &Image, snapshot: Snapshot) -> BTreeSet<&'static str> {
    let report = report(image, snapshot);
    for finding in &report.findings {
        assert_eq!(finding.severity, severity(finding.code), "{finding:?}");
    }
    let bad = |finding: &&thinmeta::tools::check::Finding| finding.severity != Severity::Info;
    assert_eq!(
        report.is_clean(),
        !report.findings.iter().any(|finding| bad(&finding))
    );
    let mut codes: BTreeSet<_> = report.findings.iter().map(|finding| finding.code).collect();
    // Where references may be unknown, leaks are not looked for, and that is told.
    let quiet = codes.remove("leaks-not-checked");
    let lost = codes.iter().any(|code| LOST.contains(code));
    assert!(quiet || snapshot != Snapshot::None || !lost, "{codes:?}");
    codes
}

/// Sets a field of a node's header under a valid checksum.
fn set_header(image: &mut Image, at: u64, offset: usize, value: u64) {
    image.set(at, Kind::Node, offset, 4, value);
}

/// Sets a key under a valid checksum.
fn set_key(image: &mut Image, node: &Node<'_>, index: usize, key: u64) {
    image.set(node.at, Kind::Node, 32 + 8 * index, 8, key);
}

/// Sets a value of 8 bytes, or a field of a longer one, under a valid checksum.
fn set_value(
    image: &mut Image,
    node: &Node<'_>,
    index: usize,
    (offset, size): (usize, usize),
    value: u64,
) {
    image.reseal(node.at, Kind::Node, |block| {
        write_field(block, node.value_offset(index) + offset, size, value);
    });
}

#[test]
fn every_whole_pool_is_clean_and_its_findings_are_those_known() {
    for name in fixtures::THIN {
        let image = fixtures::thin(name);
        let expected = match name {
            // One data block was allocated when the commit failed.
            "metadata-full" => BTreeSet::from(["data-leak", "needs-check"]),
            "needs-check" => BTreeSet::from(["needs-check"]),
            _ => BTreeSet::new(),
        };
        assert_eq!(codes_of(&image, Snapshot::None), expected, "{name}");
        if fixtures::HELD.contains(&name) {
            assert_eq!(codes_of(&image, Snapshot::Held), BTreeSet::new(), "{name}");
        }
    }
}

#[test]
fn the_documented_codes_are_those_that_are_tested() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/findings.md");
    let text = std::fs::read_to_string(&docs).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented = BTreeSet::new();
    for row in rows {
        let mut cells = row.split('|').map(|cell| cell.trim().replace('`', ""));
        let (codes, severity) = (cells.next().unwrap(), cells.next().unwrap());
        if ["fatal", "non-fatal", "info"].contains(&&severity[..]) {
            documented.extend(
                codes
                    .split(", ")
                    .map(|code| (code.to_owned(), severity.clone())),
            );
        }
    }
    let known: BTreeSet<_> = CODES
        .iter()
        .map(|(code, severity)| ((*code).to_owned(), severity.as_str().to_owned()))
        .collect();
    assert_eq!(documented, known);
}
