//! A small thread pool: one job at a time, its tasks handed out by a counter.
//!
//! The caller works too. Workers wait a moment between jobs by spinning, then sleep; a worker that is not there in time
//! is not waited for, so that foreign load on a core costs its share and no more.
#![allow(unsafe_code)]

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, Thread};

/// Turns of the waiting loop before a worker sleeps; some 30 microseconds.
const SPINS_BEFORE_SLEEP: u32 = 1500;
/// Turns of the waiting loop before the caller yields its core to whoever it waits for.
const SPINS_BEFORE_YIELD: u32 = 2000;

/// Set in `state` while workers may join the job; below it the number that have joined, above it the job's number.
const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;

/// `task(index, thread)`, both from 0.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Threads that compute one job together.
pub(super) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    next: AtomicUsize,
    finished: AtomicUsize,
    stop: AtomicBool,
    sleeping: Vec<AtomicBool>,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

#[derive(Clone, Copy)]
struct Job {
    task: *const Task<'static>,
    num_tasks: usize,
}

// SAFETY: `job` is written only while `state` is closed and no worker is joined, and read only by workers that joined
// after it was opened; the task that it points to is `Sync` and outlives the job, since `run` waits for all who joined.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is never used outside a job.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `num_threads`, the caller included.
    pub fn new(num_threads: usize) -> std::io::Result<Self> {
        let num_workers = num_threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            sleeping: (0..num_workers).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for worker in 0..num_workers {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new().name(format!("kernels-{}", worker + 1));
            pool.workers.push(thread.spawn(move || shared.work(worker))?);
        }
        Ok(pool)
    }

    /// Threads, the caller included.
    pub fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(index, thread)` once for every index below `num_tasks` and returns when all are done.
    ///
    /// # Panics
    /// If a task does; the others may then not have run.
    pub fn run(&mut self, num_tasks: usize, task: &Task<'_>) {
        if self.workers.is_empty() || num_tasks <= 1 {
            (0..num_tasks).for_each(|index| task(index, 0));
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes; `close_and_wait` below keeps every worker from using it after `run`.
        let task = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        let job = Job { task, num_tasks };
        // SAFETY: the state is closed and nobody is joined, see `Shared`; `&mut self` keeps other callers out.
        unsafe { *shared.job.get() = Some(job) };
        shared.next.store(0, Ordering::Relaxed);
        shared.finished.store(0, Ordering::Relaxed);
        let number = (shared.state.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.store(number << 32 | OPEN, Ordering::SeqCst);
        self.wake(num_tasks - 1);
        shared.take_tasks(job, 0);
        shared.close_and_wait();
        let panic = shared.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    fn wake(&self, num_wanted: usize) {
        for (sleeping, worker) in self.shared.sleeping.iter().zip(&self.workers).take(num_wanted) {
            if sleeping.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.workers.iter().map(JoinHandle::thread).for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            // A worker's panic has been handed to the caller of `run` already.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn work(&self, worker: usize) {
        let mut seen = 0;
        while let Some(state) = self.wait_for_job(worker, seen) {
            seen = state >> 32;
            if self.join(state) {
                // SAFETY: joined after the job was opened, see `Shared`.
                if let Some(job) = unsafe { *self.job.get() } {
                    self.take_tasks(job, worker + 1);
                }
                self.finished.fetch_add(1, Ordering::Release);
            }
        }
    }

    /// The state of an open job other than `seen`, or `None` when the pool is dropped.
    fn wait_for_job(&self, worker: usize, seen: u64) -> Option<u64> {
        let mut spins = 0;
        loop {
            let state = self.state.load(Ordering::SeqCst);
            if state & OPEN != 0 && state >> 32 != seen {
                return Some(state);
            }
            if self.stop.load(Ordering::Relaxed) {
                return None;
            }
            if spins < SPINS_BEFORE_SLEEP {
                spins += 1;
                std::hint::spin_loop();
                continue;
            }
            self.sleeping[worker].store(true, Ordering::SeqCst);
            let state = self.state.load(Ordering::SeqCst);
            let is_new = state & OPEN != 0 && state >> 32 != seen;
            if !is_new && !self.stop.load(Ordering::SeqCst) {
                std::thread::park();
            }
            self.sleeping[worker].store(false, Ordering::SeqCst);
            spins = 0;
        }
    }

    /// Joins the job of `state`, unless it was closed meanwhile.
    fn join(&self, mut state: u64) -> bool {
        let number = state >> 32;
        while state & OPEN != 0 && state >> 32 == number {
            match self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(current) => state = current,
            }
        }
        false
    }

    fn take_tasks(&self, job: Job, thread: usize) {
        let result = catch_unwind(AssertUnwindSafe(|| {
            // SAFETY: the task outlives the job, see `Shared`.
            let task = unsafe { &*job.task };
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= job.num_tasks {
                    return;
                }
                task(index, thread);
            }
        }));
        if let Err(panic) = result {
            self.next.store(job.num_tasks, Ordering::Relaxed);
            *self.panic.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(panic);
        }
    }

    /// Lets nobody join any more and waits for those who have.
    fn close_and_wait(&self) {
        let joined = (self.state.fetch_and(!OPEN, Ordering::AcqRel) & JOINED) as usize;
        let mut spins = 0;
        while self.finished.load(Ordering::Acquire) < joined {
            if spins < SPINS_BEFORE_YIELD {
                spins += 1;
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Pool;

    #[test]
    fn every_task_runs_once() {
        for num_threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(num_threads).unwrap();
            for num_tasks in [0, 1, 2, 7, 100] {
                for _ in 0..200 {
                    let counts: Vec<_> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
                    pool.run(num_tasks, &|index, thread| {
                        assert!(thread < num_threads);
                        counts[index].fetch_add(1, Ordering::Relaxed);
                    });
                    assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                }
            }
        }
    }

    #[test]
    fn sleeping_workers_are_woken() {
        let mut pool = Pool::new(2).unwrap();
        for _ in 0..3 {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            while !pool.shared.sleeping[0].load(Ordering::SeqCst) {
                assert!(std::time::Instant::now() < deadline, "an idle worker goes to sleep");
                std::thread::yield_now();
            }
            let workers = AtomicUsize::new(0);
            pool.run(2, &|_, thread| {
                if thread == 1 {
                    workers.fetch_add(1, Ordering::SeqCst);
                }
                while workers.load(Ordering::SeqCst) == 0 {
                    assert!(std::time::Instant::now() < deadline, "the worker wakes up");
                    std::thread::yield_now();
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                pool.run(50, &|index, _| assert_ne!(index, 25, "planned"));
            }));
            assert!(result.is_err());
            let count = AtomicUsize::new(0);
            pool.run(50, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 50);
        }
    }
}
