//! Changing a pool: what dm-thin does with its metadata, in transactions.
//!
//! A [`PoolWriter`] is a pool opened to be changed. It has one mutator at a time, a
//! [`PoolTransaction`] or the volumes that are written ([`WritableVolume`]).
//! Readers have the last commit, whole, as a [`Pool`] of its own: the blocks that it
//! reaches are not used again as long as somebody has it.

mod cleared;
mod commit;
mod create;
mod devices;
mod grow;
mod held_root;
mod holds;
mod losses;
mod mappings;
mod placing;
mod refs;
mod transaction;
mod volume;
mod work;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

pub use cleared::clear_needs_check;
pub use create::CreateOptions;
pub use devices::MAX_DEVICE_ID;
use losses::Losses;
pub use mappings::Rows;
pub use transaction::PoolTransaction;
pub use volume::WritableVolume;
use work::Work;
pub(super) use work::reserved_blocks;

use super::{MAX_TIME, Pool, SUPERBLOCK_NAME, SUPERBLOCK_VALIDATOR, Superblock, read_superblock};
use crate::block::{BlockData, BlockManager, DEFAULT_CACHE_BYTES};
use crate::device::{Device, FileDevice};
use crate::disk_space::DataMap;
use crate::error::{Damage, Error, Result};
use crate::transaction::{Transaction, TransactionManager};
use crate::units::BlockNr;

/// Where the superblock is.
const SUPERBLOCK: BlockNr = BlockNr(0);

/// How to open a pool to change it.
#[derive(Clone, Debug)]
pub struct WriteOptions {
    /// The most memory for cached metadata.
    pub cache_bytes: u64,
    /// Data device or image, needed only for volumes.
    pub data: Option<PathBuf>,
    /// Hold every count against plain counts: slow, for tests.
    pub checked: bool,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            cache_bytes: DEFAULT_CACHE_BYTES,
            data: None,
            checked: false,
        }
    }
}

/// What a pool allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolState {
    /// Everything.
    Write,
    /// Everything that takes no data block: there is none left.
    OutOfDataSpace,
    /// The last commit can be read.
    ReadOnly,
    /// Nothing: going back to the last commit failed.
    Failed,
}

/// What was found out about a pool since it was opened.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mode {
    Write,
    ReadOnly(String),
    Failed(String),
}

/// Who changes the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mutator {
    None,
    /// The transaction of this number.
    Transaction(u64),
    /// Volumes, with changes that are not committed.
    Volumes,
}

struct State {
    work: Work,
    mode: Mode,
    mutator: Mutator,
    /// Transactions so far.
    transactions: u64,
    /// A data block was asked for and none was free.
    out_of_data: bool,
    /// Data blocks were written and not flushed.
    data_written: bool,
    losses: Losses,
    closed: bool,
}

/// A pool that is open to be changed.
pub struct PoolWriter {
    manager: Arc<TransactionManager>,
    data: Option<Arc<dyn Device>>,
    /// Bytes in a data block, which never change.
    data_block_bytes: u64,
    state: Mutex<State>,
    /// Who runs somebody else's code with the state locked.
    outside: Mutex<Option<ThreadId>>,
    /// The last commit, to be read; or why nothing can be. Held for a few instructions,
    /// so that readers never wait for a change.
    current: Mutex<Result<Arc<Pool>, String>>,
    /// Counts what [`Self::current`] has been.
    generation: Arc<AtomicU64>,
}

impl PoolWriter {
    /// Opens the pool whose metadata is at `path`, and keeps everybody else out.
    /// Nothing is written before something is changed.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::NotFormatted`], [`Error::Unsupported`],
    /// [`Error::Damaged`], [`Error::Io`]; [`Error::Usage`] for a data device that
    /// is smaller than the pool's.
    pub fn open(path: impl Into<PathBuf>, options: &WriteOptions) -> Result<Arc<Self>> {
        let device = Arc::new(FileDevice::open_writable(path)?);
        let data = match &options.data {
            Some(path) => Some(Arc::new(FileDevice::open_writable(path)?) as Arc<dyn Device>),
            None => None,
        };
        Self::from_devices(device, data, options)
    }

    /// As [`Self::open`], on devices that are open; `options.data` is not looked at.
    ///
    /// # Errors
    /// As [`Self::open`], but for those of opening a file.
    pub fn from_devices(
        device: Arc<dyn Device>,
        data: Option<Arc<dyn Device>>,
        options: &WriteOptions,
    ) -> Result<Arc<Self>> {
        let superblock = read_superblock(&*device, false)?;
        if let Some(reason) = superblock.unwritable() {
            let path = device.path().to_owned();
            return Err(Error::Unsupported { path, reason });
        }
        let blocks = BlockManager::new(device, options.cache_bytes);
        superblock.check_geometry(SUPERBLOCK, blocks.nr_blocks())?;
        check_time(superblock.time.get())?;
        if let Some(data) = &data {
            check_data_size(&**data, &superblock, superblock.data_blocks())?;
        }
        let space = &superblock.metadata_space_map_root.root;
        let manager = TransactionManager::open(&blocks, SUPERBLOCK, space, options.checked)?;
        let counted = &superblock.data_space_map_root.root;
        let map =
            DataMap::open(&blocks, counted, options.checked).map_err(|error| match error {
                Error::Usage(found) => {
                    let (check, expected) = ("data space map root", "a map that can be");
                    Damage::new(SUPERBLOCK, SUPERBLOCK_NAME, check, found, expected).into()
                }
                other => other,
            })?;
        let block = blocks.read(SUPERBLOCK, &SUPERBLOCK_VALIDATOR)?;
        let committed = Box::new(BlockData::clone(&block));
        Ok(Self::over(manager, data, Work::new(map, committed)))
    }

    fn over(
        manager: Arc<TransactionManager>,
        data: Option<Arc<dyn Device>>,
        work: Work,
    ) -> Arc<Self> {
        let superblock = *work.superblock();
        let mode = match superblock.needs_check() {
            false => Mode::Write,
            true => Mode::ReadOnly(
                "needs_check is set in the superblock: the pool has to be checked and repaired \
                 before it is changed"
                    .to_owned(),
            ),
        };
        let current = Arc::new(Pool::at_commit(&manager, data.clone(), superblock));
        Arc::new(Self {
            manager,
            data,
            data_block_bytes: superblock.data_block_bytes(),
            state: Mutex::new(State {
                work,
                mode,
                mutator: Mutator::None,
                transactions: 0,
                out_of_data: false,
                data_written: false,
                losses: Losses::default(),
                closed: false,
            }),
            outside: Mutex::new(None),
            current: Mutex::new(Ok(current)),
            generation: Arc::default(),
        })
    }

    /// The last commit. It stays as it is while others are made.
    ///
    /// # Errors
    /// [`Error::Usage`] in the state [`PoolState::Failed`].
    pub fn current(&self) -> Result<Arc<Pool>> {
        match &*lock_plain(&self.current) {
            Ok(pool) => Ok(Arc::clone(pool)),
            Err(reason) => Err(failed(reason)),
        }
    }

    /// Another number each time that [`Self::current`] has changed.
    #[must_use]
    pub fn generation(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.generation)
    }

    /// What the pool allows.
    #[must_use]
    pub fn state(&self) -> PoolState {
        let Ok(mut state) = self.lock() else {
            // Something of it is just being written.
            return PoolState::Write;
        };
        state.work.notice_readers(&self.manager);
        match &state.mode {
            Mode::Failed(_) => PoolState::Failed,
            Mode::ReadOnly(_) => PoolState::ReadOnly,
            Mode::Write if state.out_of_data && state.work.map.nr_free() == 0 => {
                PoolState::OutOfDataSpace
            }
            Mode::Write => PoolState::Write,
        }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::Usage`] while another is open, or while volumes have changes that
    /// are not committed; [`Error::ReadOnly`].
    pub fn transaction(self: &Arc<Self>) -> Result<PoolTransaction> {
        let mut state = self.lock()?;
        self.check_writable(&state)?;
        match state.mutator {
            Mutator::None => {}
            Mutator::Transaction(_) => {
                return Err(Error::usage("the pool has a transaction open already"));
            }
            Mutator::Volumes => {
                return Err(Error::usage(
                    "a volume has changes that are not committed: flush it before a transaction",
                ));
            }
        }
        state.transactions += 1;
        let number = state.transactions;
        state.mutator = Mutator::Transaction(number);
        drop(state);
        Ok(PoolTransaction::new(self, number))
    }

    /// Commits what volumes have changed, rolls a transaction back, and refuses
    /// everything from now on.
    ///
    /// # Errors
    /// What the commit says; [`Error::TakenBack`] for volumes that nobody has told so;
    /// [`Error::Usage`], and it stays open, from within a call.
    pub fn close(&self) -> Result<()> {
        let mut state = self.lock()?;
        if state.closed {
            return Ok(());
        }
        let answer = match std::mem::replace(&mut state.mutator, Mutator::None) {
            // Nothing of a transaction is on the disk.
            Mutator::None | Mutator::Transaction(_) => Ok(()),
            Mutator::Volumes => self.commit(&mut state),
        };
        state.closed = true;
        self.manager.close();
        let lost = state.losses.tell_all();
        answer.and(lost.map_or(Ok(()), Err))
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().is_ok_and(|state| state.closed)
    }

    /// Changes the metadata. What can be told of a call's arguments is told before the
    /// first side effect; numbers that are impossible after that came from the disk.
    fn change<T>(&self, work: impl FnOnce(&mut Transaction) -> Result<T>) -> Result<T> {
        self.manager.change(work).map_err(|error| match error {
            Error::Usage(found) if self.manager.aborted().is_some() => {
                let expected = "counts that are those of the trees";
                Damage::new(SUPERBLOCK, "space map", "reference counts", found, expected).into()
            }
            other => other,
        })
    }

    fn check_writable(&self, state: &State) -> Result<()> {
        if state.closed {
            return Err(Error::usage("the pool is closed"));
        }
        match &state.mode {
            Mode::Write => Ok(()),
            Mode::ReadOnly(reason) => {
                let path = self.manager.blocks().device().path().display();
                Err(Error::ReadOnly(format!("{path}: {reason}")))
            }
            Mode::Failed(reason) => Err(failed(reason)),
        }
    }

    /// Shows readers what is committed now.
    fn publish(&self, state: &State) {
        let shown = match &state.mode {
            Mode::Failed(reason) => Err(reason.clone()),
            _ => {
                let superblock = *state.work.superblock();
                let data = self.data.clone();
                Ok(Arc::new(Pool::at_commit(&self.manager, data, superblock)))
            }
        };
        let mut current = lock_plain(&self.current);
        let before = std::mem::replace(&mut *current, shown);
        drop(current);
        drop(before);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The state, unless this thread has it already: whoever is called in the middle of
    /// a call cannot make another one.
    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        let outside = *lock_plain(&self.outside);
        if outside == Some(thread::current().id()) {
            return Err(Error::usage(
                "the pool is in the middle of a call of this thread",
            ));
        }
        Ok(lock_plain(&self.state))
    }

    /// Runs what may be anybody's code, with the state locked: an external origin's
    /// reads, a handler of signals.
    fn call_outside<T>(&self, call: impl FnOnce() -> T) -> T {
        *lock_plain(&self.outside) = Some(thread::current().id());
        let answer = call();
        *lock_plain(&self.outside) = None;
        answer
    }
}

fn lock_plain<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn failed(reason: &str) -> Error {
    Error::Usage(format!(
        "the pool has failed and can only be closed: {reason}"
    ))
}

fn free_blocks(work: &Work, txn: &Transaction) -> (u64, u64) {
    let reserved = reserved_blocks(txn.nr_blocks());
    (work.map.nr_free(), txn.nr_free().saturating_sub(reserved))
}

/// Refuses a clock that no mapping has room for: it would run over into data blocks.
fn check_time(time: u32) -> Result<()> {
    if time <= MAX_TIME {
        return Ok(());
    }
    let expected = format!("at most {MAX_TIME}");
    Err(Damage::new(SUPERBLOCK, SUPERBLOCK_NAME, "time", time, expected).into())
}

/// Refuses a data device that is shorter than a pool of so many blocks.
fn check_data_size(data: &dyn Device, superblock: &Superblock, blocks: u64) -> Result<()> {
    let (have, each) = (data.current_size_bytes()?, superblock.data_block_bytes());
    let enough = blocks
        .checked_mul(each)
        .is_some_and(|needed| needed <= have);
    if enough {
        return Ok(());
    }
    let path = data.path().display();
    Err(Error::usage(format!(
        "{path} has {have} bytes, and the pool's {blocks} data blocks of {each} bytes do not fit"
    )))
}
