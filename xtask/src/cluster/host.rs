//! What the machine must offer, checked before anything is made; Debian packages that are missing are installed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail, ensure};

use super::{cgroup, command, layout};
use crate::debian;

/// A program (or a file, if it has a slash) and the Debian package that brings it.
const NEEDED: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("socat", "socat"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("mount", "mount"),
    ("openssl", "openssl"),
    ("unzip", "unzip"),
];

/// Capabilities of root that the nodes can do without. CAP_SYS_RESOURCE: containerd is told not to lower OOM scores.
const DISPENSABLE_CAPABILITIES: u64 = 1 << 24;
/// All that Linux 5.9 and later have: CAP_CHOWN (0) to CAP_CHECKPOINT_RESTORE (40).
const ALL_CAPABILITIES: u64 = (1 << 41) - 1;

/// Checks the machine and installs what is missing.
pub fn prepare(shape: layout::Shape) -> anyhow::Result<()> {
    cgroup::Hierarchies::detect()?;
    let filesystems = std::fs::read_to_string("/proc/filesystems").context("read /proc/filesystems")?;
    if !shape.control_plane_only {
        ensure!(filesystems.contains("\toverlay\n"), "this kernel has no overlayfs: try `modprobe overlay`");
        ensure!(
            Path::new("/proc/sys/net/bridge/bridge-nf-call-iptables").exists(),
            "this kernel has no br_netfilter: try `modprobe br_netfilter`"
        );
    }
    let resolver = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    check_resolver(&resolver)?;
    install_packages()?;
    let routes = command::output(Command::new("ip").args(["-4", "route", "show"]))?;
    check_routes(&routes)
}

/// Whether this process may make namespaces, mounts and network devices.
pub fn check_root() -> anyhow::Result<()> {
    check_status(&std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?)
}

fn check_status(process_status: &str) -> anyhow::Result<()> {
    let field =
        |name: &str| process_status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    let is_root = field("Uid:").split_whitespace().nth(1) == Some("0");
    ensure!(
        is_root,
        "a node needs root: run this as root on a machine that may be changed, or use a cluster of your own"
    );
    let effective = u64::from_str_radix(field("CapEff:"), 16).context("read the capabilities of this process")?;
    let missing = ALL_CAPABILITIES & !DISPENSABLE_CAPABILITIES & !effective;
    ensure!(
        missing == 0,
        "root lacks capabilities here (missing bits {missing:#x}): is this an unprivileged container?"
    );
    Ok(())
}

/// The host gets routes for the cluster's ranges: they must not cut it off from its own name server.
fn check_resolver(resolv_conf: &str) -> anyhow::Result<()> {
    for line in resolv_conf.lines() {
        let server = line.strip_prefix("nameserver").map(str::trim).unwrap_or_default();
        if is_of_cluster(server) {
            bail!("this machine asks {server} for names, which lies in a range that the test cluster takes");
        }
    }
    Ok(())
}

fn check_routes(routes: &str) -> anyhow::Result<()> {
    for line in routes.lines() {
        let destination = line.split_whitespace().next().unwrap_or_default();
        let is_ours = line.contains(layout::HOST_DEVICE);
        if is_of_cluster(destination) && !is_ours {
            bail!("this machine has a route `{line}`, in a range that the test cluster takes");
        }
    }
    Ok(())
}

fn is_of_cluster(address: &str) -> bool {
    ["10.89.0.", "10.96.", "10.244."].iter().any(|start| address.starts_with(start))
}

/// Installs the programs that a node needs and that are missing, and says which.
pub fn install_packages() -> anyhow::Result<()> {
    debian::install_missing(NEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_without_sys_resource_is_enough() {
        assert!(check_status("Uid:\t0\t0\t0\t0\nCapEff:\t000001fffeffffff\n").is_ok());
    }

    #[test]
    fn container_root_is_refused() {
        assert!(check_status("Uid:\t0\t0\t0\t0\nCapEff:\t00000000a80425fb\n").is_err());
        assert!(check_status("Uid:\t1000\t1000\t1000\t1000\nCapEff:\t0000000000000000\n").is_err());
    }

    #[test]
    fn machine_inside_another_cluster_is_refused() {
        assert!(check_resolver("search default\nnameserver 10.96.0.10\n").is_err());
        assert!(check_resolver("nameserver 192.0.2.53\n").is_ok());
        assert!(check_routes("10.244.3.0/24 dev cni0\n").is_err());
        assert!(check_routes("default via 192.0.2.1 dev eth0\n10.96.0.0/16 via 10.89.0.2 dev kindling-host\n").is_ok());
    }
}
