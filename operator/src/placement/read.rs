//! Reads everything that a round is decided from. Ledgers first, pods afterwards: pods may be newer, never older.

use std::collections::BTreeSet;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::jiff::Timestamp;
use kindling_api::{LocalModel, MANAGER, MODEL_LABEL, NodeEnvelope, use_lease_name};
use kube::api::{Api, ListParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::carry_out::PlacementError;
use crate::config::OperatorConfig;

/// An agent that has not written for so long is gone: it writes at least every minute.
const AGENT_SILENCE_SECONDS: i64 = 150;

/// All that exists.
#[derive(Debug, Default)]
pub struct World {
    /// Every model that this operator serves.
    pub models: Vec<LocalModel>,
    /// Every ledger.
    pub envelopes: Vec<NodeEnvelope>,
    /// Every pod that this operator made.
    pub pods: Vec<Pod>,
    /// Every node.
    pub nodes: Vec<Node>,
    /// When models were last used: what gateways write.
    pub leases: Vec<Lease>,
    /// Every volume of weights that this operator made.
    pub volumes: Vec<PersistentVolume>,
    /// Their claims.
    pub claims: Vec<PersistentVolumeClaim>,
    /// When.
    pub read_at: Timestamp,
}

/// Reads it.
pub async fn read(client: &Client, config: &OperatorConfig) -> Result<World, PlacementError> {
    let read_at = Timestamp::now();
    let all = ListParams::default();
    let ours = ListParams::default().labels(&format!("app.kubernetes.io/managed-by={MANAGER}"));
    let models_used = ListParams::default().labels(MODEL_LABEL);
    let failed = |kind| move |source| PlacementError::Read { kind, source };
    let envelopes = Api::<NodeEnvelope>::all(client.clone()).list(&all).await.map_err(failed("NodeEnvelopes"))?.items;
    let models = list::<LocalModel>(client, config, &all).await.map_err(failed("LocalModels"))?;
    let nodes = Api::<Node>::all(client.clone()).list(&all).await.map_err(failed("nodes"))?.items;
    let pods = list::<Pod>(client, config, &ours).await.map_err(failed("pods"))?;
    let leases = list::<Lease>(client, config, &models_used).await.map_err(failed("Leases"))?;
    let volumes = Api::<PersistentVolume>::all(client.clone()).list(&ours).await;
    let volumes = volumes.map_err(failed("PersistentVolumes"))?.items;
    let claims = list::<PersistentVolumeClaim>(client, config, &ours).await;
    let claims = claims.map_err(failed("PersistentVolumeClaims"))?;
    Ok(World { models, envelopes, pods, nodes, leases, volumes, claims, read_at })
}

/// From where this operator serves.
async fn list<T>(client: &Client, config: &OperatorConfig, params: &ListParams) -> Result<Vec<T>, kube::Error>
where
    T: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let api: Api<T> = match &config.namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    Ok(api.list(params).await?.items)
}

impl World {
    /// The node of this name.
    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.iter().find(|node| node.metadata.name.as_deref() == Some(name))
    }

    /// Since when a model has been in use, and when it last was.
    pub fn last_use(&self, model: &LocalModel) -> Option<(Timestamp, Timestamp)> {
        let name = use_lease_name(&model.name_any());
        let is_its = |lease: &&Lease| lease.name_any() == name && lease.namespace() == model.namespace();
        let spec = self.leases.iter().find(is_its)?.spec.as_ref()?;
        let last = spec.renew_time.as_ref()?.0;
        Some((spec.acquire_time.as_ref().map_or(last, |time| time.0), last))
    }

    /// Address of each agent on these nodes.
    pub fn agents(&self, nodes: &BTreeSet<String>) -> Vec<(String, String)> {
        let found = self.envelopes.iter().filter(|envelope| nodes.contains(&envelope.name_any()));
        let found = found.filter_map(|envelope| {
            let address = envelope.status.as_ref()?.agent_address.clone()?;
            has_agent(envelope, Timestamp::now()).then(|| (envelope.name_any(), address))
        });
        found.collect()
    }
}

/// Whether the agent of a node still writes.
pub fn has_agent(envelope: &NodeEnvelope, now: Timestamp) -> bool {
    let measured_at = envelope.status.as_ref().and_then(|status| status.measured_at.as_ref());
    measured_at.is_some_and(|at| now.duration_since(at.0).as_secs() < AGENT_SILENCE_SECONDS)
}
