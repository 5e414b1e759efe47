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
    /// Service account of the pods that serve models; it needs no rights. `None` means the namespace's default one,
    /// whose token is not mounted either.
    pub runtime_service_account: Option<String>,
    /// Requests and limits of the container that serves a model.
    pub runtime_resources: Option<ResourceRequirements>,
    /// Folder of the cache on every node.
    pub cache_host_path: PathBuf,
    /// `spec.source.hostPath` is allowed below these folders; none by default.
    pub allowed_host_path_prefixes: Vec<PathBuf>,
    /// The Lease that makes sure that one operator works at a time.
    pub lease_name: String,
    /// Namespace of that Lease.
    pub lease_namespace: String,
    /// How this operator is called in the Lease; the pod's name.
    pub identity: String,
    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub metrics_listen: SocketAddr,
}
