//! The status of a LocalModel: [`compute`] is pure, [`patch`] writes it, and only where something changed.

mod conditions;

use k8s_openapi::jiff::Timestamp;
use kindling_api::{
    Acceleration, ConditionType, LocalModel, LocalModelStatus, MANAGER, MemoryStatus, ModelFacts, Source,
};
use kindling_proto::v1::GetModelInfoResponse;
use kube::api::{Api, Patch, PatchParams};
use kube::{Client, Resource, ResourceExt};

use crate::build;
use crate::controller::Error;
use crate::observe::{Observed, Situation};

/// What the status should be after a reconcile that ended in `outcome`.
pub fn compute(object: &LocalModel, outcome: &Result<Observed, Error>, now: Timestamp) -> LocalModelStatus {
    let old = object.status.clone().unwrap_or_default();
    let verdicts = match outcome {
        Ok(observed) => conditions::of_observed(object, observed),
        Err(Error::Validate { source, is_serving }) => conditions::of_refusal(source, *is_serving),
        Err(error) => conditions::of_error(error, object.is_ready()),
    };
    let conditions = conditions::merge(&old.conditions, &verdicts, object.metadata.generation, now);
    match outcome {
        Ok(observed) => LocalModelStatus { conditions, ..facts(object, observed, old) },
        Err(Error::Validate { .. }) => {
            LocalModelStatus { conditions, observed_generation: object.metadata.generation, ..old }
        }
        // nothing new is known about the spec
        Err(_) => LocalModelStatus { conditions, ..old },
    }
}

/// Whether the status holds the facts of the runtime that runs now.
pub fn has_facts(object: &LocalModel) -> bool {
    let Some(status) = &object.status else { return false };
    status.observed_generation == object.metadata.generation
        && status.model.is_some()
        && object.has_condition(ConditionType::Loaded)
}

/// Writes the status where it differs from what the cluster holds.
///
/// # Errors
/// If the API server refuses or does not answer.
pub async fn patch(client: &Client, object: &LocalModel, status: &LocalModelStatus) -> Result<(), kube::Error> {
    if object.status.as_ref() == Some(status) {
        return Ok(());
    }
    let api = Api::<LocalModel>::namespaced(client.clone(), &object.namespace().unwrap_or_default());
    let body = serde_json::json!({
        "apiVersion": LocalModel::api_version(&()),
        "kind": LocalModel::kind(&()),
        "metadata": { "name": object.name_any() },
        "status": status,
    });
    let params = PatchParams::apply(MANAGER).force();
    match api.patch_status(&object.name_any(), &params, &Patch::Apply(&body)).await {
        Ok(_) => Ok(()),
        // deleted since: nobody reads its status any more
        Err(kube::Error::Api(answer)) if answer.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

fn facts(object: &LocalModel, observed: &Observed, old: LocalModelStatus) -> LocalModelStatus {
    let info = observed.info.as_ref();
    let is_started = matches!(observed.situation, Situation::Started { .. });
    let is_same_spec = old.observed_generation == object.metadata.generation;
    LocalModelStatus {
        observed_generation: object.metadata.generation,
        conditions: Vec::new(),
        source: Some(source_name(&object.spec.source)),
        model: info.and_then(model_facts).or(old.model.filter(|_| is_same_spec)),
        acceleration: info.and_then(acceleration).or(old.acceleration.filter(|_| is_same_spec && is_started)),
        memory: info.and_then(memory).or(old.memory.filter(|_| is_same_spec && is_started)),
        context_length: info.and_then(context_length).or(old.context_length.filter(|_| is_same_spec && is_started)),
        envelope: old.envelope.filter(|_| is_same_spec),
        download: None,
        node: observed.node.clone(),
        pod_name: observed.pod_name.clone(),
        runtime_image: observed.runtime_image.clone(),
        endpoint: observed.endpoint.clone(),
        replicas: u32::from(observed.pod_name.is_some()),
        label_selector: Some(build::label_selector(&object.name_any())),
    }
}

fn source_name(source: &Source) -> String {
    let hub = source.hf.as_ref().map(|hf| hf.repo.clone());
    hub.or_else(|| source.host_path.as_ref().map(|host_path| host_path.path.clone())).unwrap_or_default()
}

fn model_facts(info: &GetModelInfoResponse) -> Option<ModelFacts> {
    (!info.architecture.is_empty()).then(|| ModelFacts {
        architecture: info.architecture.clone(),
        parameters: info.parameters,
        quantization: info.quantization.clone(),
        weight_bytes: info.weight_bytes,
    })
}

fn acceleration(info: &GetModelInfoResponse) -> Option<Acceleration> {
    (!info.device.is_empty()).then(|| Acceleration { device: info.device.clone(), kernels: info.kernels.clone() })
}

fn memory(info: &GetModelInfoResponse) -> Option<MemoryStatus> {
    (info.weight_bytes > 0).then(|| MemoryStatus {
        weights: Some(format!("{}Mi", info.weight_bytes.div_ceil(1 << 20))),
        ..MemoryStatus::default()
    })
}

fn context_length(info: &GetModelInfoResponse) -> Option<u32> {
    (info.max_model_len > 0).then_some(info.max_model_len)
}

#[cfg(test)]
mod tests;
