//! A machine of a chosen size for the agents to watch: a total, a baseline, and the real memory of the runtimes, which
//! comes back only after a delay, as it does on machines with unified memory.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Patience, Stage, until};

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Memory in all.
    pub total: u64,
    /// In use without any model.
    pub baseline: u64,
    /// Memory of a runtime that ended is still in use for so long.
    pub slow_return: Duration,
}

/// The agents of a cluster watch simulated machines, until this is dropped.
pub struct Simulated<'a> {
    stage: &'a Stage,
    /// What they watch, one for each node.
    pub machines: Vec<Simulator>,
}

impl<'a> Simulated<'a> {
    /// Starts the simulation, and the release with it; `settings` are more of helm's values.
    ///
    /// # Panics
    /// If the agents do not see it.
    pub fn start(stage: &'a Stage, machine: Machine, settings: &[&str]) -> Self {
        const FOLDER: &str = "simulated-proc";
        let nodes = stage.cluster.nodes();
        let folder = format!("agent.procfsRoot={}", nodes[0].folder(FOLDER).0.display());
        let Machine { total, baseline, .. } = machine;
        let machines = nodes.iter().map(|node| {
            // Of several nodes on this machine each has the runtimes of its own pods.
            let group = node.name.as_ref().filter(|_| nodes.len() > 1).map(|name| format!("kindling-{name}/"));
            Simulator::start(&node.folder(FOLDER).1, machine, group)
        });
        let machines: Vec<Simulator> = machines.collect();
        stage.cluster.helm_install(&[settings, &[folder.as_str()]].concat());
        stage.wait_webhook();
        until("the nodes are as large as is simulated", Patience::PODS, || {
            let envelopes = stage.kubectl().get(&["nodeenvelopes"])?;
            let is_so = |envelope: &Value| {
                let memory = &envelope["status"]["memory"];
                // An agent that was replaced learns the baseline anew.
                let baseline = memory["baselineBytes"].as_u64().is_some_and(|bytes| bytes <= baseline + (32 << 20));
                memory["totalBytes"] == total && baseline
            };
            let envelopes = envelopes["items"].as_array()?;
            (envelopes.len() == machines.len() && envelopes.iter().all(is_so)).then_some(())
        });
        Self { stage, machines }
    }
}

impl Drop for Simulated<'_> {
    fn drop(&mut self) {
        // Given any setting, helm starts from the chart's own values.
        if let Err(error) = self.stage.cluster.try_helm_install(&[]) {
            println!("the release was not restored: {error}");
            assert!(std::thread::panicking(), "the release was not restored: {error}");
        }
    }
}

const WRITE_EVERY: Duration = Duration::from_millis(200);

/// Writes `meminfo` into a folder, again and again, until it is dropped.
pub struct Simulator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    folder: PathBuf,
    /// Part of the name of the cgroup of its runtimes; all on this machine, if there is none.
    group: Option<String>,
    total: u64,
    baseline: u64,
    leaked: AtomicU64,
    delay: Duration,
    lowest: AtomicU64,
    is_over: AtomicBool,
    recent: Mutex<VecDeque<(Instant, u64)>>,
}

impl Simulator {
    /// Starts writing into a folder.
    ///
    /// # Panics
    /// If the folder can't be written.
    fn start(folder: &Path, machine: Machine, group: Option<String>) -> Self {
        let Machine { total, baseline, slow_return: delay } = machine;
        fs::create_dir_all(folder).expect("the folder of the simulation");
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            group,
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
        recent.push_back((now, memory_of_runtimes(self.group.as_deref())));
        while recent.front().is_some_and(|(at, _)| now.duration_since(*at) > self.delay) {
            recent.pop_front();
        }
        recent.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0)
    }
}

/// Resident memory of every `kindling runtime` of this machine's pods, or of those in a cgroup.
fn memory_of_runtimes(group: Option<&str>) -> u64 {
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let of_process = |folder: PathBuf| {
        let command = fs::read(folder.join("cmdline")).ok()?;
        if !command.starts_with(b"/usr/bin/kindling\0runtime\0") {
            return None;
        }
        if let Some(group) = group
            && !fs::read_to_string(folder.join("cgroup")).ok()?.contains(group)
        {
            return None;
        }
        let status = fs::read_to_string(folder.join("status")).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
        kib.trim().parse::<u64>().ok().map(|kib| kib * 1024)
    };
    entries.filter_map(|entry| of_process(entry.path())).sum()
}
