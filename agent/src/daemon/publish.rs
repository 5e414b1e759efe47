//! Tells the cluster how the node stands: the status of its NodeEnvelope; and hears what is reserved, in its spec.

mod pace;

use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kindling_api::{NodeDisplay, NodeEnvelope, NodeEnvelopeSpec, NodeEnvelopeStatus, NodeGpu, NodeMemory};
use kindling_envelope::Bytes;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::json;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

pub use pace::Pace;

use super::desk::{DeskHandle, Ledger, Snapshot};

/// Field manager of the status.
pub const MANAGER: &str = "kindling-agent";
/// One write, whatever the cluster does.
const WRITE: Duration = Duration::from_secs(10);
/// How often it is looked whether a write is due; also the least time between two.
const LOOK: Duration = Duration::from_secs(1);
/// After a failed write.
const RETRY: Duration = Duration::from_secs(3);

/// What is true of the agent as long as it runs.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The node's name, which is the NodeEnvelope's too.
    pub node: String,
    /// `ip:port` of the gRPC service.
    pub address: String,
    /// The machine.
    pub product: Option<String>,
}

/// Where what is published comes from.
pub struct Sources {
    /// How the memory stands.
    pub snapshots: channel::Receiver<Snapshot>,
    /// The GPU; nothing before it was looked at once.
    pub gpus: channel::Receiver<Option<NodeGpu>>,
}

/// Publishes until the token is cancelled, from the first look at the GPU on: an agent that is replaced does not take back
/// what the one before it knew, or models would be moved.
pub async fn publish(client: Client, identity: Identity, sources: Sources, shutdown: CancellationToken) {
    let api = Api::<NodeEnvelope>::all(client);
    let began = Instant::now();
    let Sources { mut snapshots, mut gpus } = sources;
    let mut pace = Pace::default();
    let mut told = None;
    let work = async {
        loop {
            let snapshot = snapshots.borrow_and_update().clone();
            let gpu = gpus.borrow_and_update().clone();
            if gpu != told {
                pace = Pace::default();
            }
            if gpu.is_none() || !pace.is_due(began.elapsed(), &snapshot) {
                sleep(LOOK).await;
                continue;
            }
            match timeout(WRITE, write(&api, &identity, (&snapshot, gpu.clone()))).await {
                Ok(Ok(())) => {
                    pace.published(began.elapsed(), &snapshot);
                    told = gpu;
                    sleep(LOOK).await;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, node = identity.node, "the NodeEnvelope can't be written");
                    sleep(RETRY).await;
                }
                Err(_) => tracing::warn!(node = identity.node, "the cluster takes too long to write the NodeEnvelope"),
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

async fn write(
    api: &Api<NodeEnvelope>,
    identity: &Identity,
    (snapshot, gpu): (&Snapshot, Option<NodeGpu>),
) -> Result<(), kube::Error> {
    let status = NodeEnvelopeStatus { gpu, ..status(identity, snapshot) };
    match apply(api, &identity.node, &status).await {
        Err(kube::Error::Api(answer)) if answer.is_not_found() => {}
        other => return other,
    }
    let empty = NodeEnvelope::new(&identity.node, NodeEnvelopeSpec::default());
    match api.create(&PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() }, &empty).await {
        Ok(_) => {}
        Err(kube::Error::Api(answer)) if answer.is_already_exists() => {}
        Err(error) => return Err(error),
    }
    apply(api, &identity.node, &status).await
}

async fn apply(api: &Api<NodeEnvelope>, node: &str, status: &NodeEnvelopeStatus) -> Result<(), kube::Error> {
    let object = json!({
        "apiVersion": "kindling.dev/v1alpha1",
        "kind": "NodeEnvelope",
        "metadata": { "name": node },
        "status": status,
    });
    api.patch_status(node, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object)).await.map(drop)
}

/// The status that says what the snapshot says, and nothing of the GPU.
pub fn status(identity: &Identity, snapshot: &Snapshot) -> NodeEnvelopeStatus {
    let memory = snapshot.reading.memory;
    NodeEnvelopeStatus {
        measured_at: snapshot.read_at.map(MicroTime),
        memory: Some(NodeMemory {
            total_bytes: memory.total.0,
            available_bytes: memory.available.0,
            free_bytes: memory.free.0,
            free_in_large_blocks_bytes: snapshot.reading.large_blocks.unwrap_or_default().0,
            baseline_bytes: snapshot.baseline.unwrap_or_default().0,
            swap_total_bytes: memory.swap_total.0,
            swap_used_bytes: memory.swap_used.0,
            floor_start_bytes: snapshot.floors.start.0,
            floor_run_bytes: snapshot.floors.run.0,
            stalled_ppm: snapshot.reading.stalled_ppm,
        }),
        pressure: snapshot.pressure,
        holders: snapshot.holders.clone(),
        agent_address: Some(identity.address.clone()),
        agent_version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        product: identity.product.clone(),
        gpu: None,
        display: Some(NodeDisplay { total: gibibytes(memory.total.0), available: gibibytes(memory.available.0) }),
    }
}

/// `121.7Gi`, a quantity of Kubernetes.
fn gibibytes(bytes: u64) -> String {
    format!("{:.1}Gi", bytes as f64 / (1_u64 << 30) as f64)
}

/// Tells the desk what its NodeEnvelope says, until the token is cancelled.
pub async fn follow(client: Client, node: String, desk: DeskHandle, shutdown: CancellationToken) {
    let follow = async {
        let mut changes = watcher::watch_object(Api::<NodeEnvelope>::all(client), &node).default_backoff().boxed();
        while let Some(change) = changes.next().await {
            match change {
                Ok(envelope) => desk.ledger(ledger(envelope)).await,
                // what was read last stays true until the watch is back: reservations are only made by one who sees
                // the agent's own status, and a pod that is gone ends its stream
                Err(error) => tracing::warn!(%error, node, "the NodeEnvelope can't be watched"),
            }
        }
    };
    shutdown.run_until_cancelled(follow).await;
}

fn ledger(envelope: Option<NodeEnvelope>) -> Ledger {
    let Some(envelope) = envelope else { return Ledger::default() };
    let memory = envelope.status.and_then(|status| status.memory);
    let published_baseline = memory.map(|memory| Bytes(memory.baseline_bytes));
    Ledger { exists: true, reservations: envelope.spec.reservations, published_baseline }
}
