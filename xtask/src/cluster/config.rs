//! What each component reads: pure functions from the layout to text. JSON where YAML is asked for, which it is too.

use std::path::Path;

use serde_json::{Value, json};

use super::layout::{API_PORT, CONTAINERD_SOCKET, DNS_SERVICE_IP, Node, POD_RANGE};

/// The image of the process that holds a pod's namespaces; made here, since no registry can be reached.
pub const PAUSE_IMAGE: &str = "localhost/kindling-test-pause:dev";

/// How a component or a person reaches the API, as `user`, whose certificate lies in `pki`.
pub fn kubeconfig(pki: &Path, user: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "kindling-test",
        "clusters": [{"name": "kindling-test", "cluster": {
            "server": format!("https://{}:{API_PORT}", Node(0).ip()),
            "certificate-authority": pki.join("ca.crt"),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate": pki.join(format!("{user}.crt")),
            "client-key": pki.join(format!("{user}.key")),
        }}],
        "contexts": [{"name": "kindling-test", "context": {"cluster": "kindling-test", "user": user}}],
    })
}

/// The kubelet's settings. `resolv_conf` is an empty file: pods shall not ask the host's name server.
pub fn kubelet(pki: &Path, resolv_conf: &Path, node: Node, is_cgroup_v1: bool) -> Value {
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": pki.join("ca.crt")},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD_SOCKET}"),
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": format!("/{}", node.cgroup()),
        "failSwapOn": false,
        "clusterDomain": "cluster.local",
        "clusterDNS": [DNS_SERVICE_IP],
        "resolvConf": resolv_conf,
        "readOnlyPort": 0,
        "nodeStatusUpdateFrequency": "2s",
        // A developer's disk is often nearly full: that must neither evict pods nor delete images, which nobody could pull again.
        "evictionHard": {
            "memory.available": "50Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
    });
    if is_cgroup_v1 {
        config["failCgroupV1"] = json!(false);
    }
    config
}

/// kube-proxy's settings: the zeros leave the machine's connection tracking as it is.
pub fn kube_proxy(kubeconfig: &Path, node: Node) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": node.name(),
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "conntrack": {
            "maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s",
        },
    })
}

/// The pods' network: one bridge per node; addresses are handed out from the node's range and kept under `/run`.
pub fn cni(node: Node) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "kindling-test",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": node.pod_range()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                    "dataDir": "/run/cni/addresses",
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// containerd's settings. The runtime `nvidia` is runc by another name, for a RuntimeClass that asks for it.
/// `restrict_oom_score_adj`: root may lack CAP_SYS_RESOURCE, and then no sandbox starts without this.
pub fn containerd(root: &Path, cni_folder: &Path) -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let runtime = |name: &str| {
        format!(
            "[{cri}.containerd.runtimes.{name}]\nruntime_type = \"io.containerd.runc.v2\"\n\
             [{cri}.containerd.runtimes.{name}.options]\nSystemdCgroup = false\n"
        )
    };
    format!(
        "version = 2\nroot = {root:?}\nstate = \"/run/containerd\"\n\
         [grpc]\naddress = \"{CONTAINERD_SOCKET}\"\n\
         [{cri}]\nsandbox_image = \"{PAUSE_IMAGE}\"\nrestrict_oom_score_adj = true\n\
         [{cri}.containerd]\nsnapshotter = \"overlayfs\"\ndefault_runtime_name = \"runc\"\n\
         {runc}{nvidia}\
         [{cri}.cni]\nbin_dir = \"/usr/lib/cni\"\nconf_dir = {cni_folder:?}\n",
        runc = runtime("runc"),
        nvidia = runtime("nvidia"),
    )
}

/// The Service that pods ask for names: its endpoint is the name server on node 0.
pub fn dns_service() -> Value {
    let port = |extra: Value| {
        let mut port = json!({"name": "dns", "protocol": "UDP", "port": 53});
        port.as_object_mut()
            .expect("a port should be an object")
            .extend(extra.as_object().cloned().unwrap_or_default());
        json!([port])
    };
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system"},
            "spec": {"clusterIP": DNS_SERVICE_IP, "ports": port(json!({"targetPort": 53}))},
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-node-0", "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns", "endpointslice.kubernetes.io/managed-by": "kindling-xtask"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [Node(0).ip()], "conditions": {"ready": true}}],
            "ports": port(json!({})),
        },
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_is_told_to_accept_cgroup_v1_only_where_it_is() {
        let config = |is_v1| kubelet(Path::new("/s/pki"), Path::new("/s/resolv.conf"), Node(1), is_v1);
        assert_eq!(config(true)["failCgroupV1"], json!(false));
        assert!(config(false).get("failCgroupV1").is_none());
        assert_eq!(config(true)["cgroupRoot"], "/kindling-node-1");
    }

    #[test]
    fn containerd_config_has_both_runtimes_and_quoted_paths() {
        let config = containerd(Path::new("/s/node-0/containerd"), Path::new("/s/node-0/cni"));
        assert!(config.contains("root = \"/s/node-0/containerd\"\n"));
        assert!(config.contains("conf_dir = \"/s/node-0/cni\"\n"));
        assert!(config.contains("runtimes.nvidia]") && config.contains("restrict_oom_score_adj = true"));
    }

    #[test]
    fn nodes_hand_out_different_pod_addresses() {
        assert_ne!(cni(Node(0))["plugins"][0]["ipam"], cni(Node(1))["plugins"][0]["ipam"]);
    }

    #[test]
    fn kubeconfig_names_the_users_own_key() {
        let config = kubeconfig(Path::new("/s/pki"), "admin");
        assert_eq!(config["users"][0]["user"]["client-key"], "/s/pki/admin.key");
        assert_eq!(config["clusters"][0]["cluster"]["server"], "https://10.89.0.2:6443");
    }
}
