//! What an operation reports, and what is wrong with a block.
//!
//! [`Damage`] is a value: a reader wraps one in an [`Error`] and stops, a checker
//! collects many and goes on.

use std::{borrow::Cow, fmt, io, path::PathBuf};

use crate::units::BlockNr;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// One side of a comparison that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A field as it stands on the disk.
    Number(u64),
    /// Something that one number cannot say.
    Text(String),
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Self::Number(number)
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<usize> for Value {
    fn from(number: usize) -> Self {
        Self::Number(number as u64)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Text(text) => text.fmt(f),
        }
    }
}

/// What is wrong with one metadata block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The block that was read.
    pub block: BlockNr,
    /// Whose check failed, e.g. `"btree node"`.
    pub validator: Cow<'static, str>,
    /// Which one, e.g. `"checksum"`.
    pub check: &'static str,
    /// What the block says.
    pub found: Value,
    /// What it should say.
    pub expected: Value,
}

impl Damage {
    /// A failed check of `validator` on `block`.
    pub fn new(
        block: BlockNr,
        validator: impl Into<Cow<'static, str>>,
        check: &'static str,
        found: impl Into<Value>,
        expected: impl Into<Value>,
    ) -> Self {
        Self {
            block,
            validator: validator.into(),
            check,
            found: found.into(),
            expected: expected.into(),
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "block {} is damaged: {}: {}: found {}, expected {}",
            self.block, self.validator, self.check, self.found, self.expected
        )
    }
}

/// Why an operation did not happen.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The device or file failed.
    Io {
        /// The file or device.
        path: PathBuf,
        /// Byte offset of the failed request, where there is one.
        offset_bytes: Option<u64>,
        /// The system's answer.
        source: io::Error,
    },
    /// A metadata block failed its check and was not used.
    Damaged(Damage),
    /// What was to be done is done to sound metadata only, and these are not.
    Unsound {
        /// The metadata.
        path: PathBuf,
        /// What a check calls the worst of it.
        code: &'static str,
        /// The same in words, and what to do.
        reason: String,
    },
    /// Somebody else uses the device or file.
    InUse {
        /// The file or device.
        path: PathBuf,
        /// Who, as far as it can be told.
        reason: String,
    },
    /// Block 0 is all zero: there is no metadata here.
    NotFormatted(PathBuf),
    /// Not metadata that this crate reads.
    Unsupported {
        /// The file or device.
        path: PathBuf,
        /// What it is instead, or which feature is unknown.
        reason: String,
    },
    /// A metadata snapshot was asked for and the pool holds none.
    NoMetadataSnapshot(PathBuf),
    /// The metadata snapshot that was being read is not held any more, so that
    /// its blocks may have been used again.
    SnapshotReleased {
        /// The file or device.
        path: PathBuf,
        /// Where the metadata snapshot was.
        block: BlockNr,
    },
    /// No thin device has this id.
    NoSuchDevice(u64),
    /// A thin device of this id is there already.
    DeviceExists(u64),
    /// The pool holds a metadata snapshot already, in this block.
    MetadataSnapshotHeld(BlockNr),
    /// The pool's transaction id is another one.
    StaleTransaction {
        /// What the pool has.
        found: u64,
        /// What was expected.
        expected: u64,
    },
    /// What was written is not there any more: the failure of something else took it back.
    TakenBack(String),
    /// A commit to a pool failed.
    CommitFailed {
        /// Why.
        source: Box<Error>,
        /// Whether the pool on the disk asks for a check now.
        needs_check_set: bool,
    },
    /// The call cannot be answered without waiting or I/O.
    WouldBlock,
    /// The caller asked for something that makes no sense.
    Usage(String),
    /// No block can be allocated.
    NoSpace {
        /// Which space: `"metadata"` or `"data"`.
        space: &'static str,
        /// What there is, and what could make room.
        reason: String,
    },
    /// Something that must not be written was to be.
    ReadOnly(String),
    /// There is something where a new one was to be made.
    AlreadyFormatted {
        /// The file or device.
        path: PathBuf,
        /// What is there, as far as it can be told.
        reason: String,
    },
    /// A store has no tree of this name.
    NoSuchTree(String),
    /// A change failed half-way: nothing but the committed state can be read
    /// until `abort`.
    Aborted(String),
    /// A write or a flush failed: what is on the disk is not known until the
    /// device is opened again.
    Poisoned(String),
    /// A step of making or opening something failed.
    Step {
        /// Which one, e.g. `"space map create"`.
        step: &'static str,
        /// Why.
        source: Box<Error>,
    },
    /// Bytes from elsewhere, a stream, a bookmark or a part of a backup, are not what they
    /// should be.
    Stream(String),
    /// XML that says no pool.
    Xml {
        /// The file.
        path: PathBuf,
        /// Line, from 1 on.
        line: u64,
        /// Byte of the line, from 1 on.
        column: u64,
        /// What is wrong there.
        reason: String,
    },
    /// Something was made of another state than the one it is applied to.
    WrongBase(String),
    /// The caller's monitor asked to stop.
    Interrupted,
}

impl Error {
    /// An I/O error with its place.
    pub fn io(path: impl Into<PathBuf>, offset_bytes: Option<u64>, source: io::Error) -> Self {
        Self::Io {
            path: path.into(),
            offset_bytes,
            source,
        }
    }

    /// Names the step that failed.
    #[must_use]
    pub fn in_step(self, step: &'static str) -> Self {
        Self::Step {
            step,
            source: Box::new(self),
        }
    }

    /// No block of the metadata device is left.
    pub fn no_metadata_space(reason: impl Into<String>) -> Self {
        Self::NoSpace {
            space: "metadata",
            reason: reason.into(),
        }
    }

    /// A complaint about the call itself.
    pub fn usage(text: impl Into<String>) -> Self {
        Self::Usage(text.into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io {
                path,
                offset_bytes: Some(offset),
                source,
            } => {
                write!(f, "{}: at byte {offset}: {source}", path.display())
            }
            Self::Io {
                path,
                offset_bytes: None,
                source,
            } => {
                write!(f, "{}: {source}", path.display())
            }
            Self::Damaged(damage) => damage.fmt(f),
            Self::Unsound { path, code, reason } => {
                write!(f, "{} is not sound: {code}: {reason}", path.display())
            }
            Self::InUse { path, reason } => write!(f, "{} is in use: {reason}", path.display()),
            Self::NotFormatted(path) => {
                write!(
                    f,
                    "{} is not formatted: block 0 is all zero",
                    path.display()
                )
            }
            Self::Unsupported { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::NoMetadataSnapshot(path) => {
                write!(f, "{}: the pool holds no metadata snapshot", path.display())
            }
            Self::SnapshotReleased { path, block } => write!(
                f,
                "{}: the metadata snapshot in block {block} was released while it was read",
                path.display()
            ),
            Self::NoSuchDevice(id) => write!(f, "no thin device {id}"),
            Self::DeviceExists(id) => write!(f, "there is a thin device {id} already"),
            Self::MetadataSnapshotHeld(block) => {
                write!(
                    f,
                    "a metadata snapshot is held already, in block {block}: release it first"
                )
            }
            Self::StaleTransaction { found, expected } => {
                write!(f, "the transaction id is {found}, not {expected}")
            }
            Self::CommitFailed {
                source,
                needs_check_set: false,
            } => source.fmt(f),
            Self::CommitFailed { source, .. } => {
                write!(f, "{source} (needs_check was set in the superblock)")
            }
            Self::WouldBlock => f.write_str("the answer is not in the cache"),
            Self::Usage(text)
            | Self::TakenBack(text)
            | Self::Stream(text)
            | Self::WrongBase(text) => f.write_str(text),
            Self::Xml {
                path,
                line,
                column,
                reason,
            } => write!(f, "{}:{line}:{column}: {reason}", path.display()),
            Self::NoSpace { space, reason } => write!(f, "no {space} space left: {reason}"),
            Self::ReadOnly(text) => write!(f, "read-only: {text}"),
            Self::AlreadyFormatted { path, reason } => write!(
                f,
                "{}: {reason}; pass overwrite to replace it",
                path.display()
            ),
            Self::NoSuchTree(name) => write!(f, "no tree {name:?}"),
            Self::Aborted(cause) => {
                write!(f, "the transaction failed and has to be aborted: {cause}")
            }
            Self::Poisoned(cause) => write!(
                f,
                "a write failed and the device has to be reopened: {cause}"
            ),
            Self::Step { step, source } => write!(f, "{step}: {source}"),
            Self::Interrupted => f.write_str("interrupted"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Step { source, .. } | Self::CommitFailed { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<Damage> for Error {
    fn from(damage: Damage) -> Self {
        Self::Damaged(damage)
    }
}
