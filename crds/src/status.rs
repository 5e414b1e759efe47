//! What the operator reports about a LocalModel. The operator is the only writer.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::condition::ConditionType;

/// What the operator observed.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LocalModelStatus {
    /// The generation of the spec that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `Resolved`, `Downloaded`, `Loaded` and their summary `Ready`; each message says what to do.
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

    /// Tokens per sequence, in effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,

    /// The node that runs the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,

    /// The pod that runs the model.
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

    /// Selects the model's pods, for the scale subresource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<String>,
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

/// What computes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Acceleration {
    /// The device, for example `cpu`.
    pub device: String,
    /// The kernels in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kernels: Vec<String>,
}

/// Memory that the model takes, as Kubernetes quantities.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct MemoryStatus {
    /// The weights, for example `98Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}

impl LocalModelStatus {
    /// The condition, where the operator has written it.
    pub fn condition(&self, condition: ConditionType) -> Option<&Condition> {
        self.conditions.iter().find(|found| found.type_ == condition.as_str())
    }
}
