//! A machine of a chosen size for the agents to watch: a total, a baseline, and the real memory of the runtimes, which
//! comes back only after a delay, as it does on machines with unified memory.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const WRITE_EVERY: Duration = Duration::from_millis(200);

/// Writes `meminfo` into a folder, again and again, until it is dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    total: u64,
    baseline: u64,
    leaked: AtomicU64,
    delay: Duration,
    lowest: AtomicU64,
    is_over: AtomicBool,
    recent: Mutex<VecDeque<(Instant, u64)>>,
}

impl Simulator {
    /// A machine of `total` bytes, of which `baseline` are in use without any model. Memory of a runtime that ended is
    /// still in use for `delay`.
    ///
    /// # Panics
    /// If the folder can't be written.
    pub fn start(folder: &Path, total: u64, baseline: u64, delay: Duration) -> Self {
        fs::create_dir_all(folder).expect("the folder of the simulation");
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            total,
            baseline,
            leaked: AtomicU64::new(0),
            delay,
            lowest: AtomicU64::new(total),
            is_over: AtomicBool::new(false),
            recent: Mutex::default(),
        });
        shared.write();
        let writing = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            while !writing.is_over.load(Ordering::Relaxed) {
                writing.write();
                std::thread::sleep(WRITE_EVERY);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// So much more is in use, by nobody whom Kubernetes knows.
    pub fn leak(&self, bytes: u64) {
        self.shared.leaked.store(bytes, Ordering::Relaxed);
    }

    /// The least that was ever available.
    pub fn lowest_available(&self) -> u64 {
        self.shared.lowest.load(Ordering::Relaxed)
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there was printed already.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn write(&self) {
        let used = self.baseline + self.leaked.load(Ordering::Relaxed) + self.held();
        let available = self.total.saturating_sub(used);
        self.lowest.fetch_min(available, Ordering::Relaxed);
        let (total, available) = (self.total / 1024, available / 1024);
        let text = format!(
            "MemTotal: {total} kB\nMemFree: {available} kB\nMemAvailable: {available} kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"
        );
        let (temporary, target) = (self.folder.join("meminfo.new"), self.folder.join("meminfo"));
        fs::write(&temporary, text)
            .and_then(|()| fs::rename(&temporary, &target))
            .expect("write the simulated meminfo");
    }

    /// The most that the runtimes held within the delay.
    fn held(&self) -> u64 {
        let now = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((now, memory_of_runtimes()));
        while recent.front().is_some_and(|(at, _)| now.duration_since(*at) > self.delay) {
            recent.pop_front();
        }
        recent.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }
}

/// Resident memory of every `kindling runtime` of this machine's pods.
fn memory_of_runtimes() -> u64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let of_process = |folder: PathBuf| {
        let command = fs::read(folder.join("cmdline")).ok()?;
        if !command.starts_with(b"/usr/bin/kindling\0runtime\0") {
            return None;
        }
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    entries.filter_map(|entry| of_process(entry.path())).sum()
}
