//! How a long call is watched, stopped and shared out among threads.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Watches a long call from the thread that made it.
pub trait Monitor: Sync {
    /// Called a few times a second with the work done and in all; an error
    /// stops every thread of the call and is returned from it.
    fn poll(&self, done: u64, total: u64) -> Result<()>;
}

/// Time between two calls of a monitor.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// The most threads a call takes unless told otherwise.
const MAX_DEFAULT_THREADS: usize = 8;

/// One long call: its threads, its progress, and whether it has to stop.
pub struct Task<'m> {
    monitor: Option<&'m dyn Monitor>,
    threads: usize,
    stop: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
    polled: Mutex<Instant>,
}

impl Default for Task<'_> {
    fn default() -> Self {
        Self::new(None, None)
    }
}

impl<'m> Task<'m> {
    /// `threads`: `None` takes the cores, at most 8.
    #[must_use]
    pub fn new(monitor: Option<&'m dyn Monitor>, threads: Option<usize>) -> Self {
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        Self {
            monitor,
            threads: threads
                .unwrap_or_else(|| cores().min(MAX_DEFAULT_THREADS))
                .clamp(1, 256),
            stop: AtomicBool::new(false),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            polled: Mutex::new(Instant::now()),
        }
    }

    /// Threads that this call may use, the caller's own included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Adds to the work known to lie ahead.
    pub fn expect(&self, more: u64) {
        self.total.fetch_add(more, Ordering::Relaxed);
    }

    /// Notes work done, and stops when told so. `worker` 0 is the caller's
    /// thread, the only one that talks to the monitor.
    pub fn step(&self, worker: usize, done: u64) -> Result<()> {
        self.done.fetch_add(done, Ordering::Relaxed);
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        match self.monitor {
            Some(monitor) if worker == 0 => self.poll(monitor),
            _ => Ok(()),
        }
    }

    /// Asks the monitor at once whether to go on: a signal has ended a system
    /// call. For the caller's thread.
    pub fn ask(&self) -> Result<()> {
        self.monitor.map_or(Ok(()), |monitor| self.ask_of(monitor))
    }

    fn poll(&self, monitor: &dyn Monitor) -> Result<()> {
        let mut polled = self.polled.lock().unwrap_or_else(PoisonError::into_inner);
        if polled.elapsed() < POLL_EVERY {
            return Ok(());
        }
        *polled = Instant::now();
        drop(polled);
        self.ask_of(monitor)
    }

    fn ask_of(&self, monitor: &dyn Monitor) -> Result<()> {
        let (done, total) = (&self.done, &self.total);
        let answer = monitor.poll(done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        if answer.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        answer
    }

    /// Runs `work(worker, job)` for every job below `jobs` on all threads and
    /// returns each worker's context. Jobs are taken one at a time, in order,
    /// so that a slow one holds nobody up. The first error stops the others.
    pub fn share_out<C: Send>(
        &self,
        jobs: usize,
        context: impl Fn() -> C + Sync,
        work: impl Fn(&mut C, usize, usize) -> Result<()> + Sync,
    ) -> Result<Vec<C>> {
        let next = AtomicUsize::new(0);
        let worker = |number: usize| -> (C, Result<()>) {
            let mut own = context();
            loop {
                let job = next.fetch_add(1, Ordering::Relaxed);
                if job >= jobs {
                    return (own, Ok(()));
                }
                let answer = self
                    .step(number, 0)
                    .and_then(|()| work(&mut own, number, job));
                if let Err(error) = answer {
                    self.stop.store(true, Ordering::Relaxed);
                    return (own, Err(error));
                }
            }
        };
        let helpers = self.threads.min(jobs).saturating_sub(1);
        let answers: Vec<(C, Result<()>)> = thread::scope(|scope| {
            let worker = &worker;
            let spawned: Vec<_> = (1..=helpers)
                .map(|number| scope.spawn(move || worker(number)))
                .collect();
            let own = worker(0);
            let joined = spawned.into_iter().map(|handle| match handle.join() {
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            std::iter::once(own).chain(joined).collect()
        });
        first_cause(answers)
    }
}

/// Keeps the contexts, or the error that made the others stop.
fn first_cause<C>(answers: Vec<(C, Result<()>)>) -> Result<Vec<C>> {
    let mut contexts = Vec::with_capacity(answers.len());
    let mut cause = None;
    for (context, answer) in answers {
        contexts.push(context);
        match (answer, &cause) {
            (Err(Error::Interrupted), Some(_)) | (Ok(()), _) => {}
            (Err(error), None | Some(Error::Interrupted)) => cause = Some(error),
            (Err(_), Some(_)) => {}
        }
    }
    cause.map_or(Ok(contexts), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_done_once() {
        let task = Task::new(None, Some(3));
        let done: Vec<Vec<usize>> = task
            .share_out(100, Vec::new, |own: &mut Vec<usize>, _, job| {
                own.push(job);
                Ok(())
            })
            .unwrap();
        let mut all: Vec<usize> = done.into_iter().flatten().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn the_cause_is_reported_and_not_the_stop_it_made() {
        let task = Task::new(None, Some(4));
        let answer = task.share_out(
            64,
            || (),
            |(), _, job| match job {
                7 => Err(Error::NoSuchDevice(7)),
                _ => Ok(()),
            },
        );
        assert!(matches!(answer, Err(Error::NoSuchDevice(7))));
    }

    #[test]
    fn a_monitor_can_stop_the_call() {
        struct Stop;
        impl Monitor for Stop {
            fn poll(&self, _done: u64, _total: u64) -> Result<()> {
                Err(Error::usage("enough"))
            }
        }
        let task = Task::new(Some(&Stop), Some(2));
        let answer = task.share_out(usize::MAX, || (), |(), _, _| Ok(()));
        assert!(matches!(answer, Err(Error::Usage(text)) if text == "enough"));
    }
}
