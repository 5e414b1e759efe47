//! Where everything of the cluster lies: names, addresses, folders. Every other file takes them from here.

use std::path::{Path, PathBuf};

use anyhow::ensure;

use crate::shell::user_cache;

/// The host's end of the link to the nodes.
pub const HOST_IP: &str = "10.89.0.1";
/// The host's network device of that link.
pub const HOST_DEVICE: &str = "kindling-host";
/// Where Services get their addresses.
pub const SERVICE_RANGE: &str = "10.96.0.0/16";
/// Where pods get theirs; a node hands out one /24 of it.
pub const POD_RANGE: &str = "10.244.0.0/16";
/// The API's own Service: the first address of the range.
pub const API_SERVICE_IP: &str = "10.96.0.1";
/// The Service that answers for names.
pub const DNS_SERVICE_IP: &str = "10.96.0.10";
/// The API server's port on node 0.
pub const API_PORT: u16 = 6443;
/// The folder inside a node that hostPath volumes may use; see [`Layout::cache_host_path`].
pub const NODE_CACHE_PATH: &str = "/var/lib/kindling";
/// The kubelet's folder: device plugins know it by this path, so it can't be moved, only covered.
pub const KUBELET_PATH: &str = "/var/lib/kubelet";
/// Containerd's socket inside every node, where `/run` is the node's own.
pub const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// What `up` is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// One or two.
    pub num_nodes: u8,
    /// No kubelet, containerd and kube-proxy.
    pub control_plane_only: bool,
}

impl Shape {
    /// The nodes of this shape.
    pub fn nodes(self) -> impl Iterator<Item = Node> {
        (0..self.num_nodes).map(Node)
    }
}

/// One node, by its index; node 0 also runs the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(pub u8);

impl Node {
    /// More nodes than any shape has are never made: `down` looks for these.
    pub fn every_possible() -> impl Iterator<Item = Node> {
        (0..2).map(Node)
    }

    /// Whether etcd, the API server and the controllers run here.
    pub fn has_control_plane(self) -> bool {
        self.0 == 0
    }

    /// The name in Kubernetes.
    pub fn name(self) -> String {
        format!("node-{}", self.0)
    }

    /// The address of the kubelet, and on node 0 of the API.
    pub fn ip(self) -> String {
        format!("10.89.0.{}", 2 + self.0)
    }

    /// What this node's pods get their addresses from.
    pub fn pod_range(self) -> String {
        format!("10.244.{}.0/24", self.0)
    }

    /// The name of the network namespace, as `ip netns` lists it.
    pub fn netns(self) -> String {
        format!("kindling-node-{}", self.0)
    }

    /// The network namespace's file.
    pub fn netns_path(self) -> PathBuf {
        Path::new("/run/netns").join(self.netns())
    }

    /// The cgroup of the node's pods, without a slash; machine-wide, so it says whose it is.
    pub fn cgroup(self) -> String {
        format!("kindling-node-{}", self.0)
    }
}

/// The two folders: the cache survives `down`, the state doesn't.
#[derive(Clone, Debug)]
pub struct Layout {
    /// Built programs, fetched tools.
    pub cache: PathBuf,
    /// Certificates, configs, logs, etcd's data, images.
    pub state: PathBuf,
}

impl Layout {
    /// The folders that the environment asks for, or the ones in the user's cache.
    pub fn from_env() -> anyhow::Result<Self> {
        let cache = match std::env::var_os("KINDLING_CLUSTER_CACHE") {
            Some(cache) => PathBuf::from(cache),
            None => user_cache()?.join("kindling/cluster"),
        };
        let state = match std::env::var_os("KINDLING_CLUSTER_STATE") {
            Some(state) => PathBuf::from(state),
            None => cache.join("state"),
        };
        for folder in [&cache, &state] {
            ensure!(folder.is_absolute(), "{} is not an absolute path", folder.display());
            let is_hidden = ["/run", "/var/run", "/var/log", KUBELET_PATH, NODE_CACHE_PATH]
                .iter()
                .any(|covered| folder.starts_with(covered));
            ensure!(!is_hidden, "{} would be hidden in the node, which has its own folder there", folder.display());
        }
        Ok(Self { cache, state })
    }

    /// The file that tests read.
    pub fn record(&self) -> PathBuf {
        self.state.join("cluster.json")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.state.join("pki")
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.state.join("kubeconfig")
    }

    /// Everything of one node.
    pub fn node(&self, node: Node) -> PathBuf {
        self.state.join(node.name())
    }

    /// Where a node's components write their logs; inside the node it is `/var/log`.
    pub fn logs(&self, node: Node) -> PathBuf {
        self.node(node).join("log")
    }

    /// Where [`NODE_CACHE_PATH`] of a node lies on the host.
    pub fn cache_host_path(&self, node: Node) -> PathBuf {
        self.node(node).join("kindling")
    }

    /// Who holds this node's namespaces.
    pub fn holder(&self, node: Node) -> PathBuf {
        self.node(node).join("holder.json")
    }
}
