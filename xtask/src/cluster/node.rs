//! Starts one node: its folders and files, then the process that holds its namespaces.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context;

use super::cgroup::Hierarchies;
use super::config;
use super::holder::Holder;
use super::layout::{Layout, Node};
use super::node_script::Script;

/// The user that Kindling's containers run as: it must be able to write to the node's cache folder.
const CONTAINER_USER: u32 = 65532;

/// Writes what the node reads and starts it; the network must be there already.
pub fn start(script: &Script, hierarchies: &Hierarchies) -> anyhow::Result<Holder> {
    let (layout, node) = (script.layout, script.node);
    write_files(layout, node, hierarchies)?;
    hierarchies.create(node)?;
    let file = layout.node(node).join("node.sh");
    write(&file, &script.render())?;
    let log = File::create(layout.logs(node).join("node.log")).context("create the node's log")?;
    // setsid and nsenter become what comes after them; unshare stays, as the parent of the node's process 1.
    let holder = Command::new("setsid")
        .arg("nsenter")
        .arg(format!("--net={}", node.netns_path().display()))
        .args(["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "bash"])
        .arg(&file)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share the node's log")?)
        .stderr(log)
        .spawn()
        .context("start the node's holder")?;
    Holder::record(holder.id(), &layout.holder(node))
}

fn write_files(layout: &Layout, node: Node, hierarchies: &Hierarchies) -> anyhow::Result<()> {
    let folder = layout.node(node);
    let (pki, cni) = (layout.pki(), folder.join("cni"));
    for needed in [&folder.join("kubelet"), &layout.logs(node), &layout.cache_host_path(node), &cni] {
        std::fs::create_dir_all(needed).with_context(|| format!("create {}", needed.display()))?;
    }
    std::os::unix::fs::chown(layout.cache_host_path(node), Some(CONTAINER_USER), Some(CONTAINER_USER))
        .context("give the cache folder to the containers' user")?;
    let resolv_conf = folder.join("resolv.conf");
    write(&resolv_conf, "")?;
    let kubelet = config::kubelet(&pki, &resolv_conf, node, hierarchies.is_v1());
    write(&folder.join("kubelet.json"), &kubelet.to_string())?;
    let kube_proxy = config::kube_proxy(&pki.join("kube-proxy.kubeconfig"), node);
    write(&folder.join("kube-proxy.json"), &kube_proxy.to_string())?;
    write(&folder.join("containerd.toml"), &config::containerd(&folder.join("containerd"), &cni))?;
    write(&cni.join("10-kindling.conflist"), &config::cni(node).to_string())
}

fn write(file: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
