//! `kindling operator`: brings the cluster to what its LocalModels ask for.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use kindling_operator::{OperatorConfig, WebhookConfig};

use crate::{interrupt, logging};

/// Reconcile the LocalModels of a cluster into pods.
#[derive(clap::Args)]
pub struct Args {
    /// Only LocalModels of this namespace [default: all]
    #[arg(long)]
    namespace: Option<String>,
    /// Image of the pods that serve models.
    #[arg(long)]
    runtime_image: String,
    /// Always, IfNotPresent or Never [default: Kubernetes decides]
    #[arg(long)]
    image_pull_policy: Option<String>,
    /// Requests and limits of the container that serves a model, as JSON.
    #[arg(long, value_name = "JSON")]
    runtime_resources: Option<String>,
    /// Read weights no faster than this, to spare disks that others use [default: as fast as it goes]
    #[arg(long, value_name = "BYTES")]
    runtime_read_bytes_per_second: Option<u64>,
    /// RuntimeClass of pods that compute on a GPU, where their LocalModel names none [default: the node's own]
    #[arg(long, value_name = "NAME")]
    gpu_runtime_class: Option<String>,
    /// Folder of the cache on every node.
    #[arg(long, default_value = "/var/lib/kindling/cache")]
    cache_host_path: PathBuf,
    /// Allow spec.source.hostPath below this folder; may be given several times.
    #[arg(long = "allowed-host-path-prefix", value_name = "FOLDER")]
    allowed_host_path_prefixes: Vec<PathBuf>,
    /// File with the token for the nodes' agents; read anew for every question.
    #[arg(long, default_value = "/var/run/secrets/kindling/token", value_name = "FILE")]
    agent_token_file: PathBuf,
    /// The Lease that makes sure that one operator works at a time.
    #[arg(long, default_value = "kindling-operator")]
    lease_name: String,
    /// Namespace of that Lease.
    #[arg(long, default_value = "default")]
    lease_namespace: String,
    /// What this operator is called in the Lease; no two may be called alike [default: host name and process id]
    #[arg(long, env = "KINDLING_IDENTITY")]
    identity: Option<String>,
    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, default_value = "0.0.0.0:8081", env = "KINDLING_METRICS_LISTEN")]
    metrics_listen: SocketAddr,
    #[command(flatten)]
    webhook: WebhookArgs,
}

#[derive(clap::Args)]
struct WebhookArgs {
    /// Serve a validating webhook behind this Service, in the namespace of the Lease [default: none is served]
    #[arg(long, value_name = "SERVICE")]
    webhook_service: Option<String>,
    /// Where the webhook is served, over HTTPS.
    #[arg(long, default_value = "0.0.0.0:8443")]
    webhook_listen: SocketAddr,
    /// The Secret that keeps the webhook's certificates, in the namespace of the Lease; made where it is missing.
    #[arg(long, default_value = "kindling-webhook-tls", value_name = "SECRET")]
    webhook_secret: String,
    /// The ValidatingWebhookConfiguration that is told whom to trust.
    #[arg(long, default_value = "kindling", value_name = "NAME")]
    webhook_configuration: String,
}

impl WebhookArgs {
    fn into_config(self) -> Option<WebhookConfig> {
        let Self { webhook_service, webhook_listen: listen, webhook_secret: secret, webhook_configuration } = self;
        let service = webhook_service?;
        Some(WebhookConfig { listen, service, secret, configuration: webhook_configuration })
    }
}

/// Runs `kindling operator`.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let Args {
        namespace,
        runtime_image,
        image_pull_policy,
        runtime_resources,
        runtime_read_bytes_per_second,
        gpu_runtime_class,
        cache_host_path,
        allowed_host_path_prefixes,
        agent_token_file,
        lease_name,
        lease_namespace,
        identity,
        metrics_listen,
        webhook,
    } = args;
    logging::start("info");
    let runtime_resources = runtime_resources
        .map(|json| serde_json::from_str(&json))
        .transpose()
        .context("--runtime-resources is no JSON of Kubernetes' ResourceRequirements")?;
    let config = OperatorConfig {
        namespace,
        runtime_image,
        image_pull_policy,
        runtime_resources,
        runtime_read_bytes_per_second,
        gpu_runtime_class_name: gpu_runtime_class,
        cache_host_path,
        allowed_host_path_prefixes,
        agent_token_file,
        lease_name,
        lease_namespace,
        identity: identity.unwrap_or_else(own_identity),
        metrics_listen,
        webhook: webhook.into_config(),
    };
    Ok(kindling_operator::run(config, interrupt::token()?).await?)
}

fn own_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}-{}", host.trim(), std::process::id())
}
