//! Names that more than one crate must spell alike.

/// The API group of every kind of Kindling.
pub const API_GROUP: &str = "kindling.dev";

/// Label on everything that belongs to one LocalModel; the value is its name.
pub const MODEL_LABEL: &str = "kindling.dev/model";

/// Annotation of a model's pod: a digest of everything the pod was made from.
pub const DIGEST_ANNOTATION: &str = "kindling.dev/pod-digest";

/// Annotation of a model's pod: the memory that it was made with, as JSON.
pub const TERMS_ANNOTATION: &str = "kindling.dev/memory-terms";

/// Name of the Lease that says when an `OnDemand` model was last used.
pub fn use_lease_name(model: &str) -> String {
    format!("{model}-use")
}

/// Audience of the tokens with which the node's agent is asked.
pub const AGENT_AUDIENCE: &str = "kindling-agent";

/// Where the node's agent serves gRPC, on the node's own address.
pub const AGENT_PORT: u16 = 9402;

/// Field manager of everything the operator applies, and value of `app.kubernetes.io/managed-by`.
pub const MANAGER: &str = "kindling-operator";

/// The container of a model's pod that serves the model.
pub const RUNTIME_CONTAINER: &str = "runtime";

/// Where the runtime serves gRPC, in the pod and at the model's Service.
pub const GRPC_PORT: u16 = 50051;

/// Name of [`GRPC_PORT`] in the pod and the Service.
pub const GRPC_PORT_NAME: &str = "grpc";

/// Where the runtime serves `/metrics` and `/healthz`.
pub const METRICS_PORT: u16 = 9400;

/// Name of [`METRICS_PORT`] in the pod and the Service.
pub const METRICS_PORT_NAME: &str = "metrics";
