//! Sharing jobs out among threads, and putting what they wrote in order.
//!
//! The calling thread plans jobs and writes their text out; while the next text
//! is not ready it does jobs too. Only so many jobs are under way at a time, so
//! that memory does not grow with the dump.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope};
use std::time::Duration;

use super::format::Format;
use super::output::Output;
use super::plan::{Item, Job, Planner, Source};
use super::text::Text;
use super::work::{Part, Worker};
use crate::error::{Error, Result};
use crate::task::Task;
use crate::thin::Pool;

/// More threads than this would only wait for the one that writes.
const MAX_THREADS: usize = 8;

/// How long to wait for a job before looking whether to stop.
const WAIT: Duration = Duration::from_millis(20);

/// A job that somebody has taken or will take, by its place in the order.
enum Slot {
    Waiting(Job),
    Taken,
    Done(Result<Part>),
}

/// What the threads share.
#[derive(Default)]
struct Board {
    /// In order; the first is the next to be written.
    slots: VecDeque<Slot>,
    /// Jobs written: the number of the first slot.
    written: u64,
    /// Texts and item lists that are free.
    texts: Vec<Text>,
    items: Vec<Vec<Item>>,
    /// No more jobs are taken.
    closed: bool,
}

/// The board and who waits at it.
#[derive(Default)]
struct Crew {
    board: Mutex<Board>,
    /// Told of a job to take, and of the end.
    posted: Condvar,
    /// Told of a job done.
    done: Condvar,
}

/// Closes the board when its owner leaves, be it by a panic: nobody waits for
/// those who are gone.
struct Closing<'c>(&'c Crew);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.posted.notify_all();
        self.0.done.notify_all();
    }
}

impl Crew {
    fn lock(&self) -> MutexGuard<'_, Board> {
        // Nothing under this lock panics half way.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the first job that waits.
    fn take(board: &mut Board) -> Option<(u64, Job, Text)> {
        let waiting = |slot: &Slot| matches!(slot, Slot::Waiting(_));
        let index = board.slots.iter().position(waiting)?;
        let Slot::Waiting(job) = std::mem::replace(&mut board.slots[index], Slot::Taken) else {
            return None;
        };
        let text = board.texts.pop().unwrap_or_default();
        Some((board.written + index as u64, job, text))
    }

    /// Does a job and hands in what became of it.
    fn work<F: Format>(&self, worker: &mut Worker<'_, F>, number: u64, job: Job, text: Text) {
        let part = worker.work(&job, text);
        let mut board = self.lock();
        board.items.push(job.items);
        let index = number.checked_sub(board.written);
        let slot = index.and_then(|index| usize::try_from(index).ok());
        if let Some(slot) = slot.and_then(|index| board.slots.get_mut(index)) {
            *slot = Slot::Done(part);
        }
        drop(board);
        self.done.notify_one();
    }

    /// The life of a helper.
    fn help<F: Format>(&self, pool: &Pool) {
        let _closing = Closing(self);
        let mut worker = Worker::<F>::new(pool);
        let mut board = self.lock();
        while !board.closed {
            match Self::take(&mut board) {
                Some((number, job, text)) => {
                    drop(board);
                    self.work(&mut worker, number, job, text);
                    board = self.lock();
                }
                None => {
                    board = self
                        .posted
                        .wait(board)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// Does all jobs of `planner` and writes their text to `output`.
pub(super) fn run<'p, F: Format, S: Iterator<Item = Source>>(
    pool: &'p Pool,
    planner: Planner<'p, S>,
    output: &mut Output<'_, F>,
    task: &Task<'_>,
) -> Result<()> {
    let crew = Crew::default();
    thread::scope(|scope| {
        let _closing = Closing(&crew);
        let foreman = Foreman {
            crew: &crew,
            pool,
            scope,
            worker: Worker::<F>::new(pool),
            planner,
            helpers: 0,
            most_helpers: threads(task) - 1,
        };
        foreman.run(output, task)
    })
}

/// The calling thread.
struct Foreman<'s, 'e, F, S> {
    crew: &'e Crew,
    pool: &'e Pool,
    scope: &'s Scope<'s, 'e>,
    worker: Worker<'e, F>,
    planner: Planner<'e, S>,
    helpers: usize,
    most_helpers: usize,
}

impl<'e, F: Format, S: Iterator<Item = Source>> Foreman<'_, 'e, F, S> {
    fn run(mut self, output: &mut Output<'_, F>, task: &Task<'_>) -> Result<()> {
        // Twice what is worked on: the next job is there for whoever is done.
        let most_jobs = 2 * self.most_helpers + 1;
        let mut jobs = 0;
        let mut planned = false;
        loop {
            while !planned && jobs < most_jobs {
                planned = !self.post()?;
                jobs += usize::from(!planned);
            }
            if jobs == 0 {
                return Ok(());
            }
            let Some(part) = self.first_part(task)? else {
                continue;
            };
            jobs -= 1;
            output.part(&part)?;
            task.step(0, self.planner.progress(&part))?;
            self.crew.lock().texts.push(part.text);
        }
    }

    /// Plans a job and puts it up; `false` when there is none left.
    fn post(&mut self) -> Result<bool> {
        let items = self.crew.lock().items.pop().unwrap_or_default();
        let Some(job) = self.planner.next_job(items)? else {
            return Ok(false);
        };
        let mut board = self.crew.lock();
        board.slots.push_back(Slot::Waiting(job));
        let more_than_one = board.slots.len() > 1;
        drop(board);
        if more_than_one && self.helpers < self.most_helpers {
            let (crew, pool) = (self.crew, self.pool);
            let helper = move || crew.help::<F>(pool);
            match thread::Builder::new().spawn_scoped(self.scope, helper) {
                Ok(_) => self.helpers += 1,
                // There are no more threads to be had: do with those that came.
                Err(_) => self.most_helpers = self.helpers,
            }
        }
        self.crew.posted.notify_one();
        Ok(true)
    }

    /// What became of the first job, or `None` after doing something else.
    fn first_part(&mut self, task: &Task<'_>) -> Result<Option<Part>> {
        let mut board = self.crew.lock();
        if matches!(board.slots.front(), Some(Slot::Done(_))) {
            board.written += 1;
            return match board.slots.pop_front() {
                Some(Slot::Done(part)) => part.map(Some),
                _ => unreachable!("it was looked at under this lock"),
            };
        }
        if let Some((number, job, text)) = Crew::take(&mut board) {
            drop(board);
            self.crew.work(&mut self.worker, number, job, text);
        } else if board.closed {
            // A helper panicked; the scope will too.
            return Err(Error::Interrupted);
        } else {
            let waited = self.crew.done.wait_timeout(board, WAIT);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
        task.step(0, 0)?;
        Ok(None)
    }
}

/// Threads to use, the calling one included.
pub(super) fn threads(task: &Task<'_>) -> usize {
    task.threads().min(MAX_THREADS)
}
