//! A cluster as a person's own kubeconfig shows it.

use std::time::Duration;

use anyhow::{Context, bail};
use kindling_api::{LocalModel, NodeEnvelope};
use kube::api::{Api, ListParams};
use kube::config::{Config, KubeConfigOptions};
use kube::{Client, ResourceExt};

/// A person waits.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What was found in it.
pub struct Found {
    /// The nodes that agents measure; nothing where one may not look.
    pub nodes: Result<Vec<NodeEnvelope>, String>,
    /// The models.
    pub models: Vec<LocalModel>,
}

/// Connects to the cluster of the current context, or to the one that this pod is in.
///
/// # Errors
/// If there is no kubeconfig, or it can't be used.
pub async fn connect() -> anyhow::Result<Client> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(config) => config,
        Err(error) => Config::incluster().map_err(|_| error).context(
            "no cluster is known here: set KUBECONFIG, or have ~/.kube/config; what `kindling up` serves it prints itself",
        )?,
    };
    (config.connect_timeout, config.read_timeout) = (Some(TIMEOUT), Some(TIMEOUT));
    Client::try_from(config).context("use the kubeconfig")
}

/// Reads all models, of one namespace or of all, and all nodes.
///
/// # Errors
/// If the API server does not answer, has no Kindling, or does not allow it.
pub async fn read(client: &Client, namespace: Option<&str>) -> anyhow::Result<Found> {
    let models: Api<LocalModel> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let models = match models.list(&ListParams::default()).await {
        Ok(models) => models.items,
        Err(kube::Error::Api(status)) if status.is_not_found() => bail!(
            "this cluster has no LocalModels: Kindling is not installed, or another context is current (kubectl config \
             current-context)"
        ),
        Err(kube::Error::Api(status)) if status.is_forbidden() && namespace.is_none() => {
            bail!("{}; name a namespace with -n", status.message)
        }
        Err(error) => return Err(error).context("list the LocalModels"),
    };
    let nodes = Api::<NodeEnvelope>::all(client.clone()).list(&ListParams::default()).await;
    Ok(Found { nodes: nodes.map(|list| list.items).map_err(|error| error.to_string()), models })
}

/// The node of this name.
///
/// # Errors
/// If no agent measures such a node; names those that are measured.
pub async fn node(client: &Client, name: &str) -> anyhow::Result<NodeEnvelope> {
    let nodes =
        Api::<NodeEnvelope>::all(client.clone()).list(&ListParams::default()).await.context("list the nodes")?;
    let names: Vec<String> = nodes.iter().map(ResourceExt::name_any).collect();
    let found = nodes.into_iter().find(|node| node.name_any() == name);
    found.with_context(|| match names.as_slice() {
        [] => "no node of this cluster has an agent of Kindling".to_owned(),
        names => format!("no agent of Kindling measures a node {name:?}; there are {}", names.join(", ")),
    })
}
