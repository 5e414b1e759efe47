//! What the operator reports about a LocalModel. The operator is the only writer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::ConditionType;
use crate::node_envelope::MeasuredTerms;

/// What the operator observed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalModelStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Resolved`, `Downloaded`, `MemoryAdmitted`, `Loaded` and their summary `Ready`; each message says what to do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::crd::conditions_schema")]
    pub conditions: Vec<Condition>,

    /// Where the weights come from, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,

    /// Facts of the model, as the runtime read them from its files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelFacts>,

    /// What computes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acceleration: Option<Acceleration>,

    /// Memory that the model takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryStatus>,

    /// The memory envelope: predicted, measured, and what the node has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envelope: Option<EnvelopeStatus>,

    /// Tokens per sequence, in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,

    /// How far the weights are on their way into the node's cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download: Option<DownloadStatus>,

    /// The node that runs the model; of several copies their nodes, with commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// The pod that runs the model; of several copies one that serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,

    /// The image of the runtime in that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_image: Option<String>,

    /// `ip:port` of the model's gRPC service. An address and not a name, because a cluster may have no DNS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,

    /// Pods that exist for this model.
    #[serde(default)]
    pub replicas: u32,

    /// Those that answer requests.
    #[serde(default)]
    pub ready_replicas: u32,

    /// Every copy, where there is more than one; the rest of the status is about one that serves.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopyStatus>,

    /// Selects the model's pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
}

/// One of several copies of a model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CopyStatus {
    /// Its pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_name: Option<String>,
    /// The node of that pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// `ip:port` of its gRPC service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether it answers requests.
    pub ready: bool,
    /// Why, or why not: as the reason of the condition `Ready` would be, were it the only one.
    pub reason: String,
}

/// Facts of the model.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// For example `LlamaForCausalLM`.
    pub architecture: String,
    /// Number of weights.
    pub parameters: u64,
    /// Format of most weights, for example `Q4_1` or `BF16`.
    pub quantization: String,
    /// Bytes of all weights.
    pub weight_bytes: u64,
}

/// How far a download is.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DownloadStatus {
    /// On disk.
    pub bytes: u64,
    /// In all, once it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// How fast.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<u64>,
    /// How long it still takes at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_seconds: Option<u64>,
}

/// What computes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Acceleration {
    /// `Cpu` or `Cuda`.
    pub device: String,
    /// The GPU, for example `NVIDIA GB10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Of the GPU, for example `12.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// The kernels in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<String>,
    /// Why it is the processor though the node has a GPU and `placement.device` is `Auto`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Memory that the model takes, as Kubernetes quantities for people; `envelope` has the bytes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStatus {
    /// Everything, as predicted and reserved, for example `1.2Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<String>,
    /// Everything, as measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<String>,
    /// The weights, for example `98Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

/// Why a model fits or does not fit, in bytes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct EnvelopeStatus {
    /// What the model will take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<PredictedTerms>,
    /// What the runtime said it takes, once it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredTerms>,
    /// What was measured so far of these weights with these settings; it raises what is predicted when they are planned
    /// again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learned: Option<LearnedTerms>,
    /// The node that `nodeTotalBytes` and the others are about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Memory of that node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_total_bytes: Option<u64>,
    /// Of it kept for the system and for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_system_bytes: Option<u64>,
    /// Of it held by models, this one included if it is admitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_held_bytes: Option<u64>,
    /// What would fit instead, if the model does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suggestion: Option<String>,
    /// Whether the model was admitted although it does not fit (`spec.memory.policy` is `Warn`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_overridden: bool,
}

/// What was learned of a model's memory.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LearnedTerms {
    /// Digest of all that the model's pod was made from: it holds for the same again.
    pub settings: String,
    /// What was predicted by the arithmetic alone.
    pub predicted: PredictedTerms,
    /// The most that was measured, for each term.
    pub measured: MeasuredTerms,
}

/// What a model is predicted to take, term by term.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct PredictedTerms {
    /// Weights.
    pub weights_bytes: u64,
    /// Keys, values and states.
    pub kv_cache_bytes: u64,
    /// What a step computes in.
    pub activations_bytes: u64,
    /// The process itself.
    pub runtime_bytes: u64,
    /// While it loads, beside the rest.
    pub load_transient_bytes: u64,
    /// All but what loading takes.
    pub total_bytes: u64,
}

impl LocalModelStatus {
    /// The condition, where the operator has written it.
    pub fn condition(&self, condition: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|found| found.type_ == condition.as_str())
    }
}
