//! What a check reports.
//!
//! The codes are promised to users: docs/findings.md describes each.

use std::collections::BTreeMap;
use std::fmt;

use crate::error::Damage;
use crate::units::BlockNr;
use crate::walk::NodeDamage;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Something is lost or wrong.
    Fatal,
    /// Nothing is lost; the pool can be put in order.
    NonFatal,
    /// Worth knowing; the metadata is clean all the same.
    Info,
}

impl Severity {
    /// The word used in reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fatal => "fatal",
            Self::NonFatal => "non-fatal",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Virtual blocks of a device that a finding concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Affected {
    /// The thin device.
    pub device_id: u64,
    /// First virtual block.
    pub begin_block: u64,
    /// One past the last; `None`: to the device's end.
    pub end_block: Option<u64>,
}

/// One thing that is wrong, or worth knowing.
#[derive(Clone, Debug)]
pub struct Finding {
    /// Stable name; see docs/findings.md.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One sentence.
    pub message: String,
    /// The metadata block concerned.
    pub block: Option<BlockNr>,
    /// Which structure it belongs to.
    pub tree: Option<&'static str>,
    /// Blocks from the tree's root down to `block`.
    pub path: Vec<BlockNr>,
    /// Devices and ranges that it touches, the first few.
    pub affected: Vec<Affected>,
    /// How many ranges it touches in all.
    pub affected_total: u64,
    /// Counted blocks it speaks of (data or metadata blocks, by `tree`), half-open.
    pub counted: Option<(u64, u64)>,
}

impl Finding {
    /// A finding without a place.
    pub fn new(code: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            block: None,
            tree: None,
            path: Vec::new(),
            affected: Vec::new(),
            affected_total: 0,
            counted: None,
        }
    }

    /// A damaged block of `tree`.
    #[must_use]
    pub fn from_damage(tree: &'static str, damage: &Damage) -> Self {
        let (code, severity) = classify(damage);
        let message = format!(
            "{}: {}: found {}, expected {}",
            damage.validator, damage.check, damage.found, damage.expected
        );
        Self::new(code, severity, message).at(tree, damage.block)
    }

    /// A damaged node with its path.
    #[must_use]
    pub fn from_node(tree: &'static str, bad: &NodeDamage) -> Self {
        let mut finding = Self::from_damage(tree, &bad.damage);
        finding.path.clone_from(&bad.path);
        finding
    }

    /// Gives it a place.
    #[must_use]
    pub fn at(mut self, tree: &'static str, block: BlockNr) -> Self {
        (self.tree, self.block) = (Some(tree), Some(block));
        self
    }

    /// Gives it a structure but no block.
    #[must_use]
    pub fn of(mut self, tree: &'static str) -> Self {
        self.tree = Some(tree);
        self
    }

    /// Names a device it touches as a whole.
    #[must_use]
    pub fn on_device(mut self, device_id: u64) -> Self {
        self.affected.push(Affected {
            device_id,
            begin_block: 0,
            end_block: None,
        });
        self.affected_total = 1;
        self
    }
}

/// Code and severity of a damage, by the check that failed.
/// Source: docs/format.md, "What a strict reader checks".
fn classify(damage: &Damage) -> (&'static str, Severity) {
    match (&*damage.validator, damage.check) {
        (_, "fill") => ("node-underfull", Severity::NonFatal),
        (crate::btree::NODE_NAME, "capacity") if damage.found_fits() => {
            ("node-capacity", Severity::NonFatal)
        }
        (_, "key order" | "key bounds") => ("bad-key-order", Severity::Fatal),
        (_, "pointer") => ("bad-pointer", Severity::Fatal),
        (_, "loop" | "depth" | "height") => ("tree-loop", Severity::Fatal),
        (crate::btree::NODE_NAME, _) => ("node-damaged", Severity::Fatal),
        (crate::thin::SUPERBLOCK_NAME, _) => ("superblock-damaged", Severity::Fatal),
        _ => ("space-map-damaged", Severity::Fatal),
    }
}

impl Damage {
    /// A capacity that a block can hold was found, only not the usual one: the
    /// expected value is then a number and not a sentence.
    fn found_fits(&self) -> bool {
        matches!(self.expected, crate::error::Value::Number(_))
    }
}

/// Findings kept of each code; more are only counted.
const MAX_PER_CODE: u64 = 1000;

/// Collects findings within bounds.
#[derive(Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    by_code: BTreeMap<&'static str, u64>,
    /// Fatal ones seen, kept or not.
    pub fatal: u64,
}

impl Findings {
    /// Adds one.
    pub fn push(&mut self, finding: Finding) {
        if finding.severity == Severity::Fatal {
            self.fatal += 1;
        }
        let count = self.by_code.entry(finding.code).or_default();
        *count += 1;
        if *count <= MAX_PER_CODE {
            self.kept.push(finding);
        }
    }

    /// How many there are of a code, kept or not.
    pub fn of(&self, code: &'static str) -> u64 {
        self.by_code.get(code).copied().unwrap_or(0)
    }

    /// Counts `more` that were never made, of a code.
    pub fn omit(&mut self, code: &'static str, more: u64) {
        if more > 0 {
            *self.by_code.entry(code).or_default() += MAX_PER_CODE.max(more);
        }
    }

    /// The findings, the worst first, and how many of which code were left out.
    #[must_use]
    pub fn finish(mut self) -> (Vec<Finding>, Vec<(&'static str, u64)>) {
        self.kept.sort_by_key(|finding| finding.severity);
        let omitted = self.by_code.into_iter().filter_map(|(code, count)| {
            let more = count.saturating_sub(MAX_PER_CODE);
            (more > 0).then_some((code, more))
        });
        (self.kept, omitted.collect())
    }
}
