//! `cluster.json`: what `up` leaves behind for tests and for the other commands.

use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::holder::Holder;
use super::layout::{Layout, NODE_CACHE_PATH, Node, Shape};
use super::tools::Tools;

/// A running cluster. Written when it is ready, removed by `down`.
#[derive(Debug, Deserialize, Serialize)]
pub struct ClusterRecord {
    /// The administrator's kubeconfig; its server is reachable from the host.
    pub kubeconfig: PathBuf,
    /// A kubectl to use with it.
    pub kubectl: PathBuf,
    /// A helm to use with it.
    pub helm: PathBuf,
    /// Like `v1.36.3`.
    pub kubernetes_version: String,
    /// No kubelet runs: objects can be made, pods stay Pending.
    pub control_plane_only: bool,
    /// The image of Kindling that every node has, if one was loaded.
    pub image: Option<String>,
    /// The nodes; the first runs the control plane.
    pub nodes: Vec<NodeRecord>,
}

/// One node of a running cluster.
#[derive(Debug, Deserialize, Serialize)]
pub struct NodeRecord {
    /// The node's name in Kubernetes.
    pub name: String,
    /// Its address, reachable from the host.
    pub ip: String,
    /// Ending this process ends the node: a real node loss.
    pub holder_pid: u32,
    /// The file of the network namespace.
    pub netns: PathBuf,
    /// Put in front of a command to run it inside the node's mounts, network and processes.
    pub enter: Vec<String>,
    /// A folder for hostPath volumes, as the node sees it, owned by user 65532.
    pub cache_path: PathBuf,
    /// The same folder as the host sees it.
    pub cache_host_path: PathBuf,
    /// Where the components' logs lie on the host.
    pub logs: PathBuf,
}

impl NodeRecord {
    /// Describes a node whose holder runs.
    pub fn new(layout: &Layout, node: Node, holder: Holder) -> Self {
        Self {
            name: node.name(),
            ip: node.ip(),
            holder_pid: holder.holder.pid,
            netns: node.netns_path(),
            enter: holder.enter(),
            cache_path: NODE_CACHE_PATH.into(),
            cache_host_path: layout.cache_host_path(node),
            logs: layout.logs(node),
        }
    }
}

impl ClusterRecord {
    /// Describes a cluster that is ready.
    pub fn new(layout: &Layout, shape: Shape, tools: &Tools, version: &str, nodes: Vec<NodeRecord>) -> Self {
        Self {
            kubeconfig: layout.admin_kubeconfig(),
            kubectl: tools.kubectl.clone(),
            helm: tools.helm.clone(),
            kubernetes_version: version.to_owned(),
            control_plane_only: shape.control_plane_only,
            image: None,
            nodes,
        }
    }

    /// The record of the cluster that `up` last finished, if `down` has not removed it.
    pub fn read(layout: &Layout) -> anyhow::Result<Option<Self>> {
        let file = layout.record();
        if !file.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display())).map(Some)
    }

    /// Writes beside and renames, so that a reader never sees half a file.
    pub fn write(&self, layout: &Layout) -> anyhow::Result<()> {
        let file = layout.record();
        let beside = file.with_extension("json.new");
        std::fs::write(&beside, serde_json::to_string_pretty(self)? + "\n").context("write cluster.json")?;
        std::fs::rename(&beside, &file).with_context(|| format!("write {}", file.display()))
    }

    /// What `up` was asked for.
    pub fn shape(&self) -> Shape {
        let num_nodes = u8::try_from(self.nodes.len()).unwrap_or(u8::MAX);
        Shape { num_nodes, control_plane_only: self.control_plane_only }
    }
}
