//! The script that process 1 of a node runs: it lays the mounts, starts the components and becomes `pause`.
//!
//! One script in place of a program per component in the host's view: whatever it starts is a child of the node's
//! process 1 and ends with it. If a step fails the script ends, and the node with it; `up` then shows the logs.

use std::path::Path;

use super::config::PAUSE_IMAGE;
use super::layout::{
    API_PORT, CONTAINERD_SOCKET, HOST_IP, KUBELET_PATH, Layout, NODE_CACHE_PATH, Node, SERVICE_RANGE, Shape,
};
use super::parts::Parts;
use super::tools::Tools;

/// Everything the script names.
pub struct Script<'a> {
    /// The folders.
    pub layout: &'a Layout,
    /// The programs built here.
    pub parts: &'a Parts,
    /// For kubectl.
    pub tools: &'a Tools,
    /// What was asked for.
    pub shape: Shape,
    /// Whose script this is.
    pub node: Node,
}

impl Script<'_> {
    /// The whole script.
    pub fn render(&self) -> String {
        let mut lines = self.prelude();
        if self.node.has_control_plane() {
            lines.push(self.start("etcd", &self.etcd()));
            lines.push(self.start("kube-apiserver", &self.apiserver()));
        }
        if !self.shape.control_plane_only {
            lines.extend(self.container_runtime());
        }
        let (kubectl, kubeconfig) = (self.tools.kubectl.display(), self.layout.admin_kubeconfig());
        lines.push(format!(
            "until {kubectl} --kubeconfig {} get --raw /readyz; do check; sleep 0.3; done",
            kubeconfig.display()
        ));
        if self.node.has_control_plane() {
            lines.push(self.start("kube-controller-manager", &self.controller_manager()));
            let kubeconfig = self.kubeconfig("scheduler");
            lines.push(
                self.start("kube-scheduler", &[format!("--kubeconfig={kubeconfig}"), "--leader-elect=false".into()]),
            );
        }
        if !self.shape.control_plane_only {
            lines.push(self.start("kubelet", &self.kubelet()));
            lines.push(self.start("kube-proxy", &[format!("--config={}", self.file("kube-proxy.json"))]));
            if self.node.has_control_plane() {
                let kubeconfig = self.layout.admin_kubeconfig();
                let listen = format!("--listen={}:53", self.node.ip());
                lines.push(self.start("cluster-dns", &[format!("--kubeconfig={}", kubeconfig.display()), listen]));
            }
        }
        lines.push("check".into());
        lines.push(format!("exec {}", self.parts.pause.display()));
        lines.join("\n") + "\n"
    }

    /// Mounts and settings of the namespace. The node's own `/run`, `/var/log` and kubelet folder: else CNI's namespace
    /// files, shims' sockets and pods' logs would stay behind on the host.
    fn prelude(&self) -> Vec<String> {
        let bind = |from: &Path, to: &str| format!("mkdir -p {to} && mount --bind {} {to}", from.display());
        vec![
            "set -euo pipefail".into(),
            "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into(),
            "mount --make-rshared /".into(),
            "mount -t tmpfs -o mode=755 tmpfs /run".into(),
            bind(&self.layout.node(self.node).join("kubelet"), KUBELET_PATH),
            bind(&self.layout.cache_host_path(self.node), NODE_CACHE_PATH),
            bind(&self.layout.logs(self.node), "/var/log"),
            "echo 1 > /proc/sys/net/ipv4/ip_forward".into(),
            "for file in /proc/sys/net/bridge/bridge-nf-call-iptables; do test ! -e $file || echo 1 > $file; done".into(),
            format!("iptables -w -t mangle -A POSTROUTING -d {HOST_IP} -m conntrack --ctstate NEW -j DROP"),
            // Whatever has ended while the rest is still awaited will not come back: the node ends, with its log as witness.
            "declare -A pids".into(),
            "check() { for name in ${!pids[@]}; do kill -0 ${pids[$name]} || { echo $name has ended; exit 1; }; done; }".into(),
            "launch() { local name=$1; shift; \"$@\" > /var/log/$name.log 2>&1 < /dev/null & pids[$name]=$!; }".into(),
            format!("start() {{ launch \"$1\" {} \"$@\"; }}", self.parts.node.display()),
        ]
    }

    fn start(&self, component: &str, flags: &[String]) -> String {
        format!("start {component} \\\n  {}", flags.join(" \\\n  "))
    }

    /// containerd, and the pause image before the first pod can ask for it.
    fn container_runtime(&self) -> Vec<String> {
        vec![
            format!(
                "containerd --config {} > /var/log/containerd.log 2>&1 < /dev/null &",
                self.file("containerd.toml")
            ),
            format!("until ctr --address {CONTAINERD_SOCKET} version > /dev/null 2>&1; do check; sleep 0.1; done"),
            format!(
                "ctr --address {CONTAINERD_SOCKET} --namespace k8s.io images import {} # {PAUSE_IMAGE}",
                self.layout.state.join("pause.tar").display()
            ),
        ]
    }

    fn etcd(&self) -> Vec<String> {
        vec![format!("--data-dir={}", self.file("etcd")), "--unsafe-no-fsync".into()]
    }

    fn apiserver(&self) -> Vec<String> {
        let mut flags = vec![
            "--etcd-servers=http://127.0.0.1:2379".to_owned(),
            "--bind-address=0.0.0.0".into(),
            format!("--secure-port={API_PORT}"),
            format!("--advertise-address={}", self.node.ip()),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local".into(),
            "--authorization-mode=Node,RBAC".into(),
            "--enable-admission-plugins=NodeRestriction".into(),
            "--allow-privileged=true".into(),
            "--kubelet-preferred-address-types=InternalIP".into(),
            "--requestheader-allowed-names=front-proxy-client".into(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".into(),
            "--requestheader-group-headers=X-Remote-Group".into(),
            "--requestheader-username-headers=X-Remote-User".into(),
        ];
        flags.extend(
            [
                ("client-ca-file", "ca.crt"),
                ("tls-cert-file", "apiserver.crt"),
                ("tls-private-key-file", "apiserver.key"),
                ("kubelet-client-certificate", "apiserver-kubelet-client.crt"),
                ("kubelet-client-key", "apiserver-kubelet-client.key"),
                ("service-account-key-file", "service-account.pub"),
                ("service-account-signing-key-file", "service-account.key"),
                ("requestheader-client-ca-file", "front-proxy-ca.crt"),
                ("proxy-client-cert-file", "front-proxy-client.crt"),
                ("proxy-client-key-file", "front-proxy-client.key"),
            ]
            .map(|(flag, file)| self.pki_flag(flag, file)),
        );
        flags
    }

    fn controller_manager(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig("controller-manager");
        let mut flags = vec![
            format!("--kubeconfig={kubeconfig}"),
            "--use-service-account-credentials=true".into(),
            "--allocate-node-cidrs=false".into(),
            format!("--service-cluster-ip-range={SERVICE_RANGE}"),
            "--leader-elect=false".into(),
        ];
        flags.extend(
            [
                ("root-ca-file", "ca.crt"),
                ("cluster-signing-cert-file", "ca.crt"),
                ("cluster-signing-key-file", "ca.key"),
                ("service-account-private-key-file", "service-account.key"),
            ]
            .map(|(flag, file)| self.pki_flag(flag, file)),
        );
        flags
    }

    fn kubelet(&self) -> Vec<String> {
        vec![
            format!("--config={}", self.file("kubelet.json")),
            format!("--kubeconfig={}", self.kubeconfig(&format!("kubelet-{}", self.node.name()))),
            format!("--cert-dir={KUBELET_PATH}/pki"),
            format!("--node-ip={}", self.node.ip()),
            format!("--hostname-override={}", self.node.name()),
        ]
    }

    fn pki_flag(&self, flag: &str, file: &str) -> String {
        format!("--{flag}={}", self.layout.pki().join(file).display())
    }

    fn kubeconfig(&self, user: &str) -> String {
        self.layout.pki().join(format!("{user}.kubeconfig")).display().to_string()
    }

    fn file(&self, name: &str) -> String {
        self.layout.node(self.node).join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(node: Node, shape: Shape) -> String {
        let layout = Layout { cache: "/c".into(), state: "/s".into() };
        let parts = Parts { node: "/c/kindling-test-node".into(), pause: "/c/pause".into(), version: "v1.36.3".into() };
        let tools = Tools { kubectl: "/c/kubectl".into(), helm: "/c/helm".into() };
        Script { layout: &layout, parts: &parts, tools: &tools, shape, node }.render()
    }

    #[test]
    fn second_node_runs_no_control_plane() {
        let script = render(Node(1), Shape { num_nodes: 2, control_plane_only: false });
        assert!(script.contains("start kubelet") && script.contains("start kube-proxy"));
        assert!(!script.contains("start etcd") && !script.contains("start kube-apiserver"));
    }

    #[test]
    fn control_plane_only_starts_no_kubelet() {
        let script = render(Node(0), Shape { num_nodes: 1, control_plane_only: true });
        assert!(script.contains("start kube-apiserver") && script.contains("start kube-controller-manager"));
        assert!(!script.contains("start kubelet") && !script.contains("containerd"));
    }

    #[test]
    fn nothing_may_be_opened_towards_the_host_before_anything_starts() {
        let script = render(Node(0), Shape { num_nodes: 1, control_plane_only: false });
        let (before, _) = script.split_once("start etcd").expect("should start etcd");
        assert!(before.contains("-d 10.89.0.1 -m conntrack --ctstate NEW -j DROP"));
        assert!(script.ends_with("exec /c/pause\n"));
    }
}
