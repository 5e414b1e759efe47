//! Processes of a pod, as this machine's kernel sees them.

use std::fs;

/// One process.
#[derive(Debug, Clone)]
pub struct Process {
    /// In this machine's numbering.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    status: String,
}

/// The processes in the cgroups of a pod; empty if the pod runs on another machine.
pub fn processes_of_pod(pod_uid: &str) -> Vec<Process> {
    let underscored = pod_uid.replace('-', "_");
    let entries = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let cgroup = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let is_in_pod = cgroup.contains(pod_uid) || cgroup.contains(&underscored);
        let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        is_in_pod.then_some(Process { pid, command, status })
    })
    .collect()
}

impl Process {
    /// A line of `/proc/<pid>/status`.
    pub fn status(&self, key: &str) -> &str {
        let line = self.status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map_or("", str::trim)
    }

    /// Options of the mount at its root, e.g. `ro,relatime`.
    pub fn root_mount_options(&self) -> String {
        let mounts = fs::read_to_string(format!("/proc/{}/mounts", self.pid)).unwrap_or_default();
        let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/"));
        root.and_then(|line| line.split(' ').nth(3)).unwrap_or_default().to_owned()
    }

    /// Ends it as the kernel's out-of-memory killer would.
    pub fn kill(&self) {
        let status = std::process::Command::new("kill").args(["-9", &self.pid.to_string()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {}", self.pid);
    }
}
