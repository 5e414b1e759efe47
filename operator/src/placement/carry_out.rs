//! Writes what was planned: ledgers by replace, then pods.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error as _;

use k8s_openapi::api::core::v1::Pod;
use kindling_api::{MANAGER, NodeEnvelope};
use kindling_envelope::Bytes;
use kindling_envelope::ledger::{Plan, PodStep, Reservation, State};
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};

use super::ledger::{pod_terms, split_key, to_planned, to_written};
use super::read::World;
use super::situation::{Wished, planned_pod};
use super::volumes;
use crate::build::{Allotment, pod, pod_name};
use crate::config::OperatorConfig;

/// As the schema of a NodeEnvelope allows.
const MAX_NAMES_LENGTH: usize = 4096;

/// A round could not be finished.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Something could not be read.
    #[error("reading {kind}")]
    Read {
        /// What.
        kind: &'static str,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A ledger could not be written. A conflict is no harm: somebody else wrote, and the next round reads it.
    #[error("writing the ledger of {node}")]
    Ledger {
        /// Whose.
        node: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A pod or its volume could not be made or deleted.
    #[error("{action} {kind} {name}")]
    Object {
        /// What was tried.
        action: &'static str,
        /// With what.
        kind: &'static str,
        /// Which.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
    /// A volume can't be tied to the node.
    #[error("node {node} has no label kubernetes.io/hostname; its kubelet should set it")]
    NoHostLabel {
        /// Which.
        node: String,
    },
}

impl PlacementError {
    /// Whether somebody wrote a ledger meanwhile, its agent for example: the next round reads what is there now.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Ledger { source: kube::Error::Api(status), .. } if status.is_conflict())
    }

    /// The error and what caused it, in one line.
    pub fn with_sources(&self) -> String {
        match self.source() {
            Some(source) => format!("{self}: {source}"),
            None => self.to_string(),
        }
    }
}

/// What of a plan could not be carried out; the rest was.
#[derive(Debug, Default)]
pub struct Failures {
    /// By node: its ledger is not written, and its pods are left alone.
    pub ledgers: BTreeMap<String, PlacementError>,
    /// By key of the copy.
    pub pods: BTreeMap<String, PlacementError>,
    /// Volumes that nobody claims and that could not be removed.
    pub volumes: Vec<PlacementError>,
}

/// Writes the ledgers, then makes and deletes pods. What fails for one model or node harms no other.
pub async fn carry_out(
    client: &Client,
    config: &OperatorConfig,
    (world, wished): (&World, &[Wished]),
    plan: &Plan,
) -> Failures {
    let mut failures = Failures::default();
    for envelope in world.envelopes.iter().filter(|envelope| world.node(&envelope.name_any()).is_none()) {
        if let Err(error) = remove_ledger(client, envelope).await {
            failures.ledgers.insert(envelope.name_any(), error);
        }
    }
    for (node, reservations) in &plan.ledgers {
        if let Err(error) = write_ledger(client, world, node, reservations).await {
            failures.ledgers.insert(node.clone(), error);
        }
    }
    for step in &plan.pods {
        let (PodStep::Make { node, key } | PodStep::Delete { node, key }) = step;
        // Its ledger is not as it was read: the next round decides anew.
        if failures.ledgers.contains_key(node) {
            continue;
        }
        let taken = match step {
            PodStep::Delete { .. } => delete(client, world, node, key).await,
            PodStep::Make { .. } => make_reserved(client, config, (world, wished), node, key).await,
        };
        if let Err(error) = taken {
            failures.pods.insert(key.clone(), error);
        }
    }
    for pod in world.pods.iter().filter(|pod| is_stranded(world, pod)) {
        if let (Err(error), Some(planned)) = (delete_pod(client, pod).await, planned_pod(pod)) {
            failures.pods.insert(planned.key, error);
        }
    }
    failures.pods.extend(volumes::repair(client, config, (world, wished)).await);
    failures.volumes = volumes::sweep(client, config, world).await;
    failures
}

/// Replaces a ledger, on the condition that it is as it was read.
async fn write_ledger(
    client: &Client,
    world: &World,
    node: &str,
    reservations: &[Reservation],
) -> Result<(), PlacementError> {
    let api = Api::<NodeEnvelope>::all(client.clone());
    let Some(read) = world.envelopes.iter().find(|envelope| envelope.name_any() == node) else { return Ok(()) };
    let mut envelope = read.clone();
    envelope.spec.reservations =
        reservations.iter().map(|planned| to_written(planned, may_leave(world, planned))).collect();
    let names: BTreeSet<&str> = reservations.iter().map(|planned| planned.name.as_str()).collect();
    let names: String = names.into_iter().collect::<Vec<_>>().join(", ").chars().take(MAX_NAMES_LENGTH).collect();
    envelope.spec.models = (!names.is_empty()).then_some(names);
    let sum: Bytes = reservations.iter().map(|planned| planned.terms.bytes).sum();
    envelope.spec.reserved = (!reservations.is_empty()).then(|| quantity(sum.0));
    // The status is the agent's; a replace of the object leaves it alone.
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    let written = api.replace(node, &params, &envelope).await;
    written.map(drop).map_err(|source| PlacementError::Ledger { node: node.to_owned(), source })
}

/// Of a node that is no part of the cluster any more. If it comes back, its agent makes another.
async fn remove_ledger(client: &Client, envelope: &NodeEnvelope) -> Result<(), PlacementError> {
    let node = envelope.name_any();
    let preconditions = Preconditions { uid: envelope.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match Api::<NodeEnvelope>::all(client.clone()).delete(&node, &params).await {
        Ok(_) => tracing::info!(node, "removed the ledger of a node that is gone"),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => {}
        Err(source) => return Err(PlacementError::Ledger { node, source }),
    }
    Ok(())
}

/// Bytes as people read them in Kubernetes.
pub fn quantity(bytes: u64) -> String {
    const MIB: u64 = 1 << 20;
    if bytes >= 10 * 1024 * MIB {
        format!("{:.1}Gi", bytes as f64 / (1024 * MIB) as f64)
    } else {
        format!("{}Mi", bytes.div_ceil(MIB))
    }
}

fn may_leave(world: &World, planned: &Reservation) -> bool {
    let (uid, _) = split_key(&planned.key);
    let model = world.models.iter().find(|model| model.uid().as_deref() == Some(uid));
    model.is_none_or(|model| model.spec.lifecycle.activation != kindling_api::Activation::Always)
}

/// Makes a pod for a reservation that was read.
async fn make_reserved(
    client: &Client,
    config: &OperatorConfig,
    (world, wished): (&World, &[Wished]),
    node: &str,
    key: &str,
) -> Result<(), PlacementError> {
    let wished = wished.iter().find(|wished| wished.wish.key == key);
    let held = world.envelopes.iter().find(|envelope| envelope.name_any() == node).and_then(|envelope| {
        let mut planned = envelope.spec.reservations.iter().map(to_planned);
        planned.find(|held| held.key == key && held.state == State::Pending)
    });
    match (wished, held) {
        (Some(wished), Some(held)) => {
            volumes::ensure(client, config, world, wished, node).await?;
            make(client, config, wished, &held, node).await
        }
        _ => Ok(()),
    }
}

async fn make(
    client: &Client,
    config: &OperatorConfig,
    wished: &Wished,
    held: &Reservation,
    node: &str,
) -> Result<(), PlacementError> {
    let (Some(model), Some(need)) = (&wished.model, &wished.wish.need) else { return Ok(()) };
    let allotment = Allotment {
        node: node.to_owned(),
        copy: split_key(&held.key).1,
        device: need.serving.device,
        terms: held.terms.clone(),
        kv_tokens: kindling_envelope::Serving { context: held.terms.context, ..need.serving }.pool_tokens(),
    };
    let built = pod(model, &allotment, config);
    let name = built.name_any();
    let api = Api::<Pod>::namespaced(client.clone(), &model.namespace);
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, &built).await {
        Ok(_) => Ok(()),
        // Somebody else's, which reconcile says; or ours of a round that died, which the next round reads.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(PlacementError::Object { action: "creating", kind: "pod", name, source }),
    }
}

async fn delete(client: &Client, world: &World, node: &str, key: &str) -> Result<(), PlacementError> {
    let (uid, copy) = split_key(key);
    let is_its = |pod: &&Pod| {
        let owner = pod.owner_references().iter().find(|owner| owner.kind == "LocalModel");
        let model = owner.filter(|owner| owner.uid == uid).map(|owner| owner.name.as_str());
        model.is_some_and(|model| pod.name_any() == pod_name(model, copy))
    };
    let Some(pod) = world.pods.iter().find(is_its) else {
        tracing::debug!(node, key, "the pod to be deleted is gone");
        return Ok(());
    };
    delete_pod(client, pod).await
}

/// Whether a pod is for a node that is no part of the cluster any more and was never bound to it: Kubernetes removes those
/// alone that were bound, and its name would keep its copy from starting elsewhere.
fn is_stranded(world: &World, pod: &Pod) -> bool {
    let is_bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let is_told_to_go = pod.metadata.deletion_timestamp.is_some();
    !is_bound && !is_told_to_go && pod_terms(pod).is_some_and(|terms| world.node(&terms.node).is_none())
}

async fn delete_pod(client: &Client, pod: &Pod) -> Result<(), PlacementError> {
    let name = pod.name_any();
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let preconditions = Preconditions { uid: pod.uid(), resource_version: None };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    match api.delete(&name, &params).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        Err(source) => Err(PlacementError::Object { action: "deleting", kind: "pod", name, source }),
    }
}
