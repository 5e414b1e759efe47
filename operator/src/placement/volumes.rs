//! Volumes of weights: there before the pods that want them, gone after their models.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kindling_api::MANAGER;
use kindling_envelope::Bytes;
use kube::api::{Api, DeleteParams, PostParams};
use kube::{Client, ResourceExt};

use super::carry_out::PlacementError;
use super::ledger::pod_terms;
use super::read::World;
use super::situation::Wished;
use crate::build::{HOST_LABEL, weights_volume};
use crate::config::OperatorConfig;

/// A volume without its claim is somebody's who was interrupted, and after this time nobody's.
const ORPHAN_AFTER_SECONDS: i64 = 60;

/// Makes the volume of a model's weights on a node, and its claim, unless they are there.
pub async fn ensure(
    client: &Client,
    config: &OperatorConfig,
    world: &World,
    wished: &Wished,
    node: &str,
) -> Result<(), PlacementError> {
    let (Some(model), Some(need)) = (&wished.model, &wished.wish.need) else { return Ok(()) };
    let labels = world.node(node).map(ResourceExt::labels);
    let host = labels
        .and_then(|labels| labels.get(HOST_LABEL))
        .ok_or_else(|| PlacementError::NoHostLabel { node: node.to_owned() })?;
    let size: Bytes = need.footprint.weights;
    let built = weights_volume(model, (node, host), size, config);
    let name = built.volume.name_any();
    if !world.volumes.iter().any(|volume| volume.name_any() == name) {
        create(Api::all(client.clone()), "PersistentVolume", &built.volume).await?;
    }
    let name = built.claim.name_any();
    let is_it = |claim: &PersistentVolumeClaim| {
        claim.name_any() == name && claim.namespace().as_deref() == Some(&model.namespace)
    };
    if !world.claims.iter().any(is_it) {
        create(Api::namespaced(client.clone(), &model.namespace), "PersistentVolumeClaim", &built.claim).await?;
    }
    Ok(())
}

/// Removes volumes that nobody can claim any more. The answer is what could not be removed.
pub async fn sweep(client: &Client, config: &OperatorConfig, world: &World) -> Vec<PlacementError> {
    let api = Api::<PersistentVolume>::all(client.clone());
    let mut failures = Vec::new();
    for volume in world.volumes.iter().filter(|volume| is_over(volume, world, config)) {
        let name = volume.name_any();
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => tracing::info!(name, "removed a volume that nobody claims; what it showed stays on its node"),
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            Err(source) => {
                failures.push(PlacementError::Object { action: "deleting", kind: "PersistentVolume", name, source });
            }
        }
    }
    failures
}

/// Makes again what somebody removed from under a pod that waits for it. The answer is what could not be made, by key of
/// the copy.
pub async fn repair(
    client: &Client,
    config: &OperatorConfig,
    (world, wished): (&World, &[Wished]),
) -> Vec<(String, PlacementError)> {
    let mut failures = Vec::new();
    for pod in world.pods.iter().filter(|pod| is_waiting(pod)) {
        let owner = pod.owner_references().iter().find(|owner| owner.kind == "LocalModel");
        let wished = owner.and_then(|owner| wished.iter().find(|wished| wished.wish.model == owner.uid));
        // Of a node that is gone the pod goes too.
        let terms = pod_terms(pod).filter(|terms| world.node(&terms.node).is_some());
        let Some((wished, terms)) = wished.zip(terms) else { continue };
        if let Err(error) = ensure(client, config, world, wished, &terms.node).await {
            failures.push((wished.wish.key.clone(), error));
        }
    }
    failures
}

async fn create<T>(api: Api<T>, kind: &'static str, built: &T) -> Result<(), PlacementError>
where
    T: kube::Resource + Clone + std::fmt::Debug + serde::Serialize + serde::de::DeserializeOwned,
{
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    match api.create(&params, built).await {
        Ok(_) => Ok(()),
        // Of a round that died; its name says what it is.
        Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
        Err(source) => Err(PlacementError::Object { action: "creating", kind, name: built.name_any(), source }),
    }
}

fn is_waiting(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && phase.is_none_or(|phase| phase == "Pending")
}

/// Its claim is gone, with the LocalModel or by hand: nothing can claim it again.
fn is_over(volume: &PersistentVolume, world: &World, config: &OperatorConfig) -> bool {
    let Some(claim) = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref()) else { return false };
    let is_served = config.namespace.as_ref().is_none_or(|namespace| claim.namespace.as_ref() == Some(namespace));
    if volume.metadata.deletion_timestamp.is_some() || !is_served {
        return false;
    }
    match volume.status.as_ref().and_then(|status| status.phase.as_deref()) {
        Some("Released" | "Failed") => true,
        Some("Bound") => false,
        _ => {
            let is_its = |found: &PersistentVolumeClaim| {
                found.metadata.name == claim.name && found.metadata.namespace == claim.namespace
            };
            let age =
                volume.metadata.creation_timestamp.as_ref().map(|at| world.read_at.duration_since(at.0).as_secs());
            !world.claims.iter().any(is_its) && age.is_some_and(|age| age > ORPHAN_AFTER_SECONDS)
        }
    }
}
