//! Layer 7: a store: named trees under one superblock.
//!
//! Promises: what a transaction changed is on the disk as a whole or not at all;
//! a snapshot costs the same whatever its size; a view reads one commit while
//! others are made. One process writes at a time.
//! May use: layers 0 to 6.

mod catalogue;
mod superblock;
mod transaction;
mod view;

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, ThreadId};
use std::time::Duration;

pub use catalogue::{MAX_NAME_BYTES, TreeEntry};
pub use superblock::{STORE_NAME, STORE_VALIDATOR, StoreSuperblock};
pub use transaction::{StoreTransaction, TreeNr};
pub use view::{StoreView, ViewedTree};

use crate::block::check_unformatted;
use crate::block::{BlockManager, DEFAULT_CACHE_BYTES, Patience};
use crate::device::{Claim, Device, FileDevice};
use crate::error::{Error, Result};
use crate::transaction::TransactionManager;
use crate::units::{BLOCK_BYTES, BlockNr};

/// The smallest device that a store fits on, in blocks: what a new one takes,
/// and as much again to change it.
pub const MIN_BLOCKS: u64 = 12;

/// Where the superblock is.
const SUPERBLOCK: BlockNr = BlockNr(0);

/// How often somebody who waits asks whether to go on.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How a store is made or opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    /// The most memory for cached blocks.
    pub cache_bytes: u64,
    /// Hold every count and allocation against plain counts: slow, for tests.
    pub checked: bool,
    /// Make a store though there is something already.
    pub overwrite: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            cache_bytes: DEFAULT_CACHE_BYTES,
            checked: false,
            overwrite: false,
        }
    }
}

/// Named trees on a file or block device.
pub struct Store {
    manager: Arc<TransactionManager>,
    writable: bool,
    /// Who makes the open transaction.
    writer: Mutex<Option<ThreadId>>,
    released: Condvar,
}

impl Store {
    /// Makes an empty store. `size_bytes`: makes the file, or makes it larger;
    /// `None` takes the file or device as it is.
    ///
    /// # Errors
    /// [`Error::AlreadyFormatted`] when block 0 holds something and
    /// `options.overwrite` is not set, [`Error::InUse`], [`Error::NoSpace`].
    pub fn create(
        path: &Path,
        size_bytes: Option<u64>,
        options: &StoreOptions,
    ) -> Result<Arc<Self>> {
        if let Some(bytes) = size_bytes
            && bytes / (BLOCK_BYTES as u64) < MIN_BLOCKS
        {
            return Err(too_small(bytes / BLOCK_BYTES as u64));
        }
        let device = Arc::new(FileDevice::open_or_make(path)?);
        let made = Self::create_file(&device, size_bytes, options);
        if made.is_err() && device.was_made() {
            // Nobody else had it: its lock is ours. What cannot be removed stays empty.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn create_file(
        device: &Arc<FileDevice>,
        size_bytes: Option<u64>,
        options: &StoreOptions,
    ) -> Result<Arc<Self>> {
        if device.was_made() && size_bytes.is_none() {
            let path = device.path().display();
            return Err(Error::usage(format!(
                "there is no file {path}: say how large a new one is to be (size_bytes)"
            )));
        }
        if !options.overwrite {
            check_unformatted(&**device)?;
        }
        device.grow(size_bytes.unwrap_or_default())?;
        if device.was_made() {
            device.flush_name()?;
        }
        Self::create_on(Arc::clone(device) as Arc<dyn Device>, options)
    }

    /// As [`Self::create`], on a device that is open.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_on(device: Arc<dyn Device>, options: &StoreOptions) -> Result<Arc<Self>> {
        if !options.overwrite {
            check_unformatted(&*device)?;
        }
        let blocks = BlockManager::new(device, options.cache_bytes);
        if blocks.nr_blocks() < MIN_BLOCKS {
            return Err(too_small(blocks.nr_blocks()));
        }
        let in_superblock = |error: Error| error.in_step("superblock");
        blocks.wipe_used(SUPERBLOCK).map_err(in_superblock)?;
        let manager = TransactionManager::create(&blocks, SUPERBLOCK, options.checked)?;
        let made = manager.change(catalogue::create).and_then(|root| {
            manager.pre_commit()?;
            Ok(root)
        });
        let root = made.map_err(|error| error.in_step("catalogue create"))?;
        let mut superblock = StoreSuperblock::new(root);
        superblock.set_space_root(&manager.space_root());
        let locked = blocks.write_lock_zero(SUPERBLOCK, &STORE_VALIDATOR);
        let committed = locked.and_then(|mut guard| {
            *guard.view_mut() = superblock;
            manager.commit(guard)
        });
        committed.map_err(in_superblock)?;
        manager.label(root.0);
        Ok(Self::over(manager, true))
    }

    /// Opens a store to read and write. While it is open no other process can.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotFormatted`], [`Error::Unsupported`] for
    /// what is not a store, [`Error::Damaged`].
    pub fn open(path: &Path, options: &StoreOptions) -> Result<Arc<Self>> {
        let device = FileDevice::open_writable(path)?;
        Self::open_on(Arc::new(device), options)
    }

    /// Opens a store to read, beside other readers.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_read_only(path: &Path, options: &StoreOptions) -> Result<Arc<Self>> {
        let device = FileDevice::open(path, Claim::Unused)?;
        Self::open_on(Arc::new(device), options)
    }

    /// Opens a store on a device that is open, to write where that can be written.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(device: Arc<dyn Device>, options: &StoreOptions) -> Result<Arc<Self>> {
        let writable = device.is_writable();
        let blocks = BlockManager::new(device, options.cache_bytes);
        let superblock = superblock::read(&blocks).map_err(|error| match error {
            Error::Io { .. } | Error::Damaged(_) => error.in_step("superblock"),
            // What is no store at all needs no step to be named.
            other => other,
        })?;
        let root = superblock.space_root()?;
        let manager = TransactionManager::open(&blocks, SUPERBLOCK, &root, options.checked)?;
        manager.label(superblock.catalogue_root.get());
        Ok(Self::over(manager, writable))
    }

    fn over(manager: Arc<TransactionManager>, writable: bool) -> Arc<Self> {
        Arc::new(Self {
            manager,
            writable,
            writer: Mutex::new(None),
            released: Condvar::new(),
        })
    }

    /// The transaction manager below.
    #[must_use]
    pub fn manager(&self) -> &Arc<TransactionManager> {
        &self.manager
    }

    /// Whether it was opened to be changed.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// Begins a transaction, after that of another thread has ended.
    ///
    /// # Errors
    /// [`Error::ReadOnly`]; [`Error::Usage`] when this thread has one open;
    /// [`Error::Poisoned`]; what `patience` says, which is asked while waiting.
    pub fn transaction(
        self: &Arc<Self>,
        patience: Option<Patience<'_>>,
    ) -> Result<StoreTransaction> {
        if !self.writable {
            let path = self.manager.blocks().device().path().display().to_string();
            return Err(Error::ReadOnly(format!("{path} is open for reading")));
        }
        self.manager.blocks().check_writable()?;
        let own = thread::current().id();
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(other) = *writer {
            if other == own {
                return Err(Error::usage("this thread has a transaction open already"));
            }
            let woken = self.released.wait_timeout(writer, ASK_EVERY);
            writer = woken.unwrap_or_else(PoisonError::into_inner).0;
            if let Some(patience) = patience {
                drop(writer);
                patience()?;
                writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
            }
        }
        *writer = Some(own);
        drop(writer);
        Ok(StoreTransaction::new(self))
    }

    /// A view of the last commit, which stays as it is while others are made.
    /// Blocks that it reads are not used again before it is dropped.
    ///
    /// # Errors
    /// [`Error::Usage`] when the store is closed.
    pub fn view(self: &Arc<Self>) -> Result<StoreView> {
        Ok(StoreView::new(self))
    }

    /// Blocks of the device, and those that a change may still take: not those
    /// that the last commit or an open view reads.
    ///
    /// # Errors
    /// [`Error::Aborted`], [`Error::Poisoned`].
    pub fn space(&self) -> Result<(u64, u64)> {
        self.manager
            .look(|txn| Ok((txn.nr_blocks(), txn.nr_free())))
    }

    fn release(&self) {
        *self.writer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.released.notify_one();
    }
}

fn too_small(blocks: u64) -> Error {
    Error::no_metadata_space(format!(
        "a store takes {MIN_BLOCKS} blocks of {BLOCK_BYTES} bytes or more, and there are {blocks}"
    ))
}
