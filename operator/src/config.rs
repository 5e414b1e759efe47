//! What the operator is told at its start.

use std::net::SocketAddr;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::ResourceRequirements;

/// Everything that `kindling operator` can be told.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// Only LocalModels of this namespace; `None` means all namespaces.
    pub namespace: Option<String>,
    /// Image of the pods that serve models.
    pub runtime_image: String,
    /// `Always`, `IfNotPresent` or `Never`; `None` leaves it to Kubernetes.
    pub image_pull_policy: Option<String>,
    /// Requests and limits of the container that serves a model.
    pub runtime_resources: Option<ResourceRequirements>,
    /// Bound on how fast a runtime reads weights, for disks that others use too; `None` is none.
    pub runtime_read_bytes_per_second: Option<u64>,
    /// RuntimeClass of the pods that compute on a GPU, where the model names none; `None` leaves it to the node's default.
    pub gpu_runtime_class_name: Option<String>,
    /// Folder of the cache on every node.
    pub cache_host_path: PathBuf,
    /// `spec.source.hostPath` is allowed below these folders; none by default.
    pub allowed_host_path_prefixes: Vec<PathBuf>,
    /// File with the token for the nodes' agents.
    pub agent_token_file: PathBuf,
    /// The Lease that makes sure that one operator works at a time.
    pub lease_name: String,
    /// Namespace of that Lease.
    pub lease_namespace: String,
    /// How this operator is called in the Lease; the pod's name.
    pub identity: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub metrics_listen: SocketAddr,
    /// The validating webhook; `None` is none.
    pub webhook: Option<WebhookConfig>,
}

/// What the webhook is told.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Where it is served, over HTTPS.
    pub listen: SocketAddr,
    /// The Service that the API server calls, in the namespace of the Lease.
    pub service: String,
    /// The Secret that keeps its certificates, in the same namespace.
    pub secret: String,
    /// The ValidatingWebhookConfiguration that is told whom to trust.
    pub configuration: String,
}
