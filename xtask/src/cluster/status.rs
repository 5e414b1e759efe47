//! `cargo xtask cluster status`: what runs, and whether it is well.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::command;
use super::holder::Holder;
use super::layout::Layout;
use super::record::ClusterRecord;

/// Prints the state of the cluster; an error if there is none or it is not healthy.
pub fn status(layout: &Layout) -> anyhow::Result<()> {
    let record = ClusterRecord::read(layout)?.context("no cluster is here")?;
    let health = health(layout, &record);
    println!("Kubernetes {}, {}", record.kubernetes_version, if health.is_ok() { "healthy" } else { "broken" });
    println!("kubeconfig {}", record.kubeconfig.display());
    println!("image      {}", record.image.as_deref().unwrap_or("none loaded"));
    for (node, found) in record.shape().nodes().zip(&record.nodes) {
        let holder = Holder::read(&layout.holder(node)).filter(|found| found.holder.is_alive());
        let memory = holder.map_or(0, |holder| memory_bytes(holder.init.pid));
        let state = if holder.is_some() { "runs" } else { "has ended" };
        let (name, ip, pid, mebibytes) = (&found.name, &found.ip, found.holder_pid, memory >> 20);
        println!("{name} {ip} {state}, holder {pid}, {mebibytes} MiB in the node's own processes");
    }
    if health.is_ok() {
        let mut kubectl = kubectl(&record);
        println!("{}", command::output(kubectl.args(["get", "nodes", "-o", "wide"]))?.trim_end());
    }
    health
}

/// Whether every holder runs and the API says that it is ready.
pub fn health(layout: &Layout, record: &ClusterRecord) -> anyhow::Result<()> {
    for node in record.shape().nodes() {
        let is_alive =
            Holder::read(&layout.holder(node)).is_some_and(|found| found.holder.is_alive() && found.init.is_alive());
        if !is_alive {
            bail!("{} has ended", node.name());
        }
    }
    let ready = command::output(kubectl(record).args(["--request-timeout=5s", "get", "--raw", "/readyz"]))?;
    if ready.trim() != "ok" {
        bail!("the API is not ready: {ready}");
    }
    Ok(())
}

/// kubectl for the cluster's administrator.
pub fn kubectl(record: &ClusterRecord) -> Command {
    let mut kubectl = Command::new(&record.kubectl);
    kubectl.arg("--kubeconfig").arg(&record.kubeconfig);
    kubectl
}

/// Proportional memory of the processes in the node's own process namespace: pods have theirs and are not counted.
fn memory_bytes(init_pid: u32) -> u64 {
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/pid")).ok();
    let Some(wanted) = namespace(Path::new(&format!("/proc/{init_pid}"))) else {
        return 0;
    };
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return 0;
    };
    processes
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|process| namespace(process).as_ref() == Some(&wanted))
        .filter_map(|process| proportional_bytes(&std::fs::read_to_string(process.join("smaps_rollup")).ok()?))
        .sum()
}

fn proportional_bytes(smaps_rollup: &str) -> Option<u64> {
    let line = smaps_rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proportional_memory_is_read_in_bytes() {
        assert_eq!(proportional_bytes("Rss:  300 kB\nPss:  100 kB\nPss_Dirty: 50 kB\n"), Some(102_400));
        assert_eq!(proportional_bytes("Rss: 1 kB\n"), None);
    }
}
