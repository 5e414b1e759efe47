//! The process that holds a node: its end is the node's end. Known by pid and start time, since pids are used again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// A process that can't be mistaken for a later one of the same pid.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Process {
    /// The pid as the host sees it.
    pub pid: u32,
    /// Clock ticks after boot, from `/proc/<pid>/stat`.
    pub start_time: u64,
}

/// The two processes at the root of a node.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Holder {
    /// `unshare`, in the host's process namespace: the one to end.
    pub holder: Process,
    /// Its child, process 1 of the node; the kernel ends the node's processes with it, and takes it off last.
    pub init: Process,
}

impl Process {
    /// The running process of this pid.
    pub fn of_pid(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, _parent, start_time) = parse_stat(&stat)?;
        (state != 'Z').then_some(Self { pid, start_time })
    }

    /// Whether this very process still runs; a zombie doesn't.
    pub fn is_alive(self) -> bool {
        Self::of_pid(self.pid) == Some(self)
    }
}

impl Holder {
    /// Waits until the holder has its child, and writes both into the file.
    pub fn record(holder_pid: u32, file: &Path) -> anyhow::Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let found = loop {
            let holder = Process::of_pid(holder_pid).context("the node's holder ended at once")?;
            if let Some(init) = child_of(holder_pid) {
                break Self { holder, init };
            }
            if Instant::now() > deadline {
                bail!("the node's holder made no process within 5 s");
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        std::fs::write(file, serde_json::to_vec(&found)?).with_context(|| format!("write {}", file.display()))?;
        Ok(found)
    }

    /// What [`Holder::record`] wrote; None if nothing readable is there.
    pub fn read(file: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(file).ok()?).ok()
    }

    /// The words before a command that shall run inside the node.
    pub fn enter(self) -> Vec<String> {
        let target = self.init.pid.to_string();
        ["nsenter", "--target", &target, "--mount", "--net", "--pid"].map(str::to_owned).to_vec()
    }

    /// Ends the node and waits until all of it is gone.
    pub fn end(self) -> anyhow::Result<()> {
        for process in [self.holder, self.init] {
            if process.is_alive() {
                let pid = i32::try_from(process.pid).context("read a pid")?;
                // It may have ended between the look and the signal: what counts is that it is gone below.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.holder.is_alive() || self.init.is_alive() {
            if Instant::now() > deadline {
                bail!("node with holder {} did not end within 30 s", self.holder.pid);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

fn child_of(parent: u32) -> Option<Process> {
    let pids = std::fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (_, its_parent, start_time) = parse_stat(&stat)?;
        (its_parent == parent).then_some(Process { pid, start_time })
    })
    .next()
}

/// State, parent and start time of `/proc/<pid>/stat`; the name in parentheses may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u32, u64)> {
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let state = fields.first()?.chars().next()?;
    Some((state, fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_name_with_parentheses_is_read() {
        let stat = "17 (a) b (c)) S 4 17 17 0 -1 0 0 0 0 0 1 2 3 4 20 0 1 0 98765 1000 10";
        assert_eq!(parse_stat(stat), Some(('S', 4, 98765)));
    }

    #[test]
    fn pid_used_again_is_another_process() {
        let own = Process::of_pid(std::process::id()).expect("this process should run");
        assert!(own.is_alive());
        assert!(!Process { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
