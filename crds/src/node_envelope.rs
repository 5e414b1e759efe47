//! What a node has and who holds it: `NodeEnvelope`, one per node.
#![allow(clippy::duplicated_attributes, reason = "the columns have types of the same name")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The memory of a node: what is promised to models (spec), and what its agent measured (status).
///
/// Nobody writes it by hand. The operator writes the spec, always by replace, so that two models can never be promised
/// the same bytes; the agent of the node writes the status. The object has the node's name.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "kindling.dev",
    version = "v1alpha1",
    kind = "NodeEnvelope",
    plural = "nodeenvelopes",
    shortname = "ne",
    category = "kindling",
    status = "NodeEnvelopeStatus",
    derive = "PartialEq",
    doc = "The memory of a node: what is promised to models (spec, written by the operator), and what the node's agent measured (status). Not to be written by hand.",
    printcolumn(
        name = "Total",
        type_ = "string",
        json_path = ".status.display.total",
        description = "Memory of the node"
    ),
    printcolumn(name = "Reserved", type_ = "string", json_path = ".spec.reserved", description = "Promised to models"),
    printcolumn(
        name = "Available",
        type_ = "string",
        json_path = ".status.display.available",
        description = "As the kernel says"
    ),
    printcolumn(name = "Pressure", type_ = "string", json_path = ".status.pressure"),
    printcolumn(name = "Models", type_ = "string", json_path = ".spec.models", description = "Who it is promised to"),
    printcolumn(
        name = "GPU",
        type_ = "string",
        json_path = ".status.gpu.name",
        priority = 1,
        description = "The first of NVIDIA's driver"
    ),
    printcolumn(
        name = "Usable",
        type_ = "boolean",
        json_path = ".status.gpu.usable",
        priority = 1,
        description = "Whether models can be computed on that GPU"
    ),
    printcolumn(
        name = "Measured",
        type_ = "date",
        json_path = ".status.measuredAt",
        description = "When the agent last wrote"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnvelopeSpec {
    /// Memory that is promised, one entry per copy of a model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["uid".to_owned(), "copy".to_owned()]))]
    pub reservations: Vec<Reservation>,

    /// Names of the models in the reservations, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub models: Option<String>,

    /// Sum of the reservations, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    pub reserved: Option<String>,
}

/// Memory that is promised to one copy of a model. Its bytes and context are fixed when it is made.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The LocalModel's uid.
    #[schemars(length(max = 64))]
    pub uid: String,
    /// Which copy of the model, counted from 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 255))]
    pub copy: u32,
    /// The LocalModel as `namespace/name`, for people.
    #[schemars(length(max = 512))]
    pub model: String,
    /// How far it is.
    pub state: ReservationState,
    /// When it came into this state.
    #[schemars(schema_with = "crate::crd::time_schema")]
    pub since: MicroTime,
    /// When it was made.
    #[schemars(schema_with = "crate::crd::time_schema")]
    pub made_at: MicroTime,
    /// While it serves.
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_i64))]
    pub bytes: u64,
    /// While it loads, beside the rest.
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_i64))]
    pub load_transient_bytes: u64,
    /// Tokens per sequence.
    #[schemars(range(min = 0, max = 4_194_304))]
    pub context_length: u32,
    /// Higher ones leave later.
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: i32,
    /// Whether it may be unloaded for another model.
    pub may_leave: bool,
    /// Digest of what the bytes were computed from.
    #[schemars(length(max = 64))]
    pub fingerprint: String,
    /// Whether it was made although the model does not fit, because its `spec.memory.policy` is `Warn`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_overridden: bool,
    /// What it was measured to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_i64))]
    pub measured_bytes: Option<u64>,
    /// Memory that was available when its release began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_125_899_906_842_624_i64))]
    pub available_at_release_bytes: Option<u64>,
    /// When its pod was gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crd::time_schema")]
    pub pod_gone_at: Option<MicroTime>,
}

/// How far a reservation is. Its bytes count in every state.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// Promised; there is no pod yet.
    Pending,
    /// The pod exists and loads.
    Loading,
    /// The model is in memory.
    Resident,
    /// The pod was told to go; the memory is not measured to be back yet.
    Releasing,
}

/// What the node's agent measured. The agent is the only writer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeEnvelopeStatus {
    /// When the agent read this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::crd::time_schema")]
    pub measured_at: Option<MicroTime>,
    /// The node's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<NodeMemory>,
    /// Whether the node has enough left to go on as it is.
    #[serde(default)]
    pub pressure: Pressure,
    /// Models' processes that hold a grant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holders: Vec<Holder>,
    /// `ip:port` of the agent's gRPC service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_address: Option<String>,
    /// Version of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent_version: Option<String>,
    /// The machine, for example `NVIDIA DGX Spark`, where its firmware says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// The GPU that models would compute on here; unset while nobody has looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<NodeGpu>,
    /// For `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display: Option<NodeDisplay>,
}

/// The memory of a node, in bytes, as `/proc` says.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeMemory {
    /// `MemTotal`.
    pub total_bytes: u64,
    /// `MemAvailable`.
    pub available_bytes: u64,
    /// `MemFree`.
    pub free_bytes: u64,
    /// Free in blocks of at least 2 MiB, of which a GPU's driver wants its memory.
    pub free_in_large_blocks_bytes: u64,
    /// In use while no model was there; what other processes and the system need.
    pub baseline_bytes: u64,
    /// `SwapTotal`.
    pub swap_total_bytes: u64,
    /// Of it in use.
    pub swap_used_bytes: u64,
    /// A model starts only if so much stays available.
    pub floor_start_bytes: u64,
    /// Below this the agent takes memory back.
    pub floor_run_bytes: u64,
    /// Parts per million of the last ten seconds in which some process waited for memory, where the kernel counts it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled_ppm: Option<u64>,
}

/// Whether a node has enough left.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pressure {
    /// Enough.
    #[default]
    None,
    /// Below the floor: memory is taken back, and nothing starts.
    Low,
    /// So little that everything which may leave has to.
    Critical,
}

/// A model's process that holds a grant.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// The LocalModel as `namespace/name`.
    pub model: String,
    /// Uid of its pod.
    pub pod_uid: String,
    /// What it may take while it serves.
    pub granted_bytes: u64,
    /// What it said it takes, once it is loaded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<MeasuredTerms>,
    /// Whether it was told to give its memory back.
    #[serde(default)]
    pub is_revoked: bool,
}

/// What a model's process takes, term by term.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct MeasuredTerms {
    /// Weights.
    pub weights_bytes: u64,
    /// Keys, values and states.
    pub kv_cache_bytes: u64,
    /// What a step computes in.
    pub activations_bytes: u64,
    /// The whole process, as the kernel counts it.
    pub total_bytes: u64,
}

/// The first GPU of a node's NVIDIA driver, or why there is none.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeGpu {
    /// For example `NVIDIA GB10`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// For example `12.1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compute_capability: Option<String>,
    /// The newest CUDA that the driver knows, for example `13.0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver_cuda_version: Option<String>,
    /// Whether models can be computed on it.
    pub usable: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl NodeGpu {
    /// Whether models can be computed on it.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<(), String> {
        let why = || self.reason.clone().unwrap_or_else(|| "its agent does not say why".to_owned());
        if self.usable { Ok(()) } else { Err(why()) }
    }
}

/// Figures for people, as Kubernetes quantities.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct NodeDisplay {
    /// For example `121.7Gi`.
    pub total: String,
    /// For example `98.2Gi`.
    pub available: String,
}
