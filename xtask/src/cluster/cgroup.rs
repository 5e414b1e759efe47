//! The control groups of the nodes' pods: one of our own, so that they can be found and removed.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::layout::Node;

/// How control groups are mounted on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hierarchies {
    /// One tree per controller.
    V1(Vec<PathBuf>),
    /// One tree.
    V2(PathBuf),
}

impl Hierarchies {
    /// Reads this machine's mounts.
    pub fn detect() -> anyhow::Result<Self> {
        Self::from_mounts(&std::fs::read_to_string("/proc/mounts").context("read /proc/mounts")?)
    }

    /// A tree of version 2 beside ones of version 1 (the hybrid form) is left alone.
    fn from_mounts(mounts: &str) -> anyhow::Result<Self> {
        let of_kind = |kind: &str| {
            let fields = mounts
                .lines()
                .map(|line| line.split(' ').collect::<Vec<_>>());
            fields
                .filter(|fields| fields.get(2) == Some(&kind))
                .map(|fields| PathBuf::from(fields[1]))
                .collect()
        };
        let v1: Vec<PathBuf> = of_kind("cgroup");
        let v2: Vec<PathBuf> = of_kind("cgroup2");
        match (v1.is_empty(), v2.into_iter().next()) {
            (false, _) => Ok(Self::V1(v1)),
            (true, Some(tree)) => Ok(Self::V2(tree)),
            (true, None) => bail!("no control groups are mounted: the kubelet needs them"),
        }
    }

    /// Whether this is version 1, which the kubelet must be told to accept.
    pub fn is_v1(&self) -> bool {
        matches!(self, Self::V1(_))
    }

    fn trees(&self) -> &[PathBuf] {
        match self {
            Self::V1(trees) => trees,
            Self::V2(tree) => std::slice::from_ref(tree),
        }
    }

    /// The node's group in every tree.
    pub fn groups(&self, node: Node) -> Vec<PathBuf> {
        self.trees()
            .iter()
            .map(|tree| tree.join(node.cgroup()))
            .collect()
    }

    /// Makes the node's group; in version 1 a cpuset is born empty and takes no process until it is filled.
    pub fn create(&self, node: Node) -> anyhow::Result<()> {
        for (tree, group) in self.trees().iter().zip(self.groups(node)) {
            std::fs::create_dir_all(&group)
                .with_context(|| format!("create {}", group.display()))?;
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if self.is_v1() && group.join(file).exists() {
                    let value = std::fs::read_to_string(tree.join(file))
                        .with_context(|| format!("read {file}"))?;
                    std::fs::write(group.join(file), value)
                        .with_context(|| format!("fill {file}"))?;
                }
            }
        }
        if let Self::V2(tree) = self {
            let wanted = "+cpu +cpuset +memory +pids";
            std::fs::write(tree.join("cgroup.subtree_control"), wanted)
                .context("pass controllers down")?;
        }
        Ok(())
    }
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
    fn hybrid_machine_counts_as_version_1() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let hierarchies = Hierarchies::from_mounts(mounts).expect("should be understood");
        assert_eq!(
            hierarchies,
            Hierarchies::V1(vec!["/sys/fs/cgroup/cpu".into()])
        );
        assert_eq!(
            hierarchies.groups(Node(0)),
            [PathBuf::from("/sys/fs/cgroup/cpu/kindling-node-0")]
        );
    }

    #[test]
    fn unified_machine_counts_as_version_2() {
        let hierarchies = Hierarchies::from_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(
            hierarchies.expect("should be understood"),
            Hierarchies::V2("/sys/fs/cgroup".into())
        );
        assert!(Hierarchies::from_mounts("proc /proc proc rw 0 0\n").is_err());
    }
}
