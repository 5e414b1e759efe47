//! What a user writes: `LocalModel` and its spec.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::Toleration;
use kube::{CustomResource, KubeSchema, Resource};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::ConditionType;
use crate::serving::Serving;
use crate::status::LocalModelStatus;

/// How long an `OnDemand` model stays after its last request.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(300);
/// How long it stays before it leaves for another.
const DEFAULT_MIN_RESIDENT: Duration = Duration::from_secs(30);

/// A language model that is served on a node of this cluster.
///
/// The smallest one names only its weights: `spec: {source: {hf: {repo: org/name}}}`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "kindling.dev",
    version = "v1alpha1",
    kind = "LocalModel",
    plural = "localmodels",
    namespaced,
    shortname = "lm",
    category = "kindling",
    status = "LocalModelStatus",
    derive = "PartialEq",
    doc = "A language model that is served on a node of this cluster. The smallest one names only its weights: `spec: {source: {hf: {repo: org/name}}}`.",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.labelSelector"
    ),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Model", type_ = "string", json_path = ".status.source", description = "Where the weights come from"),
    printcolumn(name = "Memory", type_ = "string", json_path = ".status.memory.total", description = "Memory that the model takes, as predicted and as reserved"),
    printcolumn(name = "Context", type_ = "integer", json_path = ".status.contextLength", description = "Tokens per sequence, in effect"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Measured", type_ = "string", json_path = ".status.memory.measured", priority = 1, description = "Memory that the model takes, as measured"),
    printcolumn(name = "Weights", type_ = "string", json_path = ".status.memory.weights", priority = 1),
    printcolumn(name = "Device", type_ = "string", json_path = ".status.acceleration.device", priority = 1),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 40")
        .message("metadata.name also names the model's Service: at most 40 lower-case letters, digits and hyphens, beginning with a letter; write other spellings into spec.gateway.aliases")
)]
#[serde(rename_all = "camelCase")]
pub struct LocalModelSpec {
    /// Where the weights come from: exactly one of `hf` and `hostPath`. The kind and the repository can't be changed
    /// later; make another LocalModel for another model.
    pub source: Source,

    /// How the model is served: context, concurrency, cache.
    #[serde(default)]
    pub serving: Serving,

    /// What becomes of the weights when they are loaded.
    #[serde(default, skip_serializing_if = "Weights::is_default")]
    pub weights: Weights,

    /// How much memory the model may take, and who leaves first when there is not enough.
    #[serde(default)]
    pub memory: Memory,

    /// When the model is loaded and unloaded.
    #[serde(default)]
    pub lifecycle: Lifecycle,

    /// Which nodes may run the model, and on which device.
    #[serde(default)]
    pub placement: Placement,

    /// How clients address the model at the gateway.
    #[serde(default)]
    pub gateway: Gateway,

    /// How many copies of the model run, each on a node of its own; the gateway shares the requests among them. 0 unloads
    /// the model.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 32))]
    pub replicas: u32,
}

/// What becomes of the weights when they are loaded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// What becomes of matrices that the checkpoint has in 16 bits, as published 4-bit checkpoints have some: every token
    /// reads them.
    #[serde(default)]
    pub remainder: Remainder,
}

impl Weights {
    /// Whether they stay as they are stored.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What becomes of matrices in 16 bits.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Remainder {
    /// They stay.
    #[default]
    Keep,
    /// FP8 (E4M3), about half of that; answers differ a little.
    Fp8,
}

/// Where the weights come from: exactly one of `hf` and `hostPath`.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.hf), has(self.hostPath)].filter(given, given).size() == 1")
        .message("give exactly one of hf and hostPath"),
    validation = Rule::new("has(self.hf) == has(oldSelf.hf) && has(self.hostPath) == has(oldSelf.hostPath)")
        .message("the kind of source can't be changed; make another LocalModel"),
)]
pub struct Source {
    /// A repository on the Hugging Face hub, downloaded into the cache of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hf: Option<HfSource>,

    /// A folder or file that is already on the node. Only below the prefixes that the administrator allows with the
    /// chart value `allowedHostPathPrefixes`; none by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPathSource>,
}

/// A repository on the Hugging Face hub.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HfSource {
    /// The repository as `organisation/name`. Can't be changed later.
    #[schemars(
        length(max = 193),
        regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf").message("the repository can't be changed; make another LocalModel"))]
    pub repo: String,

    /// Branch, tag or commit. A commit makes sure that the same weights are served after every restart.
    #[serde(default = "default_revision")]
    #[schemars(length(max = 128), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*$"))]
    pub revision: String,

    /// Which files of the repository to download, by name; unset means what the model needs. For a repository with
    /// many GGUF files name the one to serve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 256),
        inner(length(max = 255), regex(pattern = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"))
    )]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub files: Vec<String>,
}

/// A folder or file on the node.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct HostPathSource {
    /// Absolute path of the model's folder, or of one GGUF file, on the node.
    #[schemars(length(max = 1024), regex(pattern = r"^(/[.]?[A-Za-z0-9_][A-Za-z0-9._-]*)+$"))]
    pub path: String,
}

/// How much memory the model may take, and who leaves first when there is not enough.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// `Enforce` starts the model only if its whole memory fits the node. `Warn` starts it anyway and says so in the
    /// status: the machine may go down with it.
    #[serde(default)]
    pub policy: MemoryPolicy,

    /// When another model needs room, models of lower or equal priority that are `OnDemand` and idle are unloaded for
    /// it; when the node runs out of memory, lower ones go first.
    #[serde(default)]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i32,
}

/// Whether a model must fit to be started.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MemoryPolicy {
    /// It must.
    #[default]
    Enforce,
    /// It is started anyway, and the status says so.
    Warn,
}

/// When the model is loaded and unloaded.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.keepAlive) || self.activation == 'OnDemand'")
        .message("keepAlive only means something with activation OnDemand")
)]
pub struct Lifecycle {
    /// `Always` keeps the model loaded. `OnDemand` loads it when a request comes, and unloads it when it was idle for
    /// `keepAlive` or when another model needs its room. `Suspended` unloads it and refuses requests.
    #[serde(default)]
    pub activation: Activation,

    /// How long an `OnDemand` model stays loaded after its last request, for example `10m`; `0s` unloads it at once, `-1s`
    /// never. 5 minutes if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^(-1s|([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?)$"))]
    pub keep_alive: Option<String>,

    /// For at least so long an `OnDemand` model stays loaded before it is unloaded for another, for example `30s`. 30
    /// seconds if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = r"^([0-9]{1,5}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"))]
    pub min_resident: Option<String>,
}

/// When a model is loaded.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activation {
    /// From the start on.
    #[default]
    Always,
    /// When a request comes.
    OnDemand,
    /// Never.
    Suspended,
}

/// Which nodes may run the model, and on which device.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Labels that the node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::crd::node_selector_schema")]
    pub node_selector: BTreeMap<String, String>,

    /// Taints of nodes that the model's pod tolerates, as in a pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::tolerations_schema")]
    pub tolerations: Vec<Toleration>,

    /// RuntimeClass of the model's pod, for example `nvidia`; unset takes what the administrator has set for the device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub runtime_class_name: Option<String>,

    /// What computes. `Auto` takes an NVIDIA GPU where a node that the model may go to has one that works and can
    /// compute the model, else the processor; `Cpu` the processor; `Cuda` an NVIDIA GPU and never anything else.
    #[serde(default)]
    pub device: Device,
}

/// What computes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// The best device that works.
    #[default]
    Auto,
    /// An NVIDIA GPU, never anything else.
    Cuda,
    /// The processor.
    Cpu,
}

/// How clients address the model at the gateway.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Gateway {
    /// Further names under which clients may ask for the model, beside its own name and `namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 128), regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub aliases: Vec<String>,
}

impl LocalModel {
    /// Whether the condition holds. A condition that the operator has not written yet does not hold.
    pub fn has_condition(&self, condition: ConditionType) -> bool {
        self.status.as_ref().and_then(|status| status.condition(condition)).is_some_and(|found| found.status == "True")
    }

    /// Whether requests to the endpoint are answered.
    pub fn is_ready(&self) -> bool {
        self.has_condition(ConditionType::Ready)
    }

    /// `ip:port` of the model's gRPC endpoint, where the operator has made one.
    pub fn endpoint(&self) -> Option<&str> {
        self.status.as_ref()?.endpoint.as_deref()
    }

    /// Every name under which the gateway serves this model: its name, `namespace/name`, the aliases.
    pub fn served_names(&self) -> Vec<String> {
        let meta = self.meta();
        let name = meta.name.clone().unwrap_or_default();
        let qualified = format!("{}/{name}", meta.namespace.as_deref().unwrap_or("default"));
        [name, qualified].into_iter().chain(self.spec.gateway.aliases.iter().cloned()).collect()
    }
}

impl Lifecycle {
    /// How long an `OnDemand` model stays after its last request; `None` is for ever.
    pub fn keep_alive(&self) -> Option<Duration> {
        match self.keep_alive.as_deref() {
            Some("-1s") => None,
            Some(text) => Some(duration(text)),
            None => Some(DEFAULT_KEEP_ALIVE),
        }
    }

    /// How long it stays before it leaves for another.
    pub fn min_resident(&self) -> Duration {
        self.min_resident.as_deref().map_or(DEFAULT_MIN_RESIDENT, duration)
    }
}

/// Of a text that the schema has let pass: hours, minutes, seconds, each at most once.
fn duration(text: &str) -> Duration {
    let mut seconds = 0;
    let mut number = 0;
    for letter in text.chars() {
        match letter {
            'h' => seconds += number * 3600,
            'm' => seconds += number * 60,
            's' => seconds += number,
            digit => {
                number = number * 10 + u64::from(digit.to_digit(10).unwrap_or(0));
                continue;
            }
        }
        number = 0;
    }
    Duration::from_secs(seconds)
}

fn default_replicas() -> u32 {
    1
}

fn default_revision() -> String {
    "main".to_owned()
}
