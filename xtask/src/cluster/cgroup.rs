//! The control groups of the nodes' pods: one of our own, so that they can be found and removed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::layout::Node;

/// How control groups are mounted on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchies {
    /// One tree per controller; empty where there is only version 2.
    v1: Vec<PathBuf>,
    /// The one tree. Beside version 1 (the hybrid form) it carries no controllers, but runc makes groups in it too.
    v2: Option<PathBuf>,
}

impl Hierarchies {
    /// Reads this machine's mounts.
    pub fn detect() -> anyhow::Result<Self> {
        Self::from_mounts(&std::fs::read_to_string("/proc/mounts").context("read /proc/mounts")?)
    }

    fn from_mounts(mounts: &str) -> anyhow::Result<Self> {
        let of_kind = |kind: &str| {
            let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            fields
                .filter(|fields| fields.get(2) == Some(&kind))
                .map(|fields| PathBuf::from(fields[1]))
                .collect::<Vec<_>>()
        };
        let (v1, v2) = (of_kind("cgroup"), of_kind("cgroup2").into_iter().next());
        ensure!(!v1.is_empty() || v2.is_some(), "no control groups are mounted: the kubelet needs them");
        Ok(Self { v1, v2 })
    }

    /// Whether this is version 1, which the kubelet must be told to accept.
    pub fn is_v1(&self) -> bool {
        !self.v1.is_empty()
    }

    /// The node's group in every tree, made by us or by runc.
    pub fn groups(&self, node: Node) -> Vec<PathBuf> {
        self.v1.iter().chain(&self.v2).map(|tree| tree.join(node.cgroup())).collect()
    }

    /// Makes the node's group.
    pub fn create(&self, node: Node) -> anyhow::Result<()> {
        match &self.v2 {
            Some(tree) if !self.is_v1() => create_v2(tree, node),
            _ => self.v1.iter().try_for_each(|tree| create_v1(tree, node)),
        }
    }
}

/// A cpuset is born empty and takes no process until it is filled.
fn create_v1(tree: &Path, node: Node) -> anyhow::Result<()> {
    let group = tree.join(node.cgroup());
    std::fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if group.join(file).exists() {
            let value = std::fs::read_to_string(tree.join(file)).with_context(|| format!("read {file}"))?;
            std::fs::write(group.join(file), value).with_context(|| format!("fill {file}"))?;
        }
    }
    Ok(())
}

/// A group has only the controllers that its parent passes down.
fn create_v2(tree: &Path, node: Node) -> anyhow::Result<()> {
    let group = tree.join(node.cgroup());
    std::fs::create_dir_all(&group).with_context(|| format!("create {}", group.display()))?;
    std::fs::write(tree.join("cgroup.subtree_control"), "+cpu +cpuset +memory +pids").context("pass controllers down")
}

/// Removes a group and all below it; the kernel may still be taking processes out of it, so it is tried for a while.
pub fn remove(group: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match remove_tree(group) {
            Ok(()) => return Ok(()),
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
            Err(error) => return Err(error).with_context(|| format!("remove {}", group.display())),
        }
    }
}

fn remove_tree(group: &Path) -> std::io::Result<()> {
    if !group.exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_machine_counts_as_version_1_and_is_cleaned_in_both() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let hierarchies = Hierarchies::from_mounts(mounts).expect("should be understood");
        assert!(hierarchies.is_v1());
        let expected =
            ["/sys/fs/cgroup/cpu/kindling-node-0", "/sys/fs/cgroup/unified/kindling-node-0"].map(PathBuf::from);
        assert_eq!(hierarchies.groups(Node(0)), expected);
    }

    #[test]
    fn unified_machine_counts_as_version_2() {
        let hierarchies = Hierarchies::from_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert!(!hierarchies.expect("should be understood").is_v1());
        assert!(Hierarchies::from_mounts("proc /proc proc rw 0 0\n").is_err());
    }
}
